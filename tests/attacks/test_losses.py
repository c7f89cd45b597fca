"""The difference of logits ratio and the targeted losses."""

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from hydra_tf.attacks import losses

LOGITS = hnp.arrays("float32", (3, 5), elements=st.integers(-40, 40).map(lambda n: n / 4))
LABELS = hnp.arrays("int32", 3, elements=st.integers(0, 4))


def test_dlr_by_hand():
    # Ranked 7, 4, 3, 1. Label 0: -(7 - 4) / (7 - 3); label 2 (logit 3): -(3 - 7) / (7 - 3).
    logits = [[7.0, 1.0, 3.0, 4.0]] * 2
    np.testing.assert_allclose(losses.dlr([0, 2], logits), [-0.75, 1.0])
    # Towards class 1 (logit 1): (1 - 7) / (7 - (3 + 1) / 2); from 2 to 3: (4 - 3) / 5.
    np.testing.assert_allclose(losses.targeted_dlr([0, 2], [1, 3], logits), [-1.2, 0.2])


def test_fewer_classes_leave_out_the_logits_that_do_not_exist():
    three, two = [[7.0, 1.0, 3.0]], [[7.0, 1.0]]
    np.testing.assert_allclose(losses.dlr([0], three), [-4 / 6])
    np.testing.assert_allclose(losses.targeted_dlr([0], [1], three), [-1.0])
    np.testing.assert_allclose(losses.dlr([0], two), [-6.0])
    np.testing.assert_allclose(losses.targeted_dlr([0], [1], two), [-6.0])


@settings(deadline=None, max_examples=30)
@given(logits=LOGITS, y=LABELS)
def test_dlr_is_the_margin_over_a_gap_of_ranks(logits, y):
    ranked = -np.sort(-logits, axis=1)
    at = logits[np.arange(3), y]
    best_wrong = [np.delete(row, label).max() for row, label in zip(logits, y, strict=True)]
    gap = ranked[:, 0] - ranked[:, 2]
    expected = np.divide(best_wrong - at, gap, out=np.zeros(3, "float32"), where=gap != 0)
    np.testing.assert_allclose(losses.dlr(y, logits), expected, rtol=1e-6)
    target = (y + 1) % 5
    gap = ranked[:, 0] - ranked[:, 2:4].mean(1)
    expected = np.divide(
        logits[np.arange(3), target] - at, gap, out=np.zeros(3, "float32"), where=gap != 0
    )
    np.testing.assert_allclose(losses.targeted_dlr(y, target, logits), expected, rtol=1e-6)


def test_neither_shift_nor_factor_of_the_logits_changes_dlr():
    logits = np.random.default_rng(0).normal(size=(6, 5)).astype("float32")
    y, target = np.arange(6) % 5, (np.arange(6) + 2) % 5
    for changed in (logits * 1e6, logits * 1e-6, logits + 8):
        np.testing.assert_allclose(losses.dlr(y, changed), losses.dlr(y, logits), rtol=1e-4)
        found = losses.targeted_dlr(y, target, changed)
        np.testing.assert_allclose(found, losses.targeted_dlr(y, target, logits), rtol=1e-4)


def test_equal_logits_have_finite_losses_and_gradients():
    logits = tf.zeros([2, 5])
    with tf.GradientTape(persistent=True) as tape:
        tape.watch(logits)
        values = [losses.dlr([0, 1], logits), losses.targeted_dlr([0, 1], [2, 3], logits)]
    for value in values:
        assert value.numpy().tolist() == [0, 0]
        assert np.isfinite(tape.gradient(value, logits)).all()


def test_likely_targets_are_the_largest_wrong_logits_in_order():
    logits = [[5.0, 1.0, 3.0, 4.0], [5.0, 1.0, 3.0, 4.0]]
    assert losses.likely_targets([0, 1], logits, 2).numpy().tolist() == [[3, 2], [0, 3]]
    assert losses.likely_targets([0, 1], logits, 9).shape == (2, 3)


def test_a_model_without_wrong_classes_is_refused():
    with pytest.raises(ValueError, match=r"at least 2, but the output has the shape \(3, 1\)"):
        losses.likely_targets([0, 0, 0], tf.zeros([3, 1]), 9)
