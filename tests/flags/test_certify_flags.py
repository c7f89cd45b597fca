"""python -m flags.certify on a small run directory."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import keras
import numpy as np
import pytest

import hydra_tf

ROOT = Path(__file__).resolve().parents[2]
REPORT = {"split": "test", "benign_accuracy": 0.5, "era": 0.25, "density": 0.5, "layers": []}
QUICK = ["--n0=10", "--n=200", "--verbose=0"]


def call(*flags):
    return subprocess.run(
        [sys.executable, "-m", "flags.certify", *map(str, flags)],
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=600,
        stdin=subprocess.DEVNULL,
    )


@pytest.fixture(scope="module")
def network():
    """A network for digits with certificates for some of the images."""
    data = hydra_tf.data.load("digits", batch_size=64)
    net = hydra_tf.models.build("mnist_cnn", input_shape=(8, 8, 1), num_classes=10, seed=0)
    model = hydra_tf.RobustModel(net, "smoothing:sigma=0.25,variant=gaussian")
    model.compile(keras.optimizers.Adam(3e-3))
    model.fit(data.train, epochs=4, verbose=0)
    hydra_tf.set_density(model, 0.5)
    return model.net


@pytest.fixture
def run(network, tmp_path):
    network.save(tmp_path / "model.keras")
    config = {"dataset": "digits", "objective": "smoothing", "attacks": "", "batch_size": 128}
    (tmp_path / "config.json").write_text(json.dumps({**config, "split": "test", "seed": 0}))
    (tmp_path / "report.json").write_text(json.dumps(REPORT))
    return tmp_path


def rows_of(path):
    return [json.loads(line) for line in path.read_text().splitlines()[1:]]


def test_smoothing_extends_the_report_and_accepts_more_samples(run, network):
    result = call(f"--run={run}", *QUICK, "--samples=20", "--seed=3")
    assert result.returncode == 0, result.stderr
    first = (run / "certify.jsonl").read_bytes()
    result = call(f"--run={run}", *QUICK, "--samples=40", "--seed=3")
    assert result.returncode == 0, result.stderr
    assert (run / "certify.jsonl").read_bytes().startswith(first)
    rows = rows_of(run / "certify.jsonl")
    data = hydra_tf.data.load("digits", batch_size=64)
    x, y = next(iter(data.test))
    classes, radii = hydra_tf.evaluation.certify(network, x[:40], n0=10, n=200, seed=3)
    assert [row["predicted"] for row in rows] == classes.tolist()
    assert [row["radius"] for row in rows] == radii.tolist()
    assert [row["label"] for row in rows] == y.numpy()[:40].tolist()
    report = json.loads((run / "report.json").read_text())
    correct = (classes == y.numpy()[:40]) & (radii >= 110 / 255)
    assert report["vra_s"] == pytest.approx(correct.mean())
    assert 0 < report["vra_s"] < 1
    assert {key: report[key] for key in REPORT} == REPORT
    settings = {"sigma": 0.25, "n0": 10, "n": 200, "alpha": 0.001, "seed": 3, "samples": 40}
    assert settings.items() <= report["smoothing"].items()
    assert report["smoothing"]["radius"] == 110 / 255
    assert report["smoothing"]["abstained"] == pytest.approx((classes < 0).mean())
    table = {row["radius"]: row["accuracy"] for row in report["smoothing"]["certified"]}
    assert table[110 / 255] == report["vra_s"]
    assert f"0.4314  {report['vra_s']:9.2%}" in result.stdout
    assert (run / "plots" / "certified.png").read_bytes().startswith(b"\x89PNG")
    # Other settings need another file.
    other = call(f"--run={run}", *QUICK, "--sigma=0.5")
    assert other.returncode == 2
    assert "certify.jsonl has certificates for other settings (sigma, seed)" in other.stderr
    assert len(other.stderr.strip().splitlines()) == 1


@pytest.mark.slow(seconds=120)
def test_interrupted_certification_resumes(run, tmp_path_factory):
    flags = ["--n0=10", "--n=20000", "--verbose=0", "--split=validation"]
    command = [sys.executable, "-m", "flags.certify", f"--run={run}", *flags]
    path = run / "certify_validation.jsonl"
    process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True)
    while process.poll() is None and not (
        path.exists() and len(path.read_text().splitlines()) > 20
    ):
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, printed = process.communicate()
    done = len(path.read_text().splitlines()) - 1
    assert 20 <= done < 180
    assert process.returncode == 130
    message = "certify: interrupted; the same command resumes from the work saved so far."
    assert printed.strip() == message
    result = call(f"--run={run}", *flags)
    assert result.returncode == 0, result.stderr
    whole = tmp_path_factory.mktemp("whole") / "certify.jsonl"
    net = keras.saving.load_model(run / "model.keras")
    data = hydra_tf.data.load("digits", batch_size=64)
    hydra_tf.evaluation.certify_dataset(net, data.validation, whole, n0=10, n=20000)
    assert path.read_bytes() == whole.read_bytes()
    # The report is about the test split.
    assert json.loads((run / "report.json").read_text()) == REPORT
    assert "report.json is not about the validation split" in result.stdout


@pytest.mark.slow(seconds=20)
def test_report_has_one_entry_per_bound(run, network):
    for method in ("ibp", "crown:chunk=4096"):
        flags = [f"--method={method}", "--epsilon=1/255", "--samples=20", "--verbose=0"]
        result = call(f"--run={run}", *flags)
        assert result.returncode == 0, result.stderr
        assert "20 images" in result.stdout and "radius 1/255" in result.stdout
    report = json.loads((run / "report.json").read_text())
    x, y = next(iter(hydra_tf.data.load("digits", batch_size=20).test))
    correct = np.mean(np.argmax(network(x), 1) == y.numpy())
    ibp, crown = (report["verified"][name] for name in ("ibp", "crown"))
    assert ibp["accuracy"] == hydra_tf.evaluation.verified_accuracy(network, (x, y), 1 / 255, "ibp")
    assert ibp["accuracy"] <= crown["accuracy"] <= correct
    assert crown["accuracy"] > 0
    assert report["vra_t"] == ibp["accuracy"]  # crown is not a headline number
    assert "vra_m" not in report
    assert crown == {**ibp, "accuracy": crown["accuracy"], "chunk": 4096}
    assert (ibp["epsilon"], ibp["samples"], ibp["split"]) == (1 / 255, 20, "test")
    assert {key: report[key] for key in REPORT} == REPORT


BAD = [
    (["--sigma=0"], "sigma must be a finite number above 0, not 0.0"),
    (["--sigma=-1"], "sigma must be a finite number above 0"),
    (["--n0=0"], "n0 must be at least 1 draw, not 0"),
    (["--n=0"], "n must be at least 1 draw, not 0"),
    (["--alpha=0"], "alpha is a probability in (0, 1), not 0.0"),
    (["--alpha=1"], "alpha is a probability in (0, 1), not 1.0"),
    (["--n=9"], "n=9 draws cannot certify with alpha=0.001"),
    (["--n=2147483648"], "n must be at most 1000000000 draws"),
    (["--sigma=1e300"], "sigma must be from 1e-06 to 1000, not 1e+300"),
    (["--alpha=0.9999999999999999"], "is too close to 1"),
    (["--seed=9223372036854775808"], "--seed must be below 2^63, not 9223372036854775808"),
    (["--samples=-1"], "--samples must be at least 0, not -1"),
    (["--seed=-1"], "--seed must be at least 0, not -1"),
    (["--batch_size=0"], "--batch_size must be at least 1, not 0"),
    (["--split=train"], "--split"),
    (["--method=smooth"], 'Unknown method "smooth"; did you mean "smoothing"'),
    (["--method=crown", "--epsilon=2"], "epsilon=2 is larger than the range of pixel values"),
    (["--method=crown", "--epsilon=-1"], "epsilon must be a finite number of at least 0"),
    (["--method=crown", "--epsilon=much"], "--epsilon must be a number such as 2/255, not 'much'"),
    (["--method=crown", "--sigma=0.5"], "--sigma has no effect with --method=crown; leave it out"),
    (["--epsilon=2/255"], "--epsilon has no effect with --method=smoothing; leave it out"),
    (["--run="], "--run is missing"),
    (["--run=/nowhere"], "is not a run directory"),
    (["stray"], "stray"),
]
RUN_ALL = """
import contextlib, io, json, sys
from flags import certify
for flags in json.loads(sys.argv[1]):
    sys.argv = ["certify", *flags]
    certify.FLAGS.unparse_flags()
    for name in certify.FLAGS:
        certify.FLAGS[name].unparse()
    with contextlib.redirect_stderr(io.StringIO()) as printed:
        try:
            certify.main()
        except SystemExit as end:
            print(json.dumps([end.code, printed.getvalue(), "tensorflow" in sys.modules]))
