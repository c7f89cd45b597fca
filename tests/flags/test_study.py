"""The networks, tables and further attacks of a study."""

import csv
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest

import hydra_tf
from flags.shared import further_attacks, run_directory, study_d95, study_files, study_judge
from flags.shared.flag_values import spec_list
from flags.shared.launcher import UsageError
from flags.shared.run_report import gradient_note
from flags.shared.study_cells import Cell, Study
from flags.shared.study_results import markdown, measured, row_of, summarise, write_csv
from hydra_tf.core import locks

ROOT = Path(__file__).resolve().parents[2]
SMALL = [
    "--dataset=digits", "--model=mnist_cnn", "--objective=trades:epsilon=0.1,steps=2,start=uniform",
    "--pretrain_epochs=2", "--prune_epochs=1", "--finetune_epochs=1", "--batch_size=256",
    "--learning_rate=0.05", "--attacks=pgd:steps=5,restarts=2", "--verbose=0", "--methods=lwm",
]  # fmt: skip
SETTINGS = {
    "dataset": "digits", "objective": "pgd:epsilon=0.1", "attacks": "fgsm", "split": "test",
    "batch_size": 64, "pretrained": None, "allocation": "uniform:per_layer=true",
    "pretrain_epochs": 5, "prune_epochs": 2, "finetune_epochs": 3,
}  # fmt: skip
BASE = SETTINGS["allocation"]


@pytest.fixture
def study(tmp_path):
    return Study(str(tmp_path / "study"), SETTINGS)


def finish(study, cell, **report):
    """Write the run directory of a finished network."""
    out = study.directory(cell)
    os.makedirs(out)
    run_directory.prepare(out, study.config(cell))
    content = {"benign_accuracy": 0.5, "samples": 360, **report}
    Path(out, "report.json").write_text(json.dumps(content))
    return Path(out)


def test_specs_with_commas_are_listed_in_brackets():
    text = "uniform:per_layer=true,(erk:min_kept=4,every_output=true),learned:start=erk"
    specs = ["uniform:per_layer=true", "erk:min_kept=4,every_output=true", "learned:start=erk"]
    assert spec_list(text) == specs
    assert spec_list("hydra,") == ["hydra", ""]  # the empty name is then refused
    assert spec_list("") == []


def test_folders_name_the_allocations_that_are_not_those_of_the_settings(study):
    def folder(method, allocation, density=0.05):
        return study.folder(Cell(method, allocation, density, 0))

    assert folder("hydra", BASE) == "hydra-0.05"  # as without --allocations
    assert folder("hydra:score_init=snip", BASE) == "hydra-score_init-snip-0.05"
    assert (
        folder("lwm", "erk:min_kept=4,every_output=true")
        == "lwm-erk-min_kept-4-every_output-true-0.05"
    )
    assert [study.folder(cell) for cell in (study.dense(1), study.dense_long(1, 9))] == [
        "dense",
        "dense_long",
    ]
    cell = Cell("lwm", BASE, 0.1, 2)
    with pytest.raises(UsageError, match=r"give 2 networks the folder 'lwm-0\.1'; list each"):
        study.check_folders([cell, cell])


def test_configs_have_the_epochs_of_their_networks(study):
    def epochs(cell):
        names = ("pretrain_epochs", "prune_epochs", "finetune_epochs")
        return [study.config(cell)[name] for name in names]

    assert epochs(study.dense(0)) == [5, 0, 0]
    assert epochs(study.dense_long(0, 10)) == [10, 0, 0]
    assert epochs(Cell("hydra", "erk", 0.1, 0)) == [0, 2, 3]
    # A config without further allocations has the same keys and values as in earlier versions.
    expected = {**SETTINGS, "pretrain_epochs": 0, "density": 0.1, "method": "lwm", "seed": 3}
    assert study.config(Cell("lwm", BASE, 0.1, 3)) == expected


def test_dense_networks_have_no_granularity_which_may_fix_a_density(study):
    grouped = Study(study.out, {**SETTINGS, "granularity": "n_m:n=2,m=4"})
    assert "granularity" not in grouped.config(grouped.dense(0))
    assert "granularity" not in grouped.config(grouped.dense_long(0, 9))
    assert grouped.config(Cell("lwm", "uniform", 0.5, 0))["granularity"] == "n_m:n=2,m=4"


