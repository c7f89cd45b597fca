"""Where the channels of a network go: which ones are one and the same, and which weights have them.

The channels of a value are the positions of its last axis. Two channels are the same if they can
only be removed together, as those that a residual connection adds. A channel is therefore a
number, and one number may stand at several positions, as after Flatten.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from hydra_tf.core.layer_calls import Call, LayerCalls, functional_model, read_calls
from hydra_tf.core.lazy import keras
from hydra_tf.sparsity.channel_rules.registry import Mixing, PerChannel, Positions, apply_rule


@dataclass(frozen=True, eq=False)
class ChannelAxis:
    """An axis of a weight that has channels.

    Args:
        layer: the layer.
        name: attribute of the layer that is the weight.
        axis: the axis, not negative.
        channels: numbers of the channels, one for each position of the axis.
        makes: whether the weight is a kernel that makes these channels, which makes the axis one of
            outputs (or, for depthwise convolutions, of both).
        reads: whether the weight is a kernel that sums over these channels.
    """

    layer: Any
    name: str
    axis: int
    channels: Positions
    makes: bool = False
    reads: bool = False


@dataclass(frozen=True, eq=False)
class ChannelFlow:
    """The channels of a network.

    Args:
        calls: the layer calls, each after its sources.
        rules: for each call, how it passes channels on; None if that cannot be followed.
        values: for each value, the numbers of its channels; none if it has no such axis.
        axes: the axes of weights.
        fixed: for each channel, whether it has to stay.
        births: for each set of channels that were made together, their numbers.
        inputs, outputs: channels that are part of an input or output of the network.
    """

    calls: LayerCalls
    rules: list[PerChannel | Mixing | None]
    values: list[Positions]
    axes: list[ChannelAxis]
    fixed: np.ndarray[Any, np.dtype[np.bool_]]
    births: list[Positions]
    inputs: Positions
    outputs: Positions


@dataclass
class _Follower:
    """Numbers channels, call by call, and notes which numbers turn out to be the same.

    Args:
        sizes: number of channels of each value.
    """

    sizes: list[int]
    count: int = 0
    values: list[Positions] = field(default_factory=list)
    axes: list[ChannelAxis] = field(default_factory=list)
    births: list[Positions] = field(default_factory=list)
    fixed: list[Positions] = field(default_factory=list)
    same: list[tuple[Positions, Positions]] = field(default_factory=list)

    def born(self, size: int) -> Positions:
        """Return new channels."""
        numbers = np.arange(self.count, self.count + size)
        self.count += size
        self.births.append(numbers)
        return numbers

    def follow(self, call: Call, rule: PerChannel | Mixing | None) -> None:
        """Append the output of a call."""
        sources = [self.values[source] for source in call.sources]
        if rule is None:
            self.fixed += sources
            self.values.append(self.born(self.sizes[len(self.values)]))
            self.fixed.append(self.values[-1])
        elif isinstance(rule, Mixing):
            self._mix(call.layer, rule, sources[0])
        else:
            self._pass_on(call.layer, rule, sources)

    def _mix(self, layer: Any, rule: Mixing, source: Positions) -> None:
        shape = layer.kernel.shape
        outputs = self.born(shape[rule.out_axis])
        self.values.append(outputs)
        # Groups keep equally many channels, so the first channels of all groups are one, and so on.
        for channels in (source, outputs) if rule.groups > 1 else ():
            rows = channels.reshape(rule.groups, -1)
            self.same += [(rows[0], row) for row in rows[1:]]
        inputs = source[: shape[rule.in_axis]]
        self.axes.append(ChannelAxis(layer, "kernel", rule.in_axis, inputs, reads=True))
        self.axes.append(ChannelAxis(layer, "kernel", rule.out_axis, outputs, makes=True))
        if layer.bias is not None:
            self.axes.append(ChannelAxis(layer, "bias", 0, outputs))
        if not rule.elementwise:
            self.fixed.append(outputs)

    def _pass_on(self, layer: Any, rule: PerChannel, sources: list[Positions]) -> None:
        outputs = np.full(len(rule.origins[0]), -1)
        for source, origin in zip(sources, rule.origins, strict=True):
            found = np.where(origin >= 0, source[origin], -1)
            both = (found >= 0) & (outputs >= 0)
            self.same.append((outputs[both], found[both]))
            outputs = np.where(outputs >= 0, outputs, found)
        self.values.append(outputs)
        for weight in rule.weights:
            rank = len(getattr(layer, weight.name).shape)
            channels = outputs if weight.outputs is None else outputs[weight.outputs]
            axis = weight.axis % rank
            self.axes.append(
                ChannelAxis(layer, weight.name, axis, channels, makes=weight.is_kernel)
            )

    def join_shared_layers(self) -> None:
        """Note that the channels on an axis are the same for all calls of a layer."""
        first: dict[tuple[int, str, int], Positions] = {}
        for axis in self.axes:
            known = first.setdefault((id(axis.layer), axis.name, axis.axis), axis.channels)
            self.same.append((known, axis.channels))


def follow_channels(model: keras.Model) -> ChannelFlow:
    """Return where the channels of a network go.

    Args:
        model: a built functional or Sequential model, masked or not, whose models inside are of
            that kind too.

    Raises:
        TypeError: for a subclassed model.
        ValueError: for a layer that is called with more than tensors, or has several outputs.

    Example:
        >>> net = keras.Sequential([keras.Input([2]), keras.layers.Dense(3), keras.layers.ReLU()])
        >>> [channels.tolist() for channels in follow_channels(net).values]
        [[0, 1], [2, 3, 4], [2, 3, 4]]
    """
    net = functional_model(model)
    calls = read_calls(net, lambda layer: None)
    follower = _Follower(_channel_counts(net, calls))
    for size in follower.sizes[: calls.inputs]:
        follower.values.append(follower.born(size))
        follower.fixed.append(follower.values[-1])
    rules = [apply_rule(call.layer, call.shapes) for call in calls.calls]
    for call, rule in zip(calls.calls, rules, strict=True):
        follower.follow(call, rule)
    follower.join_shared_layers()
    ends = [follower.values[number] for number in calls.outputs]
    names = components(follower.count, follower.same)
    fixed = np.zeros(follower.count, bool)
    for channels in (*follower.fixed, *ends):
        fixed[names[channels]] = True
    return ChannelFlow(
        calls,
        rules,
        [names[channels] for channels in follower.values],
        _distinct([_renamed(axis, names) for axis in follower.axes]),
        fixed,
        [np.unique(names[channels]) for channels in follower.births],
        names[np.concatenate(follower.values[: calls.inputs])],
        names[np.concatenate(ends)],
    )


def _channel_counts(net: keras.Model, calls: LayerCalls) -> list[int]:
    """Return the number of channels of each value, 0 where it is not known or not used."""
    shapes: dict[int, tuple[int | None, ...]] = {}
    numbers = (*range(calls.inputs), *calls.outputs)
    for number, tensor in zip(numbers, (*net.inputs, *net.outputs), strict=True):
        shapes[number] = tuple(tensor.shape)
    for call in calls.calls:
        shapes.update(zip(call.sources, call.shapes, strict=True))
    values = calls.inputs + len(calls.calls)
    return [_last(shapes.get(number, ())) for number in range(values)]


def _last(shape: tuple[int | None, ...]) -> int:
    return shape[-1] or 0 if len(shape) > 1 else 0


def _renamed(axis: ChannelAxis, names: Positions) -> ChannelAxis:
    return ChannelAxis(
        axis.layer, axis.name, axis.axis, names[axis.channels], axis.makes, axis.reads
    )


def _distinct(axes: list[ChannelAxis]) -> list[ChannelAxis]:
    """Return each axis once, although layers may be called several times."""
    return list({(id(axis.layer), axis.name, axis.axis): axis for axis in axes}.values())


def components(count: int, same: list[tuple[Positions, Positions]]) -> Positions:
    """Return the lowest number that each number is linked to, directly or through others.

    Args:
        count: numbers are 0 to count - 1.
        same: pairs of arrays of equal length, whose elements are linked.

    Example:
        >>> components(5, [(np.array([0, 3]), np.array([2, 2]))]).tolist()
        [0, 1, 0, 0, 4]
    """
    names = np.arange(count)
    if not same:
        return names
    one, other = (np.concatenate(side) for side in zip(*same, strict=True))
    while True:
        lowest = np.minimum(names[one], names[other])
        if np.array_equal(names[one], lowest) and np.array_equal(names[other], lowest):
            return names
        for side in (one, other):
            np.minimum.at(names, names[side], lowest)
        while not np.array_equal(names, names[names]):
            names = names[names]
