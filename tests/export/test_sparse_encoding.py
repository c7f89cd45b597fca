"""Sparse layouts against an independent decoder, and the graphs that the encoder writes."""

from __future__ import annotations

import gzip
import itertools

import keras
import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema
from hypothesis import given, settings
from hypothesis import strategies as st

from hydra_tf.export import to_tflite
from hydra_tf.export.converter import converted
from hydra_tf.export.prepare import for_one_image, plain_copy
from hydra_tf.export.sparse_encoding import encode_sparsely, flatbuffer, for_any_batch, plans
from hydra_tf.export.sparse_encoding.csr import encode, layout, smallest

OPERATORS = {value: name for name, value in vars(schema.BuiltinOperator).items()}


def decoded(values, sparsity, shape):
    """Return the dense array, level by level, as the schema describes the traversal."""
    rank, order = len(shape), [int(level) for level in sparsity.traversalOrder]
    blocks = {
        int(axis): sparsity.dimMetadata[rank + i].denseSize
        for i, axis in enumerate(sparsity.blockMap)
    }
    dense, given_values = np.zeros(shape, values.dtype), iter(values)

    def visit(level, parent, at):
        if level == len(order):
            position = [at[axis] for axis in range(rank)]
            for i, axis in enumerate(sparsity.blockMap):
                position[axis] = position[axis] * blocks[int(axis)] + at[rank + i]
            dense[tuple(position)] = next(given_values)
            return
        metadata = sparsity.dimMetadata[level]
        if metadata.format == schema.DimensionType.DENSE:
            for i in range(metadata.denseSize):
                visit(level + 1, parent * metadata.denseSize + i, {**at, order[level]: i})
            return
        segments = metadata.arraySegments.values
        for i in range(int(segments[parent]), int(segments[parent + 1])):
            visit(level + 1, i, {**at, order[level]: int(metadata.arrayIndices.values[i])})

    visit(0, 0, {})
    assert next(given_values, None) is None
    return dense


@settings(max_examples=25, deadline=None)
@given(
    shape=st.lists(st.integers(1, 5), min_size=1, max_size=3),
    last=st.sampled_from([4, 8, 300]),
    density=st.sampled_from([0.0, 0.01, 0.3, 1.0]),
    seed=st.integers(0, 99),
)
def test_every_layout_decodes_to_the_array(shape, last, density, seed):
    rng = np.random.default_rng(seed)
    array = rng.integers(-9, 9, [*shape, last]) * (rng.random([*shape, last]) < density)
    array = array.astype(np.int8)
    layouts = [layout(array, axis) for axis in range(array.ndim)]
    layouts.append(layout(array, array.ndim - 1, 4))
    for each in layouts:
        values, sparsity = encode(array, each)
        np.testing.assert_array_equal(decoded(values, sparsity, array.shape), array)
        compressed = sparsity.dimMetadata[array.ndim - 1]
        vectors = compressed.arrayIndices.values, compressed.arraySegments.values
        assert each.bytes == values.nbytes + sum(vector.nbytes for vector in vectors)
    assert smallest(array, (1, 4)).bytes == min(each.bytes for each in layouts)


@pytest.mark.parametrize(
    ("columns", "kept", "types"),
    [
        (256, 255, (np.uint8, np.uint8)),
        (257, 256, (np.uint16, np.uint16)),
        (65537, 65536, (np.int32, np.int32)),
    ],
)
def test_positions_have_the_smallest_type(columns, kept, types):
    array = np.zeros([1, columns], np.float32)
    array[0, :kept] = 1
    _, sparsity = encode(array, layout(array, 1))
    vectors = sparsity.dimMetadata[1].arrayIndices, sparsity.dimMetadata[1].arraySegments
    assert tuple(vector.values.dtype.type for vector in vectors) == types


def dense_file(net, quantization=None):
    images = np.random.default_rng(0).random((4, *net.input_shape[1:]), dtype=np.float32)
    return for_any_batch(converted(for_one_image(plain_copy(net)), quantization, images))


def operators(content):
    model = flatbuffer.read(content)
    codes = model.operatorCodes
    return [OPERATORS[codes[each.opcodeIndex].builtinCode] for each in model.subgraphs[0].operators]


