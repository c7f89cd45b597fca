"""Run directories: replaced runs come back, damaged files are named, other versions explained."""

import itertools
import json
import os
import shutil

import keras
import numpy as np
import pytest

import hydra_tf
from flags.shared import networks, replaced_run, run_directory, run_files, training_run
from flags.shared.launcher import UsageError
from hydra_tf.core.locks import locked

CONFIG = {
    "dataset": "digits", "objective": "trades", "attacks": "pgd", "split": "test",
    "batch_size": 8, "seed": 0,
}  # fmt: skip
OTHER = {**CONFIG, "seed": 1}
FILES = {
    "report.json": '{"era": 0.5}',
    "metrics.jsonl": '{"epoch": 1, "phase": "prune", "loss": 0.5}\n',
    "model.keras": "the network",
    "certify.jsonl": "certificates",
    "plots/training.png": "a plot",
    "tensorboard/train/events.out.tfevents.1.a": "events",
    "notes.txt": "mine",
    "plots/mine.png": "mine",
}


def write(out, files):
    for name, text in files.items():
        (out / name).parent.mkdir(parents=True, exist_ok=True)
        (out / name).write_text(text)


def content(out):
    """The files below a folder with their text, and what links point to."""
    return {
        str(path.relative_to(out)): os.readlink(path) if path.is_symlink() else path.read_text()
        for path in sorted(out.rglob("*"))
        if path.is_symlink() or path.is_file()
    }


def unlock(out):
    """Release the lock of a directory, as the end of its process does."""
    os.close(run_directory._locks.pop(os.path.realpath(out))[0])


def replace_and_fail(out, error, files=()):
    """Replace a run by one that fails before its first step, after writing files."""
    with run_directory.prepared(str(out), OTHER, overwrite=True):
        write(out, dict(files))
        raise error


@pytest.fixture
def finished(tmp_path):
    """A finished run."""
    out = tmp_path / "run"
    run_directory.prepare(str(out), CONFIG)
    write(out, FILES)
    run_directory.remove_checkpoints(str(out))
    unlock(out)
    return out


def test_a_run_is_finished_without_checkpoints_and_with_a_report(tmp_path):
    out = tmp_path / "run"
    run_directory.prepare(str(out), CONFIG)
    assert not run_directory.is_finished(str(out), CONFIG)
    # It was killed while its network was attacked; flags.evaluate must not end it.
    write(out, {**FILES, "checkpoints/at-00001-000000000.npz": "a checkpoint"})
    assert not run_directory.is_finished(str(out), CONFIG)
    with pytest.raises(UsageError, match=r"is not finished; run its flags\.train or"):
        run_directory.require_finished(str(out))
    run_directory.remove_checkpoints(str(out))
    assert run_directory.is_finished(str(out), CONFIG)
    run_directory.require_finished(str(out))
    assert not list(out.glob(".discarded"))


def test_the_files_of_a_replaced_run_are_removed_once_the_new_run_has_started(finished):
    with run_directory.prepared(str(finished), OTHER, overwrite=True):
        assert not (finished / "model.keras").exists()
        replaced_run.remove(str(finished))
        assert not (finished / ".replaced").exists()
        write(finished, {"metrics.jsonl": "new"})
    found = content(finished)
    assert json.loads(found.pop("config.json"))["seed"] == 1
    assert found == {"metrics.jsonl": "new", "notes.txt": "mine", "plots/mine.png": "mine"}


def test_training_removes_the_replaced_run_after_a_step(finished):
    net = keras.Sequential([keras.Input([2]), keras.layers.Dense(1)])
    net.compile("sgd", "mse")
    data = np.zeros([2, 2]), np.zeros([2, 1])
    callback = training_run.removes_replaced_run(str(finished))
    with run_directory.prepared(str(finished), OTHER, overwrite=True):
        assert replaced_run.is_aside(str(finished))
        net.fit(*data, verbose=0, callbacks=[callback])
        assert not replaced_run.is_aside(str(finished))


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_a_replaced_run_comes_back_if_the_new_one_does_not_start(finished, error):
    before = content(finished)
    with pytest.raises(error):
        replace_and_fail(finished, error, {"tensorboard/train/events.out.tfevents.2.a": "new"})
    assert content(finished) == before
    assert run_directory.is_finished(str(finished), CONFIG)


def test_a_run_with_a_loss_that_is_not_finite_has_started(finished):
    with pytest.raises(FloatingPointError):
        replace_and_fail(finished, FloatingPointError, {"last_good.keras": "its network"})
    assert (finished / "last_good.keras").exists() and not (finished / "model.keras").exists()


