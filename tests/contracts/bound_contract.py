"""What holds for every bound method on every registered layer rule.

The networks are generated from the rule table, so that a new rule is tested without an entry
in a list. What theory does not give is not checked: neither CROWN-IBP nor CROWN is at least as
tight as interval bound propagation on every network.
"""

import inspect

import keras
import numpy as np
import tensorflow as tf
from keras import layers

import hydra_tf
from hydra_tf import bounds
from hydra_tf.bounds.layer_calls import list_calls
from hydra_tf.bounds.layer_graph import LayerGraph
from hydra_tf.bounds.rules import registry
from hydra_tf.bounds.rules.registry import require_rule
from hydra_tf.core.keras_classes import resolve
from hydra_tf.layers import MASKED
from tests.bounds.rule_examples import ARGUMENTS, EXAMPLES

CLASSES = 3
SHAPES = ((4, 4, 2), (6, 2), (3, 3, 3, 2))


def targets():
    """Return the targets of all registered rules."""
    require_rule(layers.Dense(1))  # loads the rules
    return tuple(registry.RULES)


def networks(target, rectified=True, last=False):
    """Return small networks that contain a rule, with random weights.

    Args:
        target: a registered target of the rule.
        rectified: whether a ReLU follows, so that bounds are relaxed.
        last: whether to return only the network of the last construction.

    Raises:
        AssertionError: if no network can be generated.
    """
    constructions = _constructions(target)
    nets = [_network(make, rectified) for make in constructions[-1 if last else 0 :]]
    nets = [net for net in nets if net is not None and _contains(net, target)]
    if not nets:
        raise AssertionError(
            f"No network can be generated for the bound rule {target}; add a construction to "
            "tests/bounds/rule_examples.py."
        )
    if resolve(target) in MASKED and not last:
        nets.append(hydra_tf.mask_model(nets[0]))
        hydra_tf.set_density(nets[-1], 0.5)
    return nets


def _constructions(target):
    """Return functions that make the layer: by inspection, and from the table of examples."""
    examples = list(EXAMPLES.get(target, ()))
    if isinstance(target, str) and not target.startswith("layers."):
        room, _, name = target.partition(".")
        return [lambda: getattr(getattr(keras, room), name), *examples]
    kind = resolve(target)
    if kind is layers.Activation:
        activations = tuple(registry.ACTIVATIONS)
        return [lambda name=name: layers.Activation(name) for name in activations] + examples
    parameters = inspect.signature(kind.__init__).parameters.values()
    required = [
        parameter.name
        for parameter in list(parameters)[1:]
        if parameter.default is parameter.empty
        and parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
    ]
    if not set(required) <= set(ARGUMENTS):
        return examples
    return [lambda: kind(**{name: ARGUMENTS[name] for name in required}), *examples]


def _network(make, rectified):
    """Return a network around a layer, for the first shape and number of inputs that it takes."""
    for shape in SHAPES:
        for wrap in (lambda layer, a, b: layer(a), _of_two, lambda layer, a, b: layer([a, b])):
            images = keras.Input(shape)
            a, b = layers.Dense(3)(images), layers.Dense(3)(images)
            try:
                x = wrap(make(), a, b)
            except (TypeError, ValueError):
                continue
            x = layers.Flatten()(layers.ReLU()(layers.Dense(3)(x)) if rectified else x)
            return _randomised(keras.Model(images, layers.Dense(CLASSES)(x)))
    return None


def _of_two(layer, a, b):
    return layer(a, b)


def is_affine(net):
    """Return whether a network has no nonlinear node."""
    return all(node.affine for node in LayerGraph.from_calls(list_calls(net)).nodes)


def _contains(net, target):
    return any(type(call.layer) is resolve(target) for call in list_calls(net))


def _randomised(net):
    rng = np.random.default_rng(0)
    for weight in net.weights:
        if weight.name in ("gamma", "moving_variance"):
            weight.assign(rng.uniform(0.3, 1.5, weight.shape))
        elif weight.name in ("kernel", "bias", "beta", "moving_mean"):
            weight.assign(rng.normal(0, 0.6, weight.shape))
    return net


def batch_of(net):
    """Return two images, one of them of extreme pixels, and labels."""
    x = np.random.default_rng(1).random((2, *net.input_shape[1:])).astype("float32")
    x[1] = x[1] > 0.5
    return x, np.array([0, 2])