@pytest.fixture(scope="module")
def wide():
    """Return the dense files of a network with a wide dense layer, float32 and int8."""
    keras.utils.set_random_seed(0)
    layers = keras.layers
    net = keras.Sequential(
        [
            keras.Input([4, 4, 40]),
            layers.Flatten(),
            layers.Dense(64, activation="relu"),
            layers.Dense(3),
        ]
    )
    rng = np.random.default_rng(0)
    for layer in net.layers[1:]:
        kernel = rng.normal(size=layer.kernel.shape) * (rng.random(layer.kernel.shape) < 0.03)
        layer.set_weights([kernel, rng.normal(size=layer.bias.shape)])
    return {name: dense_file(net, name) for name in (None, "int8")}


@pytest.mark.parametrize("quantization", [None, "int8"])
def test_a_wide_dense_layer_becomes_a_convolution(wide, quantization):
    content = encode_sparsely(wide[quantization])
    names = [name for name in operators(content) if name not in ("QUANTIZE", "DEQUANTIZE")]
    # The RESHAPE of Flatten is gone: the first one reads what it read.
    assert names == ["DENSIFY", "RESHAPE", "CONV_2D", "RESHAPE", "FULLY_CONNECTED"]
    model = flatbuffer.read(content)
    tensors = model.subgraphs[0].tensors
    (sparse,) = (each for each in tensors if each.sparsity and len(each.shape) == 4)
    assert sparse.shape.tolist() == [64, 4, 1, 160]
    assert sparse.quantization is None
    vectors = sparse.sparsity.dimMetadata[-1]
    assert vectors.arrayIndices.values.dtype == np.uint8


def test_constants_are_aligned_and_written_once(wide):
    content = encode_sparsely(wide["int8"])
    model = schema.Model.GetRootAs(content, 0)
    base = np.frombuffer(content, np.uint8).ctypes.data
    found = {}
    for i in range(model.BuffersLength()):
        buffer = model.Buffers(i)
        if buffer.DataLength():
            data = buffer.DataAsNumpy()
            assert (data.ctypes.data - base) % 16 == 0
            found.setdefault(data.tobytes(), []).append(i)
    assert found
    assert {len(indices) for indices in found.values()} == {1}
    again = flatbuffer.write(flatbuffer.read(content))
    assert again == content


def test_equal_vectors_do_not_grow_the_file():
    def model(scales):
        quantization = [
            schema.QuantizationParametersT(
                scale=np.full([1000], scale, np.float32), zeroPoint=np.zeros([1000], np.int64)
            )
            for scale in scales
        ]
        tensors = [schema.TensorT(quantization=each, buffer=0) for each in quantization]
        subgraph = schema.SubGraphT(
            tensors=tensors, inputs=np.arange(2), outputs=np.arange(2), operators=[]
        )
        return schema.ModelT(
            version=3, subgraphs=[subgraph], buffers=[schema.BufferT()], operatorCodes=[]
        )

    same, different = (len(flatbuffer.write(model(scales))) for scales in ([1, 1], [1, 2]))
    assert different - same == pytest.approx(4000, abs=32)


def test_dynamic_range_is_refused():
    net = keras.Sequential([keras.Input([40]), keras.layers.Dense(40), keras.layers.Dense(3)])
    content = converted(for_one_image(net), "trained")  # without ranges, those are dynamic
    with pytest.raises(ValueError, match=r"8-bit kernels of float32 inputs .* keep the .* dense"):
        encode_sparsely(content)


def test_plans_of_an_int8_dense_layer_never_decode_it_directly():
    rng = np.random.default_rng(0)
    for outputs, inputs, density in itertools.product((8, 400), (100, 1000), (0.5, 0.05, 0.01)):
        values = rng.integers(-127, 128, [outputs, inputs]) * (
            rng.random([outputs, inputs]) < density
        )
        plan = plans.choose(
            schema.BuiltinOperator.FULLY_CONNECTED, values.astype(np.int8), 1, "size"
        )
        assert not plan.layouts or plan.direct or len(plan.shape) == 4
        assert plan.bytes <= values.size


def test_a_wide_convolution_is_split():
    rng = np.random.default_rng(0)
    kernel = (rng.random([512, 3, 3, 320]) < 0.05).astype(np.float32)
    plan = plans.choose(schema.BuiltinOperator.CONV_2D, kernel, 1, "size")
    assert len(plan.layouts) == 2
    nonzero = int(np.count_nonzero(kernel))
    assert plan.bytes < nonzero * 5 + 2 * 3 * 3 * 320 * 4 + 2000
    grouped = plans.choose(schema.BuiltinOperator.CONV_2D, kernel, 2, "size")
    assert len(grouped.layouts) == 1


