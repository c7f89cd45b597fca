"""The numbers of a model in one mapping, and its JSON."""

import json

import keras
import numpy as np
import pytest
import tensorflow as tf

import hydra_tf
from hydra_tf.evaluation import accuracy, correct_under, evaluate_model, robust_accuracy, write_json

RNG = np.random.default_rng(6)
X = RNG.random((40, 4)).astype("float32")
KERNEL = RNG.normal(size=(4, 3)).astype("float32")
Y = np.argmax(X @ KERNEL + RNG.normal(size=(40, 3)) * 0.2, 1)


def masked_net():
    net = keras.Sequential([keras.Input([4]), keras.layers.Dense(3, use_bias=False, name="last")])
    net.set_weights([KERNEL])
    net = hydra_tf.mask_model(net)
    hydra_tf.set_density(net, 0.75)
    return net


def erase(index):
    """Return an "attack" that sets one pixel to 0."""

    def attack(model, x, y, seed=0):
        return x * (1 - tf.one_hot(index, 4))

    return attack


def test_era_counts_samples_robust_to_every_attack():
    net = masked_net()
    attacks = [erase(0), erase(1), "fgsm:epsilon=0.05"]
    report = evaluate_model(net, (X, Y), attacks)
    kernel = KERNEL * np.array(net.layers[0].mask)
    benign = np.argmax(X @ kernel, 1) == Y
    robust = [
        benign & (np.argmax(np.delete(X, i, 1) @ np.delete(kernel, i, 0), 1) == Y) for i in (0, 1)
    ]
    robust.append(benign & correct_under(net, (X, Y), "fgsm:epsilon=0.05"))
    assert report["benign_accuracy"] == benign.mean()
    accuracies = [entry["robust_accuracy"] for entry in report["attacks"]]
    assert accuracies == [correct.mean() for correct in robust]
    robust_to_all = np.logical_and.reduce(robust)
    assert report["era"] == robust_to_all.mean()
    assert robust_to_all.mean() < min(accuracies)  # the attacks break different samples


def test_report_keys_and_json():
    net = masked_net()
    spec = "pgd:steps=3,restarts=2"
    report = evaluate_model(net, (X, Y), [spec, "fgsm"], seed=4, norm="l2", epsilon=0.1)
    assert set(report) == {"benign_accuracy", "era", "attacks", "samples", "density", "layers"}
    assert report["samples"] == 40
    assert report["density"] == 9 / 12
    assert report["layers"][0]["kept"] == 9
    first, second = report["attacks"]
    assert first["name"] == "pgd"
    measured = {"robust_accuracy", "zero_gradient_share", "rescued_gradient_share"}
    params = {key: value for key, value in second.items() if key not in measured}
    assert params == {"name": "fgsm", "norm": "l2", "epsilon": 0.1}
    assert measured <= set(second)
    assert (first["norm"], first["epsilon"], first["restarts"]) == ("l2", 0.1, 2)
    expected = robust_accuracy(net, (X, Y), f"{spec},norm=l2,epsilon=0.1", seed=4)
    assert first["robust_accuracy"] == expected
    assert report["benign_accuracy"] == accuracy(net, (X, Y))
    assert json.loads(json.dumps(report)) == report
    # An entry of the report is also a spec of its attack.
    params = {key: value for key, value in first.items() if key not in measured}
    assert robust_accuracy(net, (X, Y), params, seed=4) == expected


def test_without_attacks_there_is_no_era():
    report = evaluate_model(masked_net(), (X, Y), [], epsilon=0.1)
    assert "era" not in report
    assert report["attacks"] == []


def test_single_attack_with_epsilon():
    net = masked_net()
    report = evaluate_model(net, (X, Y), "fgsm:epsilon=0.2", epsilon=0.01)
    assert report["attacks"][0]["epsilon"] == 0.2
    assert report["era"] == robust_accuracy(net, (X, Y), "fgsm:epsilon=0.2")
    assert len(evaluate_model(net, (X, Y), {"name": "fgsm", "epsilon": 0.2})["attacks"]) == 1
    entries = evaluate_model(net, (X, Y), erase(0))["attacks"]
    assert [entry["name"] for entry in entries] == ["attack"]


def test_everything_is_checked_before_any_attack_is_run():
    ran = []

    def attack(model, x, y, seed=0):
        ran.append(seed)
        return x

    with pytest.raises(ValueError, match='Unknown attack "pdg"'):
        evaluate_model(masked_net(), (X, Y), [attack, "pdg"])
    # A misspelt default would silently measure at another radius.
    with pytest.raises(ValueError, match='attack parameter "epsilom"; did you mean "epsilon"'):
        evaluate_model(masked_net(), (X, Y), [attack, "pgd"], epsilom=0.3)
    assert ran == []


def test_write_json_keeps_the_old_file_if_content_is_not_json(tmp_path):
    path = tmp_path / "report.json"
    write_json(path, {"era": 0.5, "attacks": ["pgd"]})
    assert json.loads(path.read_text()) == {"era": 0.5, "attacks": ["pgd"]}
    for content in ({"era": tf.constant(1.0)}, {"era": np.float32(1)}, {"f": write_json}):
        with pytest.raises(TypeError, match="not JSON serializable"):
            write_json(path, content)
    assert json.loads(path.read_text())["era"] == 0.5
    write_json(str(path), [1])
    assert json.loads(path.read_text()) == [1]
    assert [p.name for p in tmp_path.iterdir()] == ["report.json"]


def test_write_json_keeps_the_old_file_if_the_disk_is_full(tmp_path, monkeypatch):
    path = tmp_path / "report.json"
    write_json(path, {"era": 0.5})

    def full(*_):
        raise OSError("No space left on device")

    monkeypatch.setattr("os.replace", full)
    with pytest.raises(OSError, match="No space"):
        write_json(path, {"era": 0.25})
    monkeypatch.undo()
    assert json.loads(path.read_text()) == {"era": 0.5}


def test_write_json_to_a_missing_folder(tmp_path):
    with pytest.raises(FileNotFoundError):
        write_json(tmp_path / "missing" / "report.json", {})
