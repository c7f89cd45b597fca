"""What a node of the graph does to intervals (forwards) and to linear bounds (backwards).

Backwards a linear function of a node's output, ``A . z`` with one row of `A` for each sample
and specification, becomes a linear function of the node's inputs that is nowhere larger.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from hydra_tf.bounds.rounding import TINY, U, dot, gamma, magnitude, outward, sizes
from hydra_tf.core.lazy import tf
from hydra_tf.core.types import Interval

# Maps a sign s to the constants [batch, rows] of the functions ``s * rows``; only nodes that are
# odd are asked for -1.
Constant = Callable[[float], Any]

# Of an interval around 0 and the slopes of the function left and right of 0, the slope of the
# line through 0 that bounds the function from below.
LowerSlope = Callable[[Interval, Any, Any], Any]


def adaptive(interval: Interval, chord: Any, left: float) -> Any:
    """Slope 1 where the interval reaches further up than down, else the left one.

    It is the one of the two with the smaller area to the function (CROWN; Zhang et al., NeurIPS
    2018, section 3.3).
    """
    return tf.where(interval.upper > -interval.lower, 1.0, left)


def parallel(interval: Interval, chord: Any, left: float) -> Any:
    """The slope of the upper line (Neurify; Wang et al., NeurIPS 2018, section 3.1)."""
    return chord


@dataclass(frozen=True)
class Context:
    """How a bound is computed.

    Args:
        rounding: whether float32 rounding is accounted for.
        lower_slope: the lower line of a rectifier.
    """

    rounding: bool = True
    lower_slope: LowerSlope = adaptive


class Node(Protocol):
    """A function of one or more tensors [batch, ...].

    ``affine`` nodes can be followed backwards without their intervals; ``diagonal`` ones make
    each output from one input of its own, so that exact intervals stay exact.
    """

    @property
    def affine(self) -> bool:
        """Whether it is a linear map plus a bias."""

    @property
    def diagonal(self) -> bool:
        """Whether each output is made from one input of its own."""

    def interval(self, inputs: Sequence[Interval], context: Context) -> Interval:
        """Intervals of the outputs, given those of the inputs."""

    def backward(
        self, rows: Any, inputs: Sequence[Interval], context: Context
    ) -> tuple[list[Any], Constant | None]:
        """Coefficients on each input, and the constant that goes with them, if there is one."""

    def odd(self, context: Context) -> bool:
        """Whether the coefficients of ``-rows`` are the negated ones of ``rows``."""

    def error(self, inputs: Sequence[Interval], uses: int) -> Any:
        """Largest rounding error per output, in units of its coefficient; None for none.

        `uses` is the largest number of nodes that share one of the inputs: the coefficients
        they send back are added, which rounds too.
        """


@dataclass(frozen=True, eq=False)
class Affine:
    """A linear map plus a bias.

    Args:
        linear: the map, without bias, of tensors [batch, ...].
        absolute: the same map with the magnitudes of its weights; `linear` itself when none
            of them is negative.
        bias: broadcasts over the outputs.
        bias_magnitude: at least the magnitudes that were added up for the bias.
        terms: float32 operations that an output goes through.
        fan_out: products that are summed for a coefficient on an input.
        diagonal: whether each output is made from one input of its own.
        transpose: maps coefficients [n, ...] on the output and the input's sizes to those on
            the input; the vector-Jacobian product of `linear` when left out.
    """

    linear: Callable[..., Any]
    absolute: Callable[..., Any]
    bias: Any = None
    bias_magnitude: Any = None
    terms: int = 0
    fan_out: int = 0
    diagonal: bool = False
    transpose: Callable[[Any, list[Any]], Any] | None = None
    affine: bool = True

    def interval(self, inputs: Sequence[Interval], context: Context) -> Interval:
        """Centre and radius through the map (Gowal et al., 2018, section 3)."""
        # The network's error and the bound's own, and their products: 2.25 > 2 (1 + gamma).
        unit = 2.25 * gamma(self.terms + 4) if context.rounding and self.terms else 0.0
        if self.absolute is self.linear:
            ends = [self._shifted(self.linear(*side)) for side in _sides(inputs)]
            charged = inputs
        else:
            middles = [(part.lower + part.upper) / 2 for part in inputs]
            radii = [(part.upper - part.lower) / 2 for part in inputs]
            if unit:
                radii = [
                    radius + unit * magnitude(part)
                    for radius, part in zip(radii, inputs, strict=True)
                ]
            middle = self._shifted(self.linear(*middles))
            radius = self.absolute(*radii)
            ends = [middle - radius, middle + radius]
            charged = ()
        if not unit:
            return Interval(*ends)
        spread = self._spread(charged, unit)
        return outward(Interval(ends[0] - spread, ends[1] + spread))

    def _shifted(self, outputs: Any) -> Any:
        return outputs if self.bias is None else outputs + self.bias

    def _spread(self, inputs: Sequence[Interval], unit: float) -> Any:
        """Rounding of the bias, and of the inputs that are given."""
        spread = TINY
        if inputs:
            spread += unit * self.absolute(*(magnitude(part) for part in inputs))
        return spread if self.bias_magnitude is None else spread + unit * self.bias_magnitude

    def odd(self, context: Context) -> bool:
        """A linear map is."""
        return True

    def backward(
        self, rows: Any, inputs: Sequence[Interval], context: Context
    ) -> tuple[list[Any], Constant | None]:
        """The map's transpose, which is its vector-Jacobian product; the bias is a constant."""
        samples, count, *outer = sizes(rows)
        flat = tf.reshape(rows, [samples * count, *outer])
        inner = [sizes(part.lower)[1:] for part in inputs]
        if self.transpose is not None and all(isinstance(size, int) for size in inner[0]):
            found = [self.transpose(flat, inner[0])]
        else:
            zeros = [tf.zeros([samples * count, *each]) for each in inner]
            with tf.GradientTape(watch_accessed_variables=False) as tape:
                tape.watch(zeros)
                outputs = self.linear(*zeros)
            found = tape.gradient(outputs, zeros, output_gradients=flat)
        found = [
            tf.reshape(part, [samples, count, *each])
            for part, each in zip(found, inner, strict=True)
        ]
        if self.bias is None:
            return found, None
        constant = dot(rows, tf.broadcast_to(self.bias, [1, *outer]), context.rounding)
        return found, lambda sign: sign * constant

    def error(self, inputs: Sequence[Interval], uses: int) -> Any:
        """Errors of the forward sums and of the coefficients, which have the same form."""
        if not self.terms and uses < 2:
            return None
        unit = 1.05 * gamma(self.terms + 4) if self.terms else 0.0
        unit += 1.05 * gamma(self.fan_out + uses + 4)
        return self._spread(inputs, unit)


