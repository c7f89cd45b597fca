"""FMN: radii by hand on linear models, its search, and foolbox as an independent judge."""

import foolbox
import numpy as np
import pytest
import tensorflow as tf

from hydra_tf.attacks.fmn import FMN
from tests.contracts.attack_contract import lengths, linear, run

NORMS = ("linf", "l2")
X = np.array([[0.5, 0.5]], "float32")
Y = np.zeros(1, "int32")


def plane(rise, at=X):
    """Return a model whose second logit must rise by 3 a + 4 b = `rise` from `at`."""
    weights = np.array([[3.0], [4.0]], "float32")

    def model(x, training=False):
        score = (x - at) @ weights - rise
        return tf.concat([tf.zeros_like(score), score], 1)

    return model


def distance(attack, model, x=X):
    return lengths(run(attack, model, x, Y) - x, attack.norm)[0]


# The plane is 0.7 / (3 + 4) = 0.1 away in Linf and 0.7 / 5 = 0.14 in L2. gamma is 0.05 in the
# first step; in the second of two it is 0.001 + 0.049 / 2, in those of three 0.001 + 0.049 * 3 / 4
# and 0.001 + 0.049 / 4. The last step of three goes to 0.0997, where the image is not broken.
@pytest.mark.parametrize(
    ("steps", "expected"),
    [(0, 0.0), (1, 1.05), (2, 1.05 * (1 - 0.0255)), (3, 1.05 * (1 - 0.03775))],
)
@pytest.mark.parametrize("norm", NORMS)
def test_the_radius_follows_the_rule_by_hand(norm, steps, expected):
    exact = {"linf": 0.1, "l2": 0.14}[norm]
    found = distance(FMN(norm, 1.0, steps=steps), plane(0.7))
    assert found == pytest.approx(expected * exact, rel=1e-5, abs=1e-9)


@pytest.mark.parametrize("norm", NORMS)
def test_of_two_classes_the_cross_entropy_has_the_same_boundary(norm):
    exact = {"linf": 0.1, "l2": 0.14}[norm]
    found = distance(FMN(norm, 1.0, steps=1, loss="ce"), plane(0.7))
    assert found == pytest.approx(1.05 * exact, rel=1e-5)


def test_a_rescued_gradient_does_not_limit_the_first_ball():
    def steep(x, training=False):  # the cross-entropy is exactly 0, and the first step of length 1
        return 1e4 * plane(0.7)(x)

    assert distance(FMN("linf", 1.0, steps=1, loss="ce"), steep) == 0.5
    assert distance(FMN("linf", 1.0, steps=1), steep) == pytest.approx(0.105, rel=1e-5)


@pytest.mark.parametrize(
    ("norm", "loss", "x", "rise", "exact"),
    [
        ("linf", "ce", [0.5, 0.5], 0.7, 0.1),
        ("l2", "margin", [0.5, 0.5], 0.7, 0.14),
        # The second pixel has room for 0.05, which gives 0.2; the first gives the other 0.3.
        ("linf", "margin", [0.5, 0.95], 0.5, 0.1),
    ],
)
def test_the_distance_to_a_plane(norm, loss, x, rise, exact):
    at = np.array([x], "float32")
    found = distance(FMN(norm, 1.0, steps=15, loss=loss, step_size=0.3), plane(rise, at), at)
    assert exact < found < 1.01 * exact


@pytest.mark.parametrize("factor", [1e-25, 1e25])
def test_the_scale_of_the_logits_does_not_matter(factor):
    def model(x, training=False):
        return factor * plane(0.7)(x)

    assert 0.1 < distance(FMN("linf", 1.0, steps=6), model) < 0.102


def test_a_change_counts_only_in_the_ball():
    # After 6 steps the change is at most 0.102.
    assert distance(FMN("linf", 0.099, steps=6), plane(0.7)) == 0
    assert 0.1 < distance(FMN("linf", 0.102, steps=6), plane(0.7)) < 0.102


def test_the_search_keeps_the_smallest_change_of_all_runs():
    x = np.random.default_rng(0).uniform(0.2, 0.8, (12, 10)).astype("float32")

    def model(x, training=False):
        return linear((10,))(tf.sin(8.0 * x))

    y = np.argmax(model(x), -1).astype("int32")
    search = FMN("l2", 10.0, steps=4, search=True)
    each = np.array([lengths(run(attack, model, x, y) - x, "l2") for attack in search.runs])
    assert each.shape == (4, 12) and (each > 0).all()
    assert len({*each.argmin(axis=0)}) > 1  # no run is the best for all
    found = lengths(run(search, model, x, y) - x, "l2")
    np.testing.assert_allclose(found, each.min(axis=0), rtol=1e-5)


@pytest.mark.parametrize(
    ("kwargs", "sentence"),
    [
        ({"steps": -1}, "steps must be at least 0, not -1"),
        ({"step_size": 0.0}, "step_size must be a positive number, not 0"),
        ({"gamma": 1.0}, "gamma must be between 0 and 1, not 1"),
    ],
)
def test_bad_parameters_are_refused(kwargs, sentence):
    with pytest.raises(ValueError, match=sentence):
        FMN(**kwargs)


class L2FMN(foolbox.attacks.L2FMNAttack):
    """Foolbox 3.3.4 divides the length of a change by itself, so that it projects nothing.

    The ball is 1% larger than its epsilon: in a piecewise linear network, most iterates would
    otherwise stay exactly on the boundary, where nothing is broken.
    """

    def project(self, x, x0, epsilon):
        change = (x - x0).flatten(start=1)
        factor = (1.01 * epsilon / change.norms.l2(axis=-1).maximum(1e-12)).minimum(1.0)
        return x0 + (change * factor.expand_dims(1)).reshape(x0.shape)


def foolboxs(net, x, y, attack, norm):
    model = foolbox.TensorFlowModel(net, bounds=(0, 1))
    labels = foolbox.criteria.Misclassification(tf.constant(y, tf.int64))
    return lengths(attack.run(model, tf.constant(x), labels).numpy() - x, norm)


@pytest.mark.slow(seconds=60)
@pytest.mark.parametrize("name", ["robust", "trained"])
@pytest.mark.parametrize("norm", NORMS)
def test_distances_are_those_of_foolbox(request, name, norm):
    net, x, y = request.getfixturevalue(name)
    right = np.argmax(net(x, training=False), -1) == y
    x, y = x[right][:150], y[right][:150]
    theirs = foolboxs(
        net, x, y, {"linf": foolbox.attacks.LInfFMNAttack, "l2": L2FMN}[norm](steps=100), norm
    )
    epsilon = {"linf": 1.0, "l2": 100.0}[norm]
    found = FMN(norm, epsilon)(net, x, y).numpy()
    assert (np.argmax(net(found, training=False), -1) != y).all()
    once = lengths(found - x, norm)
    broken = theirs > 0  # foolbox returns the image itself where it found nothing
    assert np.mean(broken) > 0.95
    once, theirs = once[broken], theirs[broken]
    assert np.median(once) == pytest.approx(np.median(theirs), rel=0.05)
    assert once.mean() == pytest.approx(theirs.mean(), rel=0.05)
    searched = lengths(FMN(norm, epsilon, search=True)(net, x, y).numpy() - x, norm)[broken]
    assert searched.mean() < 0.99 * min(once.mean(), theirs.mean())
    if norm == "l2":
        decoupled = foolboxs(net, x, y, foolbox.attacks.DDNAttack(steps=200), norm)[broken]
        assert np.median(searched) < 1.02 * np.median(decoupled)
