"""No sparse file differs from its dense twin, for networks drawn at random."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from ai_edge_litert.interpreter import Interpreter, OpResolverType

from hydra_tf.export.converter import converted
from hydra_tf.export.prepare import for_one_image, plain_copy
from hydra_tf.export.sparse_encoding import encode_sparsely, for_any_batch
from tests.export.random_networks import random_network

WAYS = (OpResolverType.AUTO, OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES)
# Sums in another order; an int8 activation may be rounded to the neighbour then.
TOLERANCES = {None: 1e-5, "float16": 1e-5, "int8": 0.03}


def outputs_of(content: bytes, images: np.ndarray, way, batch: int) -> np.ndarray:
    interpreter = Interpreter(model_content=content, experimental_op_resolver_type=way)
    (source,), (target,) = interpreter.get_input_details(), interpreter.get_output_details()
    interpreter.resize_tensor_input(source["index"], [batch, *images.shape[1:]])
    interpreter.allocate_tensors()
    rows = []
    for start in range(0, len(images), batch):
        interpreter.set_tensor(source["index"], images[start : start + batch])
        interpreter.invoke()
        rows.append(interpreter.get_tensor(target["index"]))
    return np.concatenate(rows)


def is_resizable(content: bytes, images: np.ndarray, way) -> bool:
    """Return whether a dense file takes several images: the converter may drop their axis."""
    try:
        outputs_of(content, images, way, 3)
    except RuntimeError:
        return False
    return True


def check_twins(net: keras.Model, seed: int, quantization: str | None) -> bool:
    """Check the sparse files of a network, and return whether they are smaller than the dense."""
    images = np.random.default_rng(seed).random((6, *net.input_shape[1:]), dtype=np.float32)
    dense = for_any_batch(converted(for_one_image(plain_copy(net)), quantization, images))
    tolerance = TOLERANCES[quantization]
    for prefer in ("size", "latency"):
        sparse = encode_sparsely(dense, prefer)
        assert len(sparse) <= len(dense) + 16, f"{seed} {quantization} {prefer} is larger"
        for way in WAYS:
            expected = outputs_of(dense, images, way, 1)
            scale = np.abs(expected).max()
            for batch in (1, 3) if is_resizable(dense, images, way) else (1,):
                found = outputs_of(sparse, images, way, batch)
                error = np.abs(found - expected).max() / max(scale, 1e-30)
                name = f"seed {seed}, {quantization}, {prefer}, {way}, batch {batch}"
                assert error <= tolerance, f"{name}: {error:.2g}"
    return len(sparse) < len(dense)


@pytest.mark.parametrize(("seed", "quantization"), [(12, "int8")])
def test_a_random_network(seed, quantization):
    assert check_twins(random_network(seed), seed, quantization)


@pytest.mark.slow(seconds=400)
@pytest.mark.parametrize("quantization", TOLERANCES)
def test_random_networks(quantization):
    for seed in range(2, 32):
        check_twins(random_network(seed), seed, quantization)
