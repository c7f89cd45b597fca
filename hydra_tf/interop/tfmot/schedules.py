"""TFMOT's pruning schedules in the configs of layers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import keras
import tensorflow as tf

from hydra_tf.interop.tfmot.importing import import_tfmot

# Maps a step, a scalar tensor, to (whether to choose the mask again, share of pruned weights).
PruningSchedule: TypeAlias = Callable[[tf.Tensor], tuple[tf.Tensor, tf.Tensor]]

_OF_TFMOT = ("ConstantSparsity", "PolynomialDecay")


def require_schedule(schedule: Any) -> None:
    """Check that something is a pruning schedule.

    Args:
        schedule: a `PruningSchedule` of TFMOT, or another object that is called in the same way
            and has a method `get_config`.

    Raises:
        TypeError: for anything else.

    Example:
        >>> require_schedule(import_tfmot().sparsity.keras.ConstantSparsity(0.5, 0))
    """
    if isinstance(schedule, type) or not callable(schedule) or not hasattr(schedule, "get_config"):
        raise TypeError(
            "pruning_schedule must be a PruningSchedule of TFMOT, such as "
            f"PolynomialDecay(0.0, 0.9, begin_step=0, end_step=1000), not {schedule!r}."
        )


def schedule_config(schedule: Any) -> dict[str, Any]:
    """Return the class and the config of a schedule.

    Args:
        schedule: a pruning schedule.

    Example:
        >>> schedule_config(import_tfmot().sparsity.keras.ConstantSparsity(0.5, 0))["class_name"]
        'ConstantSparsity'
    """
    config = schedule.get_config()
    # TFMOT's own schedules return both in this form, those of users may return the config alone.
    if set(config) == {"class_name", "config"}:
        return dict(config)
    return {"class_name": keras.saving.get_registered_name(type(schedule)), "config": dict(config)}


def schedule_from_config(
    config: Mapping[str, Any], custom_objects: Mapping[str, Any] | None = None
) -> Any:
    """Return the schedule that :func:`schedule_config` describes.

    Args:
        config: class and config of a schedule.
        custom_objects: classes of schedules by name, beside those that are registered with Keras.

    Raises:
        ValueError: for a class that is neither TFMOT's nor registered.

    Example:
        >>> schedule = import_tfmot().sparsity.keras.ConstantSparsity(0.5, 0)
        >>> schedule_from_config(schedule_config(schedule)).target_sparsity
        0.5
    """
    name = str(config["class_name"])
    found = keras.saving.get_registered_object(name, custom_objects=custom_objects)
    if found is None and name in _OF_TFMOT:
        found = getattr(import_tfmot().sparsity.keras, name)
    if found is None:
        raise ValueError(
            f'The pruning schedule "{name}" is not known; decorate its class with '
            "keras.saving.register_keras_serializable(), or pass it in custom_objects."
        )
    return found.from_config(config["config"])
