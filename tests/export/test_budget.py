"""Budgets of exported files, and the density that would fit."""

from __future__ import annotations

import itertools
import re

import keras
import numpy as np
import pytest
from ai_edge_litert.interpreter import Interpreter

import hydra_tf
from hydra_tf import export
from hydra_tf.export import budget as budget_module
from hydra_tf.export import nearest
from hydra_tf.export.latency import Latency
from hydra_tf.export.nearest import DENSITIES, Candidate, Fit
from hydra_tf.export.tflite import draft


def network(seed):
    """Return a masked network of 4,090 weights: 90, 1,440 and 2,560."""
    keras.utils.set_random_seed(seed)
    layers = [
        keras.Input([8, 8, 1]),
        keras.layers.Conv2D(10, 3, activation="relu"),
        keras.layers.Conv2D(16, 3, activation="relu"),
        keras.layers.Flatten(),
        keras.layers.Dense(10),
    ]
    return hydra_tf.mask_model(keras.Sequential(layers))


def test_densities_have_two_digits_and_fall():
    assert DENSITIES[:2] == (0.99, 0.98) and DENSITIES[89:92] == (0.1, 0.099, 0.098)
    assert DENSITIES[-1] == 0.001 and len(DENSITIES) == 270
    assert all(before > after for before, after in itertools.pairwise(DENSITIES))


def test_a_file_over_its_budget_is_not_kept(tmp_path):
    net, path = network(0), tmp_path / "net.tflite"
    path.write_bytes(b"before")
    with pytest.raises(export.OverBudgetError) as caught:
        export.to_tflite(net, path, budget_bytes=16_000, gzip=True)
    # 4,090 weights of 4 bytes are 16,360 bytes.
    pattern = (
        r"net\.tflite was not kept: the file has 1[6-9],\d\d\d bytes, but the budget is 16,000\."
    )
    assert re.search(pattern, str(caught.value))
    assert path.read_bytes() == b"before" and list(tmp_path.iterdir()) == [path]


@pytest.mark.slow(seconds=20)
def test_a_file_that_is_too_slow_is_not_kept(tmp_path):
    path = tmp_path / "net.tflite"
    with pytest.raises(export.OverBudgetError, match=r"ms per image .*budget is 1e-06 ms"):
        export.to_tflite(network(0), path, budget_ms=1e-6)
    assert list(tmp_path.iterdir()) == []
    report = export.to_tflite(network(0), path, budget_ms=1e3, budget_bytes=10**6)
    assert report.bytes == path.stat().st_size


@pytest.mark.parametrize(("budget", "density"), [(1636, 0.1), (1635, 0.099)])
def test_the_search_finds_the_largest_density_that_fits(monkeypatch, budget, density):
    def counted(model, **_):
        kept = hydra_tf.sparsity.report(model)["total"]["kept"]
        return bytes(4 * kept)

    monkeypatch.setattr(nearest, "draft", counted)
    net = network(0)
    hydra_tf.set_density(net, 0.01)
    # 10% of 4,090 weights are 409, of 4 bytes each.
    found = export.nearest_fit(net, budget_bytes=budget)
    assert (found.nearest.density, found.failed) == (density, ())
    assert hydra_tf.sparsity.report(net)["total"]["kept"] == 41  # the network is not changed
    # One weight in each of three layers is 12 bytes; filters keep more.
    found = export.nearest_fit(net, budget_bytes=11)
    assert found.nearest is None
    assert [way.granularity for way in found.failed] == ["element", "filter"]
    assert next(way.bytes for way in found.failed) == 16  # 0.1% of 4,090 weights
    assert found.text().startswith("no density was found that fits; density 0.001 with")


@pytest.mark.parametrize("verbose", [0, 1])
def test_the_search_shows_its_progress(monkeypatch, capsys, verbose):
    monkeypatch.setattr(nearest, "draft", lambda model, **_: bytes(12_000))
    export.nearest_fit(network(0), budget_bytes=11, verbose=verbose)
    lines = [line for line in capsys.readouterr().out.split("\r") if "density" in line]
    if not verbose:
        assert lines == []
        return
    # Nothing fits: each way ends after its smallest density, and its bar is complete. Single
    # weights have 270 densities, which are halved 9 times after the first file.
    element, filters = (
        [line for line in lines if f"density ({way})" in line] for way in ("element", "filter")
    )
    assert "1/10" in element[0] and "10/10" in element[-1] and "1.0000e-03" in element[-1]
    assert filters and lines[-1] == filters[-1]


