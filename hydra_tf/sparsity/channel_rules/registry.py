"""The table of channel rules: how layers pass channels on.

The channels of a tensor are the positions of its last axis. A rule takes a layer and the shapes
[batch, ...] that the layer is called on, and returns a :class:`PerChannel` or a :class:`Mixing`,
or None for settings that it cannot follow. Channels next to a layer without a rule stay.

Every module of this package is loaded at the first lookup, and only then are Keras classes looked
up by name, so that registering a rule does not load TensorFlow.
"""

from __future__ import annotations

import functools
import importlib
import pkgutil
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray

from hydra_tf.core.keras_classes import resolve
from hydra_tf.core.lazy import keras

Shapes: TypeAlias = tuple[tuple[int | None, ...], ...]
Positions: TypeAlias = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class ChannelWeight:
    """A weight with an axis that has one position for each channel of an output.

    Args:
        name: attribute of the layer, such as ``"gamma"``.
        axis: the axis.
        outputs: output channels that belong to the positions of the axis; None if both agree.
        is_kernel: whether it is a kernel, as that of depthwise convolutions, which makes channels.
    """

    name: str
    axis: int = 0
    outputs: Positions | None = None
    is_kernel: bool = False


@dataclass(frozen=True, eq=False)
class PerChannel:
    """Each output channel depends on one channel of each source, by the same function everywhere.

    Args:
        origins: for each source, the channel that each output channel depends on, -1 for none.
        weights: weights with a position per channel.
        ignored: function that reads the weights and returns booleans of the output channels that
            depend on no input, because their weights are zero; None if all depend.
        resized: entry of the layer's config that has the number of output channels as its last
            number, such as ``"target_shape"``.
        pads: whether the layer only puts zeros around its input.
    """

    origins: tuple[Positions, ...]
    weights: tuple[ChannelWeight, ...] = ()
    ignored: Callable[[], NDArray[np.bool_]] | None = None
    resized: str | None = None
    pads: bool = False


@dataclass(frozen=True, eq=False)
class Mixing:
    """A kernel: each output channel is a sum over all input channels of its group.

    Args:
        in_axis: axis of the kernel with the input channels of one group.
        out_axis: axis of the kernel with the output channels.
        size_field: entry of the layer's config with the number of output channels.
        groups: number of groups.
        uniform: whether inputs that are constant in space give outputs that are, as they do
            without padding.
        elementwise: whether the activation acts on each number alone; otherwise the output
            channels must stay.
    """

    in_axis: int
    out_axis: int
    size_field: str
    groups: int = 1
    uniform: bool = True
    elementwise: bool = True


ChannelRule: TypeAlias = Callable[["keras.layers.Layer", Shapes], PerChannel | Mixing | None]
AnyRule = TypeVar("AnyRule", bound=ChannelRule)

RULES: dict[str | type, ChannelRule] = {}


def register_channel_rule(*targets: str | type) -> Callable[[AnyRule], AnyRule]:
    """Return a decorator that registers a rule for layers or operations.

    Subclasses do not inherit a rule, but masked layers use the rule of the layer that they mask.

    Args:
        *targets: as in :func:`hydra_tf.core.keras_classes.resolve`.

    Raises:
        ValueError: for a target that has a rule already.

    Example:
        >>> from hydra_tf.sparsity.channel_rules.unchanged import unchanged
        >>> class Marker(keras.layers.Layer):
        ...     pass
        >>> register_channel_rule(Marker)(unchanged) is unchanged
        True
        >>> del RULES[Marker]
    """

    def add(rule: AnyRule) -> AnyRule:
        for target in targets:
            if target in RULES:
                raise ValueError(f"The channel rule {target} is already registered.")
        RULES.update(dict.fromkeys(targets, rule))
        return rule

    return add


def apply_rule(layer: Any, shapes: Shapes) -> PerChannel | Mixing | None:
    """Return how a layer or operation passes channels on, None if that cannot be followed.

    Args:
        layer: a layer or operation.
        shapes: shapes of its inputs, batch axis first.

    Example:
        >>> layer = keras.layers.ReLU()
        >>> apply_rule(layer, ((None, 8, 3),)).origins[0].tolist()
        [0, 1, 2]
        >>> apply_rule(keras.layers.Softmax(), ((None, 3),)) is None
        True
    """
    _load_rules()
    # A masked class comes directly before the class that it masks.
    masked = hasattr(layer, "masked_kernel")
    kinds = type(layer).__mro__ if masked else type(layer).__mro__[:1]
    known = all(len(shape) > 1 and shape[-1] for shape in shapes)
    for kind in kinds if known else ():
        for target, rule in RULES.items():
            if kind is resolve(target):
                return rule(layer, shapes)
    return None


def supported_layers() -> str:
    """Return the names of the layers and operations that have a rule, in one phrase.

    Example:
        >>> "DepthwiseConv2D" in supported_layers()
        True
    """
    _load_rules()
    names = {
        target.partition(".")[2] if isinstance(target, str) else target.__name__ for target in RULES
    }
    return ", ".join(sorted(names))


@functools.cache
def _load_rules() -> None:
    """Import every module of this package, so that its rules are registered."""
    package = importlib.import_module(__package__ or "hydra_tf.sparsity.channel_rules")
    for module in pkgutil.iter_modules(package.__path__):
        importlib.import_module(f"{package.__name__}.{module.name}")
