"""Images on which an exported file is compared with Keras."""

from __future__ import annotations

import dataclasses
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from hydra_tf.core.pixels import clipped_pixels, require_pixel_range

PROBES = 64
CALIBRATION = 256
AGREEMENT_GOAL = 0.995  # share of images of Keras's class; a report points out less
_BATCH = 16
MORE_AGREEMENT = (
    'For an int8 file of a network that ends in a dense layer, quantization="int8_float_logits" '
    "helps: mostly, 8 bits make the two largest logits equal (docs/int8_robustness.md)."
)


@dataclasses.dataclass(frozen=True)
class Comparison:
    """How the outputs of a file differ from those of Keras; see ExportReport for the fields."""

    max_abs_error: float
    relative_error: float
    agreement: float
    probes: int
    constant: bool = False


def compare(outputs: np.ndarray[Any, Any], expected: np.ndarray[Any, Any]) -> Comparison:
    """Compare the outputs of a file with Keras's.

    Args:
        outputs: [images, classes] of the file.
        expected: [images, classes] of Keras, finite.

    Raises:
        RuntimeError: when shapes differ or outputs are not finite.

    Example:
        >>> compare(np.array([[1.0, 2.5]]), np.array([[1.0, 2.0]]))
        Comparison(max_abs_error=0.5, relative_error=0.25, agreement=1.0, probes=1, constant=False)
    """
    if outputs.shape != expected.shape:
        raise RuntimeError(
            f"The file returns outputs of shape {outputs.shape}, but Keras {expected.shape}."
        )
    if not np.isfinite(outputs).all():
        raise RuntimeError("The file returns NaN or infinite outputs, but Keras does not.")
    error = float(np.max(np.abs(outputs.astype(np.float64) - expected)))
    scale = max(float(np.max(np.abs(expected))), float(np.finfo(np.float32).tiny))
    same = np.argmax(outputs, axis=-1) == np.argmax(expected, axis=-1)
    # One image cannot show whether outputs depend on it.
    constant = len(outputs) > 1 and bool(np.all(outputs == outputs[0]))
    return Comparison(error, error / scale, float(np.mean(same)), len(expected), constant)


def below_goal(agreement: float, images: int) -> str:
    """Return a sentence if the share of images of Keras's class is below the goal, else "".

    Args:
        agreement: share of images, in [0, 1].
        images: number of images.

    Example:
        >>> below_goal(0.98, 1000)
        'The file gives 20 of 1,000 images another class than Keras: 98.0% agree, goal 99.5%.'
        >>> below_goal(0.995, 1000)
        ''
    """
    if agreement >= AGREEMENT_GOAL:
        return ""
    return (
        f"The file gives {round((1 - agreement) * images):,} of {images:,} images another class "
        f"than Keras: {agreement:.1%} agree, goal {AGREEMENT_GOAL:.1%}."
    )


def random_probes(shape: tuple[int, ...], count: int = PROBES) -> np.ndarray[Any, Any]:
    """Return [count, *shape] uniform random images in [0, 1], the same at every call.

    Example:
        >>> random_probes((2, 2, 1), 3).shape
        (3, 2, 2, 1)
    """
    return np.random.default_rng(0).random((count, *shape), dtype=np.float32)


def spaced_evenly(images: np.ndarray[Any, Any], count: int) -> np.ndarray[Any, Any]:
    """Return at most `count` images, evenly spaced, so that data sorted by label stay mixed.

    Example:
        >>> spaced_evenly(np.arange(10), 3).tolist()
        [0, 4, 9]
    """
    positions = np.linspace(0, len(images) - 1, min(count, len(images)))
    chosen: np.ndarray[Any, Any] = images[positions.round().astype(int)]
    return chosen


def _gather(images: Any, shape: tuple[int, ...]) -> np.ndarray[Any, Any]:
    """Return the first images of a dataset, or all of an array."""
    if not isinstance(images, tf.data.Dataset):
        return np.asarray(images)
    batches: list[np.ndarray[Any, Any]] = []
    for element in images:
        batch = np.asarray(element[0] if isinstance(element, tuple | list) else element)
        batches.append(batch[None] if batch.ndim == len(shape) else batch)
        if sum(map(len, batches)) >= CALIBRATION:
            break
    return np.concatenate(batches) if batches else np.empty((0, *shape), np.float32)


def representative_images(images: Any, shape: tuple[int, ...]) -> np.ndarray[Any, Any]:
    """Return the user's representative images as a checked array.

    Args:
        images: [n, *shape] array, or tf.data.Dataset of images or (images, labels), in
            batches or one by one, of which the first 256 images are used.
        shape: the model's input shape without the batch axis.

    Raises:
        TypeError: for values that are not numbers.
        ValueError: no images, another shape, or pixel values outside [0, 1].

    Example:
        >>> representative_images([[0.0, 1.0], [0.5, 0.5]], (2,)).dtype.name
        'float32'
    """
    array = _gather(images, shape)
    if not np.issubdtype(array.dtype, np.number):
        raise TypeError(
            "representative must be an array or a tf.data.Dataset of images, "
            f"not {type(images).__name__}."
        )
    if array.ndim != len(shape) + 1 or array.shape[1:] != shape or not len(array):
        wanted = ", ".join(map(str, ("n", *shape)))
        raise ValueError(
            f"representative must have images of shape [{wanted}] with n at least 1, but its "
            f"shape is {list(array.shape)}."
        )
    require_pixel_range(array)
    return np.asarray(clipped_pixels(array))


def keras_outputs(model: keras.Model, images: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Return the model's outputs on images, in inference mode.

    Args:
        model: a model of one input and one output.
        images: [n, ...] float32.

    Raises:
        ValueError: for NaN or infinite outputs.

    Example:
        >>> net = keras.Sequential([keras.Input([4]), keras.layers.Dense(2)])
        >>> keras_outputs(net, np.zeros((3, 4), "float32")).tolist()
        [[0.0, 0.0], [0.0, 0.0], [0.0, 0.0]]
    """
    outputs = np.concatenate(
        [
            np.asarray(model(images[start : start + _BATCH], training=False))
            for start in range(0, len(images), _BATCH)
        ]
    )
    if not np.isfinite(outputs).all():
        raise ValueError(
            "The Keras model returns NaN or infinite outputs on the probe images, so it cannot be "
            "exported; check its weights."
        )
    return outputs
