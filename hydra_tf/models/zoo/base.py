"""The registry of networks, and their base class."""

from __future__ import annotations

import abc
import reprlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from numbers import Integral
from typing import Any, ClassVar

from hydra_tf.core.lazy import keras
from hydra_tf.core.registry import Registry
from hydra_tf.models.zoo.wiring import Wiring

NetworkSpec = str | Mapping[str, Any] | Callable[..., "keras.Model"]
MODELS: Registry[Callable[..., keras.Model]] = Registry("model", "hydra_tf.models.zoo")


@dataclass(frozen=True)
class Network(abc.ABC):
    """Base of the networks: their parameters, and one method that connects the layers.

    Subclasses set ``least_size``, the smallest height and width of the images.

    Example:
        >>> @dataclass(frozen=True)
        ... class Linear(Network):
        ...     title = "linear"
        ...
        ...     def connect(self, wire, x, num_classes):
        ...         return keras.layers.Dense(num_classes)(keras.layers.Flatten()(x))
        >>> Linear()((2, 2, 1), 3).output_shape
        (None, 3)
    """

    least_size: ClassVar[int] = 1

    @property
    @abc.abstractmethod
    def title(self) -> str:
        """Name of the Keras model."""

    @abc.abstractmethod
    def connect(self, wire: Wiring, x: keras.KerasTensor, num_classes: int) -> keras.KerasTensor:
        """Return the logits of images `x` as a Keras tensor.

        Args:
            wire: adds layers, initialised from the seed.
            x: Keras tensor [batch, height, width, channels].
            num_classes: number of logits.
        """

    def __call__(
        self, input_shape: Sequence[int], num_classes: int, seed: int | None = None
    ) -> keras.Model:
        """Return the network with new weights; see :func:`build`."""
        shape = _image_shape(input_shape)
        _check_classes(num_classes)
        if min(shape[:2]) < self.least_size:
            raise ValueError(
                f"{self.title} halves images several times and needs at least "
                f"{self.least_size}x{self.least_size}, not {shape[0]}x{shape[1]}; enlarge the "
                "images or choose a network with fewer stages."
            )
        images = keras.Input(shape, name="images")
        logits = self.connect(Wiring(seed), images, num_classes)
        return keras.Model(images, logits, name=self.title)


def build(
    spec: NetworkSpec, input_shape: Sequence[int], num_classes: int, seed: int | None = None
) -> keras.Model:
    """Return a network with new weights that outputs logits.

    Args:
        spec: name with parameters (``"wide_resnet:depth=28,width=4"``), mapping, instance, or
            a callable (input_shape, num_classes, seed) -> keras.Model.
        input_shape: (height, width, channels) of the images.
        num_classes: number of logits, at least 2.
        seed: the same seed gives the same weights; None draws random ones.

    Returns:
        A functional Keras model of built-in layers: images [batch, height, width, channels]
        in [0, 1] to logits [batch, classes].

    Raises:
        ValueError: for an unknown network or parameter, a value out of range, or images that are
            too small.
        TypeError: for a value of the wrong type.

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
    """Return (height, width, channels), after checking that they are whole numbers above 0."""
    sentence = (
        "input_shape must be (height, width, channels), whole numbers that are each at least 1, "
        f"not {reprlib.repr(shape)}."
    )
    try:
        sizes: tuple[Any, ...] = tuple(shape)
    except TypeError as error:
        raise TypeError(sentence) from error
    whole = all(isinstance(size, Integral) and not isinstance(size, bool) for size in sizes)
    if len(sizes) != 3 or not whole or min(sizes) < 1:
        raise ValueError(sentence)
    height, width, channels = map(int, sizes)  # also numbers of NumPy
    return height, width, channels


def _check_classes(num_classes: int) -> None:
    """Check that there are at least two classes."""
    if not isinstance(num_classes, int) or isinstance(num_classes, bool) or num_classes < 2:
        raise ValueError(f"num_classes must be a whole number of at least 2, not {num_classes!r}.")
