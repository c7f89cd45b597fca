"""The layer calls of a network that has bounds, in order."""

from __future__ import annotations

from hydra_tf.bounds.rules.registry import require_rule
from hydra_tf.checks.probabilities import probability_layer
from hydra_tf.core.layer_calls import Call, read_calls
from hydra_tf.core.lazy import keras


def list_calls(net: keras.Model) -> list[Call]:
    """Return the layer calls of a network and its nested models, each after its sources.

    The connections are read from the model's public configuration.

    Args:
        net: a built functional or Sequential model of one input and one output.

    Raises:
        ValueError: for several inputs or outputs, a network that outputs probabilities, and a
            layer without a rule.

    Example:
        >>> net = keras.Sequential([keras.Input([2]), keras.layers.Dense(3)])
        >>> [(call.layer.name[:5], call.sources) for call in list_calls(net)]
        [('dense', (0,))]
    """
    if len(net.inputs) != 1 or len(net.outputs) != 1:
        raise ValueError(
            f"Bounds need a model of one input and one output; {net.name} has "
            f"{len(net.inputs)} and {len(net.outputs)}."
        )
    last = probability_layer(net)
    if last is not None:
        raise ValueError(
            f'Layer "{last.name}" turns logits into probabilities, but bounds are on logits; '
            "remove the softmax or sigmoid, or give the layer activation=None."
        )
    found = read_calls(net, require_rule)
    # Later calls do not affect the output.
    return found.calls[: found.outputs[0]]