def test_finished_networks_of_the_same_settings_add_up(study, warned):
    named = [study.dense(0), Cell("hydra", BASE, 0.1, 0), Cell("hydra", "erk", 0.1, 0)]
    for cell in [*reversed(named), study.dense_long(1, 7)]:
        finish(study, cell)
    unfinished = finish(study, Cell("lwm", BASE, 0.1, 0))
    (unfinished / "report.json").unlink()
    assert study.finished() == [
        named[0],
        named[2],  # "erk" is before "uniform"
        named[1],
        study.dense_long(1, 7),
    ]
    assert warned == []
    other = Study(study.out, {**SETTINGS, "finetune_epochs": 4})
    assert other.finished() == [named[0], study.dense_long(1, 7)]  # they have no finetune phase
    assert len(warned) == 1 and "hydra-erk-0.1" in warned[0] and "dense" not in warned[0]
    with pytest.raises(UsageError, match=r"hydra-0\.1 holds another run"):
        other.prepare([named[1]])
    (unfinished / "config.json").write_text("[]")
    with pytest.raises(UsageError, match=r"config\.json"):
        study.prepare([named[0]])


def test_processes_share_a_folder_but_not_a_seed(study):
    for seed in (0, 1):
        os.makedirs(study.seed_directory(seed))
    with locks.locked(study.out, shared=True), locks.locked(study.seed_directory(1)):
        study.prepare([study.dense(0)])
        with pytest.raises(UsageError, match=r"Another process is using .*seed1"):
            study.prepare([study.dense(1)])


def row(method, density, seed, era, allocation="uniform", **entries):
    allocation = None if method.startswith("dense") else allocation
    names = {"method": method, "allocation": allocation, "density": density, "seed": seed}
    return {**names, "era": era, "attacks": {}, **entries}


def test_tables_have_a_column_for_each_attack_and_for_several_allocations():
    rows = [
        row("dense", 1.0, 0, 0.5, attacks={"autoattack (9 images)": 0.25}),
        row("lwm", 0.1, 0, 0.25),
        row("lwm", 0.1, 1, 0.75),
        row("lwm", 0.1, 0, 0.125, "erk"),
    ]
    assert measured(rows) == ["era", "autoattack (9 images)"]
    assert markdown(summarise(rows)).splitlines() == [
        "| density | method | allocation | robust (era) | autoattack (9 images) | seeds |",
        "|---|---|---|---|---|---|",
        "| 100% | dense |  | 50.0 | 25.0 | 1 |",
        "| 10% | lwm | erk | 12.5 | unknown | 1 |",
        "| 10% | lwm | uniform | 50.0 ± 25.0 | unknown | 2 |",
    ]
    assert "allocation" not in markdown(summarise(rows[:3]))


def test_a_study_and_an_evaluation_show_attacks_without_gradients():
    first = {"method": "dense", "density": 1.0, "era": 0.5, "zero_gradient_share": 0.25}
    other = {**first, "method": "lwm", "density": 0.1}
    del other["zero_gradient_share"]  # as in reports of earlier versions
    table = markdown(summarise([first, other])).splitlines()
    assert table[0] == "| density | method | robust (era) | no gradient | seeds |"
    assert table[2] == "| 100% | dense | 50.0 | 25.0 | 1 |"
    assert table[3] == "| 10% | lwm | 50.0 | unknown | 1 |"
    assert "no gradient" not in markdown(summarise([{**first, "zero_gradient_share": 0.01}]))
    assert gradient_note({"zero_gradient_share": 0.25}) == " (no gradient for 25.0% of the images)"
    assert gradient_note({"zero_gradient_share": 0.01}) == gradient_note({}) == ""


def test_the_csv_file_has_a_line_for_each_network(tmp_path):
    rows = [
        row("dense", 1.0, 0, 0.5, seconds=1.5, epochs=4, measured_density=1.0),
        row("lwm", 0.1, 0, 0.25, "erk:a=1,b=2", attacks={"fgsm (9 images)": 0.75}, seconds=None),
    ]
    write_csv(rows, str(tmp_path / "cells.csv"))
    with open(tmp_path / "cells.csv", encoding="utf-8", newline="") as file:
        dense, pruned = csv.DictReader(file)
    assert dense == {
        "method": "dense", "allocation": "", "granularity": "", "density": "1.0",
        "measured_density": "1.0", "seed": "0", "epochs": "4", "seconds": "1.5", "era": "0.5",
        "fgsm (9 images)": "",
    }  # fmt: skip
    assert (pruned["allocation"], pruned["fgsm (9 images)"]) == ("erk:a=1,b=2", "0.75")
    assert (pruned["seconds"], pruned["era"]) == ("", "0.25")


