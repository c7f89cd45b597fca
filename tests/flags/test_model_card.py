"""What MODEL_CARD.md says of a network."""

from flags.shared import model_card

CONFIG = {
    "dataset": "digits", "model": "mnist_cnn", "objective": "trades:epsilon=0.1", "method": "hydra",
    "density": 0.05, "split": "test", "seed": 3, "prune_epochs": 7, "extra": None,
    "hydra_tf": "0.2.0",
}  # fmt: skip
ATTACK = {
    "name": "pgd", "norm": "linf", "epsilon": 0.1, "steps": 50, "step_size": None,
    "robust_accuracy": 0.625, "zero_gradient_share": 0.0,
}  # fmt: skip
REPORT = {
    "benign_accuracy": 0.875, "samples": 360, "split": "test", "density": 0.0499, "era": 0.5,
    "attacks": [ATTACK],
    "further_attacks": [{**ATTACK, "spec": "square", "name": "square", "samples": 100,
                         "robust_accuracy": 0.75}],
}  # fmt: skip


def card(report, exported=None):
    return "\n".join(model_card.lines(CONFIG, report, exported))


def test_each_accuracy_stands_beside_its_attack_and_images():
    text = card(REPORT)
    assert text.startswith("# mnist_cnn on digits\n\nA network that keeps 4.99% of its weights, ")
    assert "| benign | no attack | 87.5 | 360 |" in text
    assert "| robust | `pgd:norm=linf,epsilon=0.1,steps=50` | 62.5 | 360 |" in text
    assert "| robust | `square:norm=linf,epsilon=0.1,steps=50` | 75.0 | 100 |" in text
    assert "| robust (era) | all attacks above of `--attacks` | 50.0 | 360 |" in text
    assert "| epochs of pruning | `7` |" in text
    assert "extra images" not in text  # there are none
    assert "A proof" not in text
    assert "Exported file" not in text


def test_a_proof_is_of_the_keras_network():
    certificate = {"measure": "vra_t", "method": "crown_ibp", "epsilon": 0.1, "samples": 50}
    text = card({**REPORT, "vra_t": 0.25, "certificate": certificate})
    meaning = "proofs by interval and linear bounds, sound in float32"
    settings = "method crown_ibp, epsilon 0.1"
    assert f"| verified (VRA-t) | {meaning}: {settings} | 25.0 | 50 |" in text
    assert "does not carry over to an exported file" in text


def test_an_attack_without_gradients_is_named():
    text = card({**REPORT, "attacks": [{**ATTACK, "zero_gradient_share": 0.6}]})
    assert "steps=50` (no gradient for 60.0% of the images) | 62.5 |" in text


def test_a_dense_network_is_not_called_pruned():
    text = card({**REPORT, "density": 1.0})
    assert "\nA dense network, trained with `trades:epsilon=0.1`.\n" in text


def test_a_network_that_was_not_evaluated_says_so():
    text = card({})
    assert "keeps 5% of its weights" in text  # as asked for
    assert "Not measured: run `flags.evaluate`" in text


def test_a_judged_file_has_its_own_accuracy():
    judged = {
        "samples": 200, "benign_accuracy": 0.8, "era": 0.6,
        "agreement": 0.98, "warnings": ["4 of 200 differ."],
        "attacks": [{"name": "pgd"}, {"name": "square"}],
    }  # fmt: skip
    file = {"path": "/home/me/a.tflite", "bytes": 1234, "gzip_bytes": 1000, "sparsity": 0.123456}
    text = card(REPORT, {**file, "judgement": judged})
    assert "| bytes after gzip | 1000 |" in text and "| share of zeros | 0.1235 |" in text
    assert "| number format | float32 |" in text
    assert "/home" not in text
    assert "; it gives 98.0% of them the class of the Keras model.\n\n4 of 200 differ.\n" in text
    assert "has a benign accuracy of 80.0% and a robust accuracy of 60.0% under `pgd` and " in text
    certified = {"vra_s": 0.25, "samples": 8}
    text = card(REPORT, {"judgement": {**judged, "certified": certified}})
    assert "smoothing of the file itself certifies 25.0% of 8 images." in text
    assert "robust accuracy of" not in card(REPORT, {"judgement": {**judged, "attacks": []}})
