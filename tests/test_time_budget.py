"""``--time-budget`` skips tests that would end too late and hides no failures."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
TESTS = """
import pytest

@pytest.mark.slow(seconds=5000)
def test_longest():
    print("longest ran")

@pytest.mark.slow
def test_slow():
    print("slow ran")

def test_quick():
    print("quick ran")

def test_broken():
    assert False
"""


@pytest.fixture
def run(tmp_path):
    """Run the tests above with a budget and return exit status, order of tests and output."""
    (tmp_path / "test_sample.py").write_text(TESTS)
    env = {**os.environ, "PYTHONPATH": str(ROOT), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    arguments = ["-p", "tests.time_budget", "-p", "no:cacheprovider", "-rAs", "test_sample.py"]

    def with_budget(*options):
        command = [sys.executable, "-m", "pytest", *arguments, *options]
        result = subprocess.run(
            command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=120
        )
        return result.returncode, re.findall(r"(\w+) ran", result.stdout), result.stdout

    return with_budget


def test_without_budget_all_tests_run_in_file_order(run):
    status, order, output = run()
    assert (status, order) == (1, ["longest", "slow", "quick"])
    assert "1 failed, 3 passed" in output


def test_budget_runs_short_tests_first_and_skips_long_ones(run):
    status, order, output = run("--time-budget=4000")
    assert (status, order) == (1, ["quick", "slow"])
    assert "1 failed, 2 passed, 1 skipped" in output
    assert "of the time budget of 4000 s are left and it may take 5000 s." in output


@pytest.mark.parametrize("seconds", [0, -60])
def test_spent_budget_skips_every_test(run, seconds):
    status, order, output = run(f"--time-budget={seconds}")
    assert (status, order) == (0, [])
    assert "4 skipped" in output and "passed" not in output and "failed" not in output
    assert "test_quick was not run: 0 s of the time budget" in output
