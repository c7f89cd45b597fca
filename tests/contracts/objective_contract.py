"""What holds for every objective.

The network has 8 inputs and no BatchNorm. It records the images that it is called on, so that
what an objective shows the model can be checked as well as what it returns.
"""

import dataclasses
import re
import typing

import keras
import numpy as np
import tensorflow as tf

from hydra_tf.bounds import BOUNDS
from hydra_tf.core.types import StepContext
from hydra_tf.objectives import OBJECTIVES
from hydra_tf.objectives.base import Replayed
from hydra_tf.objectives.validation import validation_measure
from hydra_tf.training.step.microbatches import StepOptions, accumulated_gradients
from hydra_tf.training.step.robust_step import robust_gradients

PIXELS, CLASSES = 8, 3
# A step that does not reach the border of the ball, so that the random start is not lost.
SETTINGS = {"epsilon": 0.2, "steps": 2, "step_size": 0.03}
MEASURES = {"vra_s", "vra_m", "vra_t"}
RANDOM = re.compile("Random|Normal|Multinomial|Gamma|Poisson|Binomial")


class RecordingNet(keras.Model):
    """A functional network that keeps the images of eager calls in `seen`."""

    def __call__(self, x, training=None, **kwargs):
        if tf.executing_eagerly():
            self.seen.append(np.asarray(x))
        return super().__call__(x, training=training, **kwargs)


def network(dtype=None, scale=1.0):
    """Return a network of two dense layers whose kernels are multiplied by `scale`."""
    rng = np.random.default_rng(0)
    images = keras.Input([PIXELS])
    hidden = keras.layers.Dense(6, activation="relu", dtype=dtype)(images)
    net = RecordingNet(images, keras.layers.Dense(CLASSES, dtype=dtype)(hidden))
    net.seen = []
    net.set_weights([scale * rng.normal(0, 0.5, weight.shape) for weight in net.weights])
    return net


def batch(samples=7):
    """Return images, some pixels of which are 0 or 1, and labels."""
    rng = np.random.default_rng(1)
    x = np.clip(rng.uniform(-0.2, 1.2, (samples, PIXELS)), 0, 1).astype("float32")
    return tf.constant(x), tf.constant(np.arange(samples) % CLASSES, tf.int32)


def step_context(seed=(1, 2), progress=1.0):
    return StepContext(tf.constant(seed, tf.int32), tf.constant(progress, tf.float32))


def variants(registry=OBJECTIVES):
    """Return a spec of every registered objective, and of every choice of its parameters."""
    specs = []
    for name in registry.names():
        hints = registry.parameters(name)
        base = {"name": name, **{key: SETTINGS[key] for key in hints if key in SETTINGS}}
        default = registry.build(base)
        specs.append(base)
        for key, hint in hints.items():
            choices = (True, False) if hint is bool else ()
            if typing.get_origin(hint) is typing.Literal:
                choices = typing.get_args(hint)
            others = [value for value in choices if value != getattr(default, key)]
            specs += [{**base, key: value} for value in others]
    return [spec for spec in specs if _is_valid(registry, spec)]


def _is_valid(registry, spec):
    """Return whether the objective accepts a spec; the default parameters must be accepted."""
    if set(spec) <= {"name", *SETTINGS}:
        return True
    try:
        registry.build(spec)
    except ValueError:
        return False
    return True


def describe(spec):
    """Return the id of a spec in a test report."""
    choices = [f"{key}={value}" for key, value in spec.items() if key not in {"name", *SETTINGS}]
    return ":".join([spec["name"], *choices])


def first_perturbed(objective, x):
    """Return the images that a replayed objective trains on first; None for the others."""
    if not isinstance(objective, Replayed):
        return None
    return objective.start_batch(x, tf.sin(100 * x))  # the same for a sample in any slice


def terms_and_gradients(objective, net, x, y, context, microbatches=1):
    """Return the loss terms and gradients as a training step computes them."""
    variables = net.trainable_variables

    def slice_gradients(x, y, perturbed, context, share):
        return robust_gradients(
            net, objective, variables, x, y, context, lambda loss: loss * share, perturbed
        )

    options = StepOptions(microbatches=microbatches)
    perturbed = first_perturbed(objective, x)
    return accumulated_gradients(slice_gradients, x, y, perturbed, context, options)


