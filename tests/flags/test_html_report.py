"""report.html: what the plots hold, what the page says, and whether a browser shows it."""

import base64
import io
import json
import re
import shutil
import subprocess
from pathlib import Path

import keras
import numpy as np
import pytest
from matplotlib.image import imread

import hydra_tf
from flags.shared import html_report, run_directory, study_results
from flags.shared.html_report import figures, page, plots
from flags.shared.study_cells import Cell, Study

ALLOCATION = "uniform"
SETTINGS = {
    "dataset": "digits", "model": "mnist_cnn", "objective": "pgd:epsilon=0.1", "attacks": "fgsm",
    "split": "test", "batch_size": 64, "pretrained": None, "allocation": ALLOCATION,
    "pretrain_epochs": 5, "prune_epochs": 2, "finetune_epochs": 3,
}  # fmt: skip
LAYERS = [{"name": "fc", "weights": 200, "kept": 20, "density": 0.1, "masked": True}]
CURVE = {
    "attack": "pgd:steps=20", "norm": "linf", "epsilon": 0.1, "samples": 4,
    "points": [[0.0, 0.75], [0.1, 0.5]],
}  # fmt: skip


def finish(study, cell, content=None, **report):
    """Write the run directory of a finished network, with figures.json if there is content."""
    out = Path(study.directory(cell))
    out.mkdir(parents=True)
    run_directory.prepare(str(out), study.config(cell))
    report = {"benign_accuracy": 0.75, "samples": 360, "layers": LAYERS, **report}
    (out / "report.json").write_text(json.dumps(report))
    if content is not None:
        (out / figures.NAME).write_text(json.dumps(content))


def picture(label, predicted):
    return {"label": label, "predicted": predicted, "images": [figures.png(np.ones((2, 2, 1)))] * 2}


def html_of(study):
    cells = study.finished()
    rows = [study_results.row_of(study, cell) for cell in cells]
    return page.page(study, cells, rows, [], study_results.markdown(study_results.summarise(rows)))


@pytest.fixture
def study(tmp_path):
    return Study(str(tmp_path / "study"), SETTINGS)


@pytest.fixture
def full(study):
    """A study whose page has all plots but those of certificates and files."""
    settings = {"settings": {"version": figures._VERSION, "samples": 4}}
    finish(
        study,
        study.dense(0),
        {**settings, "curve": CURVE, "gallery": [picture(3, [3, 3])]},
        era=0.5,
    )
    edges = [-1.0, 0.0, 1.0]
    for method, share in (("hydra", 0.5), ("lwm", 1.0)):
        content = {
            **settings, "curve": CURVE, "gallery": [picture(3, [3, 8])], "largest": {"fc": share},
            "weights": {"layer": "fc", "edges": edges, "kept": [1, 19], "pruned": [180, 0]},
        }  # fmt: skip
        for density in (0.1, 0.01):
            finish(study, Cell(method, ALLOCATION, density, 0), content, era=0.5)
    return study


def test_the_line_of_a_method_has_means_and_its_band_one_deviation():
    rows = [
        {"method": "hydra", "allocation": "erk", "density": d, "seed": s, "era": e}
        for d, s, e in ((0.1, 0, 0.8), (0.1, 1, 0.6), (0.01, 0, 0.5))
    ]
    rows.append({"method": "dense", "allocation": None, "density": 1.0, "seed": 0, "era": 0.9})
    lines = {line.name: line for line in plots.accuracy_against_density(rows, "era", "era").data}
    np.testing.assert_allclose(lines["hydra"].x, [1, 10])
    np.testing.assert_allclose(lines["hydra"].y, [50, 70])
    np.testing.assert_allclose([*zip(*lines["hydra"].customdata, strict=True)], [[0, 10], [1, 2]])
    band = lines[None]
    np.testing.assert_allclose(band.x, [1, 10, 10, 1])
    np.testing.assert_allclose(band.y, [50, 80, 60, 50])
    np.testing.assert_allclose(lines["dense"].y, [90, 90])
    np.testing.assert_allclose(lines["dense"].x, [1, 10])
    assert plots.accuracy_against_density(rows, "vra_s", "VRA-s") is None


