"""PGD: restarts, best iterates, randomness, and the places it is called from."""

import gc
import weakref

import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

import hydra_tf
from hydra_tf import attacks
from hydra_tf.attacks import ascent, base, losses
from hydra_tf.attacks.pgd import PGD
from hydra_tf.core.randomness import stateless_seed

NORMS = ("linf", "l2")
EPSILON = {"linf": 0.06, "l2": 0.4}  # about half of the trained network's digits fall


def correct(net, x, y):
    return np.argmax(net(x, training=False), -1) == y


def length(change, norm):
    flat = np.reshape(np.asarray(change, "float64"), (len(change), -1))
    return np.linalg.norm(flat, ord=np.inf if norm == "linf" else 2, axis=1)


@settings(deadline=None, max_examples=25)
@given(
    norm=st.sampled_from(NORMS),
    epsilon=st.sampled_from([0.0, 0.03, 0.5, 3.0]),
    steps=st.integers(0, 3),
    restarts=st.integers(1, 2),
    start=st.sampled_from(["uniform", "normal", "zero"]),
    loss=st.sampled_from(["ce", "margin"]),
    seed=st.integers(-5, 2**40),
)
def test_results_are_in_ball_and_pixel_range(
    trained, norm, epsilon, steps, restarts, start, loss, seed
):
    net, x, y = trained
    kwargs = {"steps": steps, "restarts": restarts, "start": start, "loss": loss}
    epsilon = min(epsilon, 1.0) if norm == "linf" else epsilon
    attack = PGD(norm=norm, epsilon=epsilon, **kwargs)
    found = attack.perturb(
        lambda z: net(z, training=False), tf.constant(x[:8]), tf.constant(y[:8]),
        stateless_seed(seed),
    ).numpy()  # fmt: skip
    assert found.min() >= 0
    assert found.max() <= 1
    assert (length(found - x[:8], norm) <= epsilon * (1 + 1e-6) + 2e-7).all()
    if epsilon == 0 or (steps == 0 and start == "zero"):
        assert np.array_equal(found, x[:8])


@pytest.mark.parametrize("norm", NORMS)
def test_the_best_iterate_is_never_worse_than_the_last(trained, norm):
    net, x, y = trained
    # Steps of the whole radius overshoot and wander.
    kwargs = {"norm": norm, "epsilon": EPSILON[norm], "step_size": EPSILON[norm], "steps": 7}
    predict = lambda z: net(z, training=False)  # noqa: E731
    loss = lambda z: losses.cross_entropy(y, z)  # noqa: E731
    last = ascent.ascend(predict, tf.constant(x), tf.constant(x), loss, **kwargs)
    best, broken, _ = ascent.ascend_best(predict, tf.constant(x), tf.constant(x), loss, y, **kwargs)
    held_last, held_best = correct(net, last, y), correct(net, best, y)
    assert np.array_equal(broken, ~held_best)
    assert not (held_best & ~held_last).any()
    alike = held_best == held_last
    values = [loss(predict(z)).numpy()[alike] for z in (last, best)]
    assert (values[1] >= values[0] - 1e-5).all()
    assert (values[1] > values[0] + 1e-3).any()


@pytest.mark.parametrize("norm", NORMS)
def test_more_restarts_only_break_more(trained, norm):
    net, x, y = trained
    still_correct, images = [], []
    for restarts in (1, 2, 8):
        # One short step: much is left to the luck of the start.
        rate = EPSILON[norm] / 4
        attack = PGD(norm, EPSILON[norm], steps=1, step_size=rate, restarts=restarts)
        images.append(attack(net, x, y, seed=1).numpy())
        still_correct.append(correct(net, images[-1], y))
    for fewer, more in ((0, 1), (1, 2)):
        assert not (still_correct[more] & ~still_correct[fewer]).any()
        # What is broken is left alone, to the bit; so is what later restarts do not break.
        same = ~still_correct[fewer] | still_correct[more]
        assert np.array_equal(images[more][same], images[fewer][same])
    assert still_correct[2].sum() < still_correct[0].sum()  # the restarts did find something


