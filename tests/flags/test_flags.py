"""The binaries: quick help, one-line errors, and run directories that resume."""

import json
import os
import re
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import keras
import numpy as np
import onnxruntime
import pytest
import tensorflow as tf

import hydra_tf
from hydra_tf.sparsity.methods import METHODS
from hydra_tf.sparsity.score_init import SCORE_INITS

ROOT = Path(__file__).resolve().parents[2]
BINARIES = ["train", "evaluate", "certify", "export", "study", "submission"]
SMALL = [
    "--dataset=digits", "--model=mnist_cnn", "--objective=trades:epsilon=0.1,steps=2,start=uniform",
    "--pretrain_epochs=2", "--prune_epochs=1", "--finetune_epochs=1", "--batch_size=256",
    "--learning_rate=0.05", "--attacks=pgd:steps=5,restarts=2", "--verbose=0",
]  # fmt: skip
FINISHED = [*SMALL, "--density=0.05", "--allocation=uniform"]


def call(binary, *flags, module="flags"):
    return subprocess.run(
        [sys.executable, "-m", f"{module}.{binary}", *map(str, flags)],
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=600,
        stdin=subprocess.DEVNULL,
    )


@pytest.mark.parametrize("binary", BINARIES)
def test_help_is_printed_without_loading_tensorflow(binary):
    start = time.monotonic()
    result = call(binary, "--help")
    elapsed = time.monotonic() - start
    assert result.returncode == 0
    assert f"python -m flags.{binary}" in result.stdout
    assert "--out" in result.stdout or "--attacks" in result.stdout
    assert ("--judge_samples" in result.stdout) == (binary in ("export", "study"))
    if binary in ("train", "study"):
        text = " ".join(result.stdout.split())
        assert ", ".join(METHODS.names()) in text
        assert ", ".join(SCORE_INITS.names()) in text
    # Two seconds are documented; loading TensorFlow alone takes longer than this limit.
    assert elapsed < 4