def test_d95_is_the_smallest_density_of_enough_accuracy():
    # From 90% at 0.001 to 100% at 0.1, 95% is half of the way in the logarithm of the density.
    assert study_d95.smallest_density({0.1: 1.0, 0.001: 0.9}) == (0.1, pytest.approx(0.01))
    # 95% is passed twice: the smallest density counts, and its next smaller neighbour.
    shares = {0.5: 1.0, 0.1: 0.9, 0.05: 0.98, 0.0005: 0.92, 0.0001: 0.5}
    assert study_d95.smallest_density(shares) == (0.05, pytest.approx(0.005))
    assert study_d95.smallest_density({0.1: 0.95, 0.5: 0.2}) == (0.1, None)
    assert study_d95.smallest_density({0.1: 0.949}) == (None, None)


def test_d95_compares_with_the_dense_network_of_equal_epochs_and_seeds():
    rows = [
        *(row("dense", 1.0, seed, 0.1) for seed in (0, 1)),
        row("dense_long", 1.0, 0, 0.8),
        row("dense_long", 1.0, 1, 0.4),
        row("hydra", 0.1, 0, 0.7),
        row("hydra", 0.1, 1, 0.5),  # mean 0.6, as dense_long
        row("hydra", 0.01, 1, 0.36),  # 90% of seed 1
        row("hydra", 0.001, 2, 0.9),  # there is no dense network of this seed
        row("lwm", 0.1, 0, 0.4),
        row("lwm", 0.1, 0, 0.8, "erk"),
    ]
    found = {(e["method"], e["allocation"]): e for e in study_d95.smallest_densities(rows)}
    hydra = found["hydra", "uniform"]
    assert hydra["shares"] == pytest.approx({0.1: 1.0, 0.01: 0.9})
    assert (hydra["dense"], hydra["measure"], hydra["density"]) == ("dense_long", "era", 0.1)
    assert hydra["interpolated"] == pytest.approx(10**-1.5)
    text = study_d95.markdown(list(found.values()))
    assert "dense_long with the same seeds" in text
    assert text.splitlines()[-3:] == [
        "| hydra | uniform | 10% (3.16%) |",
        "| lwm | erk | ≤ 10% |",
        "| lwm | uniform | none |",
    ]
    without = study_d95.smallest_densities([r for r in rows if r["method"] != "dense_long"])
    assert {entry["dense"] for entry in without} == {"dense"}
    assert study_d95.markdown(study_d95.smallest_densities(rows[:2])) == ""


@pytest.mark.parametrize(
    ("accuracies", "at_chance"), [((0.125, 0.15), True), ((0.125, 0.25), False)]
)
def test_dense_networks_at_chance_have_no_d95(accuracies, at_chance):
    # Of 10 classes, chance ends at 15%: the means are 13.75% and 18.75%.
    known = [{"benign_accuracy": share, "num_classes": 10} for share in accuracies]
    rows = [row("dense", 1.0, seed, 0.1, **known[seed]) for seed in (0, 1)]
    rows += [row("lwm", 0.01, seed, 0.1) for seed in (0, 1)]
    (entry,) = study_d95.smallest_densities(rows)
    assert entry["at_chance"] == at_chance
    assert entry["density"] == (None if at_chance else 0.01)
    cell = "dense at chance" if at_chance else "≤ 1%"
    assert study_d95.markdown([entry]).splitlines()[-1] == f"| lwm | {cell} |"