def test_certified_accuracy_counts_the_images_that_reach_a_radius():
    rows = [{"radius": r, "correct": c} for r, c in ((0.5, 1), (0.2, 1), (0.9, 0), (0.0, 0))]
    (line,) = plots.certified_accuracy({"net": rows}).data
    assert list(line.x) == [0.0, 0.2, 0.5]
    assert list(line.y) == [50.0, 25.0, 0.0]  # just above each of them
    assert plots.certified_accuracy({}) is None


def test_kept_weights_are_compared_with_the_largest_of_the_dense_network():
    dense = keras.Sequential([keras.Input([4]), keras.layers.Dense(1, name="logits")])
    dense.layers[0].kernel.assign([[4.0], [-3.0], [2.0], [1.0]])
    net = hydra_tf.mask_model(dense)
    layer = net.get_layer("logits")
    layer.scores.assign([[1.0], [0.1], [2.0], [0.2]])
    hydra_tf.set_density(net, 0.5)  # keeps 4 and 2, and by magnitude 4 and -3
    layer.kernel.assign([[9.0], [9.0], [9.0], [9.0]])  # the weights after training do not count
    chosen = figures.chosen_weights(net, dense)
    assert chosen["largest"] == {"logits": 0.5}
    weights = chosen["weights"]
    assert weights["layer"] == "logits"
    assert (weights["edges"][0], weights["edges"][-1]) == (-4.0, 4.0)
    counts = {
        kind: {
            round(weights["edges"][i], 2): n for i, n in enumerate(weights[kind]) if n
        }
        for kind in ("kept", "pruned")
    }  # fmt: skip
    width = 8 / 60
    assert [*counts["kept"]] == pytest.approx([2.0, 4 - width], abs=0.01)
    assert [*counts["pruned"]] == pytest.approx([-3.07, 0.93], abs=0.01)
    assert figures.chosen_weights(dense, dense) == {}
    other = keras.Sequential([keras.Input([4]), keras.layers.Dense(3, name="logits")])
    assert figures.chosen_weights(net, other) == {}  # not the network that was pruned


def test_layers_with_the_same_name_are_told_apart():
    parts = [keras.Sequential([keras.layers.Dense(n, name="fc")]) for n in (3, 2)]
    dense = keras.Sequential([keras.Input([2]), *parts])
    net = hydra_tf.mask_model(dense)
    hydra_tf.set_density(net, 0.5, allocation="uniform")  # by magnitude, as the scores are scaled
    assert figures.chosen_weights(net, dense)["largest"] == {"0/fc": 1.0, "1/fc": 1.0}


def test_the_curve_and_the_gallery_are_those_of_the_attack():
    # The logits of a pixel p are (0.5, p): class 1 above 0.5.
    net = keras.Sequential([keras.Input([1, 1, 1]), keras.layers.Flatten(), keras.layers.Dense(2)])
    net.layers[-1].set_weights([np.array([[0.0, 1.0]]), np.array([0.5, 0.0])])
    x = np.array([0.55, 0.95, 0.4], np.float32).reshape(3, 1, 1, 1)
    y = np.ones(3, np.int32)
    ball = {"norm": "linf", "epsilon": 0.4}
    curve = figures._security_curve(net, (x, y), ball, 0, 0)
    assert curve["samples"] == 3 and curve["attack"] == "FMN and PGD"
    epsilons, shares = np.transpose(curve["points"])
    assert 0.4 in epsilons and epsilons[0] == 0 and epsilons[-1] == 0.8 and len(epsilons) == 41
    # 0.55 falls at 0.05, 0.95 at 0.45; 0.4 is wrong from the start.
    expected = np.where(epsilons < 0.05, 2 / 3, np.where(epsilons < 0.45, 1 / 3, 0.0))
    sure = (abs(epsilons - 0.05) > 0.005) & (abs(epsilons - 0.45) > 0.005)
    np.testing.assert_allclose(shares[sure], expected[sure])
    first = figures._gallery(net, x, y, ball, 0)[0]
    assert first["label"] == 1 and first["predicted"] == [1, 0]


