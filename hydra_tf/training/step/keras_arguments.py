"""Arguments of Keras's methods that a robust model cannot use, refused before any work."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import keras
import tensorflow as tf


def refuse_weights(method: str, **weights: Any) -> None:
    """Refuse weights of classes and samples.

    Args:
        method: name of the method that was called.
        **weights: the arguments by name; None if left out.

    Raises:
        ValueError: for the first that was given.

    Example:
        >>> refuse_weights("fit", class_weight=None)
    """
    for name, value in weights.items():
        if value is not None:
            raise ValueError(
                f"RobustModel.{method} does not support {name}, because objectives weight all "
                "images alike; leave it out, and repeat the images that count more, or pass an "
                "objective of your own, a callable (model, x, y, context) -> LossTerms."
            )


def refuse_losses(**losses: Any) -> None:
    """Refuse losses of Keras, whose place the objective takes.

    Args:
        **losses: the arguments of `compile` by name; None if left out.

    Raises:
        ValueError: for the first that was given.

    Example:
        >>> refuse_losses(loss=None)
    """
    for name, value in losses.items():
        if value is not None:
            raise ValueError(
                f"RobustModel.compile does not take {name}, because the model trains with its "
                'objective; pass that instead, as in RobustModel(net, objective="trades").'
            )


def refuse_jit(jit_compile: Any) -> None:
    """Refuse XLA, which Keras would switch off again for a robust model.

    Raises:
        ValueError: for True.

    Example:
        >>> refuse_jit("auto")
    """
    if jit_compile is True:
        raise ValueError(
            "RobustModel.compile does not support jit_compile=True, because XLA cannot compile the "
            "selection of masks; leave it out, or train with hydra_tf.training.train(..., "
            "options=LoopOptions(step=StepOptions(jit_compile=True)))."
        )


def check_fit_arguments(x: Any, **arguments: Any) -> None:
    """Refuse arguments of `fit` that are not supported, or that Keras would ignore.

    Args:
        x: training data.
        **arguments: the other arguments of `fit`; None if left out.

    Raises:
        ValueError: for the first that would have no effect.

    Example:
        >>> check_fit_arguments(tf.zeros([2, 3]), batch_size=2)
    """
    given = {name: value for name, value in arguments.items() if value is not None}
    if given.get("validation_freq") == 1:  # the default
        del given["validation_freq"]
    refuse_weights("fit", **{name: given.get(name) for name in ("class_weight", "sample_weight")})
    validation, splits = given.get("validation_data"), bool(given.get("validation_split"))
    inputs = validation
    if isinstance(validation, tuple | list):
        inputs, _, weights = keras.utils.unpack_x_y_sample_weight(tuple(validation))
        refuse_weights("fit", validation_sample_weight=weights)
    reasons: dict[str, str] = {}
    if _in_batches(x):
        if validation is None or _in_batches(inputs) or "validation_batch_size" in given:
            reasons["batch_size"] = "these data come in batches already"
        if given.get("shuffle") and not isinstance(x, keras.utils.PyDataset):
            reasons["shuffle"] = "these data come in an order of their own"
    if validation is not None and splits:
        reasons["validation_split"] = "validation_data take its place"
    if validation is not None and _in_batches(inputs):
        reasons["validation_batch_size"] = "the validation data come in batches already"
    if validation is None and not splits:
        names = ("validation_steps", "validation_batch_size", "validation_freq")
        reasons |= dict.fromkeys(names, "there are no validation data")
    for name, reason in reasons.items():
        if name in given:
            raise ValueError(_ignored(f"fit({name}={given[name]!r})", reason))


def check_batch_size(method: str, x: Any, batch_size: int | None) -> None:
    """Refuse a batch size of data that come in batches already.

    Raises:
        ValueError: for a batch size that Keras would ignore.

    Example:
        >>> check_batch_size("evaluate", tf.zeros([2, 3]), 2)
    """
    if batch_size is not None and _in_batches(x):
        reason = "these data come in batches already"
        raise ValueError(_ignored(f"{method}(batch_size={batch_size!r})", reason))


def _ignored(argument: str, reason: str) -> str:
    return f"{argument} would be ignored, because {reason}; leave it out."


def _in_batches(x: Any) -> bool:
    """Return whether data come in batches: a dataset or a generator, not an array."""
    return isinstance(x, tf.data.Dataset | keras.utils.PyDataset | Iterator)
