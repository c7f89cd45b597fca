"""The choice of one output of a model."""

from __future__ import annotations

from typing import Any

import keras

from hydra_tf.core.keras_models import is_graph


def select_output(model: keras.Model, output: str | int) -> keras.Model:
    """Return a model with one of the outputs of a model; layers and weights are shared.

    Args:
        model: a functional model with several outputs, or outputs in a dictionary.
        output: key of the dictionary, number of the output, or name of the layer that makes it.

    Raises:
        TypeError: for a subclassed model.
        ValueError: for an unknown output.

    Example:
        >>> x = keras.Input([2])
        >>> outputs = {"logits": keras.layers.Dense(3)(x), "features": x}
        >>> select_output(keras.Model(x, outputs), "logits").output_shape
        (None, 3)
    """
    if not is_graph(model):
        raise TypeError(
            f"{type(model).__name__} is a subclassed model, whose outputs cannot be chosen; return "
            "the logits only, or build it with the functional API."
        )
    found: dict[str | int, Any] = dict(enumerate(keras.tree.flatten(model.output)))
    if isinstance(model.output, dict):
        found = {**found, **model.output}
    found = {**dict(zip(getattr(model, "output_names", ()), model.outputs, strict=False)), **found}
    if output not in found:
        names = ", ".join(repr(name) for name in found)
        raise ValueError(f"The model has no output {output!r}; its outputs are {names}.")
    return keras.Model(model.input, found[output], name=model.name)
