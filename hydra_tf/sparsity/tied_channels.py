"""Kernels whose masks keep the same channels, so that pruned channels can be removed.

Layers whose outputs are added make the same channels, and a depthwise convolution passes them on. A
channel can only be removed if it is pruned in all of these kernels. With granularities of whole
channels (``filter``, ``channel``), such kernels are tied: the score of a channel is the sum of its
group scores in all of them, and one choice of channels is the mask of all.

Ties follow from the connections of the network (:func:`hydra_tf.sparsity.channel_groups`); they
are not stored. Layers of a network that cannot be followed are not tied, and neither are channels
that cannot be removed.
"""

from __future__ import annotations

import math
import weakref
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from hydra_tf.core.keras_models import all_layers, wrapped_network
from hydra_tf.core.lazy import keras, tf
from hydra_tf.sparsity.channel_groups import ChannelGroup, channel_groups
from hydra_tf.sparsity.channel_rules.registry import Positions
from hydra_tf.sparsity.granularity import Granularity
from hydra_tf.sparsity.kernel_weights import kernel_axes
from hydra_tf.sparsity.masked_kernels import MaskedLike, masked_layers
from hydra_tf.sparsity.topk import topk_chosen


@dataclass(frozen=True, eq=False)
class TiedKernel:
    """A masked kernel that has the channels of a tie.

    Args:
        layer: what masks the kernel.
        part: its granularity, whose groups are positions of the axis.
        axis: the axis of the kernel with the channels.
        channels: number of the channel at each position of the axis. Every channel is at equally
            many positions.
    """

    layer: MaskedLike
    part: Granularity
    axis: int
    channels: Positions

    @property
    def weights(self) -> int:
        """Number of weights of the kernel."""
        return math.prod(self.layer.kernel.shape)

    def channel_scores(self) -> tf.Tensor:
        """Return the sum of the magnitudes of the scores of each channel, float32 [channels]."""
        sums = self.part.group_scores(tf.convert_to_tensor(self.layer.scores), self.layer.axes)
        others = [axis for axis in range(len(sums.shape)) if axis != self.axis]
        order = np.argsort(self.channels, kind="stable")
        positions = tf.gather(tf.reduce_sum(sums, others), order)
        return tf.reduce_sum(tf.reshape(positions, [self.channels.max() + 1, -1]), 1)

    def spread(self, values: tf.Tensor) -> tf.Tensor:
        """Return the value of its channel for each weight of the kernel.

        Args:
            values: one value per channel, such as whether it is kept.
        """
        shape, axes = tuple(self.layer.kernel.shape), self.layer.axes
        window = self.part.window(shape, axes)
        groups = [size // inside for size, inside in zip(shape, window, strict=True)]
        along = [size if axis == self.axis else 1 for axis, size in enumerate(groups)]
        picked = tf.reshape(tf.gather(values, self.channels), along)
        return self.part.group_mask(tf.broadcast_to(picked, groups), shape, axes)


@dataclass(frozen=True, eq=False)
class Tie:
    """Kernels that keep the same channels.

    Args:
        size: number of channels.
        kernels: the kernels.
    """

    size: int
    kernels: tuple[TiedKernel, ...]

    @property
    def weights(self) -> int:
        """Number of weights of all kernels."""
        return sum(kernel.weights for kernel in self.kernels)

    @property
    def unit(self) -> int:
        """Number of weights of one channel in all kernels."""
        return self.weights // self.size

    def scores(self) -> tf.Tensor:
        """Return the sum of the magnitudes of the scores of each channel, float32 [size]."""
        return tf.add_n([kernel.channel_scores() for kernel in self.kernels])

    def refresh_masks(self, kept: int | tf.Tensor) -> list[tf.Tensor]:
        """Choose the masks of all kernels from the scores, and return them.

        Args:
            kept: number of weights of all kernels, a whole number or a scalar int32 tensor, which
                is rounded down to whole channels, but at least one.
        """
        count = kept // self.unit
        count = max(1, count) if isinstance(count, int) else tf.maximum(1, count)
        chosen = topk_chosen(self.scores(), count)
        masks = [kernel.spread(chosen) for kernel in self.kernels]
        for kernel, mask in zip(self.kernels, masks, strict=True):
            kernel.layer.mask.assign(mask)
        return masks


def tied_channels(model: keras.Model, parts: Sequence[Granularity]) -> list[Tie]:
    """Return the kernels of a model whose masks keep the same channels.

    Args:
        model: a model with masked layers.
        parts: granularity of each masked layer.

    Returns:
        The ties, of which every kernel has at most one. A channel of a tie has several places:
        several kernels, or several positions of one kernel, as after Flatten.

    Example:
        >>> import hydra_tf
        >>> from hydra_tf.sparsity.granularities.filter import Filter
        >>> images = keras.Input([8, 8, 4])
        >>> x = keras.layers.Conv2D(4, 3, padding="same", name="first")(images)
        >>> y = keras.layers.Conv2D(4, 3, padding="same", name="second")(x)
        >>> x = keras.layers.Flatten()(keras.layers.Add()([x, y]))
        >>> net = hydra_tf.mask_model(keras.Model(images, keras.layers.Dense(2)(x)))
        >>> tie, = tied_channels(net, [Filter()] * 3)
        >>> tie.unit, [kernel.layer.name for kernel in tie.kernels]
        (72, ['first', 'second'])
    """
    own = {id(k): part for k, part in zip(masked_layers(model), parts, strict=True)}
    found = []
    for letters in sorted({part.channel_axes for part in parts} - {""}):
        ties = (_tie(group, letters, own) for group in _followed(model))
        found += [tie for tie in ties if tie is not None]
    return found


def _tie(group: ChannelGroup, letters: str, own: Mapping[int, Granularity]) -> Tie | None:
    """Return the tie of a group of channels, None if its kernels are chosen independently.

    Args:
        group: the channels.
        letters: the axes with channels; see :class:`Granularity`.
        own: granularity of each masked layer by its id.
    """
    kernels = []
    for axis in (*group.producers, *group.consumers):
        letter = kernel_axes(axis.layer, axis.layer.kernel)[axis.axis]
        part = own.get(id(axis.layer))
        if letter not in letters:
            continue
        if part is not None and part.channel_axes == letters:
            kernels.append(TiedKernel(axis.layer, part, axis.axis, axis.channels))
        elif letter != "c":  # a kernel that is not pruned keeps all channels
            return None
    places = [np.bincount(k.channels + 1, minlength=group.size + 1) for k in kernels]
    # Positions without a channel of the group, as after Concatenate, count as -1.
    whole = all(count[0] == 0 and np.all(count[1:] == count[1]) for count in places)
    if not whole or sum(count[1] for count in places) < 2 or not group.removable.all():
        return None
    return Tie(group.size, tuple(kernels))


# The groups of each network that was followed, and its layers at that time. Densities that change
# at every step would otherwise follow the channels at every step.
_Known = tuple[list[Any], list[ChannelGroup]]
_known: weakref.WeakKeyDictionary[Any, _Known] = weakref.WeakKeyDictionary()


def _followed(model: keras.Model) -> list[ChannelGroup]:
    """Return the groups of channels of a network, none if it cannot be followed."""
    net = wrapped_network(model)
    layers = all_layers(net)
    if net not in _known or _known[net][0] != layers:
        try:
            groups = channel_groups(net)
        except (TypeError, ValueError):
            groups = []
        _known[net] = (layers, groups)
    return _known[net][1]