def test_a_killed_replacement_is_undone_at_any_moment(finished, monkeypatch):
    """Every call that changes the directory is the last one, in turn."""
    before = content(finished)

    for last in range(100):
        calls = itertools.count()

        def killed_after(call, calls=calls, last=last):
            def counted(*args, **kwargs):
                if next(calls) >= last:
                    raise KilledError
                return call(*args, **kwargs)

            return counted

        with monkeypatch.context() as patch:
            for module, name in (os, "replace"), (os, "remove"), (os, "mkdir"), (shutil, "rmtree"):
                patch.setattr(module, name, killed_after(getattr(module, name)))
            try:
                replace_and_fail(finished, KeyError)
            except (KilledError, KeyError) as error:
                killed = isinstance(error, KilledError)
        # The next command finds the run as it was.
        if last % 2:
            run_directory.use(str(finished))
        else:
            assert run_directory.is_finished(str(finished), CONFIG)
        assert content(finished) == before, last
        if not killed:
            break
    assert last > 10 and not killed


def test_a_finished_run_with_an_empty_folder_of_checkpoints_is_finished(finished):
    assert run_directory.has_finished(str(finished))
    (finished / "checkpoints").mkdir(exist_ok=True)
    assert run_directory.has_finished(str(finished))
    run_directory.require_finished(str(finished))
    (finished / "checkpoints" / "at-00000-000000001.npz").touch()
    assert not run_directory.has_finished(str(finished))


def test_other_files_beside_checkpoints_are_kept(finished):
    write(finished, {"checkpoints/at-00000-000000001.npz": "ours", "checkpoints/mine.txt": "kept"})
    run_directory.remove_checkpoints(str(finished))
    assert [path.name for path in (finished / "checkpoints").iterdir()] == ["mine.txt"]
    assert run_directory.has_finished(str(finished))


@pytest.mark.parametrize("key", ["attacks", "layers"])
def test_entries_of_a_report_are_objects(key, finished):
    (finished / "report.json").write_text(json.dumps({key: [1]}))
    with pytest.raises(UsageError, match=f"an entry of {key} must be an object, not 1"):
        run_files.read_report(str(finished))


@pytest.mark.parametrize("name", ["plots", "checkpoints", "model.keras"])
def test_links_are_replaced_and_what_they_point_to_is_kept(name, finished, tmp_path):
    kept = tmp_path / "elsewhere"
    write(kept, {"training.png": "kept", "at-00000-000000001.npz": "kept"})
    path = finished / name
    shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    path.symlink_to(kept if "." not in name else kept / "training.png")
    before = content(finished)
    with pytest.raises(KeyError):
        replace_and_fail(finished, KeyError)
    assert content(finished) == before
    with run_directory.prepared(str(finished), OTHER, overwrite=True):
        assert not path.is_symlink()
    assert content(kept) == {"at-00000-000000001.npz": "kept", "training.png": "kept"}


@pytest.mark.parametrize("name", ["plots", "model.keras"])
def test_what_cannot_be_of_a_run_is_found_before_anything_is_moved(name, finished):
    path = finished / name
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    write(finished, {name if name == "plots" else "model.keras/a.txt": "mine"})
    before = content(finished)
    for call in (run_directory.is_finished, run_directory.prepare):
        with pytest.raises(UsageError, match=rf"{name} is not of a run of hydra_tf, and is in the"):
            call(str(finished), OTHER, overwrite=True)
    assert content(finished) == before


def test_runs_of_other_versions_are_explained(finished, monkeypatch):
    monkeypatch.setattr(hydra_tf, "__version__", "9.9")
    with pytest.raises(UsageError, match=r"finished with .*hydra_tf 9\.9 can evaluate") as a:
        run_directory.is_finished(str(finished), CONFIG)
    with pytest.raises(UsageError, match=r"another run \(with seed 0 instead of 1\); choose"):
        run_directory.is_finished(str(finished), OTHER)
    (finished / "report.json").unlink()
    with pytest.raises(UsageError, match=r"install hydra_tf==.* to continue it, or choose") as b:
        run_directory.is_finished(str(finished), CONFIG)
    assert "--overwrite" not in f"{a.value}{b.value}"
    assert not run_directory.is_finished(str(finished), CONFIG, overwrite=True)


def test_a_finished_network_is_shared(finished):
    run_directory.lock(str(finished))
    with pytest.raises(BlockingIOError), locked(finished, shared=True):
        pass
    run_directory.share(str(finished))
    with locked(finished, shared=True):
        pass
    with pytest.raises(BlockingIOError), locked(finished):
        pass


def test_training_locks_a_directory_and_evaluation_shares_it(finished):
    with locked(finished, shared=True):
        with pytest.raises(UsageError, match=r"process is using .*run; wait until it ends"):
            run_directory.prepare(str(finished), OTHER, overwrite=True)
        run_directory.use(str(finished))
    with locked(finished.parent), pytest.raises(UsageError, match="Another process is using"):
        run_directory.lock(str(finished.parent), shared=True)
    with pytest.raises(BlockingIOError), locked(finished):  # use() has a lock
        pass


