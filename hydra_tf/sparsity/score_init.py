"""Initialisation of the importance scores of a kernel."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Protocol

from hydra_tf.core.lazy import keras, tf
from hydra_tf.core.registry import Registry


class ScoreInit(Protocol):
    """Maps a kernel and its fan-in, and for some initialisations its gradient, to scores.

    A class with ``needs_gradient = True`` gets the gradient of the loss on the first batch.
    """

    def __call__(
        self,
        kernel: tf.Tensor,
        *,
        fan_in: int,
        gradient: tf.Tensor | None = None,
        seed: int = 0,
    ) -> tf.Tensor:
        """Return float32 scores of the kernel's shape."""


SCORE_INITS: Registry[ScoreInit] = Registry("score initialisation", "hydra_tf.sparsity")


def _fan_in(shape: tuple[int, ...]) -> int:
    """Return the fan-in of a dense or convolution kernel: all axes but the last."""
    return max(1, math.prod(shape[:-1]))


@SCORE_INITS.register("scaled")
@dataclass(frozen=True)
class Scaled:
    """``sqrt(6 / fan_in) * w / max|w|`` (arXiv 2002.10509, section 3.2): the default.

    The first mask keeps the weights of largest magnitude, and the scores have the range of a
    Kaiming-uniform tensor. The scores of a kernel of zeros are zeros.
    """

    def __call__(
        self,
        kernel: tf.Tensor,
        *,
        fan_in: int,
        gradient: tf.Tensor | None = None,
        seed: int = 0,
    ) -> tf.Tensor:
        """Return the scaled scores."""
        scale = math.sqrt(6 / fan_in)
        return scale * tf.math.divide_no_nan(kernel, tf.reduce_max(tf.abs(kernel)))


@SCORE_INITS.register("magnitude")
@dataclass(frozen=True)
class Magnitude:
    """The magnitudes of the weights, unscaled."""

    def __call__(
        self,
        kernel: tf.Tensor,
        *,
        fan_in: int,
        gradient: tf.Tensor | None = None,
        seed: int = 0,
    ) -> tf.Tensor:
        """Return ``|w|``."""
        return tf.abs(kernel)


@SCORE_INITS.register("snip")
@dataclass(frozen=True)
class Snip:
    """``|dL/dm| = |dL/dw * w|`` on one batch (Lee et al., ICLR 2019, equation 4)."""

    needs_gradient: ClassVar[bool] = True

    def __call__(
        self,
        kernel: tf.Tensor,
        *,
        fan_in: int,
        gradient: tf.Tensor | None = None,
        seed: int = 0,
    ) -> tf.Tensor:
        """Return the connection sensitivities.

        Raises:
            ValueError: without a gradient.
        """
        if gradient is None:
            raise ValueError(
                'The score initialisation "snip" needs the gradient of the loss with respect to '
                "the kernel; use HydraCallback(method='snip') or pass gradient=."
            )
        return tf.abs(gradient * kernel)


@SCORE_INITS.register("random", distribution="uniform", scheme="unit")
@SCORE_INITS.register("xavier_uniform", distribution="uniform", scheme="xavier")
@SCORE_INITS.register("xavier_normal", distribution="normal", scheme="xavier")
@SCORE_INITS.register("kaiming_uniform", distribution="uniform", scheme="kaiming")
@SCORE_INITS.register("kaiming_normal", distribution="normal", scheme="kaiming")
@dataclass(frozen=True)
class Random:
    """Random scores that do not depend on the weights.

    Args:
        distribution: ``"uniform"`` or ``"normal"``.
        scheme: variance ``2 / fan_in`` (kaiming), ``2 / (fan_in + fan_out)`` (xavier), or
            1 (unit).
    """

    distribution: Literal["uniform", "normal"] = "uniform"
    scheme: Literal["kaiming", "xavier", "unit"] = "kaiming"

    def __call__(
        self,
        kernel: tf.Tensor,
        *,
        fan_in: int,
        gradient: tf.Tensor | None = None,
        seed: int = 0,
    ) -> tf.Tensor:
        """Return seeded random scores."""
        shape = tuple(kernel.shape)
        schemes = {
            "kaiming": (2.0, "fan_in"),
            "xavier": (1.0, "fan_avg"),
            "unit": (float(_fan_in(shape)), "fan_in"),
        }
        name = {"uniform": "uniform", "normal": "untruncated_normal"}[self.distribution]
        scale, mode = schemes[self.scheme]
        initializer = keras.initializers.VarianceScaling(scale, mode, name, seed=seed)
        return tf.convert_to_tensor(initializer(shape, dtype="float32"))


def initial_scores(
    kernel: tf.Tensor,
    method: str | Mapping[str, Any] | ScoreInit = "scaled",
    *,
    fan_in: int | None = None,
    gradient: tf.Tensor | None = None,
    seed: int = 0,
) -> tf.Tensor:
    """Return the initial importance scores of a kernel.

    Args:
        kernel: weights of any shape; the last axis is that of the outputs.
        method: ``"scaled"``, ``"magnitude"``, ``"snip"``, ``"random"``,
            ``"kaiming_normal"``, ``"kaiming_uniform"``, ``"xavier_normal"``,
            ``"xavier_uniform"``, or a callable ``(kernel, fan_in=, gradient=, seed=) -> scores``.
        fan_in: number of inputs of one output; the product of all axes but the last when left
            out, which is correct for all but depthwise kernels.
        gradient: gradient of the loss with respect to the kernel; only ``"snip"`` needs it.
        seed: seed of random scores.

    Returns:
        float32 tensor of the kernel's shape.

    Raises:
        ValueError: for an unknown method, or scores whose shape is not that of the kernel.

    Example:
        >>> initial_scores([[1.0], [-2.0]], "magnitude").numpy().tolist()
        [[1.0], [2.0]]
    """
    kernel = tf.cast(tf.convert_to_tensor(kernel), tf.float32)
    if gradient is not None:
        gradient = tf.cast(tf.convert_to_tensor(gradient), tf.float32)
    inputs = _fan_in(tuple(kernel.shape)) if fan_in is None else fan_in
    scores = SCORE_INITS.build(method)(kernel, fan_in=inputs, gradient=gradient, seed=seed)
    scores = tf.cast(tf.convert_to_tensor(scores), tf.float32)
    if scores.shape != kernel.shape:
        raise ValueError(
            f"The scores have shape {tuple(scores.shape)}; they must have that of the kernel, "
            f"{tuple(kernel.shape)}."
        )
    return scores
