"""Groups of channels that depend on one another, as in DepGraph (Fang et al., CVPR 2023).

Layers whose outputs are added share their channels: to remove a channel, its filter must be removed
from each of them. A group has all kernels that make or read such channels.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from hydra_tf.core.lazy import keras
from hydra_tf.sparsity.channel_flow import ChannelAxis, ChannelFlow, components, follow_channels
from hydra_tf.sparsity.channel_rules.registry import Positions


@dataclass(frozen=True, eq=False)
class KernelAxis:
    """An axis of a kernel on which the channels of a group lie.

    Args:
        layer: the layer of the kernel, such as a masked one.
        axis: the axis of ``layer.kernel``.
        channels: for each position of the axis, the number of the channel in the group, from 0 to
            ``size - 1``; -1 for positions with channels of other groups. One channel may be at
            several positions, as after Flatten, and in each group of a grouped convolution.

    Example:
        >>> images = keras.Input([2, 1, 3])
        >>> x = keras.layers.Flatten()(keras.layers.Conv2D(2, 1)(images))
        >>> (reader,) = channel_groups(keras.Model(images, keras.layers.Dense(5)(x)))[1].consumers
        >>> reader.axis, reader.channels.tolist()  # two pixels of two channels
        (0, [0, 1, 0, 1])
    """

    layer: Any
    axis: int
    channels: Positions


@dataclass(frozen=True, eq=False)
class ChannelGroup:
    """Channels that are made together, with all kernels that make or read them.

    Args:
        size: number of channels.
        producers: axes of kernels whose slices make the channels. Pruning all slices of a channel
            makes it constant.
        consumers: axes of kernels that sum over the channels.
        removable: booleans [size], whether a channel may be removed: no input or output of the
            model has it, and no layer whose channels cannot be followed.
        is_input: whether an input of the model has channels of the group.
        is_output: whether an output of the model has channels of the group.

    Example:
        >>> layers = [keras.Input([3]), keras.layers.Dense(4), keras.layers.Dense(2)]
        >>> first, hidden, last = channel_groups(keras.Sequential(layers))
        >>> hidden.size, int(hidden.removable.sum()), first.is_input, last.is_output
        (4, 4, True, True)
    """

    size: int
    producers: tuple[KernelAxis, ...]
    consumers: tuple[KernelAxis, ...]
    removable: np.ndarray[Any, np.dtype[np.bool_]]
    is_input: bool
    is_output: bool


def channel_groups(model: keras.Model) -> list[ChannelGroup]:
    """Return the groups of channels of a model, in the order in which they are made.

    Channels are the positions of the last axis. They are tied by residual additions and other
    elementwise merges, depthwise and grouped convolutions (the first channels of all groups are one
    channel, and so on), and layers that are called several times. Concatenated channels stay in
    their own groups. A layer that cannot be followed, such as attention, softmax or a layer of your
    own, makes the channels next to it not removable.

    Args:
        model: a built functional or Sequential model, masked or not, whose models inside are of
            that kind too.

    Returns:
        The groups that have at least one kernel.

    Raises:
        TypeError: for a subclassed model.
        ValueError: for a layer that is called with more than tensors, or has several outputs.

    Example:
        >>> images = keras.Input([8, 8, 3])
        >>> x = keras.layers.Conv2D(4, 3, padding="same", name="first")(images)
        >>> y = keras.layers.Conv2D(4, 3, padding="same", name="second")(x)
        >>> x = keras.layers.Flatten()(keras.layers.Add()([x, y]))
        >>> groups = channel_groups(keras.Model(images, keras.layers.Dense(2, name="logits")(x)))
        >>> tied = groups[1]
        >>> tied.size, [axis.layer.name for axis in tied.producers]
        (4, ['first', 'second'])
        >>> [axis.layer.name for axis in tied.consumers]
        ['second', 'logits']
    """
    flow = follow_channels(model)
    members = _members(flow)
    groups = (_group(flow, channels) for channels in members)
    return [group for group in groups if group.producers or group.consumers]


def _members(flow: ChannelFlow) -> list[Positions]:
    """Return the channels of each group, which were made together or with one another."""
    links = [(birth[:-1], birth[1:]) for birth in flow.births]
    names = components(len(flow.fixed), links)
    channels = np.unique(np.concatenate(flow.births))
    owners = names[channels]
    return [channels[owners == owner] for owner in np.unique(owners)]


def _group(flow: ChannelFlow, channels: Positions) -> ChannelGroup:
    numbers = np.full(len(flow.fixed), -1)
    numbers[channels] = np.arange(len(channels))

    def among(axes: list[ChannelAxis]) -> tuple[KernelAxis, ...]:
        found = (KernelAxis(axis.layer, axis.axis, numbers[axis.channels]) for axis in axes)
        return tuple(axis for axis in found if np.any(axis.channels >= 0))

    return ChannelGroup(
        len(channels),
        among([axis for axis in flow.axes if axis.makes]),
        among([axis for axis in flow.axes if axis.reads]),
        ~flow.fixed[channels],
        bool(np.isin(channels, flow.inputs).any()),
        bool(np.isin(channels, flow.outputs).any()),
    )