def test_further_attacks_are_added_to_finished_networks_once(study):
    cell = Cell("hydra", "erk", 0.1, 0)
    out = finish(study, cell, era=0.25)
    keras.utils.set_random_seed(0)
    layers = [keras.Input([8, 8, 1]), keras.layers.Flatten(), keras.layers.Dense(10)]
    net = keras.Sequential(layers)
    net.save(out / "model.keras")
    arguments = (str(out), study.config(cell))
    further_attacks.add(*arguments, ["fgsm"], 50, verbose=0)
    report = json.loads((out / "report.json").read_text())
    x, y = (np.concatenate(part) for part in zip(*hydra_tf.data.load("digits").test, strict=True))
    attack = hydra_tf.attacks.build("fgsm:epsilon=0.1")
    correct = hydra_tf.evaluation.robust_accuracy(net, (x[:50], y[:50]), attack)
    assert further_attacks.accuracies(report) == {"fgsm (50 images)": pytest.approx(correct)}
    assert report["era"] == 0.25
    # The network is loaded only for attacks or numbers of images that are new.
    (out / "model.keras").unlink()
    further_attacks.add(*arguments, ["fgsm:epsilon=0.1", "fgsm"], 50, verbose=0)
    for spec, samples in (("fgsm:epsilon=0.2", 50), ("fgsm", 0)):
        with pytest.raises(UsageError, match="does not exist"):
            further_attacks.add(*arguments, [spec], samples, verbose=0)
    for damaged in ({"further_attacks": [{"spec": "fgsm", "samples": 0}]}, {"samples": 0}):
        (out / "report.json").write_text(json.dumps(damaged))
        with pytest.raises(UsageError, match="samples"):
            further_attacks.add(*arguments, ["fgsm"], 50, verbose=0)
    (out / "report.json").write_text("{}")
    with pytest.raises(UsageError, match=r"without samples; run flags\.evaluate"):
        further_attacks.add(*arguments, ["fgsm"], 50, verbose=0)


def judged(size, era, milliseconds=0.5, vra_s=None):
    """Return a judgement as a report has it."""
    return {
        "bytes": size, "gzip_bytes": size - 1, "bound_ratio": 1.25, "agreement": 1.0,
        "benign_accuracy": 0.75, "era": era, "keras_era": 0.5, "warnings": [],
        "latency": {"milliseconds": milliseconds, "peak_bytes": 2_000_000},
        "dense_latency": {"milliseconds": 1.0, "peak_bytes": 1_000_000},
        "certified": None if vra_s is None else {"vra_s": vra_s},
    }  # fmt: skip


def test_tables_have_the_judged_files(study, tmp_path):
    cells = [Cell("lwm", BASE, 0.1, seed) for seed in (0, 1)]
    for cell, era in zip(cells, (0.25, 0.75), strict=True):
        files = [{"format": "float32", "judgement": judged(1000 + cell.seed * 1000, era)}]
        if cell.seed == 0:
            files.append({"format": "int8", "judgement": judged(300, 0.125, vra_s=0.0625)})
        else:
            files.append({"format": "int8", "error": "a layer is dead"})
        finish(study, cell, files=files)
    rows = [row_of(study, cell) for cell in cells]
    assert rows[0]["files"]["int8"]["vra_s"] == 0.0625 and list(rows[1]["files"]) == ["float32"]
    write_csv(rows, str(tmp_path / "cells.csv"))
    with open(tmp_path / "cells.csv", encoding="utf-8", newline="") as file:
        lines = list(csv.DictReader(file))
    assert [line["float32_bytes"] for line in lines] == ["1000", "2000"]
    assert [line["int8_vra_s"] for line in lines] == ["0.0625", ""]
    assert "float32_vra_s" not in lines[0]
    text = study_files.markdown(study_files.summarise(rows)).splitlines()
    assert text[-4:] == [
        "| density | method | format | bytes | gzip bytes | size / bound | ms | ms / dense | "
        "peak memory | agreement | benign | robust (era) | Keras (era) | certified (VRA-s) | "
        "seeds |",
        "|---" * 15 + "|",
        "| 10% | lwm | float32 | 1,500 | 1,499 | 1.25 | 0.5 | 0.5 | 2,000,000 | 100.0 ± 0.0 | "
        "75.0 ± 0.0 | 50.0 ± 25.0 | 50.0 ± 0.0 | unknown | 2 |",
        "| 10% | lwm | int8 | 300 | 299 | 1.25 | 0.5 | 0.5 | 2,000,000 | 100.0 | 75.0 | 12.5 | "
        "50.0 | 6.2 | 1 |",
    ]
    assert study_files.markdown(study_files.summarise([row("lwm", 0.1, 0, 0.5)])) == ""
    # The accuracies of the networks stay in a table of their own.
    assert "int8" not in markdown(summarise(rows)) and measured(rows) == ["benign_accuracy"]


