"""Auto-PGD: its checkpoints and its steps worked out by hand."""

import numpy as np
import pytest
import tensorflow as tf

from hydra_tf.attacks import apgd
from hydra_tf.attacks.apgd import APGD
from hydra_tf.attacks.losses import margin
from hydra_tf.attacks.pgd import PGD
from hydra_tf.core.randomness import stateless_seed


def correct(net, x, y):
    return np.argmax(net(x, training=False), -1) == y


def test_checkpoints_of_the_paper():
    # p = 0, 0.22, then each gap 0.03 shorter but at least 0.06: 0.41, 0.57, 0.70, 0.80,
    # 0.87, 0.93, 0.99; iterates are these shares of the steps, rounded up.
    assert APGD(steps=100).checkpoints == (22, 41, 57, 70, 80, 87, 93, 99)
    assert APGD(steps=50).checkpoints == (11, 21, 29, 35, 40, 44, 47, 50)
    assert APGD(steps=5).checkpoints == (2, 3, 4, 5)
    assert APGD(steps=0).checkpoints == (0,)


def ascended(attack, top, start=0.5):
    """Return iterates and result of an ascent on a tent function with its maximum at `top`."""
    seen = []

    def predict(x):
        seen.append(float(x[0, 0]))
        return tf.concat([tf.zeros_like(x), -tf.abs(x - top)], 1)

    x, y = tf.constant([[0.5]]), tf.constant([0])
    best, broken, _ = attack._ascend(
        predict, x, y, tf.constant([[start]]), lambda logits: margin(y, logits)
    )
    return seen, float(best[0, 0]), bool(broken[0])


def test_an_ascent_by_hand():
    # Ball [0.1, 0.9], first step 2 * 0.4; top at 0.62; checkpoints at iterates 2, 3, 4.
    # 0: 0.5, loss -0.12. To the ball's end, without momentum: 0.9.
    # 1: -0.28. Step ends at 0.1: 0.9 - 0.75 * 0.8 + 0.25 * (0.9 - 0.5) = 0.4.
    # 2: -0.22 is one rise of two, fewer than 1.5: half the step, back to 0.5.
    #    Step ends at 0.9: 0.5 + 0.75 * 0.4 + 0.25 * (0.5 - 0.9) = 0.7.
    # 3: -0.08 is one rise of one, and the step has only just been halved: go on.
    #    Step ends at 0.3: 0.7 - 0.75 * 0.4 + 0.25 * (0.7 - 0.5) = 0.45.
    # 4: -0.17, no rise: step 0.2, back to 0.7, which is where it came from:
    #    0.7 - 0.75 * 0.2 + 0 = 0.55, whose loss -0.07 is the best of all.
    seen, best, broken = ascended(APGD(epsilon=0.4, steps=5), top=0.62)
    np.testing.assert_allclose(seen, [0.5, 0.9, 0.4, 0.7, 0.45, 0.55], atol=1e-6)
    assert best == pytest.approx(0.55, abs=1e-6)
    assert not broken


def checked(rises, shrunk, checked_loss, best_loss, span):
    one = lambda value: tf.constant([value])  # noqa: E731
    kept = apgd.State(
        previous=one([0.0]), loss=one(1.0), best=one([0.9]), best_loss=one(best_loss),
        best_gradient=one([-5.0]), broken=one(False), step_size=one(0.4), increases=one(rises),
        checkpoint_loss=one(checked_loss), halved=one(shrunk), gradients=one(3),
    )  # fmt: skip
    here, slope, kept = apgd._adapt_step_size(one([0.2]), one([7.0]), kept, tf.constant(span))
    back = np.isclose(here.numpy(), 0.9).item()
    assert slope.numpy().item() == (-5 if back else 7)
    assert kept.step_size.numpy().item() == pytest.approx(0.2 if back else 0.4)
    assert kept.loss.numpy().item() == (best_loss if back else 1)
    if span:
        assert kept.increases.numpy().item() == 0
        assert kept.halved.numpy().item() is back
        assert kept.checkpoint_loss.numpy().item() == best_loss
    return back


