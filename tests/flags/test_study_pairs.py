"""Paired differences between the networks of a study."""

import numpy as np
import pytest
from scipy import stats

from flags.shared.study_pairs import differences, markdown


def row(method, seed, era, allocation="erk", density=0.1):
    return {
        "method": method, "allocation": allocation, "density": density, "seed": seed, "era": era,
    }  # fmt: skip


def test_the_difference_is_that_of_a_paired_t_test():
    hydra, lwm = [0.8, 0.9, 0.7], [0.7, 0.85, 0.65]
    rows = [row("hydra", i, era) for i, era in enumerate(hydra)]
    rows += [row("lwm", i, era) for i, era in enumerate(lwm)]
    rows.append(row("lwm", 9, 0.1))  # a seed that hydra does not have
    (entry,) = differences(rows)
    assert entry["first"] == ("hydra", "erk") and entry["second"] == ("lwm", "erk")
    assert entry["seeds"] == 3
    # The gaps 0.1, 0.05, 0.05: mean 0.2/3, deviation 0.05/sqrt(3), standard error 0.05/3.
    assert entry["difference"] == pytest.approx(0.2 / 3)
    half = 4.302653 * 0.05 / 3  # quantile 0.975 of Student's t with two degrees of freedom
    assert entry["interval"] == pytest.approx([0.2 / 3 - half, 0.2 / 3 + half])
    assert entry["p"] == pytest.approx(stats.ttest_rel(hydra, lwm).pvalue)
    text = markdown([entry])
    assert (
        "| 10% | robust (era) | hydra, erk minus lwm, erk | +6.7 | -0.5 to +13.8 | 0.057 | 3 |"
        in text
    )
    assert "this table has 1." in text


def test_equal_gaps_have_no_p_value():
    # The gaps are 3/360 but for rounding.
    correct = {"hydra": [300, 311, 290], "lwm": [297, 308, 287]}
    rows = [row(m, seed, n / 360) for m, counts in correct.items() for seed, n in enumerate(counts)]
    (entry,) = differences(rows)
    assert entry["p"] is None and entry["interval"] is None
    assert "| +0.8 | unknown: all differences are equal |  | 3 |" in markdown([entry])


def test_pairs_differ_in_the_method_or_in_the_allocation_alone():
    rng = np.random.default_rng(0)
    names = [("hydra", "erk"), ("hydra", "global"), ("lwm", "erk"), ("lwm", "global")]
    rows = [row(m, s, rng.random(), a, d) for m, a in names for s in (0, 1) for d in (0.1, 0.01)]
    rows += [row("dense", s, 0.9, None, 1.0) for s in (0, 1)]
    pairs = {(e["first"], e["second"]) for e in differences(rows) if e["density"] == 0.1}
    assert pairs == {
        (("hydra", "erk"), ("hydra", "global")),
        (("hydra", "erk"), ("lwm", "erk")),
        (("hydra", "global"), ("lwm", "global")),
        (("lwm", "erk"), ("lwm", "global")),
    }
    assert len(differences(rows)) == 8


def test_one_seed_gives_no_differences():
    assert differences([row("hydra", 0, 0.8), row("lwm", 0, 0.7)]) == []
    assert markdown([]) == ""
