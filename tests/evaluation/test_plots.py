"""Plots are valid images of the given numbers."""

import functools
import warnings

import matplotlib.image
import numpy as np
import pytest

from hydra_tf.evaluation import plots

EPOCHS = [
    {"epoch": e, "phase": phase, "accuracy": 0.1 * e, "val_accuracy": 0.09 * e}
    for e, phase in enumerate(["pretrain"] * 4 + ["prune"] * 2 + ["finetune"] * 3, 1)
]
LAYERS = [
    {"name": "conv", "weights": 144, "kept": 1, "density": 1 / 144},
    {"name": "dense", "weights": 512000, "kept": 5120, "density": 0.01},
]
STUDY = [
    {"method": method, "density": density, "seed": seed, "era": era + 0.02 * seed}
    for method, density, era in (
        ("dense", 1.0, 0.6), ("hydra", 0.1, 0.55), ("hydra", 0.01, 0.4), ("lwm", 0.01, 0.2),
    )
    for seed in (0, 1)
]  # fmt: skip

CERTIFIED = {
    "sigma 0.25": [
        {"radius": 0.5, "correct": True}, {"radius": 0.9, "correct": False},
        {"radius": 0.25, "correct": True}, {"radius": 0.0, "correct": False},
    ]
}  # fmt: skip


@pytest.fixture
def drawn(monkeypatch):
    """Return a list to which the axes of every new figure are appended."""
    axes, original = [], plots._figure

    def recorded(**kwargs):
        figure, new_axes = original(**kwargs)
        axes.append(new_axes)
        return figure, new_axes

    monkeypatch.setattr(plots, "_figure", recorded)
    return axes


def check_image(path, target):
    assert path == str(target)
    assert target.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    pixels = matplotlib.image.imread(target)
    height, width = pixels.shape[:2]
    assert 600 <= width <= 1000
    assert 150 <= height <= 700
    # A mostly white background, and some colour.
    grey = pixels[..., :3].std(axis=-1) < 0.02
    assert 0.3 < (pixels[..., :3].min(axis=-1) > 0.8).mean() < 0.99
    assert (~grey).sum() > 100
    assert [p.name for p in target.parent.iterdir()] == [target.name]


@pytest.mark.parametrize(
    ("draw", "rows"),
    [
        (plots.training_curves, EPOCHS),
        (plots.training_curves, EPOCHS[:1]),
        (plots.layer_densities, LAYERS),
        (plots.accuracy_against_density, STUDY),
        (plots.certified_accuracy, CERTIFIED),
        (functools.partial(plots.security_curve, norm="l2"), {"net": [0.0, 0.2, 0.3, np.inf]}),
    ],
)
def test_a_valid_image_is_written(tmp_path, draw, rows):
    target = tmp_path / "plot.png"
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        check_image(draw(rows, target), target)
        check_image(draw(rows, str(target)), target)  # and overwritten


@pytest.mark.parametrize(
    "draw", [plots.training_curves, plots.layer_densities, plots.accuracy_against_density]
)
def test_empty_data_are_drawn_without_error(tmp_path, draw):
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        draw([], tmp_path / "empty.png")
    assert matplotlib.image.imread(tmp_path / "empty.png").ndim == 3


def test_training_curves_show_the_metrics_and_phases(tmp_path, drawn):
    # Validation runs every other epoch and not in the first one.
    rows = [dict(row) for row in EPOCHS]
    for row in rows[::2]:
        del row["val_accuracy"]
    plots.training_curves(rows, tmp_path / "a.png")
    lines = {line.get_label(): line for line in drawn[0].get_lines()}
    assert set(lines) == {"benign, training", "benign, validation"}
    epochs, values = lines["benign, validation"].get_data()
    assert list(epochs) == [2, 4, 6, 8]
    np.testing.assert_allclose(values, [0.18, 0.36, 0.54, 0.72])
    assert [text.get_text() for text in drawn[0].texts] == ["pretrain", "prune", "finetune"]
    spans = [(p.get_x(), p.get_x() + p.get_width()) for p in drawn[0].patches]
    assert spans == [(0.5, 4.5), (4.5, 6.5), (6.5, 9.5)]
    assert drawn[0].get_xlim() == (0.5, 9.5)


