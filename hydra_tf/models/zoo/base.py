"""The registry of networks, and what all of them share."""

from __future__ import annotations

import abc
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from hydra_tf.core.lazy import keras
from hydra_tf.core.registry import Registry
from hydra_tf.models.zoo.wiring import Wiring

MODELS: Registry[Callable[..., Any]] = Registry("model", "hydra_tf.models.zoo")


@dataclass(frozen=True)
class Network(abc.ABC):
    """A network of the zoo: parameters, and one method that connects its layers.

    Subclasses set ``least_size``, the least height and width of the images.
    """

    least_size: ClassVar[int] = 1

    @property
    @abc.abstractmethod
    def title(self) -> str:
        """Name of the Keras model."""

    @abc.abstractmethod
    def connect(self, wire: Wiring, x: Any, num_classes: int) -> Any:
        """Return the logits of images `x` as a Keras tensor.

        Args:
            wire: makes the layers, initialised from the seed.
            x: Keras tensor [batch, height, width, channels].
            num_classes: number of logits.
        """

    def __call__(
        self, input_shape: Sequence[int], num_classes: int, seed: int | None = None
    ) -> keras.Model:
        """Return the network, freshly initialised; see :func:`build`."""
        shape = _image_shape(input_shape)
        _check_classes(num_classes)
        if min(shape[:2]) < self.least_size:
            raise ValueError(
                f"{self.title} halves the images until nothing is left of {shape[0]}x{shape[1]}; "
                f"it needs at least {self.least_size}x{self.least_size}. Enlarge the images or "
                "choose a smaller network."
            )
        images = keras.Input(shape, name="images")
        logits = self.connect(Wiring(seed), images, num_classes)
        return keras.Model(images, logits, name=self.title)


def build(
    spec: Any, input_shape: Sequence[int], num_classes: int, seed: int | None = None
) -> keras.Model:
    """Return a freshly initialised network that outputs logits.

    Args:
        spec: name with parameters (``"wide_resnet:depth=28,width=4"``), mapping, instance, or
            a callable (input_shape, num_classes, seed) -> keras.Model.
        input_shape: (height, width, channels) of the images.
        num_classes: number of logits, at least 2.
        seed: the same seed gives the same weights; None draws new ones.

    Returns:
        A functional Keras model of built-in layers: images [batch, height, width, channels]
        in [0, 1] to logits [batch, classes].

    Raises:
        ValueError: unknown network or parameter, a value out of range, images too small.
        TypeError: a value of the wrong type.

    Example:
        >>> build("cnn_small", (8, 8, 1), 10, seed=0).output_shape
        (None, 10)
    """
    if not (seed is None or (isinstance(seed, int) and not isinstance(seed, bool))):
        raise TypeError(f"seed must be a whole number or None, not {seed!r}.")
    network = MODELS.build(spec)
    model = network(input_shape, num_classes, seed)
    if not isinstance(model, keras.Model):
        raise TypeError(f"A model given as a callable must return a Keras model, not {model!r}.")
    return model


def _image_shape(shape: Sequence[int]) -> tuple[int, int, int]:
    """Return (height, width, channels) as whole numbers, or say what is wrong with them."""
    sizes = tuple(shape)
    whole = all(isinstance(size, int) and not isinstance(size, bool) for size in sizes)
    if len(sizes) != 3 or not whole or min(sizes) < 1:
        raise ValueError(
            f"input_shape must be (height, width, channels), each at least 1, not {shape!r}."
        )
    return sizes


def _check_classes(num_classes: int) -> None:
    """Refuse a number of classes that leaves nothing to decide."""
    if not isinstance(num_classes, int) or isinstance(num_classes, bool) or num_classes < 2:
        raise ValueError(f"num_classes must be a whole number of at least 2, not {num_classes!r}.")
