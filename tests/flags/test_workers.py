"""Two workers on the loopback interface: equal results, and exit when one is killed."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import keras
import numpy as np
import pytest

import hydra_tf  # noqa: F401 - its layers are in the files
from hydra_tf.sparsity.allocation import ALLOCATIONS
from hydra_tf.sparsity.granularity import GRANULARITIES

ROOT = Path(__file__).resolve().parents[2]
OBJECTIVE = "trades:epsilon=0.1,steps=2,start=uniform"
SMALL = [
    "--dataset=digits", "--model=mnist_cnn", "--density=0.1", "--batch_size=100", "--verbose=0",
    f"--objective={OBJECTIVE}", "--learning_rate=0.05",
    "--attacks=pgd:steps=2", "--prune_epochs=1", "--finetune_epochs=1",
]  # fmt: skip


def free_ports(count):
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for listener in sockets:
            listener.bind(("127.0.0.1", 0))
        return [listener.getsockname()[1] for listener in sockets]


def start(out, *flags, index=None, ports=()):
    environment = dict(os.environ)
    if index is not None:
        cluster = {"worker": [f"127.0.0.1:{port}" for port in ports]}
        task = {"type": "worker", "index": index}
        environment["TF_CONFIG"] = json.dumps({"cluster": cluster, "task": task})
        flags = (*flags, "--strategy=multi_worker")
    return subprocess.Popen(
        [sys.executable, "-m", "flags.train", *SMALL, *flags, f"--out={out}"],
        cwd=ROOT,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.fixture
def workers():
    """Return a function that starts two workers, which are killed at the end."""
    started = []

    def start_both(out, *flags):
        ports = free_ports(2)
        started.extend(start(out, *flags, index=i, ports=ports) for i in range(2))
        return started

    yield start_both
    for process in started:
        kill(process)


def kill(process):
    process.kill()
    process.communicate()


def wait_for_epochs(out, count, process):
    metrics = out / "metrics.jsonl"
    for _ in range(1800):
        if metrics.exists() and len(metrics.read_text().splitlines()) >= count:
            return
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.1)
    raise AssertionError("no progress")


def finish(*processes):
    for process in processes:
        _, errors = process.communicate(timeout=300)
        assert process.returncode == 0, errors


def assert_same_network(one, other, atol):
    one, other = (keras.saving.load_model(out / "model.keras") for out in (one, other))
    for a, b in zip(one.variables, other.variables, strict=True):
        a, b = np.array(a), np.array(b)
        if a.dtype == bool:
            np.testing.assert_array_equal(a, b)
        else:
            np.testing.assert_allclose(a, b, atol=atol)


@pytest.mark.slow(seconds=60)
@pytest.mark.parametrize(
    "changed",
    [f"--objective={OBJECTIVE}", f"--objective={OBJECTIVE},attack=cleverhans_pgd"],
)  # fmt: skip
def test_two_workers_equal_one_device(changed, workers, tmp_path):
    flags = ["--pretrain_epochs=1", changed]
    finish(*workers(tmp_path / "both", *flags))
    finish(start(tmp_path / "alone", *flags))
    # The order of sums differs over 39 steps.
    assert_same_network(tmp_path / "alone", tmp_path / "both", atol=1e-4)
    reports = [json.loads((tmp_path / n / "report.json").read_text()) for n in ("alone", "both")]
    assert abs(reports[0]["benign_accuracy"] - reports[1]["benign_accuracy"]) <= 0.01


@pytest.mark.slow(seconds=40)
@pytest.mark.parametrize(
    "changed",
    [f"--allocation={name}" for name in ALLOCATIONS.names()]
    + [f"--granularity={name}" for name in GRANULARITIES.names() if name != "layer"]  # keeps all
    + ["--method=hydra:joint=true"],
)
def test_two_workers_choose_the_masks_of_one_device(changed, workers, tmp_path):
    fixes_density = changed.endswith("n_m")
    density = "--density=0.5" if fixes_density else "--density=0.25"
    flags = ["--pretrain_epochs=0", "--finetune_epochs=0", density, changed]
    finish(*workers(tmp_path / "both", *flags))
    finish(start(tmp_path / "alone", *flags))
    assert_same_network(tmp_path / "alone", tmp_path / "both", atol=1e-4)
    if not fixes_density:  # else each layer keeps what it can
        layers = json.loads((tmp_path / "both" / "report.json").read_text())["layers"]
        assert sum(row["kept"] for row in layers) <= 22_248 // 4


def test_workers_refuse_an_attack_without_a_loss(tmp_path):
    # Before the worker waits for the other one, which never starts.
    worker = start(tmp_path / "run", "--objective=pgd:attack=fab", index=0, ports=free_ports(2))
    _, errors = worker.communicate(timeout=60)
    assert worker.returncode == 2
    assert 'The attack "fab" does not climb a loss, so that an objective cannot use it' in errors
    assert len(errors.strip().splitlines()) == 1


@pytest.mark.parametrize(
    "sent",
    [
        pytest.param(signal.SIGKILL, marks=pytest.mark.slow(seconds=30)),
        pytest.param(signal.SIGTERM, marks=pytest.mark.slow),
    ],
)
def test_chief_stops_when_a_worker_is_gone(sent, workers, tmp_path):
    chief, other = workers(tmp_path / "run", "--pretrain_epochs=500")
    wait_for_epochs(tmp_path / "run", 1, chief)
    other.send_signal(sent)
    stopped_at = time.monotonic()
    _, errors = chief.communicate(timeout=120)
    assert time.monotonic() - stopped_at < 60
    assert chief.returncode == 75
    last = errors.strip().splitlines()[-1]
    if sent == signal.SIGKILL:
        assert "another worker has stopped" in last
    else:
        assert "Stopped after epoch" in last
        other.communicate(timeout=60)
        assert other.returncode == 75
    assert list((tmp_path / "run" / "checkpoints").glob("at-*.npz"))


@pytest.mark.slow(seconds=180)
@pytest.mark.parametrize("killed", [0, 1], ids=["chief", "worker"])
def test_restarted_workers_give_the_same_bits(killed, workers, tmp_path):
    flags = ["--pretrain_epochs=4", "--checkpoint_minutes=0"]
    both = workers(tmp_path / "run", *flags)
    wait_for_epochs(tmp_path / "run", 2, both[0])
    both[killed].kill()
    stopped_at = time.monotonic()
    _, errors = both[1 - killed].communicate(timeout=120)
    assert time.monotonic() - stopped_at < 60
    assert both[1 - killed].returncode == 75
    assert "another worker has stopped" in errors.strip().splitlines()[-1]
    kill(both[killed])
    both.clear()
    finish(*workers(tmp_path / "run", *flags))
    epochs = [json.loads(line)["epoch"] for line in (tmp_path / "run" / "metrics.jsonl").open()]
    assert epochs == list(range(1, 7))
    finish(*workers(tmp_path / "whole", *flags))
    assert_same_network(tmp_path / "whole", tmp_path / "run", atol=0.0)
