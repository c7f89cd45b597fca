"""Value types that the folders of the library share, and checks of their values."""

from __future__ import annotations

import math
import numbers
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeAlias

if TYPE_CHECKING:
    import tensorflow as tf

Norm = Literal["linf", "l2"]

# Tensors in signatures. The aliases are strings, so that TensorFlow is not loaded.
Images: TypeAlias = "tf.Tensor"  # [batch, ...] float32, pixel values in [0, 1]
Labels: TypeAlias = "tf.Tensor"  # [batch] int32
Logits: TypeAlias = "tf.Tensor"  # [batch, classes] float32 or half precision
Seed: TypeAlias = "tf.Tensor"  # [2] int32, of stateless random operations


class Classifier(Protocol):
    """A network as attacks, objectives and validation measures call it; Keras models qualify."""

    def __call__(self, x: Images, training: bool = False) -> Logits:
        """Return the logits of a batch of images."""


def require_number(name: str, value: Any, whole: bool = False) -> None:
    """Check that a value is a number.

    Args:
        name: name of the value in the error.
        value: the value; True and False are not numbers.
        whole: whether it must be a whole number.

    Raises:
        TypeError: with the name and the value.

    Example:
        >>> require_number("n", 100, whole=True)
    """
    kind = numbers.Integral if whole else numbers.Real
    if isinstance(value, bool) or not isinstance(value, kind):
        wanted = "a whole number" if whole else "a number such as 8/255"
        raise TypeError(f"{name} must be {wanted}, not {value!r}.")


def require_seed(name: str, value: Any) -> None:
    """Check that a value is a seed: a whole number of at least 0 that fits into 63 bits.

    Args:
        name: name of the value in the error.
        value: the value.

    Raises:
        TypeError: for a value that is not a whole number.
        ValueError: for a value out of range.

    Example:
        >>> require_seed("seed", 2**63 - 1)
    """
    require_number(name, value, whole=True)
    if value < 0:
        raise ValueError(f"{name} must be at least 0, not {value}.")
    if value >= 2**63:
        raise ValueError(f"{name} must be below 2^63, not {value}.")


@dataclass(frozen=True)
class Ball:
    """The perturbations of an image that an adversary may choose.

    Args:
        norm: ``"linf"`` or ``"l2"``.
        epsilon: radius, in units of pixel values in [0, 1].

    Raises:
        ValueError: another norm, an invalid radius, or an Linf radius larger than the range of
            pixel values.

    Example:
        >>> Ball("linf", 8 / 255).norm
        'linf'
    """

    norm: Norm
    epsilon: float

    def __post_init__(self) -> None:
        if self.norm not in ("linf", "l2"):
            raise ValueError(f'The norm must be "linf" or "l2", not {self.norm!r}.')
        require_linf_radius(self.epsilon, (0, 1) if self.norm == "linf" else None)


def require_linf_radius(epsilon: float, clip: tuple[float, float] | None = (0, 1)) -> None:
    """Check that an Linf radius is a number of at least 0 within the range of pixel values.

    Args:
        epsilon: radius in the units of the images.
        clip: smallest and largest pixel value; None for any.

    Raises:
        TypeError: for a value that is not a number.
        ValueError: for a radius out of range.

    Example:
        >>> require_linf_radius(2 / 255)
    """
    require_number("epsilon", epsilon)
    if not 0 <= epsilon < float("inf"):
        raise ValueError(f"epsilon must be a finite number of at least 0, not {epsilon}.")
    if clip is not None and epsilon > clip[1] - clip[0]:
        raise ValueError(
            f"epsilon={epsilon:.9g} is larger than the range of pixel values, [{clip[0]:.9g}, "
            f"{clip[1]:.9g}]; for images in [0, 1], write 8/255 for 8 grey levels, not 8."
        )


