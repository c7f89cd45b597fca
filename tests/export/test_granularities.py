"""Networks that are pruned in groups, as TFLite files."""

import keras
import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema

import hydra_tf
from hydra_tf.export.sparse_encoding.flatbuffer import read
from hydra_tf.sparsity.granularity import GRANULARITIES
from tests.contracts.export_contract import outputs_of
from tests.contracts.sparsity_contract import density_of


@pytest.mark.slow(seconds=60)
@pytest.mark.parametrize("name", GRANULARITIES.names())
def test_a_pruned_network_has_its_outputs_in_litert(name, tmp_path):
    keras.utils.set_random_seed(0)
    layers = keras.layers
    hidden = [layers.Conv2D(8, 3, activation="relu"), layers.Flatten(), layers.Dense(64, "relu")]
    net = keras.Sequential([keras.Input([8, 8, 4]), *hidden, layers.Dense(10)])
    masked = hydra_tf.mask_model(net)
    density = density_of(GRANULARITIES.build(name))
    hydra_tf.set_density(masked, density, granularity=name)
    path = tmp_path / "net.tflite"
    report = hydra_tf.export.to_tflite(masked, str(path))
    images = np.random.default_rng(0).random((4, 8, 8, 4), dtype=np.float32)
    np.testing.assert_allclose(outputs_of(path, images), masked(images), atol=1e-4)
    kept = hydra_tf.sparsity.report(masked)["total"]["density"]
    assert report.sparsity == pytest.approx(1 - kept, abs=1e-6)


@pytest.mark.slow(seconds=60)
def test_dense_layers_read_blocks_without_decoding_them(tmp_path):
    keras.utils.set_random_seed(0)
    net = keras.Sequential([keras.Input([512]), keras.layers.Dense(512)])
    sizes, kinds = {}, {}
    for name in ("block:size=4", "element"):
        masked = hydra_tf.mask_model(net)
        hydra_tf.set_density(masked, 0.05, granularity=name)
        path = tmp_path / "net.tflite"
        sizes[name] = hydra_tf.export.to_tflite(masked, str(path)).bytes
        kinds[name] = {code.builtinCode for code in read(path.read_bytes()).operatorCodes}
    assert kinds["block:size=4"] == {schema.BuiltinOperator.FULLY_CONNECTED}
    assert schema.BuiltinOperator.DENSIFY in kinds["element"]
    # A block of four weights has one position.
    assert sizes["block:size=4"] < 0.9 * sizes["element"]
