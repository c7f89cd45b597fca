"""SavedModel folders and ONNX files: the outputs of Keras, in other runtimes."""

import importlib.util

import keras
import numpy as np
import onnx
import onnxruntime
import pytest
import tensorflow as tf

import hydra_tf
from hydra_tf import export

SHAPE = (8, 8, 3)


def pruned(norm=True):
    keras.utils.set_random_seed(0)
    layers = [
        keras.layers.Rescaling(2.0, offset=-1.0),
        keras.layers.Conv2D(8, 3, use_bias=not norm),
        *([keras.layers.BatchNormalization()] if norm else []),
        keras.layers.ReLU(),
        keras.layers.Flatten(),
        keras.layers.Dense(5),
    ]
    net = keras.Sequential([keras.Input(SHAPE), *layers])
    if norm:
        gamma, beta, mean, variance = net.layers[2].get_weights()
        moved = [gamma + 0.5, beta - 0.1, mean + 0.2, variance * 2]
        net.layers[2].set_weights(moved)
    masked = hydra_tf.mask_model(net)
    hydra_tf.set_density(masked, 0.1)
    return masked


def images(count):
    return np.random.default_rng(1).random((count, *SHAPE), np.float32)


def run_onnx(path, batch):
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return session.run(["outputs"], {"images": batch})[0]


def test_a_saved_model_needs_neither_keras_nor_masks(tmp_path):
    model, batch = pruned(), images(7)
    report = export.to_saved_model(model, tmp_path / "served")
    loaded = tf.saved_model.load(str(tmp_path / "served"))
    expected = model(batch, training=False)
    np.testing.assert_allclose(loaded.serve(batch), expected, rtol=1e-4, atol=1e-5)
    by_signature = loaded.signatures["serving_default"](tf.constant(batch))
    np.testing.assert_allclose(next(iter(by_signature.values())), expected, rtol=1e-4, atol=1e-5)
    sizes = [path.stat().st_size for path in (tmp_path / "served").rglob("*") if path.is_file()]
    assert report.bytes == sum(sizes)
    assert report.sparsity == pytest.approx(0.9, abs=0.01)
    assert report.bound_ratio is None
    assert [path.name for path in tmp_path.iterdir()] == ["served"]


@pytest.mark.slow(seconds=5)
def test_a_saved_model_replaces_only_a_saved_model(tmp_path):
    model, folder = pruned(), tmp_path / "served"
    folder.mkdir()  # an empty folder may be replaced
    export.to_saved_model(model, folder)
    hydra_tf.set_density(model, 0.5)
    export.to_saved_model(model, folder)
    loaded = tf.saved_model.load(str(folder))
    np.testing.assert_allclose(loaded.serve(images(2)), model(images(2)), rtol=1e-4, atol=1e-5)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("mine")
    (tmp_path / "file").write_text("mine")
    for name in ("mine", "file"):
        with pytest.raises(FileExistsError, match="is not a SavedModel; it is kept"):
            export.to_saved_model(model, tmp_path / name)
    assert (tmp_path / "mine" / "notes.txt").read_text() == "mine"
    with pytest.raises(FileNotFoundError, match="does not exist; create it first"):
        export.to_saved_model(model, tmp_path / "absent" / "served")


def test_an_onnx_file_has_the_zeros_and_outputs_of_keras(tmp_path):
    model, batch = pruned(), images(7)
    report = export.to_onnx(model, tmp_path / "net.onnx")
    np.testing.assert_allclose(
        run_onnx(tmp_path / "net.onnx", batch), model(batch, training=False), rtol=1e-4, atol=1e-5
    )
    proto = onnx.load(tmp_path / "net.onnx")
    onnx.checker.check_model(proto, full_check=True)
    kernels = [onnx.numpy_helper.to_array(tensor) for tensor in proto.graph.initializer]
    kernels = [kernel for kernel in kernels if kernel.size in (216, 1440)]
    assert sorted(int(np.count_nonzero(kernel)) for kernel in kernels) == [22, 144]
    assert "BatchNormalization" not in {node.op_type for node in proto.graph.node}
    ends = (*proto.graph.input, *proto.graph.output)
    dims = [value.type.tensor_type.shape.dim[0] for value in ends]
    assert [dim.dim_param for dim in dims] == ["batch", "batch"]
    assert report.bytes == (tmp_path / "net.onnx").stat().st_size
    assert report.gzip_bytes < 0.5 * report.bytes


@pytest.mark.slow(seconds=6)
@pytest.mark.parametrize("write", [export.to_saved_model, export.to_onnx])
def test_the_batch_size_may_be_fixed(write, tmp_path):
    model, path = pruned(norm=False), tmp_path / "net.onnx"
    write(model, path, batch_size=3)
    expected = np.asarray(model(images(3)))
    if write is export.to_onnx:
        outputs = run_onnx(path, images(3))
        with pytest.raises(Exception, match="invalid dimensions"):
            run_onnx(path, images(2))
    else:
        loaded = tf.saved_model.load(str(path))
        outputs = loaded.serve(images(3))
        with pytest.raises(TypeError, match=r"\(3, 8, 8, 3\)"):
            loaded.serve(images(2))
    np.testing.assert_allclose(outputs, expected, rtol=1e-4, atol=1e-5)
    for size, error in ((0, ValueError), (1.5, TypeError)):
        with pytest.raises(error, match="batch_size"):
            write(model, path, batch_size=size)


@pytest.mark.slow(seconds=3)
def test_robust_models_in_half_precision_become_float32(tmp_path):
    keras.config.set_dtype_policy("mixed_float16")
    try:
        model = hydra_tf.RobustModel(pruned(norm=False), "natural")
    finally:
        keras.config.set_dtype_policy("float32")
    export.to_onnx(model, tmp_path / "net.onnx")
    outputs = run_onnx(tmp_path / "net.onnx", images(4))
    assert outputs.dtype == np.float32
    np.testing.assert_allclose(outputs, model.net(images(4)), rtol=0.02, atol=0.02)


def test_wrong_outputs_are_not_kept(tmp_path, monkeypatch):
    path = tmp_path / "net.onnx"
    path.write_text("an older file")
    from hydra_tf.export import onnx_file

    monkeypatch.setattr(onnx_file, "_outputs", lambda path, network: network.expected + 1)
    with pytest.raises(RuntimeError, match="of the ONNX file differ from Keras's by up to 1"):
        export.to_onnx(pruned(), path)
    assert path.read_text() == "an older file"
    assert list(tmp_path.iterdir()) == [path]


def test_a_missing_package_is_named(tmp_path, monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *rest: None if name == "tf2onnx" else find(name)
    )
    with pytest.raises(ImportError, match=r"need tf2onnx; run: pip install 'hydra_tf\[onnx\]'"):
        export.to_onnx(pruned(), tmp_path / "net.onnx")


@pytest.mark.filterwarnings("ignore:In the future `np.object`:FutureWarning")  # of Keras
@pytest.mark.slow(seconds=6)
@pytest.mark.parametrize("form", ["onnx", "tf_saved_model"])
def test_robust_models_export_as_keras_models_do(form, tmp_path):
    model = hydra_tf.RobustModel(pruned(), "natural")
    path = tmp_path / "net.onnx"
    model.export(path, format=form, verbose=False)
    if form == "onnx":
        session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        outputs = session.run(None, {session.get_inputs()[0].name: images(2)})[0]
    else:
        loaded = tf.saved_model.load(str(path))
        outputs = loaded.serve(images(2))
    np.testing.assert_allclose(outputs, model.net(images(2)), rtol=1e-4, atol=1e-5)
