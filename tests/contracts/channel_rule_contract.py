"""What holds for every channel rule: outputs depend on the channels that the rule names.

Layers are made from the table of rules, so that a new rule is tested without an entry in a list.
"""

import inspect

import keras
import numpy as np

from hydra_tf.core.keras_classes import resolve
from hydra_tf.export.channel_values import call_layer, summed_kernel
from hydra_tf.sparsity.channel_rules import registry
from tests.bounds.rule_examples import ARGUMENTS

SHAPES = ((4, 4, 4), (6, 4), (4, 4, 4, 4), (4,))
# Constructor arguments in addition to those that bound rules need.
MORE = {"target_shape": (-1, 4), "padding": 1, "cropping": 1, "n": 3, "name": None}


def targets():
    """Return the targets of all registered rules."""
    registry.supported_layers()  # loads the rules
    return tuple(registry.RULES)


def check_channel_rule(target):
    """Check one rule: changing a channel of an input changes the outputs that it names, no others.

    Args:
        target: a registered target.

    Raises:
        AssertionError: if the layer cannot be constructed or called, or the rule is wrong.
    """
    layer, shape, count = _example(target)
    rng = np.random.default_rng(0)
    inputs = [rng.normal(size=(1, *shape)).astype("float32") + 2 for _ in range(count)]
    for weight in getattr(layer, "weights", []):
        if "seed" not in weight.path:
            weight.assign(rng.uniform(0.5, 1.0, weight.shape))
    rule = registry.apply_rule(layer, tuple((None, *shape) for _ in inputs))
    assert rule is not None, f"The rule of {target} does not follow {shape}."
    before = np.asarray(call_layer(layer, inputs))
    for source in range(count):
        for channel in range(shape[-1]):
            changed = [np.copy(x) for x in inputs]
            changed[source][..., channel] *= 9
            after = np.asarray(call_layer(layer, changed))
            differs = np.any((after != before).reshape(-1, before.shape[-1]), axis=0)
            expected = _readers(layer, rule, source, channel)
            np.testing.assert_array_equal(differs, expected, str(target))


def _readers(layer, rule, source, channel):
    """Return which outputs depend on a channel according to a rule."""
    if isinstance(rule, registry.Mixing):
        return summed_kernel(layer, rule)[1][channel]
    return rule.origins[source] == channel


def _example(target):
    """Return a layer or function of a target, the shape of an image for it, and its inputs."""
    for shape in SHAPES:
        for count in (1, 2):
            layer = _construct(target)
            try:
                x = [keras.Input(shape) for _ in range(count)]
                net = keras.Model(x, call_layer(layer, x))
            except (TypeError, ValueError, AttributeError, IndexError):
                continue
            return net.operations[-1], shape, count
    raise AssertionError(f"No layer can be constructed for the channel rule {target}.")


def _construct(target):
    if isinstance(target, str) and not target.startswith("layers."):
        room, _, name = target.partition(".")
        return getattr(getattr(keras, room), name)
    kind = resolve(target)
    known = {**ARGUMENTS, **MORE}
    required = [
        name
        for name, parameter in list(inspect.signature(kind.__init__).parameters.items())[1:]
        if parameter.default is parameter.empty
        and parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
    ]
    return kind(**{name: known[name] for name in required})