def test_figures_of_another_version_are_made_again(tmp_path):
    for content in ('{"curve": 3}', '{"settings": {"version": -1}}', "[", '{"settings": 2}'):
        (tmp_path / figures.NAME).write_text(content)
        assert figures.read_figures(str(tmp_path)) == {}


def test_images_keep_their_values_as_png():
    grey = np.array([[[0.0], [1.0]], [[0.2], [0.6]]])
    stored = imread(io.BytesIO(base64.b64decode(figures.png(grey))), format="png")
    np.testing.assert_allclose(stored[..., 0], grey[..., 0], atol=1 / 255)
    colour = np.random.default_rng(0).random((3, 3, 3))
    stored = imread(io.BytesIO(base64.b64decode(figures.png(colour))), format="png")
    np.testing.assert_allclose(stored[..., :3], colour, atol=1 / 255)


def test_the_page_has_every_plot_or_says_why_not(full):
    text = html_of(full)
    sections = dict(re.findall(r"<h2 id=\"s\d\">(.*?)</h2>(.*?)(?=<h2 |</body>)", text, re.DOTALL))
    assert len(sections) == 8
    absent = {name for name, body in sections.items() if "Nothing to show: " in body}
    assert absent == {"Certified accuracy against radius", "Exported files"}
    assert "no network was certified" in sections["Certified accuracy against radius"]
    drawn = [name for name, body in sections.items() if "plotly-graph-div" in body]
    assert drawn == [
        "Accuracy against density", "Security curves", "Density of each layer",
        "Kept and pruned weights",
    ]  # fmt: skip
    # The smallest networks are those of which single weights are shown.
    assert "with 1% of the weights" in sections["Density of each layer"]
    gallery = sections["Images and their adversarial twins"]
    assert gallery.count("data:image/png") == 4  # the image, and a twin for each of three networks
    assert gallery.count("class=wrong") == 2  # all but that of the dense network
    assert "An attack stood still" not in text


def test_the_page_needs_no_network(full):
    text = html_of(full)
    assert not re.findall(r"<(?:script|link|img)[^>]+(?:src|href)=[\"']?http", text)


def test_the_page_escapes_names_and_warns_of_attacks_that_stand_still(tmp_path):
    study = Study(str(tmp_path), {**SETTINGS, "model": "<script>alert(1)</script>"})
    attack = {"name": "fgsm", "zero_gradient_share": 0.4}
    finish(study, study.dense(0), era=0.5, attacks=[attack])
    text = html_of(study)
    assert "dense at 100%, seed 0: no gradient for 40.0% of the images" in text
    assert "<script>alert" not in text and "&lt;script&gt;alert" in text
    assert text.count("Nothing to show: ") == 6


def test_a_page_without_networks_says_so(study):
    text = html_of(study)
    assert text.count("Nothing to show: ") == 8


def chromium():
    return shutil.which("chromium") or shutil.which("google-chrome")


@pytest.mark.slow(seconds=60)
@pytest.mark.skipif(chromium() is None, reason="needs Chromium (apt-get install chromium)")
def test_a_browser_draws_every_plot_without_errors(full, tmp_path):
    path = tmp_path / "report.html"
    cells = full.finished()
    rows = [study_results.row_of(full, cell) for cell in cells]
    html_report.write_page(full, cells, rows, [], "", str(path))
    for width in (1200, 500):
        command = [
            chromium(), "--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr",
            "--virtual-time-budget=10000", f"--window-size={width},900", "--dump-dom",
            "--host-resolver-rules=MAP * ~NOTFOUND", path.as_uri(),
        ]  # fmt: skip
        shown = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
        assert "CONSOLE" not in shown.stderr, shown.stderr[-2000:]
        plots_drawn = re.findall(r'<svg class="main-svg"[^>]*width="([\d.]+)"', shown.stdout)
        assert shown.stdout.count('class="plotly-graph-div') == 6
        assert len(plots_drawn) >= 6
        assert max(map(float, plots_drawn)) <= width