@pytest.mark.parametrize(
    ("rises", "shrunk", "checked_loss", "best_loss", "span", "halved"),
    [
        (2.0, False, 1.0, 2.0, 4.0, True),  # fewer than three of four steps rose
        (3.0, False, 1.0, 2.0, 4.0, False),
        (4.0, False, 2.0, 2.0, 4.0, True),  # the largest loss stands where it stood
        (4.0, True, 2.0, 2.0, 4.0, False),  # but the step was halved there
        (0.0, False, 2.0, 2.0, 0.0, False),  # no checkpoint
    ],
)
def test_when_a_step_is_halved(rises, shrunk, checked_loss, best_loss, span, halved):
    assert checked(rises, shrunk, checked_loss, best_loss, span) is halved


def test_the_first_image_that_breaks_is_kept_and_ends_the_ascent():
    looks = []

    def predict(x):
        looks.append(x.numpy().ravel().tolist())
        return tf.concat([tf.fill(tf.shape(x), 0.8), x], 1)

    x, y = tf.constant([[0.5], [0.9]]), tf.constant([0, 0])
    attack = APGD(epsilon=0.4, steps=20)
    best, broken, _ = attack._ascend(predict, x, y, x, lambda logits: margin(y, logits))
    np.testing.assert_allclose(looks[:2], [[0.5, 0.9], [0.9, 1.0]], rtol=1e-6)
    assert len(looks) == 3  # the start, the step that breaks the first, the last evaluation
    np.testing.assert_allclose(best, [[0.9], [0.9]])
    assert broken.numpy().all()


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_it_beats_pgd_of_as_many_steps(robust, norm):
    net, x, y = robust
    epsilon = {"linf": 0.1, "l2": 0.5}[norm]
    still_correct = [
        correct(net, attack(net, x, y), y).mean()
        for attack in (PGD(norm, epsilon, steps=50), APGD(norm, epsilon, steps=50))
    ]
    assert still_correct[1] <= still_correct[0]
    assert 0.5 < still_correct[1] < 0.9


@pytest.mark.slow(seconds=10)
def test_targets_and_restarts_only_break_more(robust):
    net, x, y = robust
    x, y = x[:200], y[:200]
    kwargs = {"norm": "l2", "epsilon": 0.5, "steps": 10}
    few, more = APGD(**kwargs, loss="dlr", targets=1), APGD(**kwargs, loss="dlr", targets=20)
    images = [attack(net, x, y, seed=1).numpy() for attack in (few, more)]
    still_correct = [correct(net, each, y) for each in images]
    assert not (still_correct[1] & ~still_correct[0]).any()
    assert still_correct[1].sum() < still_correct[0].sum()
    same = ~still_correct[0] | still_correct[1]
    assert np.array_equal(images[0][same], images[1][same])
    again = APGD(**kwargs, restarts=3)(net, x, y, seed=1)
    assert correct(net, again, y).sum() <= correct(net, APGD(**kwargs)(net, x, y, seed=1), y).sum()


def test_each_target_gets_its_restarts_and_broken_samples_get_no_more():
    # Class 2 is the likeliest wrong one, but only class 1 can be reached.
    seen = []

    def predict(x):
        seen.append(len(x))
        first = tf.fill([len(x), 1], 0.5)
        return tf.concat([first, 2.0 * x - 0.95, first - 0.01, first - 9.0], 1)

    x, y = tf.fill([4, 1], 0.7), tf.zeros(4, tf.int32)
    attack = APGD(epsilon=0.1, steps=3, loss="margin", targets=3, restarts=2)
    found = attack.perturb(predict, x, y, stateless_seed(0)).numpy()
    assert (np.argmax(predict(tf.constant(found)), 1) == 1).all()
    per_restart = 1 + 3 + 1  # the image, the steps, the last evaluation
    # Some start where class 1 is reached. Few are left then, and their attempts share a batch.
    assert seen[: 1 + per_restart] == [4] * (1 + per_restart)
    assert max(seen) == 4 and len(seen) - 1 <= 1 + 3 * per_restart


@pytest.mark.parametrize(
    ("kwargs", "sentence"),
    [
        ({"steps": -1}, "steps must be at least 0, not -1"),
        ({"restarts": 0}, "restarts must be at least 1, not 0"),
        ({"targets": -1}, "targets must be at least 0, not -1"),
    ],
)
def test_bad_parameters_are_refused(kwargs, sentence):
    with pytest.raises(ValueError, match=sentence):
        APGD(**kwargs)
