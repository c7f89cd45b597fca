"""Every quantization of the TFLite export, and wrong exports that the contract catches."""

import dataclasses

import pytest

from hydra_tf.export import examiner, to_tflite
from tests.contracts import export_contract as contract

LIMITS = {name: limits.relative_error for name, limits in examiner.LIMITS.items()}


# Conversions take seconds; by default the last of each table is enough.
NAMES = [
    pytest.param(name, marks=() if name == [*LIMITS][-1] else pytest.mark.slow) for name in LIMITS
]


@pytest.mark.parametrize("quantization", NAMES)
def test_every_quantization(quantization, tmp_path):
    contract.check_export(to_tflite, quantization, LIMITS[quantization], tmp_path)


def another_network(model, path, quantization, representative):
    report = to_tflite(model, path, quantization, representative=representative)
    changed = contract.network()
    changed.layers[-1].bias.assign_add([0.0, 0.0, 1.0, 0.0])
    to_tflite(changed, path, quantization, representative=representative)
    return report


def smaller_in_the_report(model, path, quantization, representative):
    report = to_tflite(model, path, quantization, representative=representative)
    return dataclasses.replace(report, bytes=report.bytes // 2)


def exact_in_the_report(model, path, quantization, representative):
    report = to_tflite(model, path, quantization, representative=representative)
    return dataclasses.replace(report, relative_error=0.0)


@pytest.mark.parametrize(
    ("wrong", "quantization", "sentence"),
    [
        pytest.param(another_network, None, "outputs differ by", marks=pytest.mark.slow),
        pytest.param(smaller_in_the_report, None, "reports another size", marks=pytest.mark.slow),
        (exact_in_the_report, "float16", "reports 0"),
    ],
)
def test_a_wrong_export_is_caught(wrong, quantization, sentence, tmp_path):
    with pytest.raises(AssertionError, match=sentence):
        contract.check_export(wrong, quantization, LIMITS[quantization], tmp_path)