def test_restarts_start_elsewhere_and_skip_what_is_broken():
    # Pixels above 0.55 are class 1. No steps: a restart breaks the sample or does not.
    sizes = []

    def predict(x):
        if tf.executing_eagerly():
            sizes.append(len(x))
        return tf.concat([tf.fill(tf.shape(x), 0.55), x], 1)

    x, y = tf.fill([100, 1], 0.5), tf.zeros(100, tf.int32)
    attack = PGD(epsilon=0.1, steps=0, restarts=4)
    found = attack.perturb(predict, x, y, stateless_seed(0)).numpy()
    # A uniform start exceeds 0.55 with probability 1/4: each pass sees 3/4 of the one before.
    assert sizes[0] == 100
    survivors = [*sizes[1:], int((found <= 0.55).sum())]
    ratios = np.array(survivors) / sizes
    assert len(sizes) == 4
    assert (np.abs(ratios - 0.75) < 4 * np.sqrt(0.75 * 0.25 / np.array(sizes))).all()
    all_broken = PGD(epsilon=0.1, steps=0, restarts=4)
    sizes.clear()
    all_broken.perturb(predict, x + 0.3, y, stateless_seed(0))
    assert sizes == [100]


@pytest.mark.parametrize("norm", NORMS)
def test_the_same_seed_gives_the_same_bits(trained, norm):
    net, x, y = trained
    attack = PGD(norm=norm, epsilon=EPSILON[norm], steps=3, restarts=2)
    one = attack(net, x, y, seed=5).numpy()
    assert np.array_equal(one, attack(net, x, y, seed=5))
    assert not np.array_equal(one, attack(net, x, y, seed=6))
    # Global seeds are ignored.
    keras.utils.set_random_seed(99)
    assert np.array_equal(one, attack(net, x, y, seed=5))
    one_restart = PGD(norm=norm, epsilon=EPSILON[norm], steps=3)
    assert np.array_equal(one_restart(net, x, y, seed=0), one_restart(net, x, y))


def test_the_same_images_wherever_it_is_called(trained):
    net, x, y = trained
    attack = PGD(norm="l2", epsilon=EPSILON["l2"], steps=3, restarts=2)
    expected = attack(net, x, y, seed=3).numpy()

    @tf.function
    def within(images, labels):
        return attack(net, images, labels, seed=3)

    @tf.function
    def captured():
        return attack(net, tf.constant(x), y, seed=3)

    eager_tensors = tf.constant(x), tf.constant(y)

    @tf.function
    def captured_eager():
        return attack(net, *eager_tensors, seed=3)

    robust = hydra_tf.RobustModel(net, "natural")
    for found in (
        within(x, y),
        captured(),
        captured_eager(),
        attack(net, x.astype("float64"), y.astype("int64"), seed=3),
        attack(net, tf.constant(x, tf.float64), tf.constant(y, tf.int64), seed=3),
        attack(net, x, np.eye(10)[y], seed=3),
        attack(net, x, y[:, None], seed=3),
        attack(lambda z, training: net(z, training=training), x, y, seed=3),
        attack(robust, x, y, seed=3),
        attack(robust.net, x, y, seed=3),
        attacks.build(attack)(net, x, y, seed=3),
    ):
        assert found.dtype == tf.float32
        # Another graph may round otherwise, by which an image may move a little.
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)


def test_odd_batch_sizes_do_not_retrace_for_each(trained):
    net, x, y = trained
    traced = []

    def model(z, training):
        traced.append(z.shape[0])
        return net(z, training=training)

    attack = PGD(epsilon=0.1, steps=1, restarts=2)
    attack(model, x[:8], y[:8])
    per_trace = len(traced)
    for size in (8, 7, 3, 1, 13, 64):
        assert attack(model, x[:size], y[:size], seed=size).shape == (size, 8, 8, 1)
    assert len(traced) <= 2 * per_trace  # one for the first size, one for all others
    PGD(epsilon=0.1, steps=1, restarts=2)(model, x[:5], y[:5])  # an equal attack, the same graph
    assert len(traced) <= 2 * per_trace


@pytest.mark.parametrize("kind", ["keras", "robust"])
def test_graphs_go_away_with_the_model(kind):
    x, y = np.full((2, 4), 0.5, "float32"), [0, 1]
    gc.collect()
    before = len(base._graphs)
    model = keras.Sequential([keras.Input([4]), keras.layers.Dense(3)])
    if kind == "robust":
        model = hydra_tf.RobustModel(model, "natural")
    for spec in ("pgd:epsilon=0.1,steps=2,restarts=2", "fgsm", "cleverhans_pgd:steps=2"):
        attacks.build(spec)(model, x, y)
    assert len(base._graphs) == before + 1
    gone = weakref.ref(model)
    weight = weakref.ref(model.trainable_variables[0])
    del model
    gc.collect()
    assert gone() is None
    assert weight() is None
    assert len(base._graphs) == before