def points_in_ball(net, x, y, epsilon, count=24):
    """Return points of balls, [count + classes, batch, ...].

    They are the centres, random points and corners, and the corners that the gradient of each
    margin points away from.
    """
    rng = np.random.default_rng(2)
    directions = rng.uniform(-1, 1, (count + CLASSES, *x.shape)).astype("float32")
    directions[count // 2 :] = np.sign(directions[count // 2 :])
    directions[0] = 0
    centres = tf.constant(x)
    with tf.GradientTape(persistent=True) as tape:
        tape.watch(centres)
        logits = net(centres)
        margins = tf.gather(logits, y, batch_dims=1)[:, None] - logits
        columns = tf.unstack(tf.reduce_sum(margins, 0))
    for i, column in enumerate(columns):
        directions[count + i] = -np.sign(tape.gradient(column, centres))
    return np.clip(x + np.float32(epsilon) * directions, 0, 1)


def margins_of(logits, y):
    """Return the logit of the label minus each logit."""
    return logits[..., np.arange(len(y)), y][..., None] - logits


def check_contains_outputs(method, net, epsilon=0.1):
    """Check that no float32 output of a point in the ball is outside the bounds."""
    x, y = batch_of(net)
    points = points_in_ball(net, x, y, epsilon)
    logits = net(points.reshape(-1, *x.shape[1:])).numpy().reshape(len(points), len(x), CLASSES)
    low = bounds.margin_lower_bound(net, x, y, epsilon, method).numpy()
    slack = (margins_of(logits, y) - low).min()
    assert slack >= 0, f"a margin is {-slack:g} below the bound of {method}"
    box = bounds.bound(net, x, epsilon, method)
    slack = min((logits - box.lower.numpy()).min(), (box.upper.numpy() - logits).min())
    assert slack >= 0, f"a logit is {-slack:g} outside the bounds of {method}"


def check_lower_not_above_upper(method, net, epsilon=0.1):
    """Check that lower bounds on logits are finite and not above upper bounds."""
    box = bounds.bound(net, batch_of(net)[0], epsilon, method)
    assert np.isfinite(box.lower).all(), f"{method} has infinite or undefined bounds"
    assert (box.lower.numpy() <= box.upper.numpy()).all(), f"a lower bound of {method} is above"


def check_exact_without_radius(method, net):
    """Check that the bounds of a ball of radius 0 are the margins."""
    x, y = batch_of(net)
    low = bounds.margin_lower_bound(net, x, y, 0.0, method, rounding=False).numpy()
    margins = margins_of(net(x).numpy(), y)
    error = np.abs(low - margins).max()
    assert error <= 1e-4 * max(1, np.abs(margins).max()), f"{method} is off by {error:g}"


def check_exact_on_affine_networks(method, net, epsilon=0.1):
    """Check that bounds of a network without nonlinear nodes are attained at a corner."""
    x, y = batch_of(net)
    low = bounds.margin_lower_bound(net, x, y, epsilon, method, rounding=False).numpy()
    for sample, (image, label) in enumerate(zip(x, y, strict=True)):
        point = tf.constant(image[None])
        with tf.GradientTape(persistent=True) as tape:
            tape.watch(point)
            logits = net(point)[0]
            margins = logits[label] - logits
        # Vectorized, it is wrong in the third digit with TensorFlow 2.20.
        rows = tape.jacobian(margins, point, experimental_use_pfor=False)
        rows = rows.numpy().reshape(CLASSES, *image.shape)
        corners = np.clip(image - np.float32(epsilon) * np.sign(rows), 0, 1)
        logits = net(corners).numpy()
        attained = logits[:, label] - np.diagonal(logits)
        error = np.abs(low[sample] - attained).max()
        assert error <= 1e-4 * max(1, np.abs(attained).max()), f"{method} is off by {error:g}"


def check_tightest(method, methods, net, epsilon=0.1):
    """Check that a combination of methods is nowhere below any of them."""
    x, y = batch_of(net)
    best = bounds.margin_lower_bound(net, x, y, epsilon, method).numpy()
    for other in methods:
        low = bounds.margin_lower_bound(net, x, y, epsilon, other).numpy()
        worse = (low - best).max()
        assert worse <= 1e-5 * max(1, np.abs(low).max()), f"{method} is {worse:g} below {other}"


def check_monotonic_intervals(net, method="ibp"):
    """Check that interval bounds of a ball contain those of a smaller ball."""
    x, _ = batch_of(net)
    inner, outer = (bounds.bound(net, x, epsilon, method) for epsilon in (0.05, 0.1))
    assert (outer.lower.numpy() <= inner.lower.numpy()).all(), f"{method} is not monotonic"
    assert (outer.upper.numpy() >= inner.upper.numpy()).all(), f"{method} is not monotonic"
