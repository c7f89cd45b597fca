"""Accuracy, attacks, certificates and latency of a TFLite file."""

from __future__ import annotations

import dataclasses

import keras
import numpy as np
import pytest

from hydra_tf import attacks, evaluation, export
from hydra_tf.evaluation import plots
from hydra_tf.export import ExportReport, Latency


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """Return a classifier of four pixels whose logits are sums of two of them, and its file."""
    net = keras.Sequential([keras.Input([4]), keras.layers.Dense(2, use_bias=False)])
    net.layers[0].kernel.assign([[1, 0], [1, 0], [0, 1], [0, 1]])
    path = tmp_path_factory.mktemp("judged") / "net.tflite"
    export.to_tflite(net, path)
    return net, path


# Margins between the logits: 0.2, 0.6 and 1.2; with epsilon 0.1, an attack gains 0.4 at most.
IMAGES = np.array(
    [[0.5, 0.5, 0.4, 0.4], [0.6, 0.6, 0.3, 0.3], [0.8, 0.8, 0.2, 0.2], [0.2, 0.2, 0.8, 0.8]],
    np.float32,
)
LABELS = np.array([0, 0, 0, 0])  # the last one is wrong


def test_a_file_is_a_model(exported):
    net, path = exported
    file = export.load_tflite(path)
    assert file.input_shape == (None, 4) and file.output_shape == (None, 2)
    np.testing.assert_allclose(file(IMAGES), net(IMAGES), atol=1e-6)
    assert file(IMAGES[:0]).shape == (0, 2)
    assert evaluation.accuracy(file, (IMAGES, LABELS)) == 0.75


def test_workers_compute_the_same_outputs(exported):
    _, path = exported
    images = np.random.default_rng(0).random((7, 4), "float32")
    single = export.load_tflite(path, workers=1)
    np.testing.assert_array_equal(export.load_tflite(path, workers=3)(images), single(images))
    # One image is fewer than three workers.
    np.testing.assert_array_equal(
        export.load_tflite(path, workers=3)(images[:1]), single(images[:1])
    )


@pytest.mark.slow
def test_a_file_is_attacked_and_certified_as_a_model(exported):
    net, path = exported
    file = export.load_tflite(path)
    assert (
        evaluation.robust_accuracy(file, (IMAGES, LABELS), "square:epsilon=0.1,queries=50") == 0.5
    )
    options = {"sigma": 0.25, "n0": 10, "n": 200, "seed": 0}
    for ours, reference in zip(
        evaluation.certify(file, IMAGES, **options),
        evaluation.certify(net, IMAGES, **options),
        strict=True,
    ):
        np.testing.assert_array_equal(ours, reference)


def test_a_judgement_counts_images(exported):
    net, path = exported
    result = export.judge(path, net, (IMAGES, LABELS), ["fgsm"], "square:queries=50", epsilon=0.1)
    assert (result.samples, result.agreement) == (4, 1.0)
    assert result.benign_accuracy == result.keras_benign_accuracy == 0.75
    moved, searched = result.attacks
    assert (moved["name"], moved["images_from"], moved["epsilon"]) == ("fgsm", "keras", 0.1)
    assert (searched["name"], searched["images_from"]) == ("square", "file")
    assert result.era == result.keras_era == moved["robust_accuracy"] == 0.5
    assert result.bytes == path.stat().st_size and result.warnings() == []
    assert result.to_dict()["latency"]["milliseconds"] > 0
    assert result.dense_latency is None and result.certified is None
    assert result.bound_ratio is None and result.dense_bytes is None


def test_a_judgement_has_the_bound_of_the_export(exported):
    net, path = exported
    # Of eight weights, four are kept: 16 bytes of values, and 1 bit for each position.
    report = ExportReport(
        str(path), None, False, 0, 0, 0.5, 32, 0.0, 0.0, 1.0, 64, entropy_bytes=17, bare_bytes=83
    )
    data = IMAGES[:1], LABELS[:1]
    result = export.judge(path, net, data, [], None, dense_path=path, exported=report)
    assert result.to_dict()["bound_ratio"] == pytest.approx(path.stat().st_size / 100)
    assert result.dense_bytes == path.stat().st_size


def judgement(**entries):
    fast = Latency(0.1, (0.09, 0.12), 1.0, 1000)
    attack = {
        "name": "pgd", "images_from": "keras", "robust_accuracy": 0.6, "keras_robust_accuracy": 0.7,
    }  # fmt: skip
    return export.Judgement(
        "a.tflite", 10, 1.0, 0.9, 0.8, [attack], 0.5, 0.55, 2000, 1500, fast, **entries
    )


