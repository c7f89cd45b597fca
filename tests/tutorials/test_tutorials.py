"""The tutorials run offline and print the expected results."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def run(name, *arguments):
    result = subprocess.run(
        [sys.executable, str(ROOT / "tutorials" / name), *map(str, arguments)],
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=400,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert result.returncode == 0, result.stderr[-2000:]
    return result.stdout


def test_first_robust_pruning():
    printed = run("01_first_robust_pruning.py")
    benign, robust = re.search(
        r"benign accuracy ([\d.]+)%, robust accuracy ([\d.]+)%", printed
    ).groups()
    # Ten classes: chance is 10%. The network keeps 5% of its weights.
    assert float(benign) > 70
    assert 40 < float(robust) <= float(benign)
    assert "['Conv2D', 'Conv2D', 'Flatten', 'Dense', 'Dense']" in printed
    # All layers compete for the 5%, so that the small first one keeps a larger share.
    zeros = int(re.search(r"zeros in the first kernel: (\d+) of 144", printed).group(1))
    assert 0 < zeros < 0.95 * 144


@pytest.mark.slow(seconds=200)
def test_quantization_aware():
    printed = run("07_moving_from_tfmot.py")
    assert re.findall(r"pruned weights, (\d+) of them not 0", printed) == ["0"] * 4
    number = r"\s+([\d.]+)%?"
    rows = {
        name: [float(value) for value in re.search(name + 5 * number, printed).groups()]
        for name in ("float32", "int8, rounded afterwards", "int8, trained with rounding")
    }
    for _, zeros, benign, pgd, square in rows.values():
        assert zeros == 90.0
        assert benign > 85 and 65 < pgd <= benign and pgd <= square <= benign
    dense, afterwards, trained = (values[0] for values in rows.values())
    assert max(afterwards, trained) < dense / 2


@pytest.mark.slow(seconds=200)
def test_edge_journey_and_device(tmp_path):
    printed = run("06_edge_journey.py", tmp_path)
    assert "was not kept: the file has" in printed
    assert "with granularity element would fit" in printed
    size = int(re.search(r"([\d,]+) of 12,000 bytes", printed).group(1).replace(",", ""))
    assert size == (tmp_path / "model.tflite").stat().st_size <= 12_000
    number = r"([\d.]+)% in the file, ([\d.]+)% in Keras"
    benign, robust = (
        [float(value) for value in re.search(f"{name} accuracy: {number}", printed).groups()]
        for name in ("benign", "robust")
    )
    # Ten classes: chance is 10%.
    assert min(benign) > 80 and min(robust) > 60
    assert robust[0] <= benign[0] and abs(benign[0] - benign[1]) < 5
    # The device has none of these.
    absent = dict.fromkeys(("tensorflow", "keras", "hydra_tf"))
    script = ROOT / "tutorials" / "10_on_the_device.py"
    code = f"import runpy, sys; sys.modules.update({absent}); runpy.run_path({str(script)!r})"
    files = [tmp_path / "model.tflite", tmp_path / "digits.npz"]
    device = [sys.executable, "-c", code, *map(str, files)]
    result = subprocess.run(device, capture_output=True, text=True, cwd=tmp_path, timeout=60)
    assert result.returncode == 0, result.stderr[-2000:]
    accuracy = re.search(r"200 images, accuracy ([\d.]+)%", result.stdout).group(1)
    assert abs(float(accuracy) - benign[0]) < 8  # 200 and 300 images
    assert re.search(r"latency \d+\.\d+ ms", result.stdout)