def test_the_search_tries_no_more_files_than_its_bar_announces():
    for count in range(len(DENSITIES)):
        tried = []

        def fits(density, tried=tried, largest=DENSITIES[count]):
            tried.append(density)
            return density <= largest

        found = nearest._Search._bisect(DENSITIES, fits)
        assert found == (DENSITIES[count], 0.001) and len(tried) <= 10


@pytest.mark.slow(seconds=40)
@pytest.mark.parametrize(
    ("granularity", "quantization", "budget"),
    [
        ("element", None, 6_000),
        ("element", "int8", 6_000),
        ("filter", None, 14_000),
        ("block:size=4", "float16", 6_000),
    ],
)
def test_a_network_of_the_named_density_fits_and_of_the_next_does_not(
    granularity, quantization, budget
):
    images = np.random.default_rng(0).random((8, 8, 8, 1), "float32")
    net = network(0)
    hydra_tf.set_density(net, 0.9, granularity=granularity)
    options = {"quantization": quantization, "representative": images}
    before = [np.asarray(weight) for weight in net.weights]
    found = export.nearest_fit(net, budget_bytes=budget, granularity=granularity, **options)
    for weight, value in zip(net.weights, before, strict=True):
        np.testing.assert_array_equal(weight, value)  # the network itself is not pruned
    best = found.nearest
    assert (best.granularity, best.milliseconds, found.failed) == (granularity, None, ())
    following = DENSITIES[DENSITIES.index(best.density) - 1]
    sizes = []
    for density in (best.density, following):
        other = network(1)  # other weights, as after another training
        hydra_tf.set_density(other, density, granularity=granularity)
        sizes.append(len(draft(other, **options)))
    assert sizes[0] <= budget and best.bytes <= budget
    # Filters are few, so that neighbouring densities may keep the same ones.
    assert sizes[1] > budget - (64 if granularity == "element" else 600)


@pytest.mark.slow(seconds=40)
def test_filters_are_named_where_single_weights_do_not_help(monkeypatch):
    """Here time is the number of multiplied weights, zeros included, as on a processor."""

    def weights(paths, image):
        details = Interpreter(model_path=str(paths[0])).get_tensor_details()
        names = [entry for entry in details if len(entry["shape"]) in (2, 4)]
        sizes = [int(np.prod(entry["shape"])) for entry in names if entry["shape"][0] > 1]
        return [Latency(float(sum(sizes)), (0.0, 0.0), 0.0, 0)]

    monkeypatch.setattr(budget_module, "measure_latency", weights)
    found = export.nearest_fit(network(0), budget_ms=2_000.0, sparse=False)
    assert [way.granularity for way in found.failed] == ["element"]
    # 90 weights of the first kernel, 1,440 of the second, 2,560 of the last are 4,090 in all.
    assert found.failed[0].milliseconds == 4_090
    best = found.nearest
    assert (best.granularity, best.compact) == ("filter", True)
    assert 1_000 < best.milliseconds <= 2_000 and 0.6 < best.density < 0.99
    assert found.text().startswith("density 0.001 with granularity element still needs ")
    assert f"density {best.density:g} with granularity filter and compact would fit" in (
        found.text()
    )


def test_candidates_are_described():
    way = Candidate(0.05, "block:size=4", "latency", False, 1234, 0.5)
    assert Fit(way, ()).text() == (
        "density 0.05 with granularity block:size=4 and prefer latency would fit (1,234 bytes, "
        "0.5 ms)"
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"budget_bytes": 0}, "budget_bytes must be a positive number, not 0"),
        ({"budget_ms": float("nan")}, "budget_ms must be a positive number, not nan"),
        (
            {"prefer": "latency", "sparse": False},
            'prefer="latency" has no effect with sparse=False',
        ),
        (
            {"prefer": "latency", "quantization": "int8"},
            'prefer="latency" has no effect with quantization="int8"',
        ),
    ],
)
def test_options_without_effect_are_refused(options, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        export.to_tflite(network(0), tmp_path / "net.tflite", **options)
    assert list(tmp_path.iterdir()) == []


def test_a_search_needs_a_budget():
    with pytest.raises(ValueError, match="needs a budget"):
        export.nearest_fit(network(0))
    with pytest.raises(ValueError, match='"int8" needs representative images'):
        export.nearest_fit(network(0), budget_bytes=10, quantization="int8")
