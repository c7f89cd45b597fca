"""Which channels can be removed from a network, and how the kernels that read them change."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from hydra_tf.export.channel_values import (
    Booleans,
    ConstantChannels,
    Numbers,
    constant_channels,
    effective_channels,
    summed_kernel,
)
from hydra_tf.sparsity.channel_flow import ChannelFlow
from hydra_tf.sparsity.channel_rules.registry import Mixing, Positions


@dataclass(frozen=True, eq=False)
class Reader:
    """A layer with a kernel, and what it reads.

    Args:
        layer: the layer.
        rule: its rule.
        channels: [inputs] numbers of the channels that it reads.
        constants: [inputs] their numbers if they are constant and the same in all calls, else NaN.
        read: [inputs] whether outputs of the layer with an effect depend on them.
        uniform: whether constants give constants, because there is no padding.
    """

    layer: Any
    rule: Mixing
    channels: Positions
    constants: Numbers
    read: Booleans
    uniform: bool

    @property
    def blocked(self) -> Booleans:
        """Inputs whose constant cannot become part of the bias, because padding interrupts it."""
        if self.uniform:
            return np.zeros(len(self.read), bool)
        return self.read & (np.nan_to_num(self.constants) != 0)

    def stand_in(self, position: int, kept: Booleans) -> int | None:
        """Return the input of the same group with the largest constant that is kept, if any."""
        size = len(self.channels) // self.rule.groups
        first = position // size * size
        group = slice(first, first + size)
        usable = np.where(kept[self.channels[group]] & self.read[group], self.constants[group], 0)
        sizes = np.abs(np.nan_to_num(usable))
        return first + int(np.argmax(sizes)) if np.any(sizes) else None


@dataclass(frozen=True, eq=False)
class Removal:
    """The channels that a smaller network keeps.

    Args:
        kept: for each channel, whether it is kept.
        readers: the layers with kernels.
        stand_ins: for each reader, inputs that are removed and the inputs that stand in for them.
    """

    kept: Booleans
    readers: list[Reader]
    stand_ins: list[dict[int, int]]

    def kernel_and_bias(self, reader: Reader) -> tuple[Numbers, Numbers | None]:
        """Return the weights of a reader, of full size, that do without the removed channels."""
        layer, rule = reader.layer, reader.rule
        kernel = np.array(keras.ops.convert_to_numpy(layer.kernel), np.float64)
        axes = np.moveaxis(kernel, (rule.in_axis, rule.out_axis), (-2, -1))
        inputs, outputs = len(reader.channels) // rule.groups, axes.shape[-1] // rule.groups
        for position, other in self.stand_ins[self.readers.index(reader)].items():
            if not self.kept[reader.channels[position]]:
                first = position // inputs * outputs
                group = slice(first, first + outputs)
                ratio = reader.constants[position] / reader.constants[other]
                moved = axes[..., position % inputs, group] * ratio
                axes[..., other % inputs, group] += moved
        bias = None if layer.bias is None else keras.ops.convert_to_numpy(layer.bias)
        removed = ~self.kept[reader.channels]
        constants = np.where(removed, np.nan_to_num(reader.constants), 0)
        if reader.uniform and np.any(constants[reader.read]):
            sums, _ = summed_kernel(layer, rule)
            bias = constants @ sums + (0.0 if bias is None else bias)
        return kernel, bias


def plan_removal(flow: ChannelFlow) -> Removal:
    """Return the channels to keep: those that change and have an effect, and what they require.

    A constant becomes part of the bias of each kernel that reads it. Where padding prevents that,
    one constant channel is kept and takes the weights of the others. Each layer keeps at least
    one channel.

    Args:
        flow: the channels of a network without masks.

    Example:
        >>> from hydra_tf.sparsity.channel_flow import follow_channels
        >>> net = keras.Sequential([keras.Input([1]), keras.layers.Dense(2), keras.layers.Dense(1)])
        >>> net.set_weights([np.array([[0, 1]]), np.ones(2), np.ones([2, 1]), np.zeros(1)])
        >>> plan_removal(follow_channels(net)).kept.tolist()
        [True, False, True, True]
    """
    constants, effective = constant_channels(flow), effective_channels(flow)
    kept = flow.fixed.copy()
    for channels, value, has_effect in zip(flow.values, constants.numbers, effective, strict=True):
        kept[channels[np.isnan(value) & has_effect]] = True
    readers = _readers(flow, constants, effective)
    for reader in readers:
        kept[reader.channels[reader.read & np.isnan(reader.constants)]] = True
    stand_ins = _stand_ins(readers, kept)
    for birth in flow.births:
        if len(birth) and not np.any(kept[birth]):
            kept[birth[0]] = True
    return Removal(kept, readers, stand_ins)


def _readers(
    flow: ChannelFlow, constants: ConstantChannels, effective: list[Booleans]
) -> list[Reader]:
    readers: dict[int, Reader] = {}
    for number, (call, rule) in enumerate(zip(flow.calls.calls, flow.rules, strict=True)):
        if not isinstance(rule, Mixing):
            continue
        source = call.sources[0]
        _, used = summed_kernel(call.layer, rule)
        read = np.any(used[:, effective[flow.calls.inputs + number]], axis=1)
        numbers = constants.numbers[source]
        uniform = rule.uniform and not constants.padded[source]
        known = readers.get(id(call.layer))
        if known is not None:  # a bias is one for all calls
            numbers = np.where(known.constants == numbers, numbers, np.nan)
            read, uniform = read | known.read, uniform and known.uniform
        channels = flow.values[source]
        readers[id(call.layer)] = Reader(call.layer, rule, channels, numbers, read, uniform)
    return list(readers.values())


def _stand_ins(readers: list[Reader], kept: Booleans) -> list[dict[int, int]]:
    """Keep blocked channels until each other one has a stand-in everywhere; return those."""
    found: list[dict[int, int]] = [{} for _ in readers]
    places: dict[int, list[tuple[int, int]]] = {}
    for number, reader in enumerate(readers):
        for position in np.flatnonzero(reader.blocked & ~kept[reader.channels]).tolist():
            places.setdefault(int(reader.channels[position]), []).append((number, position))
    # Large constants first, because weights are divided by them.
    smallest = {
        channel: min(abs(readers[number].constants[position]) for number, position in at)
        for channel, at in places.items()
    }
    for channel in sorted(places, key=lambda channel: -smallest[channel]):
        others = [readers[number].stand_in(at, kept) for number, at in places[channel]]
        if None in others:
            kept[channel] = True
            continue
        for (number, at), other in zip(places[channel], others, strict=True):
            if other is not None:
                found[number][at] = other
    return found
