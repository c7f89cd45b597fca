"""Nodes of the layer graph: intervals pass forwards through them, linear bounds backwards.

Backwards, a linear function of a node's output, ``A . z`` with one row of `A` for each sample
and specification, is replaced by a linear function of the node's inputs that is nowhere larger.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeAlias

from hydra_tf.bounds.rounding import (
    TINY,
    U,
    dot,
    gamma,
    limited,
    magnitude,
    outward,
    sizes,
    underflow,
)
from hydra_tf.core.lazy import tf
from hydra_tf.core.types import Interval

# Maps a sign s to the constants [batch, rows] of the functions ``s * rows``; -1 is passed only
# to odd nodes.
Constant: TypeAlias = Callable[[float], "tf.Tensor"]

# Maps an interval around 0, and the slopes of the upper line and of the function left of 0, to
# the slope of the lower line, which goes through 0.
LowerSlope: TypeAlias = Callable[[Interval, "tf.Tensor", float], "tf.Tensor"]


def adaptive(interval: Interval, chord: tf.Tensor, left: float) -> tf.Tensor:
    """Return slope 1 where the interval reaches further up than down, else the left slope.

    Of the two lines, this one is closer to the function in area (CROWN; Zhang et al., NeurIPS 2018,
    section 3.3).
    """
    return tf.where(interval.upper > -interval.lower, 1.0, left)


def parallel(interval: Interval, chord: tf.Tensor, left: float) -> tf.Tensor:
    """Return the slope of the upper line (Neurify; Wang et al., NeurIPS 2018, section 3.1)."""
    return chord


@dataclass(frozen=True)
class BoundOptions:
    """How a bound is computed.

    Args:
        rounding: whether float32 rounding is accounted for.
        lower_slope: slope of the lower line of a rectifier.
    """

    rounding: bool = True
    lower_slope: LowerSlope = adaptive


class Node(Protocol):
    """A function of one or more tensors [batch, ...].

    Linear bounds pass backwards through ``affine`` nodes without intervals of their inputs. In
    ``diagonal`` nodes each output depends on one input that no other output depends on, so that
    exact intervals stay exact. Nodes are ``odd`` if one backward pass bounds a function and its
    negation.
    """

    @property
    def affine(self) -> bool:
        """Whether the node is a linear map plus a bias."""

    @property
    def diagonal(self) -> bool:
        """Whether each output depends on a different single input."""

    def interval(self, inputs: Sequence[Interval], options: BoundOptions) -> Interval:
        """Return intervals of the outputs from those of the inputs."""

    def backward(
        self, rows: tf.Tensor, inputs: Sequence[Interval], options: BoundOptions
    ) -> tuple[list[tf.Tensor], Constant | None]:
        """Return coefficients on each input, and the constant of the linear functions, if any."""

    def odd(self, options: BoundOptions) -> bool:
        """Return whether the coefficients of ``-rows`` are those of ``rows``, negated."""

    def rounding_error(self, inputs: Sequence[Interval], consumers: int) -> tf.Tensor | None:
        """Return the largest error per output for a coefficient of 1; None if nothing is computed.

        `consumers` is the largest number of nodes that take one of the inputs: the coefficients
        that they pass back are added, which rounds too.
        """


@dataclass(frozen=True, eq=False)
class Affine:
    """A linear map plus a bias.

    Args:
        linear: the map, without bias, of tensors [batch, ...].
        absolute: the same map with the magnitudes of its weights; `linear` itself if no weight
            is negative.
        bias: added to the outputs, with broadcasting.
        bias_magnitude: at least the sum of the magnitudes that were added up for the bias.
        terms: float32 operations that an output goes through.
        fan_out: products that are summed for a coefficient on an input.
        diagonal: whether each output depends on a different single input.
        transpose: maps coefficients [n, ...] on the output and the input's sizes to those on
            the input; the vector-Jacobian product of `linear` if left out.
        weight_error: the same map with what underflow can change in its weights, if they are
            computed from others.
    """

    linear: Callable[..., tf.Tensor]
    absolute: Callable[..., tf.Tensor]
    bias: tf.Tensor | None = None
    bias_magnitude: tf.Tensor | None = None
    terms: int = 0
    fan_out: int = 0
    diagonal: bool = False
    transpose: Callable[[tf.Tensor, list[int]], tf.Tensor] | None = None
    weight_error: Callable[..., tf.Tensor] | None = None
    affine: bool = True

    def interval(self, inputs: Sequence[Interval], options: BoundOptions) -> Interval:
        """Map the centres and radii of intervals (Gowal et al., 2018, section 3)."""
        # The network's error, the error of this computation, and their products:
        # 2.25 > 2 (1 + gamma).
        unit = 2.25 * gamma(self.terms + 4) if options.rounding and self.terms else 0.0
        if self.absolute is self.linear:
            lower, upper = (
                self._plus_bias(self.linear(*side))
                for side in zip(*map(_sides, inputs), strict=True)
            )
            if not unit:
                return Interval(lower, upper)
            error = self._error(inputs, unit)
            return outward(Interval(lower - error, upper + error))
        middles = [(interval.lower + interval.upper) / 2 for interval in inputs]
        radii = [(interval.upper - interval.lower) / 2 for interval in inputs]
        middle = self._plus_bias(self.linear(*middles))
        if not unit:
            radius = self.absolute(*radii)
            return Interval(middle - radius, middle + radius)
        radius = self._error(inputs, unit, radii)
        return outward(Interval(middle - radius, middle + radius))

    def _plus_bias(self, outputs: tf.Tensor) -> tf.Tensor:
        return outputs if self.bias is None else outputs + self.bias

    def _error(
        self,
        inputs: Sequence[Interval],
        unit: float,
        radii: Sequence[tf.Tensor] | None = None,
    ) -> tf.Tensor:
        """Return the error of the outputs for inputs of these intervals, with radii added to it."""
        magnitudes = [magnitude(interval) for interval in inputs]
        errors = [unit * values + TINY for values in magnitudes]
        if radii is not None:
            errors = [radius + error for radius, error in zip(radii, errors, strict=True)]
        error = self.absolute(*errors)
        error += underflow(inputs, self.terms, len(error.shape))
        if self.weight_error is not None:
            error += self.weight_error(*magnitudes)
        if self.bias_magnitude is not None:
            error += unit * self.bias_magnitude
        return limited(error)

    def odd(self, options: BoundOptions) -> bool:
        """Return True, as for every linear map."""
        return True

    def backward(
        self, rows: tf.Tensor, inputs: Sequence[Interval], options: BoundOptions
    ) -> tuple[list[tf.Tensor], Constant | None]:
        """Apply the transpose of the map (its vector-Jacobian product); the bias is constant."""
        samples, count, *outer = sizes(rows)
        flat = tf.reshape(rows, [samples * count, *outer])
        inner = [sizes(interval.lower)[1:] for interval in inputs]
        if self.transpose is not None and all(isinstance(size, int) for size in inner[0]):
            coefficients = [self.transpose(flat, inner[0])]
        else:
            zeros = [tf.zeros([samples * count, *shape]) for shape in inner]
            with tf.GradientTape(watch_accessed_variables=False) as tape:
                tape.watch(zeros)
                outputs = self.linear(*zeros)
            coefficients = tape.gradient(outputs, zeros, output_gradients=flat)
        coefficients = [
            tf.reshape(tensor, [samples, count, *shape])
            for tensor, shape in zip(coefficients, inner, strict=True)
        ]
        if self.bias is None:
            return coefficients, None
        constant = dot(rows, tf.broadcast_to(self.bias, [1, *outer]), options.rounding)
        return coefficients, lambda sign: sign * constant

    def rounding_error(self, inputs: Sequence[Interval], consumers: int) -> tf.Tensor | None:
        """Return the errors of the forward sums and of the coefficients, in one sum."""
        if not self.terms and consumers < 2:
            return None
        unit = 1.05 * gamma(self.terms + 4) if self.terms else 0.0
        unit += 1.05 * gamma(self.fan_out + consumers + 4)
        return self._error(inputs, unit)


@dataclass(frozen=True, eq=False)
class Rectifier:
    """``max(z, left * z)``: ReLU, or leaky ReLU of slope `left` below 0.

    Args:
        left: slope in [0, 1].
    """

    left: float = 0.0
    affine: bool = False
    diagonal: bool = True

    def interval(self, inputs: Sequence[Interval], options: BoundOptions) -> Interval:
        """Apply the function to both ends: it is monotonic."""
        interval = Interval(self._value(inputs[0].lower), self._value(inputs[0].upper))
        return outward(interval) if options.rounding and self.left else interval

    def _value(self, z: tf.Tensor) -> tf.Tensor:
        return tf.nn.relu(z) if self.left == 0 else tf.maximum(z, self.left * z)

    def odd(self, options: BoundOptions) -> bool:
        """Return whether the two lines are parallel."""
        return options.lower_slope is parallel

    def backward(
        self, rows: tf.Tensor, inputs: Sequence[Interval], options: BoundOptions
    ) -> tuple[list[tf.Tensor], Constant | None]:
        """Replace the function by its lower line where a coefficient is positive, else the chord.

        The chord is the upper line.
        """
        low, high, intercept = self.lines(inputs[0], options)
        low, high = low[:, None], high[:, None]
        negative = rows * tf.cast(rows < 0, rows.dtype)  # its gradient is cheaper than tf.where's
        slopes = rows * high if self.odd(options) else rows * low + negative * (high - low)

        def constant(sign: float) -> tf.Tensor:
            return dot(negative if sign > 0 else negative - rows, intercept, options.rounding)

        return [slopes], constant

    def lines(
        self, interval: Interval, options: BoundOptions
    ) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        """Return the slope of the lower line, and the slope and intercept of the upper line."""
        lower, upper = interval.lower, interval.upper
        unstable = (lower < 0) & (upper > 0)
        width = tf.where(unstable, tf.maximum(upper - lower, TINY), 1.0)
        chord = (tf.where(unstable, upper - self.left * lower, 0.0)) / width
        if options.rounding:
            chord = tf.clip_by_value(chord, self.left, 1.0)
            # The function is convex: a line that is above it at both ends is above it.
            intercept = tf.maximum((1.0 - chord) * upper, (self.left - chord) * lower)
            intercept += (8 * U) * magnitude(interval) + TINY
        else:
            intercept = (self.left - chord) * lower
        slope = tf.where(lower >= 0, 1.0, self.left)
        chord = tf.where(unstable, chord, slope)
        low = tf.where(unstable, options.lower_slope(interval, chord, self.left), slope)
        return low, chord, tf.where(unstable, intercept, 0.0)

    def rounding_error(self, inputs: Sequence[Interval], consumers: int) -> tf.Tensor:
        """Return the errors of the products with slopes, here and in the network."""
        return 1.05 * gamma(consumers + 4) * magnitude(inputs[0]) + TINY


def _sides(interval: Interval) -> tuple[tf.Tensor, tf.Tensor]:
    return interval.lower, interval.upper