def test_files_are_judged_once_for_their_settings(study, monkeypatch):
    cell = Cell("hydra", "erk", 0.1, 0)
    out = finish(study, cell)
    calls = []

    def judge_one(out, config, quantization, name, verbose):
        calls.append((quantization, name))
        return {"error": "dead"} if name == "int8" else {"judgement": judged(10, 0.5)}

    settings = {"samples": 1000, "attacks": [{"name": "fgsm"}], "search": True, "certify_n": 0}
    monkeypatch.setattr(study_judge.judging, "settings", lambda objective: dict(settings))
    monkeypatch.setattr(study_judge, "_judged", judge_one)
    arguments = (str(out), study.config(cell))
    study_judge.add(*arguments, ["none"], verbose=0)
    study_judge.add(*arguments, ["none", "int8"], verbose=0)
    assert calls == [("none", "float32"), ("int8", "int8")]
    entries = json.loads((out / "report.json").read_text())["files"]
    assert [entry["format"] for entry in entries] == ["float32", "int8"]
    assert entries[0]["settings"]["samples"] == 360  # the split has no more
    # A format that failed is tried again, and so is one with other settings.
    study_judge.add(*arguments, ["none", "int8"], verbose=0)
    settings["samples"] = 100
    study_judge.add(*arguments, ["none"], verbose=0)
    assert calls[2:] == [("int8", "int8"), ("none", "float32")]
    for damaged in ({"format": "int8"}, {"format": 8, "error": ""}, {"format": "", "judgement": 1}):
        (out / "report.json").write_text(json.dumps({"files": [damaged]}))
        with pytest.raises(UsageError, match=r"damaged: an entry of files needs the text format"):
            study_judge.add(*arguments, ["none"], verbose=0)
    with pytest.raises(UsageError, match="damaged: an entry of files lacks"):
        study_judge.figures({"files": [{"format": "int8", "judgement": {}}]})


def start(*arguments):
    return subprocess.Popen(
        [sys.executable, "-m", "flags.study", *SMALL, *map(str, arguments)],
        cwd=ROOT,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        stdin=subprocess.DEVNULL,
    )


def finished_output(process):
    printed, errors = process.communicate(timeout=600)
    assert process.returncode == 0, errors
    return printed


@pytest.mark.slow(seconds=180)
def test_a_study_grows_over_several_starts(tmp_path):
    together = [start("--densities=0.1", f"--first_seed={s}", f"--out={tmp_path}") for s in (0, 1)]
    for process in together:
        finished_output(process)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.glob("seed*/*/model.keras")}
    assert len(before) == 4
    rows = json.loads((tmp_path / "report.json").read_text())["rows"]
    assert sorted((r["seed"], r["method"]) for r in rows) == [
        (0, "dense"),
        (0, "lwm"),
        (1, "dense"),
        (1, "lwm"),
    ]
    attacks = ["--further_attacks=fgsm", "--attack_samples=40"]
    judge = ["--judge", "--judge_samples=20", "--judge_search=square:queries=5"]
    judge += ["--judge_attacks=fgsm", "--judge_quantizations=none,int8"]
    wider = ["--densities=0.05", "--allocations=erk", "--dense_epochs=total", *attacks, *judge]
    shutil.rmtree(tmp_path / "seed1" / "dense")  # a network that this start does not name
    finished_output(start(*wider, f"--out={tmp_path}"))
    with open(tmp_path / "cells.csv", encoding="utf-8", newline="") as file:
        lines = list(csv.DictReader(file))
    names = ("seed", "method", "allocation", "density", "epochs")
    assert [tuple(line[name] for name in names) for line in lines] == [
        ("0", "dense", "", "1.0", "2"),
        ("0", "dense_long", "", "1.0", "4"),
        ("0", "lwm", "uniform", "0.1", "1"),
        ("0", "lwm", "erk", "0.05", "1"),
        ("1", "lwm", "uniform", "0.1", "1"),
    ]
    attacked = [line["method"] for line in lines if line["fgsm (40 images)"]]
    assert attacked == ["dense", "dense_long", "lwm"]
    assert [line["method"] for line in lines if line["int8_bytes"]] == attacked
    whole, pruned = (int(lines[i]["float32_bytes"]) for i in (0, 3))
    assert pruned < whole / 5 and int(lines[0]["int8_bytes"]) < whole / 3
    assert (tmp_path / "seed0" / "dense" / "plots" / "judgement_int8.png").exists()
    assert "| 5% | lwm | int8 |" in (tmp_path / "table.md").read_text()
    assert all(float(line["seconds"]) > 0 for line in lines)
    assert float(lines[3]["measured_density"]) == pytest.approx(0.05, abs=1e-3)
    after = {path: path.stat().st_mtime_ns for path in before if path.exists()}
    assert after.items() <= before.items() and len(after) == 3