@dataclass(frozen=True, eq=False)
class Rectifier:
    """``max(z, left * z)``: ReLU, or leaky ReLU of slope `left` below 0.

    Args:
        left: slope in [0, 1].
    """

    left: float = 0.0
    affine: bool = False
    diagonal: bool = True

    def interval(self, inputs: Sequence[Interval], context: Context) -> Interval:
        """Both ends, since the function does not fall."""
        ends = [self._of(inputs[0].lower), self._of(inputs[0].upper)]
        found = Interval(*ends)
        return outward(found) if context.rounding and self.left else found

    def _of(self, z: Any) -> Any:
        return tf.nn.relu(z) if self.left == 0 else tf.maximum(z, self.left * z)

    def odd(self, context: Context) -> bool:
        """Where the two lines are parallel."""
        return context.lower_slope is parallel

    def backward(
        self, rows: Any, inputs: Sequence[Interval], context: Context
    ) -> tuple[list[Any], Constant | None]:
        """A line below where the coefficient is positive, the chord above where negative."""
        low, high, intercept = self.lines(inputs[0], context)
        low, high = low[:, None], high[:, None]
        below = rows * tf.cast(rows < 0, rows.dtype)  # its gradient is a product, not a choice
        found = rows * high if self.odd(context) else rows * low + below * (high - low)

        def constant(sign: float) -> Any:
            return dot(below if sign > 0 else below - rows, intercept, context.rounding)

        return [found], constant

    def lines(self, interval: Interval, context: Context) -> tuple[Any, Any, Any]:
        """Slope of the lower line, slope of the upper line and its value at 0."""
        lower, upper = interval.lower, interval.upper
        unstable = (lower < 0) & (upper > 0)
        width = tf.where(unstable, tf.maximum(upper - lower, TINY), 1.0)
        chord = (tf.where(unstable, upper - self.left * lower, 0.0)) / width
        if context.rounding:
            chord = tf.clip_by_value(chord, self.left, 1.0)
            # The function is convex: a line that is above it at both ends is above it.
            intercept = tf.maximum((1.0 - chord) * upper, (self.left - chord) * lower)
            intercept += (8 * U) * magnitude(interval) + TINY
        else:
            intercept = (self.left - chord) * lower
        slope = tf.where(lower >= 0, 1.0, self.left)
        chord = tf.where(unstable, chord, slope)
        low = tf.where(unstable, context.lower_slope(interval, chord, self.left), slope)
        return low, chord, tf.where(unstable, intercept, 0.0)

    def error(self, inputs: Sequence[Interval], uses: int) -> Any:
        """Products with the slopes, and the leaky product of the network itself."""
        return 1.05 * gamma(uses + 4) * magnitude(inputs[0]) + TINY


def _sides(inputs: Sequence[Interval]) -> tuple[list[Any], list[Any]]:
    return [part.lower for part in inputs], [part.upper for part in inputs]
