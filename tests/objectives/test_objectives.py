"""Natural, PGD and TRADES losses: by hand, against a plain reference, and in a network."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from hydra_tf import objectives
from hydra_tf.attacks import random_start
from hydra_tf.core.types import LossTerms, StepContext


def step_context(seed=(1, 2), progress=1.0):
    return StepContext(tf.constant(seed, tf.int32), tf.constant(progress, tf.float32))


def line_net():
    """Logits (0, x1 - x2)."""
    net = keras.Sequential([keras.Input([2]), keras.layers.Dense(2, use_bias=False)])
    net.set_weights([np.array([[0.0, 1.0], [0.0, -1.0]], "float32")])
    return net


def small_net(seed=0, batchnorm=True):
    he = keras.initializers.HeNormal(seed)
    layers = [keras.Input([6]), keras.layers.Dense(8, kernel_initializer=he)]
    if batchnorm:
        layers.append(keras.layers.BatchNormalization())
    layers += [keras.layers.Activation("tanh"), keras.layers.Dense(3, kernel_initializer=he)]
    return keras.Sequential(layers)


@pytest.fixture
def batch():
    rng = np.random.default_rng(3)
    x = rng.random((12, 6)).astype("float32")
    return tf.constant(x), tf.constant(rng.integers(0, 3, 12).astype("int32"))


X, Y = tf.constant([[0.5, 0.5], [0.75, 0.25]]), tf.constant([0, 0])


def test_natural_by_hand():
    # Scores 0 and 0.5: the losses are ln(1 + e^0) and ln(1 + e^0.5).
    terms = objectives.build("natural")(line_net(), X, Y, step_context())
    assert float(terms.loss) == pytest.approx((np.log(2) + np.log1p(np.exp(0.5))) / 2, rel=1e-6)
    np.testing.assert_allclose(terms.logits, [[0, 0], [0, 0.5]], atol=1e-7)
    assert terms.adversarial_logits is None


def test_pgd_by_hand():
    # Within 0.1 the score grows by 0.2 at most, from any start.
    for start in ("uniform", "normal", "zero"):
        objective = objectives.build(f"pgd:epsilon=0.1,steps=4,step_size=0.06,start={start}")
        terms = objective(line_net(), X, Y, step_context())
        losses = np.log1p(np.exp([0.2, 0.7]))
        assert float(terms.loss) == pytest.approx(losses.mean(), rel=1e-5)
        np.testing.assert_allclose(terms.logits, [[0, 0], [0, 0.5]], atol=1e-6)
        np.testing.assert_allclose(terms.adversarial_logits, [[0, 0.2], [0, 0.7]], atol=1e-6)


def test_trades_by_hand():
    # At score 0 the benign prediction is (1/2, 1/2); the attack changes it by 0.2 either way,
    # and KL = -ln(4 q (1 - q)) / 2 with q = sigmoid(0.2).
    q = 1 / (1 + np.exp(-0.2))
    kl = -np.log(4 * q * (1 - q)) / 2
    for beta in (0.0, 6.0):
        objective = objectives.build(f"trades:epsilon=0.1,steps=4,step_size=0.06,beta={beta}")
        terms = objective(line_net(), X[:1], Y[:1], step_context())
        assert float(terms.loss) == pytest.approx(np.log(2) + beta * kl, rel=1e-4)
        assert float(terms.components["natural_loss"]) == pytest.approx(np.log(2), rel=1e-6)
        assert float(terms.components["robust_loss"]) == pytest.approx(kl, rel=1e-3)
        assert abs(terms.adversarial_logits.numpy()[0, 1]) == pytest.approx(0.2, abs=1e-6)


def test_l2_attack_by_hand():
    # The gradient is along (1, -1)/sqrt(2): radius 0.1 raises the score by 0.1 sqrt(2).
    terms = objectives.build("pgd:norm=l2,epsilon=0.1,steps=8,start=zero")(
        line_net(), X, Y, step_context()
    )
    expected = 0.1 * np.sqrt(2) + np.array([0, 0.5])
    np.testing.assert_allclose(terms.adversarial_logits[:, 1], expected, rtol=1e-5)


class Spy:
    """A model that records its calls."""

    def __init__(self, net):
        self.net, self.calls = net, []

    def __call__(self, x, training=None):
        self.calls.append((training, tuple(x.shape)))
        return self.net(x, training=training)


def test_trades_calls_of_the_model(batch):
    spy = Spy(small_net())
    objectives.build("trades:epsilon=0.1,steps=4")(spy, *batch, step_context())
    inference = [(False, (12, 6))]
    # The clean prediction, four steps, then benign and adversarial images as one batch.
    assert spy.calls == inference * 5 + [(True, (24, 6))]


def test_pgd_calls_of_the_model(batch):
    spy = Spy(small_net())
    objectives.build("pgd:epsilon=0.1,steps=4")(spy, *batch, step_context())
    # Four steps and the benign logits for metrics, then the forward pass that is trained.
    assert spy.calls == [(False, (12, 6))] * 5 + [(True, (12, 6))]


def reference(net, x, y, options, beta):
    """Return loss and gradients of TRADES (PGD if beta is None), computed step by step."""
    weights = net.trainable_variables
    kl = keras.losses.KLDivergence(reduction="none")
    clean = tf.nn.softmax(net(x, training=False))
    x_adv = random_start(x, "linf", options["epsilon"], step_context().seed, options["start"])
    for _ in range(options["steps"]):
        with tf.GradientTape() as tape:
            tape.watch(x_adv)
            logits = net(x_adv, training=False)
            if beta is None:
                attack_loss = tf.nn.sparse_softmax_cross_entropy_with_logits(y, logits)
            else:
                attack_loss = kl(clean, tf.nn.softmax(logits))
        x_adv += options["step_size"] * tf.sign(tape.gradient(attack_loss, x_adv))
        x_adv = tf.maximum(tf.minimum(x_adv, x + options["epsilon"]), x - options["epsilon"])
        x_adv = tf.constant(np.clip(x_adv, 0, 1))
    state = [np.array(v) for v in net.non_trainable_variables]
    with tf.GradientTape() as tape:
        if beta is None:
            adversarial = net(x_adv, training=True)
            loss = tf.nn.sparse_softmax_cross_entropy_with_logits(y, adversarial)
        else:
            logits = net(tf.concat([x, x_adv], 0), training=True)
            natural, adversarial = logits[: len(x)], logits[len(x) :]
            loss = tf.nn.sparse_softmax_cross_entropy_with_logits(y, natural)
            loss += beta * kl(tf.nn.softmax(natural), tf.nn.softmax(adversarial))
        loss = tf.reduce_mean(loss)
    gradients = tape.gradient(loss, [w.value for w in weights])
    for variable, value in zip(net.non_trainable_variables, state, strict=True):
        variable.assign(value)
    return float(loss), gradients


@pytest.mark.parametrize("graph", [False, True])
@pytest.mark.parametrize(
    ("name", "start", "beta"),
    [("pgd", "uniform", None), ("pgd", "zero", None), ("trades", "normal", 6.0),
     ("trades", "uniform", 2.5)],
)  # fmt: skip
def test_loss_and_gradients_equal_a_plain_reference(batch, name, start, beta, graph):
    x, y = batch
    net = small_net()
    options = {"epsilon": 0.1, "steps": 3, "step_size": 0.04, "start": start}
    expected, gradients = reference(net, x, y, options, beta)
    extra = {} if beta is None else {"beta": beta}
    objective = objectives.build({"name": name, **options, **extra})

    def step():
        with tf.GradientTape() as tape:
            terms = objective(net, x, y, step_context())
        return terms.loss, tape.gradient(terms.loss, [v.value for v in net.trainable_variables])

    loss, actual = tf.function(step)() if graph else step()
    assert float(loss) == pytest.approx(expected, rel=1e-5)
    for one, other in zip(actual, gradients, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-5)


def test_gradients_of_both_terms_of_trades_without_the_attack(batch):
    x, y = batch
    net = small_net(batchnorm=False)
    kernel = net.trainable_variables[0].value

    def gradient(beta):
        with tf.GradientTape() as tape:
            terms = objectives.build(f"trades:epsilon=0.1,steps=2,beta={beta}")(
                net, x, y, step_context()
            )
        natural, robust = terms.components["natural_loss"], terms.components["robust_loss"]
        assert float(terms.loss) == pytest.approx(float(natural) + beta * float(robust), rel=1e-6)
        return tape.gradient(terms.loss, kernel).numpy()

    zero, one, three = gradient(0.0), gradient(1.0), gradient(3.0)
    with tf.GradientTape() as tape:
        natural = objectives.build("natural")(net, x, y, step_context()).loss
    np.testing.assert_allclose(zero, tape.gradient(natural, kernel), rtol=1e-4, atol=1e-6)
    assert np.abs(one - zero).max() > 1e-3
    np.testing.assert_allclose(three - zero, 3 * (one - zero), rtol=1e-3, atol=1e-5)
    # Adversarial images carry no gradient back to the benign ones.
    with tf.GradientTape() as tape:
        tape.watch(x)
        terms = objectives.build("pgd:epsilon=0.1,steps=2")(net, x, y, step_context())
    assert tape.gradient(terms.loss, x) is None


@pytest.mark.parametrize("name", ["natural", "pgd", "trades"])
def test_batchnorm_statistics_are_updated_once_per_step(batch, name):
    x, y = batch
    net = small_net()
    norm = net.layers[1]
    options = {} if name == "natural" else {"epsilon": 0.0, "steps": 3}
    objective = objectives.build({"name": name, **options})
    before = np.array(net.layers[0](x))
    tf.function(lambda: objective(net, x, y, step_context()).loss)()
    # With epsilon 0 both halves of a TRADES batch are x: momentum 0.99, from 0 and 1.
    np.testing.assert_allclose(norm.moving_mean, 0.01 * before.mean(0), rtol=1e-4, atol=1e-7)
    np.testing.assert_allclose(norm.moving_variance, 0.99 + 0.01 * before.var(0), rtol=1e-5)


def test_trades_at_radius_zero_has_no_robust_loss(batch):
    terms = objectives.build("trades:epsilon=0.0,steps=3")(small_net(), *batch, step_context())
    assert float(terms.components["robust_loss"]) == pytest.approx(0, abs=1e-7)


@pytest.mark.parametrize("name", ["pgd", "trades"])
@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_epsilon_grows_over_the_ramp(batch, name, norm):
    x, y = batch
    net = small_net(batchnorm=False)

    def adversarial(progress=1.0, **options):
        options = {"norm": norm, "steps": 3, "start": "uniform", **options}
        objective = objectives.build({"name": name, **options})
        return objective(net, x, y, step_context(progress=progress)).adversarial_logits.numpy()

    benign = net(x).numpy()
    ramped = {"epsilon": 0.2, "ramp": 0.5}
    np.testing.assert_allclose(adversarial(0.0, **ramped), benign, atol=1e-6)
    # Half-way up the ramp, radius and step size are half of the final ones.
    half = adversarial(epsilon=0.1)
    np.testing.assert_allclose(adversarial(0.25, **ramped), half, atol=1e-5)
    full = adversarial(epsilon=0.2)
    for progress in (0.5, 0.75, 1.0):
        np.testing.assert_allclose(adversarial(progress, **ramped), full, atol=1e-5)
    assert np.abs(half - benign).max() > 0.05
    assert np.abs(full - half).max() > 0.05


def test_pgd_regularises_activity_on_adversarial_images(batch):
    x, y = batch
    net = keras.Sequential(
        [keras.Input([6]), keras.layers.Dense(3, activity_regularizer=keras.regularizers.L2(1.0))]
    )
    terms = objectives.build("pgd:epsilon=0.3,steps=2")(net, x, y, step_context())
    penalty = float(net.losses[0])
    # Keras divides it by the size of the batch from 3.14 on.
    benign = net(x)
    scale = float(net.losses[0]) / np.sum(np.square(benign))
    squares = [scale * np.sum(np.square(z)) for z in (terms.adversarial_logits, terms.logits)]
    assert penalty == pytest.approx(squares[0], rel=1e-5)
    assert squares[0] != pytest.approx(squares[1], rel=1e-2)


@pytest.mark.parametrize("name", ["pgd", "trades"])
def test_attack_has_gradients_in_half_precision(name):
    # Logits (-20 x, 20 x): the other class has probability e^-20, which is 0 in float16.
    dense = keras.layers.Dense(2, use_bias=False, dtype="mixed_float16")
    net = keras.Sequential([keras.Input([1]), dense])
    net.set_weights([np.array([[-20.0, 20.0]])])
    objective = objectives.build(name, epsilon=0.1, steps=8, start="uniform")
    with tf.GradientTape() as tape:
        terms = objective(net, tf.fill([3, 1], 0.5), tf.ones(3, tf.int32), step_context())
    change = np.abs(terms.adversarial_logits.numpy()[:, 1] - 10.0)
    np.testing.assert_allclose(change, 2.0, atol=0.01)
    assert tape.gradient(terms.loss, dense.kernel.value) is not None


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("trades:epsilon=-0.1", "epsilon must be a finite number of at least 0, not -0.1"),
        ("pgd:epsilon=inf", "epsilon must be a finite number"),
        ("trades:beta=-1", "beta must be a finite number of at least 0, not -1"),
        ("trades:beta=nan", "beta must be a finite number of at least 0, not nan"),
        ("pgd:ramp=1.5", r"ramp is a share of the phase in \[0, 1\], not 1.5"),
        ("pgd:ramp=-0.5", r"ramp is a share of the phase in \[0, 1\], not -0.5"),
        ("trades:steps=-1", "steps must be at least 0, not -1"),
        ("trades:step_size=0", "step_size must be a positive number, not 0"),
        ("trades:start=zero", 'start="zero".*gradient of the KL is 0'),
        ("trade", 'Unknown objective "trade"; did you mean "trades"'),
        ("trades:betta=6", '"betta"; did you mean "beta"'),
    ],
)
def test_bad_parameters_are_refused(spec, message):
    with pytest.raises(ValueError, match=message) as error:
        objectives.build(spec)
    assert "\n" not in str(error.value)


def test_values_of_the_wrong_type_are_refused():
    with pytest.raises(
        TypeError, match='"beta" of objective "trades" must be a number, not \'six\''
    ):
        objectives.build("trades:beta=six")
    with pytest.raises(TypeError, match="one of linf, l2"):
        objectives.build("pgd:norm=l1")
    # The constructor checks parameters too.
    with pytest.raises(ValueError, match='norm must be "linf" or "l2"'):
        type(objectives.build("pgd"))(norm="l1")


def test_config_and_validation_attack():
    objective = objectives.build("trades:norm=l2,epsilon=1/2,steps=7,beta=1")
    assert objectives.build(objectives.OBJECTIVES.config(objective)) == objective
    expected = {"name": "pgd", "norm": "l2", "epsilon": 0.5, "steps": 14}
    assert objective.validation_attack() == expected
    assert objectives.build("natural").validation_attack() is None
    custom = lambda model, x, y, context: LossTerms(tf.constant(0.0), model(x))  # noqa: E731
    assert objectives.build(custom) is custom