class KilledError(BaseException):
    pass


DAMAGED = {
    "config.json": [
        ("[", "is damaged: it is not JSON"),
        ("[" * 100_000, "is damaged: it is nested too deeply"),
        ("{}", "is not the config of a run of hydra_tf: dataset is missing"),
        ({"split": None}, "split must be a text, not None"),
        ({"split": "train"}, "split must be test or validation, not 'train'"),
        ({"batch_size": 1e30}, r"batch_size must be a whole number from 1 to .*, not 1e\+30"),
        ({"batch_size": 10**30}, "batch_size must be a whole number from 1 to"),
        ({"batch_size": True}, "batch_size must be a whole number"),
        ({"seed": 2**63}, "seed must be a whole number from 0 to"),
        ({"dataset": "digit"}, 'config.json is not .*: Unknown data set "digit"'),
        ({"objective": "trades:epsilon=-1"}, "config.json is not .*epsilon"),
        ({"extra": "npz:share=2"}, "config.json is not .*share"),
    ],
    "report.json": [
        ("", "report.json is damaged: it is not JSON; move it away, and flags.evaluate"),
        ("[" * 100_000, "report.json is damaged: it is nested too deeply; move it away"),
        ('{"verified": []}', r"report.json is damaged: verified must be an object, not \[\]"),
        ('{"attacks": {}}', "attacks must be a list"),
        ('{"era": "much"}', "era must be a number from 0 to 1, not 'much'"),
        ('{"era": NaN}', "era must be a number from 0 to 1, not nan"),
        ('{"vra_s": 2}', "vra_s must be a number from 0 to 1, not 2"),
        ('{"split": 3}', "split must be test or validation, not 3"),
    ],
    "metrics.jsonl": [
        ("\n", "metrics.jsonl is damaged in line 1: it is not JSON; move it away"),
        (FILES["metrics.jsonl"] + "[" * 100_000, "in line 2: it is nested too deeply"),
        ('{"epoch": 1.5, "phase": "prune"}\n', "epoch must be a whole number from 1, not 1.5"),
        ('{"epoch": 1}\n', "phase must be a text, not None"),
        ('{"epoch": 1, "phase": "prune", "loss": []}\n', r"loss must be a number, not \[\]"),
    ],
}


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [(name, text, message) for name, cases in DAMAGED.items() for text, message in cases],
)
def test_damaged_files_are_named_before_any_work(name, text, message, finished):
    if isinstance(text, dict):
        text = json.dumps({**json.loads((finished / name).read_text()), **text})
    (finished / name).write_text(text)
    reader = getattr(run_files, f"read_{name.partition('.')[0]}")
    for read in (reader, lambda out: run_directory.is_finished(out, CONFIG)):
        with pytest.raises(UsageError, match=message):
            read(str(finished))


def test_missing_files_of_a_run(tmp_path):
    assert run_files.read_metrics(str(tmp_path)) == []
    with pytest.raises(UsageError, match=r"report\.json does not exist; has the run finished"):
        run_files.read_report(str(tmp_path))
    with pytest.raises(UsageError, match=r"is not a run directory: it has no config\.json"):
        run_directory.use(str(tmp_path / "absent"))
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="file is a file, not a run directory"):
        run_directory.use(str(tmp_path / "file"))


def test_a_run_directory_may_be_named_like_a_network(tmp_path):
    out = tmp_path / "x.keras"
    out.mkdir()
    with pytest.raises(UsageError, match=r"x\.keras/model\.keras does not exist; has the run"):
        networks.network_path(str(out))
    shutil.make_archive(str(out / "model"), "zip", tmp_path, "x.keras")
    (out / "model.zip").rename(out / "model.keras")
    assert networks.network_path(str(out)) == str(out / "model.keras")
    assert networks.network_path(str(out / "model.keras")) == str(out / "model.keras")
    os.mkfifo(tmp_path / "pipe.keras")
    with pytest.raises(UsageError, match=r"pipe\.keras is not a file"):
        networks.network_path(str(tmp_path / "pipe.keras"))


def test_a_run_that_was_killed_before_its_config_was_written_starts_again(tmp_path):
    out = tmp_path / "run"
    (out / "checkpoints").mkdir(parents=True)
    (out / ".config.unfinished-0123abcd.json").write_text("{")
    assert not run_directory.is_finished(str(out), CONFIG)
    (out / "checkpoints" / "notes.txt").write_text("mine")
    with pytest.raises(UsageError, match="is not empty and holds no run"):
        run_directory.is_finished(str(out), CONFIG)