def test_a_plot_shows_what_was_measured(tmp_path, monkeypatch):
    figures = []
    monkeypatch.setattr(plots, "_save", lambda figure, path: figures.append(figure) or str(path))
    whole = judgement(
        dense_latency=Latency(0.2, (0.19, 0.21), 1.0, 1000), dense_bytes=4000,
        entropy_bytes=1000, bare_bytes=200, certified={"vra_s": 0.25},
    )  # fmt: skip
    for judged in (whole, judgement()):
        plots.file_judgement(judged.to_dict(), tmp_path / "judgement.png")
    heights = [[[bar.get_height() for bar in axes.patches] for axes in f.axes] for f in figures]
    assert heights[0] == [
        [0.9, 0.6, 0.5, 0.25, 0.8, 0.7, 0.55],  # benign, pgd, era, certified; then those of Keras
        [2.0, 1.5, 1.2, 4.0],  # file, gzip, bound, dense, in kB
        [0.1, 0.2],
    ]
    assert heights[1] == [[0.9, 0.6, 0.5, 0.8, 0.7, 0.55], [2.0, 1.5], [0.1]]


def test_a_file_of_another_network_is_worse_and_says_so(exported, tmp_path):
    net, _ = exported
    other = keras.models.clone_model(net)
    other.layers[0].kernel.assign(-net.layers[0].kernel)
    path = tmp_path / "other.tflite"
    export.to_tflite(other, path)
    result = export.judge(path, net, (IMAGES, LABELS), ["fgsm"], None, epsilon=0.1)
    assert (result.agreement, result.benign_accuracy, result.era) == (0.0, 0.25, 0.25)
    *losses, remedy, shortfall = result.warnings()
    assert "`representative`" in remedy and "int8_robustness.md" in remedy
    assert shortfall.startswith("The file gives 4 of 4 images another class than Keras: 0.0% agree")
    assert losses == [
        "The file loses 50.0 points of benign accuracy (75.0% in Keras, 25.0% in the file).",
        "The file loses 25.0 points of robust accuracy (50.0% in Keras, 25.0% in the file).",
    ]


def test_too_little_agreement_is_said_even_if_no_accuracy_is_lost():
    goal = dataclasses.replace(judgement(), samples=1000, agreement=0.995, era=0.55)
    assert goal.warnings() == []
    (sentence,) = dataclasses.replace(goal, agreement=0.988).warnings()
    assert sentence.startswith(
        "The file gives 12 of 1,000 images another class than Keras: 98.8% agree, goal 99.5%. For "
    )
    assert 'quantization="int8_float_logits" helps' in sentence


def test_a_certificate_is_that_of_the_file(exported):
    net, path = exported
    smoothing = {"sigma": 0.25, "n0": 10, "n": 1000, "samples": 3}
    result = export.judge(path, net, (IMAGES, LABELS), [], None, smoothing=smoothing)
    # The margin of the third image, 1.2, is 0.6 in L2; those of the others are 0.1 and 0.3.
    assert result.certified["vra_s"] == pytest.approx(1 / 3)
    assert result.certified["radius"] == pytest.approx(110 / 255)
    assert result.certified["samples"] == 3


def test_latency_is_measured_for_every_file(exported):
    _, path = exported
    results = export.measure_latency([path, path], IMAGES[0], rounds=3)
    assert len(results) == 2
    for result in results:
        assert 0 < result.quartiles[0] <= result.milliseconds <= result.quartiles[1]
        assert result.first_milliseconds > 0 and result.peak_bytes > 0


def test_wrong_arguments_are_named(exported, tmp_path):
    net, path = exported
    with pytest.raises(FileNotFoundError, match=r"no TFLite file .*none\.tflite"):
        export.load_tflite(tmp_path / "none.tflite")
    wrong = tmp_path / "wrong.tflite"
    wrong.write_bytes(b"\x00" * 4 + b"TFL3" + b"\x00" * 100)
    with pytest.raises(ValueError, match="LiteRT cannot load"):
        export.load_tflite(wrong)
    with pytest.raises(ValueError, match=r'follows gradients.*choose "square"'):
        export.judge(path, net, (IMAGES, LABELS), [], "pgd")
    with pytest.raises(ValueError, match="workers must be at least 1"):
        export.load_tflite(path, workers=0)
    with pytest.raises(ValueError, match="rounds must be at least 1"):
        export.measure_latency([path], IMAGES[0], rounds=0)
    with pytest.raises(RuntimeError, match="LiteRT cannot run"):
        export.measure_latency([wrong], IMAGES[0])
    assert attacks.build("square").uses_gradients is False