def test_a_model_changed_in_place_is_attacked_as_it_is():
    # f1 - f0 = 2 x, and then -2 x.
    net = keras.Sequential([keras.Input([1]), keras.layers.Dense(2)])
    net.set_weights([np.array([[-1.0, 1.0]]), np.zeros(2)])
    attack, x = PGD(epsilon=0.1, steps=2, start="zero"), np.full((1, 1), 0.5, "float32")
    assert float(attack(net, x, [1])[0, 0]) == pytest.approx(0.4)
    net.layers[0].activation = lambda z: -z
    assert float(attack(net, x, [0])[0, 0]) == pytest.approx(0.4)


@pytest.mark.parametrize("norm", NORMS)
def test_two_replicas_do_what_one_device_does(trained, norm, two_replicas):
    net, x, y = trained
    attack = PGD(norm=norm, epsilon=EPSILON[norm], steps=2, restarts=2)
    expected = attack(net, x[:16], y[:16], seed=2)
    with two_replicas.scope():
        mirrored = keras.models.clone_model(net)
    mirrored.set_weights(net.get_weights())

    @tf.function
    def both():
        return two_replicas.run(lambda: attack(mirrored, x[:16], y[:16], seed=2))

    replicas = two_replicas.experimental_local_results(both())
    assert len(replicas) == 2
    for found in replicas:
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("x", "y", "sentence"),
    [
        (np.full((2, 8, 8, 1), 1.5), [0, 1], r"in \[0, 1\], but they span \[1.5, 1.5\]; divide"),
        (np.full((2, 8, 8, 1), -0.25), [0, 1], r"they span \[-0.25, -0.25\]"),
        (np.full((2, 8, 8, 1), np.nan), [0, 1], r"in \[0, 1\]"),
        (np.zeros((2, 8, 8, 1)), [0, 1, 2], "There are 2 images but 3 labels"),
        (np.zeros((2, 8, 8, 1)), np.zeros((3, 10)), "There are 2 images but 3 labels"),
        (np.zeros((2, 8, 8, 1)), np.zeros((2, 2, 2)), r"not of shape \(2, 2, 2\)"),
        (np.zeros((2, 8, 8, 1)), 3, r"not of shape \(\)"),
    ],
)
def test_bad_batches_are_refused(trained, x, y, sentence):
    for spec in ("pgd", "fgsm", "cleverhans_pgd"):
        with pytest.raises(ValueError, match=sentence):
            attacks.build(spec)(trained[0], x, y)


@pytest.mark.parametrize(
    ("kwargs", "sentence"),
    [
        ({"epsilon": -0.1}, "epsilon must be a finite number of at least 0, not -0.1"),
        ({"epsilon": float("nan")}, "epsilon must be"),
        ({"epsilon": float("inf")}, "epsilon must be"),
        ({"steps": -1}, "steps must be at least 0, not -1"),
        ({"step_size": 0.0}, "step_size must be a positive number, not 0.0"),
        ({"step_size": float("nan")}, "step_size must be a positive number"),
        ({"restarts": 0}, "restarts must be at least 1, not 0"),
        ({"norm": "l3"}, 'norm must be "linf" or "l2", not \'l3\''),
    ],
)
def test_bad_parameters_are_refused(kwargs, sentence):
    with pytest.raises(ValueError, match=sentence):
        PGD(**kwargs)


def test_bad_specs_are_refused():
    with pytest.raises(ValueError, match='Unknown attack "pdg"; did you mean "pgd"'):
        attacks.build("pdg")
    with pytest.raises(ValueError, match='did you mean "epsilon"'):
        attacks.build("pgd:epsilom=0.1")
    with pytest.raises(TypeError, match="must be one of linf, l2"):
        attacks.build("pgd:norm=l3")
    with pytest.raises(TypeError, match='"steps" of attack "pgd" must be a whole number'):
        attacks.build("pgd:steps=1.5")
    for spec in ("pgd:norm=l2,epsilon=1/4,restarts=3", "fgsm", "cleverhans_pgd:epsilon=0.1"):
        attack = attacks.build(spec)
        assert attacks.build(attacks.ATTACKS.config(attack)) == attack


def test_default_step_is_madrys_rule():
    assert PGD(epsilon=0.2, steps=10).rate == 0.05
    assert PGD(epsilon=0.2, steps=0).rate == 0.5
    assert PGD(epsilon=0.2, steps=10, step_size=0.01).rate == 0.01
