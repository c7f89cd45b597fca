"""Learning rate schedules."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hydra_tf.core.schedules import SCHEDULES, constant, warm_cosine
from hydra_tf.core.types import Ball


def test_cosine_by_hand():
    assert warm_cosine(0, 4, 1.0) == 1.0
    assert warm_cosine(1, 4, 1.0) == pytest.approx(0.5 + 0.5 * math.sqrt(0.5), abs=1e-12)
    assert warm_cosine(2, 4, 1.0) == pytest.approx(0.5, abs=1e-12)
    assert warm_cosine(4, 4, 1.0) == 0.0
    assert warm_cosine(9, 4, 1.0) == 0.0


def test_warm_up_by_hand():
    # Two of 8 steps warm up, to 1/2 and 1 of the peak; the cosine starts at the peak.
    assert [warm_cosine(step, 8, 0.4, 0.25) for step in (0, 1, 2)] == [0.2, 0.4, 0.4]
    assert warm_cosine(5, 8, 0.4, 0.25) == pytest.approx(0.2, abs=1e-12)
    assert [constant(step, 8, 0.4, 0.25) for step in (0, 1, 2, 7, 80)] == [0.2] + [0.4] * 4


def test_schedules_of_no_steps_are_finite():
    assert warm_cosine(0, 0, 0.1) == 0.1
    assert constant(0, 0, 0.1) == 0.1


@settings(deadline=None, max_examples=50)
@given(
    steps=st.integers(1, 200),
    peak=st.floats(1e-6, 10),
    warmup=st.floats(0, 0.99),
    name=st.sampled_from(sorted(SCHEDULES)),
)
def test_rates_rise_to_the_peak_and_fall_to_zero(steps, peak, warmup, name):
    rates = [SCHEDULES[name](step, steps, peak, warmup) for step in range(steps + 1)]
    assert all(0 <= rate <= peak for rate in rates)
    assert max(rates) == pytest.approx(peak)
    top = round(warmup * steps)
    assert rates[:top] == sorted(rates[:top])
    if name == "cosine":
        assert rates[top:] == sorted(rates[top:], reverse=True)
        # If the warm-up takes all steps, the rate does not fall.
        assert rates[-1] == pytest.approx(0 if top < steps else peak, abs=1e-12)


def test_ball_validates_norm_and_epsilon():
    assert Ball("l2", 0).epsilon == 0
    for radius in (-0.1, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="epsilon must be a finite number of at least 0"):
            Ball("l2", radius)
    with pytest.raises(ValueError, match='must be "linf" or "l2", not \'l1\''):
        Ball("l1", 0.1)