"""


def test_bad_flags_end_with_one_line_and_status_2_before_tensorflow_loads(run):
    cases = [[f"--run={run}", *flags] for flags, _ in BAD]
    result = subprocess.run(
        [sys.executable, "-c", RUN_ALL, json.dumps(cases)], cwd=ROOT, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr
    ends = [json.loads(line) for line in result.stdout.splitlines()]
    assert len(ends) == len(BAD)
    for (flags, message), (status, printed, loaded) in zip(BAD, ends, strict=True):
        assert status == 2, flags
        assert message in printed, flags
        assert len(printed.strip().splitlines()) == 1, flags
        assert not loaded


def test_incomplete_runs_are_refused(run):
    def refused(message):
        result = call(f"--run={run}", *QUICK)
        assert result.returncode == 2
        assert message in result.stderr
        assert len(result.stderr.strip().splitlines()) == 1

    whole = (run / "model.keras").read_bytes()
    (run / "model.keras").write_bytes(whole[:1000])
    refused("model.keras is cut short or not a network")
    (run / "model.keras").write_bytes(whole)
    (run / "report.json").write_text("not json")
    refused("report.json is damaged: it is not JSON")
    (run / "report.json").write_text(json.dumps(REPORT))
    checkpoint = run / "checkpoints" / "at-00001-000000001.npz"
    checkpoint.parent.mkdir()
    checkpoint.touch()  # killed while it was evaluated
    refused("is not finished; run its flags.train or flags.study command again")
    checkpoint.unlink()
    os.remove(run / "report.json")
    refused("report.json does not exist; has the run finished?")
    os.remove(run / "model.keras")
    refused("model.keras does not exist; has the run finished?")
    assert np.all([not p.name.startswith("certify") for p in run.iterdir()])