def arrays_of(terms, gradients=()):
    """Return what a step computes as arrays."""
    tensors = [terms.loss, terms.logits, terms.adversarial_logits, *gradients]
    tensors += [terms.components[key] for key in sorted(terms.components)]
    return [np.asarray(tensor) for tensor in tensors if tensor is not None]


def _equal(arrays, others):
    return len(arrays) == len(others) and all(map(np.array_equal, arrays, others))


def declared_ball(objective):
    """Return norm and epsilon of the declared attack, or None if it has none."""
    attack = getattr(validation_measure(objective.validation_attack()), "attack", None)
    norm = getattr(attack, "norm", None)
    return None if norm is None else (norm, attack.epsilon)


def check_images_in_ball(objective):
    """Check that the model sees only images in the declared ball and in [0, 1].

    Returns:
        Whether the objective declares a ball.
    """
    ball = declared_ball(objective)
    if ball is None:
        return False
    norm, epsilon = ball
    x, y = batch()
    for progress in (0.2, 1.0):
        net = network()
        context = step_context(progress=progress)
        terms, gradients = terms_and_gradients(objective, net, x, y, context)
        assert terms.logits.shape == (len(x), CLASSES)
        seen = list(net.seen)
        if isinstance(objective, Replayed):
            perturbed = first_perturbed(objective, x)
            seen += [perturbed, objective.update_perturbed(x, perturbed, gradients[-1])]
        for images in np.concatenate(seen).reshape(-1, *x.shape):  # calls of one or more batches
            change = np.abs(images - x.numpy())
            lengths = change.max(1) if norm == "linf" else np.sqrt((change**2).sum(1))
            assert lengths.max() <= epsilon * (1 + 1e-5) + 1e-6, (
                f"{objective} calls the model on images at distance {lengths.max():g}, outside "
                f"its {norm} ball of radius {epsilon:g}"
            )
            assert images.min() >= -1e-6 and images.max() <= 1 + 1e-6, (
                f"{objective} calls the model on images outside [0, 1]"
            )
    return True


def random_operations(objective):
    """Return the names of the random operations in the graph of an objective."""
    net, (x, y) = network(), batch(2)

    @tf.function(autograph=False)
    def loss(x, y, seed, progress):
        context = StepContext(seed, progress)
        perturbed = first_perturbed(objective, x)
        extra = () if perturbed is None else (perturbed,)
        return objective(net, x, y, context, *extra).loss

    context = step_context()
    graph = loss.get_concrete_function(x, y, context.seed, context.progress).graph.as_graph_def()
    functions = [node.op for function in graph.library.function for node in function.node_def]
    return {op for op in [*(node.op for node in graph.node), *functions] if RANDOM.search(op)}


def check_random_numbers(objective):
    """Check that the step's seed, and nothing else, decides all random numbers."""

    def observe(seed):
        net, (x, y) = network(), batch()
        result = terms_and_gradients(objective, net, x, y, step_context(seed))
        return [*net.seen, *arrays_of(*result)]

    tf.random.set_seed(1)
    first = observe((4, 2))
    again = observe((4, 2))  # the global generator has advanced
    tf.random.set_seed(2)
    assert _equal(first, again) and _equal(first, observe((4, 2))), (
        f"{objective} gives different results for the same seed"
    )
    operations = random_operations(objective)
    stateful = {op for op in operations if not op.startswith("Stateless")}
    assert not stateful, f"{objective} draws stateful random numbers with {sorted(stateful)}"
    if operations:
        # A few seeds, since two of them may choose the same sample.
        changed = any(not _equal(first, observe((seed, 2))) for seed in range(5, 13))
        assert changed, f"{objective} ignores the seed of the step"


def check_finite(objective):
    """Check loss and gradients on an ordinary, a constant and a very confident network."""
    for scale in (1.0, 0.0, 100.0):
        x, y = batch()
        net = network(scale=scale)
        terms, gradients = terms_and_gradients(objective, net, x, y, step_context())
        for array in arrays_of(terms, gradients):
            assert np.isfinite(array).all(), (
                f"{objective} is not finite on a network of scale {scale:g}"
            )


