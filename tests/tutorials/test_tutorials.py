"""The tutorials run offline and print the expected results."""

import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def run(name):
    result = subprocess.run(
        [sys.executable, str(ROOT / "tutorials" / name)],
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
    assert "zeros in the first kernel: 137 of 144" in printed