@pytest.mark.parametrize("binary", BINARIES)
def test_importing_a_binary_does_not_load_tensorflow(binary):
    code = (
        f"import sys, flags.{binary}; sys.exit(len({{'tensorflow', 'keras'}} & {{*sys.modules}}))"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0


SLOW = pytest.mark.slow(seconds=2)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--density=0"], "density"),
        (["--density=2"], "(0, 1]"),
        (["--density=much"], "density"),
        (["--objective=trade"], 'did you mean "trades"'),
        (["--objective=trades:betta=6"], 'did you mean "beta"'),
        (["--objective=trades:epsilon=-1"], "epsilon"),
        (["--objective=trades:steps=many"], "whole number"),
        (["--objective=pgd:attack=(apgd:steps=5"], "brackets"),
        (["--objective=trades:attack=square"], "does not climb a loss"),
        (["--model=mnist_cn"], 'did you mean "mnist_cnn"'),
        (["--dataset=cifar11"], "did you mean"),
        (["--attacks=pgdd"], 'did you mean "pgd"'),
        (["--method=hydro"], "hydra"),
        (["--method=hydra:score_init=snp"], 'did you mean "snip"'),
        (["--pretrain_epochs=-1"], "at least 0"),
        (["--learning_rate=nan"], "positive"),
        (["--batch_size=0"], "at least 1"),
        (["--no_such_flag=1"], "no_such_flag"),
        (["stray"], "stray"),
        (["--out="], "--out"),
        (["--out=/proc/run"], "cannot be written"),
        (["--method=lwm", "--pretrain_epochs=0", "--finetune_epochs=0"], "no epochs to run"),
        (["--density_schedule=cubik"], 'did you mean "cubic"'),
        (["--density_schedule=cubic", "--method=lwm"], "needs a prune phase, which lwm"),
        (["--watch_images=9", "--objective=natural"], "this one has no epsilon"),
        pytest.param(["--watch_images=9", "--strategy=mirrored"], "--strategy=default", marks=SLOW),
        (["--allocation=learned", "--method=lwm"], 'in the prune phase, but method "lwm" runs'),
        (
            ["--score_perturbation=0.1", "--method=lwm"],
            "needs a prune phase that trains scores, which lwm",
        ),
        pytest.param(["--score_perturbation=-1"], "at least 0", marks=SLOW),
        (["--density_schedule_phase=pretrain"], "needs a --density_schedule that changes"),
        (["--granularity=n_m", "--density=0.1"], "has the density 0.5, not 0.1"),
        pytest.param(
            ["--granularity=n_m", "--density=0.5", "--density_schedule=cubic"],
            "has the density 0.5, not 1; choose this density, without a schedule",
            marks=SLOW,
        ),
        pytest.param(
            [
                "--density_schedule_phase=pretrain",
                "--density_schedule=cubic",
                "--pretrain_epochs=0",
            ],
            "needs pretraining in the run itself",
            marks=SLOW,
        ),
    ],
)
def test_bad_flags_end_with_one_line_and_status_2(flags, message, tmp_path):
    result = call("train", *SMALL, f"--out={tmp_path / 'run'}", *flags)
    assert result.returncode == 2
    assert message in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1
    assert "Traceback" not in result.stderr
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("binary", ["evaluate", "export"])
def test_not_a_run_directory(binary, tmp_path):
    for flags in ([], [f"--run={tmp_path}"], [f"--run={tmp_path / 'missing'}"]):
        result = call(binary, *flags)
        assert result.returncode == 2
        assert len(result.stderr.strip().splitlines()) == 1


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The directory and the output of a finished run."""
    out = tmp_path_factory.mktemp("runs") / "a"
    result = call("train", *FINISHED, "--watch_images=4", f"--out={out}")
    assert result.returncode == 0, result.stderr
    return out, result.stdout


def test_train_writes_the_run_directory(finished):
    out, printed = finished
    report = json.loads((out / "report.json").read_text())
    assert set(report) >= {"benign_accuracy", "era", "density", "layers", "attacks"}
    assert f"benign {report['benign_accuracy']:.2%}" in printed
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert [row["phase"] for row in rows] == ["pretrain", "pretrain", "prune", "finetune"]
    for folder in ("train", "masks", "attacks"):
        assert list(out.glob(f"tensorboard/{folder}/events*"))
    for plot in ("training.png", "layers.png"):
        assert (out / "plots" / plot).read_bytes().startswith(b"\x89PNG")
    masked = keras.saving.load_model(out / "model.keras")
    dense = keras.saving.load_model(out / "dense.keras")
    data = hydra_tf.data.load("digits")
    x, y = (np.concatenate(part) for part in zip(*data.test, strict=True))
    np.testing.assert_allclose(masked(x), dense(x), rtol=1e-5, atol=1e-5)
    correct = np.argmax(dense(x), axis=1) == y
    assert report["benign_accuracy"] == pytest.approx(correct.mean())
    assert report["density"] == pytest.approx(0.05, abs=1e-3)


def test_finished_runs_are_neither_repeated_nor_overwritten(finished):
    out, _ = finished
    before = (out / "report.json").stat().st_mtime_ns
    again = call("train", *FINISHED, f"--out={out}")
    assert again.returncode == 0, again.stderr
    assert "finished" in again.stdout
    assert (out / "report.json").stat().st_mtime_ns == before
    other = call("train", *SMALL, "--density=0.1", f"--out={out}")
    assert other.returncode == 2
    assert "--overwrite" in other.stderr


@pytest.mark.slow(seconds=15)
def test_evaluate_with_other_attacks(finished):
    out, _ = finished
    attacks = "fgsm;cleverhans_pgd:steps=5;pgd:steps=5"
    result = call("evaluate", f"--run={out}", f"--attacks={attacks}", "--verbose=0")
    assert result.returncode == 0, result.stderr
    report = json.loads((out / "report.json").read_text())
    assert [attack["name"] for attack in report["attacks"]] == ["fgsm", "cleverhans_pgd", "pgd"]
    assert all(attack["epsilon"] == 0.1 for attack in report["attacks"])
    assert report["era"] <= min(attack["robust_accuracy"] for attack in report["attacks"])
    assert all(attack["zero_gradient_share"] == 0 for attack in report["attacks"])
    assert "no gradient" not in result.stdout


@pytest.mark.slow(seconds=15)
def test_distances_are_those_of_the_file_and_accuracies_stay(finished):
    out, _ = finished
    before = json.loads((out / "report.json").read_text())
    result = call("evaluate", f"--run={out}", "--distances=fmn:steps=20", "--verbose=0")
    assert result.returncode == 0, result.stderr
    printed, report = result.stdout, json.loads((out / "report.json").read_text())
    assert {key: report[key] for key in before if key != "distances"} == {
        key: before[key] for key in before if key != "distances"
    }
    lines = (out / "distances.csv").read_text().splitlines()
    assert lines[0] == "index,label,distance"
    distances = np.array([float(line.split(",")[2]) for line in lines[1:]])
    entry = report["distances"]
    assert (entry["name"], entry["norm"], entry["epsilon"]) == ("fmn", "linf", 0.1)
    assert len(distances) == entry["samples"] == report["samples"]
    assert entry["median"] == pytest.approx(np.median(distances))
    assert [point["epsilon"] for point in entry["curve"]] == pytest.approx(np.arange(9) / 40)
    for point in entry["curve"]:
        assert point["robust_accuracy"] == np.mean(distances > point["epsilon"])
    assert entry["curve"][0]["robust_accuracy"] == report["benign_accuracy"]
    assert f"median distance (linf) {entry['median']:.4g}" in printed
    assert (out / "plots" / "distances.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    "kind", ["ValueError", pytest.param("ImportError", marks=pytest.mark.slow(seconds=8))]
)
def test_an_error_while_tracing_is_one_line(kind, tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        "import sys\nfrom flags.shared import launcher\n"
        "def attack(x):\n"
        f"    raise {kind}('a part is missing; install it.') from KeyError('inner')\n"
        "def run(_):\n    import tensorflow as tf\n    tf.function(attack)(1.0)\n"
        "launcher.launch('script', '', lambda: None, run)\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    options = {"capture_output": True, "text": True, "env": environment}
    result = subprocess.run([sys.executable, script], **options)
    assert result.returncode == 2
    assert result.stderr == "script: a part is missing; install it.\n"


def test_export_writes_a_file_that_agrees(finished):
    out, _ = finished
    result = call("export", f"--run={out}")
    assert result.returncode == 0, result.stderr
    content = json.loads((out / "export.json").read_text())
    assert content["bytes"] == os.path.getsize(out / "model.tflite")
    assert content["max_abs_error"] < 1e-3
    assert f"| bytes | {content['bytes']} |" in (out / "MODEL_CARD.md").read_text()


@pytest.mark.slow(seconds=20)
def test_export_writes_other_formats(finished, tmp_path):
    out, _ = finished
    net = keras.saving.load_model(out / "dense.keras")
    images = np.random.default_rng(0).random((2, 8, 8, 1), np.float32)
    result = call("export", f"--run={out}", "--format=onnx", "--batch_size=2", "--compact")
    assert result.returncode == 0, result.stderr
    session = onnxruntime.InferenceSession(out / "model.onnx", providers=["CPUExecutionProvider"])
    outputs = session.run(["outputs"], {"images": images})[0]
    np.testing.assert_allclose(outputs, net(images), rtol=1e-4, atol=1e-5)
    folder = tmp_path / "served"
    result = call("export", f"--run={out}", "--format=saved_model", f"--out={folder}")
    assert result.returncode == 0, result.stderr
    served = tf.saved_model.load(str(folder))
    np.testing.assert_allclose(served.serve(images), net(images), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--format=saved_model"], "name the folder of the SavedModel"),
        pytest.param(
            ["--format=onnx", "--quantization=int8"],
            "--quantization has no effect with --format=onnx",
            marks=SLOW,
        ),
        pytest.param(["--batch_size=2"], "no effect with --format=tflite", marks=SLOW),
    ],
)
def test_flags_without_effect_on_the_format_are_refused(flags, message, finished):
    result = call("export", f"--run={finished[0]}", *flags)
    assert result.returncode == 2
    assert message in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1


@pytest.mark.slow
def test_export_removes_channels(finished, tmp_path):
    out, _ = finished
    sizes = []
    for flag in ("--nocompact", "--compact"):
        path = tmp_path / f"{flag}.tflite"
        result = call("export", f"--run={out}", f"--out={path}", "--nosparse", flag)
        assert result.returncode == 0, result.stderr
        sizes.append(path.stat().st_size)
    assert sizes[1] < sizes[0]


@pytest.mark.slow
def test_export_judges_the_file(finished):
    out, _ = finished
    flags = ["--judge_samples=20", "--judge_search=square:queries=5", "--judge_attacks=fgsm"]
    result = call("export", f"--run={out}", "--judge", *flags)
    assert result.returncode == 0, result.stderr
    judged = json.loads((out / "export.json").read_text())["judgement"]
    assert judged["samples"] == 20
    assert [attack["images_from"] for attack in judged["attacks"]] == ["keras", "file"]
    assert judged["latency"]["milliseconds"] > 0 and judged["dense_latency"] is not None
    assert judged["bound_ratio"] > 1 and judged["dense_bytes"] > judged["bytes"]
    assert (out / "plots" / "judgement.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow(seconds=60)
def test_export_names_a_density_within_the_budget(finished, tmp_path):
    out, _ = finished
    path = tmp_path / "a.tflite"
    result = call("export", f"--run={out}", f"--out={path}", "--budget_bytes=9000")
    assert result.returncode == 2 and not path.exists()
    assert len(result.stderr.strip().splitlines()) == 1
    pattern = (
        r"a\.tflite was not kept: the file has [\d,]+ bytes, but the budget is 9,000; density "
        r"(0\.0\d+) with granularity element would fit \(8,\d\d\d bytes\)\."
    )
    assert 0 < float(re.search(pattern, result.stderr)[1]) < 0.05  # the density of the network


def test_a_network_that_cannot_be_loaded_is_explained(finished, tmp_path):
    out, _ = finished
    whole = (out / "model.keras").read_bytes()
    (tmp_path / "config.json").write_text((out / "config.json").read_text())
    with zipfile.ZipFile(tmp_path / "other.zip", "w") as archive:
        archive.writestr("config.json", json.dumps({"module": "nowhere", "class_name": "Net"}))
        archive.writestr("metadata.json", "{}")
    for content, message in (
        (whole[: len(whole) // 2], "model.keras is cut short or not a network: a .keras file"),
        (b"not a network", "model.keras is cut short or not a network: a .keras file"),
        (b"", "model.keras is cut short or not a network: a .keras file"),
        ((tmp_path / "other.zip").read_bytes(), "is damaged, or not a network"),
    ):
        (tmp_path / "model.keras").write_bytes(content)
        result = call("evaluate", f"--run={tmp_path}")
        assert result.returncode == 2
        assert message in result.stderr
        assert len(result.stderr.strip().splitlines()) == 1
        assert len(result.stderr) < 400


@pytest.mark.parametrize(
    ("binary", "flags", "message"),
    [
        ("evaluate", [], "model.keras does not exist; has the run finished?"),
        ("evaluate", ["--distances=pgd"], "does not look for the smallest change"),
        ("export", [], "model.keras does not exist; has the run finished?"),
        ("export", ["--out=no/folder/a.tflite"], 'The folder "no/folder" does not exist'),
        ("export", ["--out=a.lite"], 'must end in ".tflite"'),
    ],
)
def test_missing_files_are_reported_before_tensorflow_loads(
    finished, tmp_path, binary, flags, message
):
    out, _ = finished
    (tmp_path / "config.json").write_text((out / "config.json").read_text())
    run = out if flags else tmp_path
    code = (
        "import atexit, sys; atexit.register(lambda: print('tensorflow' in sys.modules));"
        f"import flags.{binary} as binary; binary.main()"
    )
    options = {"capture_output": True, "text": True, "cwd": ROOT}
    result = subprocess.run([sys.executable, "-c", code, f"--run={run}", *flags], **options)
    assert (result.returncode, result.stdout) == (2, "False\n")
    assert message in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1


@pytest.mark.slow(seconds=10)
def test_a_pretrained_network_without_logits_is_refused(tmp_path):
    layers = [keras.Input([8, 8, 1]), keras.layers.Flatten()]
    net = keras.Sequential([*layers, keras.layers.Dense(10, activation="softmax")])
    net.save(tmp_path / "softmax.keras")
    flags = [*SMALL, f"--pretrained={tmp_path / 'softmax.keras'}", f"--out={tmp_path / 'a'}"]
    result = call("train", *flags)
    assert result.returncode == 2
    assert "ends in probabilities" in result.stderr
    assert not (tmp_path / "a").exists()


def test_a_data_set_that_is_not_prepared_is_one_line(tmp_path):
    flags = [f"--dataset=cifar10:data_dir={tmp_path}", "--model=cnn_small"]
    result = call("train", *SMALL, *flags, f"--out={tmp_path / 'a'}")
    assert result.returncode == 2
    assert result.stderr.startswith('train: The data set "cifar10" is not prepared')
    assert len(result.stderr.strip().splitlines()) == 1


@pytest.mark.slow(seconds=90)
def test_study_tabulates_and_resumes(tmp_path):
    flags = [*SMALL, "--densities=0.1", "--seeds=2", "--tflite", "--report_samples=0"]
    flags.append(f"--out={tmp_path}")
    result = call("study", *flags)
    assert result.returncode == 0, result.stderr
    content = json.loads((tmp_path / "report.json").read_text())
    assert len(content["rows"]) == 2 * 3
    for entry in content["table"]:
        rows = [row for row in content["rows"] if row["method"] == entry["method"]]
        assert entry["era"]["mean"] == pytest.approx(np.mean([row["era"] for row in rows]))
        assert entry["era"]["std"] == pytest.approx(np.std([row["era"] for row in rows]))
    assert (tmp_path / "era.png").exists()
    assert len(list(tmp_path.glob("seed*/*/model.tflite"))) == 6
    stamp = {p: p.stat().st_mtime_ns for p in tmp_path.glob("seed*/*/model.keras")}
    again = call("study", *flags)
    assert again.stdout == result.stdout[-len(again.stdout) :]
    assert stamp == {p: p.stat().st_mtime_ns for p in tmp_path.glob("seed*/*/model.keras")}


def test_overwrite_keeps_folders_that_are_not_runs(tmp_path):
    precious = tmp_path / "backup" / "precious"
    precious.parent.mkdir()
    precious.write_text("mine")
    result = call("train", *SMALL, f"--out={tmp_path}", "--overwrite")
    assert result.returncode == 2
    assert "holds no run" in result.stderr
    assert precious.read_text() == "mine"


@pytest.mark.parametrize("content", ["{}", "[]", "not json"])
def test_an_invalid_config_is_explained(content, tmp_path):
    (tmp_path / "config.json").write_text(content)
    result = call("evaluate", f"--run={tmp_path}")
    assert result.returncode == 2
    assert "config.json is " in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1


def test_dry_run_checks_and_writes_nothing(tmp_path):
    flags = [*SMALL, "--strategy=mirrored", "--dry_run"]
    result = call("train", *flags, f"--out={tmp_path / 'a'}")
    assert result.returncode == 0, result.stderr
    assert "digits: images (8, 8, 1), 10 classes, 5 steps an epoch" in result.stdout
    assert not (tmp_path / "a").exists()
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "other").write_text("")
    assert call("train", *flags, f"--out={tmp_path / 'b'}").returncode == 2


@pytest.mark.slow(seconds=10)
def test_pruning_may_start_from_a_pretrained_run(finished, tmp_path):
    start, _ = finished
    flags = [*SMALL, f"--pretrained={start}", "--pretrain_epochs=0", "--finetune_epochs=0"]
    result = call("train", *flags, "--density=0.5", f"--out={tmp_path / 'sub'}")
    assert result.returncode == 0, result.stderr
    report = json.loads((tmp_path / "sub" / "report.json").read_text())
    before = json.loads((start / "report.json").read_text())
    assert report["pretrained"]["benign_accuracy"] == before["benign_accuracy"]
    assert report["density"] == pytest.approx(0.5, abs=1e-3)
    assert "pretrained: benign" in result.stdout
    # Only scores (and no weight) have moved.
    nets = [keras.saving.load_model(run / "model.keras") for run in (start, tmp_path / "sub")]
    for a, b in zip(*(net.layers for net in nets), strict=True):
        if hasattr(a, "mask"):
            assert np.array_equal(a.kernel, b.kernel)


@pytest.mark.parametrize("binary", ["train", "study"])
def test_a_pretrained_run_that_is_missing_is_named(binary, tmp_path):
    result = call(binary, *SMALL, "--pretrained=no/run", f"--out={tmp_path / 'a'}")
    assert result.returncode == 2
    assert "no/run/model.keras does not exist" in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1


def test_the_granularity_of_the_settings_is_used():
    from flags.shared.training_run import _pipeline

    names = ("pretrain_epochs", "prune_epochs", "finetune_epochs")
    rates = ("pretrain_learning_rate", "prune_learning_rate", "finetune_learning_rate")
    settings = {**dict.fromkeys(names, 1), **dict.fromkeys(rates), "schedule": "constant"}
    settings |= {"allocation": "erk", "warmup": 0.0}
    assert _pipeline(settings, 0.1, "lwm").granularity == "element"
    with pytest.raises(ValueError, match='Unknown granularity "elements"'):
        _pipeline({**settings, "granularity": "elements"}, 0.1, "lwm")


def test_a_pretrained_network_must_fit_the_data(finished, tmp_path):
    start, _ = finished
    result = call(
        "train", *SMALL, f"--pretrained={start}", "--dataset=mnist_5k", f"--out={tmp_path / 'a'}"
    )
    assert result.returncode == 2
    assert "takes images (8, 8, 1) to 10 logits" in result.stderr
    assert not (tmp_path / "a").exists()


@pytest.mark.slow(seconds=10)
def test_study_of_a_pretrained_network_on_validation_images(finished, tmp_path):
    start, _ = finished
    flags = [*SMALL, f"--pretrained={start}", "--pretrain_epochs=0", "--split=validation"]
    result = call("study", *flags, "--densities=0.1", "--methods=lwm", f"--out={tmp_path}")
    assert result.returncode == 0, result.stderr
    dense, pruned = (
        json.loads((tmp_path / "seed0" / name / "report.json").read_text())
        for name in ("dense", "lwm-0.1")
    )
    assert dense["split"] == pruned["split"] == "validation"
    x, y = (np.concatenate(p) for p in zip(*hydra_tf.data.load("digits").validation, strict=True))
    net = keras.saving.load_model(start / "dense.keras")
    assert dense["samples"] == len(x)
    assert dense["benign_accuracy"] == pytest.approx(np.mean(np.argmax(net(x), axis=1) == y))