@dataclass(frozen=True)
class Sampling:
    """How a classifier is smoothed and sampled (Cohen et al., ICML 2019, section 3.2).

    Args:
        sigma: standard deviation of the noise, in units of pixel values in [0, 1]; from 1e-6 to
            1000, so that float32 can represent both the noise and the image under it.
        n0: number of draws that choose the class, at most 10^9.
        n: number of draws that bound the probability of the class, at most 10^9; at least
            :func:`least_draws`, since fewer certify nothing.
        alpha: probability, in (0, 1), that a certificate is wrong.

    Raises:
        TypeError: for a value that is not a number, or a number of draws that is not whole.
        ValueError: for a value out of range, or an `n` that cannot certify with this `alpha`.

    Example:
        >>> Sampling(sigma=0.5).n
        10000
    """

    sigma: float = 0.25
    n0: int = 100
    n: int = 10_000
    alpha: float = 0.001

    def __post_init__(self) -> None:
        for name in ("sigma", "n0", "n", "alpha"):
            require_number(name, getattr(self, name), whole=name in ("n0", "n"))
        if not 0 < self.sigma < float("inf"):
            raise ValueError(f"sigma must be a finite number above 0, not {self.sigma}.")
        if not _SIGMAS[0] <= self.sigma <= _SIGMAS[1]:
            raise ValueError(
                f"sigma must be from {_SIGMAS[0]:g} to {_SIGMAS[1]:g}, not {self.sigma:g}: pixel "
                "values are in [0, 1], and float32 cannot represent such noise together with them."
            )
        for name, draws in (("n0", self.n0), ("n", self.n)):
            if draws < 1:
                raise ValueError(f"{name} must be at least 1 draw, not {draws}.")
            if draws > _MOST_DRAWS:
                raise ValueError(f"{name} must be at most {_MOST_DRAWS} draws, not {draws}.")
        if not 0 < self.alpha < 1:
            raise ValueError(f"alpha is a probability in (0, 1), not {self.alpha}.")
        if -math.expm1(math.log(self.alpha) / self.n) < _LEAST_TAIL:
            raise ValueError(
                f"alpha={self.alpha} with n={self.n} is too close to 1: the bound of the "
                "probability would be rounded to 1, and the radius infinite; choose a smaller "
                "alpha, such as 0.001."
            )
        if self.n < (least := least_draws(self.alpha)):
            raise ValueError(
                f"n={self.n} draws cannot certify with alpha={self.alpha}, even if all of them "
                f"agree; use at least n={least}."
            )


# Noise is float32, like pixel values, which keep about 4 digits under the largest sigma.
_SIGMAS = (1e-6, 1e3)
_MOST_DRAWS = 10**9  # draws are counted in int32
# The smallest 1 - alpha ** (1 / n) of which float64 keeps about 6 digits.
_LEAST_TAIL = 1e-10


def least_draws(alpha: float) -> int:
    """Return the smallest n for which n agreeing draws certify: alpha ** (1 / n) > 1 / 2.

    Args:
        alpha: probability, in (0, 1), that a certificate is wrong.

    Example:
        >>> least_draws(0.001)  # 0.001 ** (1 / 10) = 0.501
        10
    """
    n = 1
    while 0.5**n >= alpha:
        n += 1
    return n


@dataclass(frozen=True)
class Interval:
    """Lower and upper bounds of a tensor, element by element.

    Args:
        lower: float32 tensor.
        upper: float32 tensor of the same shape, at least `lower`.

    Example:
        >>> Interval(lower=0.25, upper=0.75).upper
        0.75
    """

    lower: tf.Tensor
    upper: tf.Tensor


@dataclass(frozen=True)
class StepContext:
    """The seed and progress of a training step.

    Args:
        seed: int32 tensor of shape [2]; every random number of the step is a function of it.
        progress: float32 scalar in [0, 1], the share of the phase's steps already done.
    """

    seed: tf.Tensor
    progress: tf.Tensor


@dataclass(frozen=True)
class LossTerms:
    """The loss terms of one batch.

    Args:
        loss: scalar, the mean over the batch that training minimises.
        logits: [batch, classes], the logits of the benign images.
        adversarial_logits: [batch, classes] under the objective's own attack, if it has one.
        components: named scalar terms of the loss.
        perturbed: [batch, ...] images of a replayed objective for the next step.
    """

    loss: tf.Tensor
    logits: tf.Tensor
    adversarial_logits: tf.Tensor | None = None
    components: dict[str, tf.Tensor] = field(default_factory=dict)
    perturbed: tf.Tensor | None = None