@pytest.mark.parametrize(("prefer", "direct"), [("size", False), ("latency", True)])
def test_latency_keeps_blocks_of_four(prefer, direct):
    kernel = np.zeros([100, 1000], np.float32)
    kernel[:, ::40] = 1
    plan = plans.choose(schema.BuiltinOperator.FULLY_CONNECTED, kernel, 1, prefer)
    assert plan.direct == direct
    if direct:
        assert plan.layouts[0].block == 4


def test_blocks_of_zeros_are_stored_in_blocks_for_size_too():
    kernel = np.zeros([100, 1000], np.float32)
    kernel.reshape(100, 250, 4)[:, ::20] = 1
    plan = plans.choose(schema.BuiltinOperator.FULLY_CONNECTED, kernel, 1, "size")
    assert plan.direct and plan.layouts[0].block == 4


def test_bound_and_gzip_of_a_file(tmp_path):
    net = keras.Sequential([keras.Input([1024]), keras.layers.Dense(64)])
    kernel = np.zeros([1024, 64])
    kernel[::8] = np.random.default_rng(0).normal(size=[128, 64])
    net.layers[0].set_weights([kernel, np.ones(64)])
    path = tmp_path / "net.tflite"
    report = to_tflite(net, path, gzip=True)
    # 8192 values of 4 bytes; one weight in eight is 0.5436 bits for each of 65536 positions.
    assert report.entropy_bytes == pytest.approx(8192 * 4 + 65536 * 0.543564 / 8, abs=1)
    # Each of a few buffers is padded to a multiple of 16 bytes, which depends on names.
    assert len(dense_file(net)) - report.bare_bytes == pytest.approx(4 * 65536, abs=64)
    assert report.bound_ratio == report.bytes / (report.entropy_bytes + report.bare_bytes)
    assert 1 < report.bound_ratio < 1.2
    zipped = tmp_path / "net.tflite.gz"
    assert gzip.decompress(zipped.read_bytes()) == path.read_bytes()
    assert zipped.stat().st_size == report.gzip_bytes


def pruned_kernel(shape: tuple[int, ...], density: float) -> np.ndarray:
    rng = np.random.default_rng(0)
    values = rng.integers(1, 127, shape) * rng.choice([-1, 1], shape)
    return (values * (rng.random(shape) < density)).astype(np.int8)


def test_the_file_for_gzip_is_smaller_after_it(tmp_path):
    net = keras.Sequential([keras.Input([8, 8, 64]), keras.layers.Conv2D(64, 3, name="wide")])
    net.add(keras.layers.GlobalAveragePooling2D())
    kernel = pruned_kernel((64, 3, 3, 64), 0.2).transpose(1, 2, 3, 0) / 127
    net.layers[0].set_weights([kernel, np.ones(64)])
    images = np.random.default_rng(0).random([64, 8, 8, 64], dtype=np.float32)
    small, light = (
        to_tflite(
            net,
            tmp_path / f"{prefer}.tflite",
            "int8",
            representative=images,
            min_agreement=0.0,
            prefer=prefer,
            gzip=True,
        )
        for prefer in ("size", "gzip")
    )
    assert small.sparse_encoding and not light.sparse_encoding
    assert light.gzip_bytes < small.gzip_bytes and light.bytes > small.bytes
    content = (tmp_path / "gzip.tflite").read_bytes()
    assert light.gzip_bytes < 0.98 * len(gzip.compress(content, 9))
    # No code of the values, log2(252) bits each, and of their positions is shorter than this.
    bits = 0.2 * (np.log2(252) - np.log2(0.2)) - 0.8 * np.log2(0.8)
    shortest = bits * kernel.size / 8
    assert shortest < light.gzip_bytes < 1.1 * (shortest + light.bare_bytes)
    assert gzip.decompress((tmp_path / "gzip.tflite.gz").read_bytes()) == content


@pytest.mark.slow(seconds=90)
@pytest.mark.usefixtures("every_runtime")
@pytest.mark.parametrize("quantization", [None, "float16", "int8"])
def test_sparse_files_run_in_every_interpreter(quantization, tmp_path, nets):
    net = nets.mnist_cnn_like()
    nets.plant_zeros(net, 0.95)
    images = nets.images_for(net)
    report = to_tflite(net, tmp_path / "a.tflite", quantization, representative=images)
    assert report.sparse_encoding and report.note == ""