def check_microbatches(objective):
    """Check that microbatches, empty ones included, give the gradients of the whole batch."""
    for samples, microbatches in ((7, 3), (2, 5)):
        x, y = batch(samples)
        whole, parts = (
            terms_and_gradients(objective, network(), x, y, step_context(), count)
            for count in (1, microbatches)
        )
        _check_close(whole, parts, f"{objective} in {microbatches} microbatches of {samples}")


def check_replicas(objective, strategy, sizes=((4, 3), (6, 1))):
    """Check that two replicas, of unequal batches, give the gradients of the whole batch."""
    for counts in sizes:
        x, y = batch(sum(counts))
        starts = np.cumsum([0, *counts])
        with strategy.scope():
            net = network()

        def rows(values, starts=starts, counts=counts):
            return strategy.experimental_distribute_values_from_function(
                lambda replica: values[starts[replica.replica_id_in_sync_group] :][
                    : counts[replica.replica_id_in_sync_group]
                ]
            )

        def step(x, y, net=net):
            terms, gradients = terms_and_gradients(objective, net, x, y, step_context())
            return terms.loss, gradients[: len(net.trainable_variables)]

        _, gradients = tf.function(lambda x, y, step=step: strategy.run(step, args=(x, y)))(
            rows(x), rows(y)
        )
        sums = [strategy.reduce("SUM", gradient, axis=None) for gradient in gradients]
        terms, gradients = terms_and_gradients(objective, network(), x, y, step_context())
        whole = gradients[: len(sums)]
        _check_close((terms, whole), (terms, sums), f"{objective} on replicas of {counts}")


def _check_close(whole, parts, subject):
    for one, other in zip(arrays_of(*whole), arrays_of(*parts), strict=True):
        error = np.abs(one - other).max()
        size = max(1e-3, np.abs(one).max())
        assert error <= 1e-4 * size, f"{subject} differs from the whole batch by {error:g}"


def check_ramp_ends(objective):
    """Check that at the end of a phase a ramp no longer matters.

    The loss is compared only if it has no named components, whose weights may still change.

    Returns:
        Whether the objective has a ramp.
    """
    if not hasattr(objective, "ramp"):
        return False
    results = []
    for ramp in (0.0, 0.3, 1.0):
        net, (x, y) = network(), batch()
        terms = dataclasses.replace(objective, ramp=ramp)(net, x, y, step_context(progress=1.0))
        if terms.components:
            terms = dataclasses.replace(terms, loss=terms.logits)
        results.append([*net.seen, *arrays_of(terms)])
        assert _equal(results[0], results[-1]), (
            f"{objective} does not reach its full epsilon with ramp={ramp:g}"
        )
    return True


def check_mixed_precision(objective, policy):
    """Check that half precision has a finite float32 loss, or is refused in one sentence."""
    x, y = batch()
    refusal = None
    try:
        terms, gradients = terms_and_gradients(objective, network(policy), x, y, step_context())
    except (ValueError, TypeError, NotImplementedError) as error:
        refusal = str(error)
    if refusal is not None:
        is_sentence = re.fullmatch(r"[A-Z\"'].*\.", refusal)
        assert is_sentence, f"{objective} refuses {policy} without a sentence: {refusal}"
        return
    assert terms.loss.dtype == tf.float32, f"{objective} has a loss of {terms.loss.dtype.name}"
    for array in arrays_of(terms, gradients):
        assert np.isfinite(array.astype("float32")).all(), f"{objective} is not finite in {policy}"


def check_declarations(objective):
    """Check that validation measure and certificate are of a known form."""
    validation_measure(objective.validation_attack())
    certificate = objective.certificate()
    if certificate is None:
        return
    radius = "sigma" if certificate.get("method") == "smoothing" else "epsilon"
    assert set(certificate) == {"measure", "method", radius}, (
        f"the certificate of {objective} has the keys {sorted(certificate)}"
    )
    assert certificate["measure"] in MEASURES, f"{objective} has an unknown measure"
    assert certificate["method"] in {"smoothing", *BOUNDS.names()}, (
        f"{objective} has an unknown method"
    )
    assert certificate[radius] == getattr(objective, radius)