def test_layer_densities_show_layers_of_a_single_weight(tmp_path, drawn):
    plots.layer_densities(LAYERS, tmp_path / "a.png")
    axes = drawn[0]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["conv", "dense"]
    assert [bar.get_width() for bar in axes.patches] == [144, 512000, 1, 5120]
    assert axes.get_xlim()[0] < 1  # from 1, the bar of one weight would have no length
    assert [t.get_text().strip() for t in axes.texts] == ["1 (0.69%)", "5,120 (1.00%)"]
    assert axes.get_ylim()[0] > axes.get_ylim()[1]  # the first layer is on top


def test_accuracy_against_density_shows_mean_and_deviation(tmp_path, drawn):
    plots.accuracy_against_density(STUDY, tmp_path / "a.png")
    axes = drawn[0]
    hydra, lwm = axes.containers
    assert (hydra.get_label(), lwm.get_label()) == ("hydra", "lwm")
    line, _, (bars,) = hydra
    np.testing.assert_allclose(line.get_xdata(orig=False), [0.01, 0.1])
    np.testing.assert_allclose(line.get_ydata(orig=False), [0.41, 0.56])
    # Two seeds 0.02 apart: a standard deviation of 0.01 either way.
    segments = np.array(bars.get_segments(), "float64")
    np.testing.assert_allclose(segments[:, :, 1], [[0.40, 0.42], [0.55, 0.57]])
    dense = next(line for line in axes.get_lines() if line.get_label() == "dense")
    np.testing.assert_allclose(dense.get_ydata(), [0.61, 0.61])
    assert [label.get_text() for label in axes.get_xticklabels()] == ["1", "10"]


def test_a_dense_network_of_more_epochs_is_a_line_too(tmp_path, drawn):
    rows = [
        {**STUDY[0], "method": name, "density": 1.0, "era": era}
        for name, era in (("dense", 0.5), ("dense_long", 0.625))
    ]
    plots.accuracy_against_density(rows, tmp_path / "a.png")
    levels = {line.get_label(): line.get_ydata()[0] for line in drawn[0].get_lines()}
    assert levels == {"dense": 0.5, "dense long": 0.625}
    assert not drawn[0].containers


def test_security_curves_fall_at_each_distance(tmp_path, drawn):
    # Of five images, one is misclassified and one was not broken.
    distances = {"net": np.array([0.0, 0.4, np.inf, 0.1, 0.1]), "none": []}
    plots.security_curve(distances, tmp_path / "a.png", "linf", epsilon=0.3)
    curve, mark = drawn[0].get_lines()
    assert curve.get_drawstyle() == "steps-post"
    np.testing.assert_allclose(curve.get_xdata(), [0.0, 0.1, 0.1, 0.4])
    np.testing.assert_allclose(curve.get_ydata(), [0.8, 0.6, 0.4, 0.2])
    assert (curve.get_label(), mark.get_label()) == ("net", "epsilon 0.300")
    assert drawn[0].get_xlabel() == "epsilon (Linf)"


def test_certified_accuracy_falls_at_each_radius(tmp_path, drawn):
    plots.certified_accuracy({**CERTIFIED, "none": []}, tmp_path / "a.png", radius=0.3)
    curve, mark = drawn[0].get_lines()
    # Two of four are correct: both up to 0.25, one up to 0.5, none beyond.
    assert curve.get_drawstyle() == "steps-post"
    np.testing.assert_allclose(curve.get_xdata(), [0.0, 0.25, 0.5])
    np.testing.assert_allclose(curve.get_ydata(), [0.5, 0.25, 0.0])
    assert (curve.get_label(), mark.get_label()) == ("sigma 0.25", "radius 0.300")
    assert list(mark.get_xdata()) == [0.3, 0.3]
    plots.certified_accuracy({}, tmp_path / "empty.png")
    assert matplotlib.image.imread(tmp_path / "empty.png").ndim == 3
