"""The conversion of Keras models to TFLite, behind one function.

TensorFlow's converter is used here and nowhere else: when it leaves TensorFlow, only this module
changes.
"""

from __future__ import annotations

import contextlib
import io
import re
import warnings
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from hydra_tf.core.stderr import hidden_stderr


def converted(
    single: keras.Model,
    quantization: str | None = None,
    calibration: np.ndarray[Any, Any] | None = None,
) -> bytes:
    """Return the TFLite file of a model, without the messages and warnings of the converter.

    Args:
        single: plain model on a batch of one image, of Keras or tf_keras.
        quantization: None for float32; ``"float16"``; ``"int8"``, whose ranges are measured on
            `calibration`; ``"trained"`` for the ranges of a model after quantization-aware
            training; or ``"sparse"`` for float32 with the sparse encoding of TensorFlow.
        calibration: [n, h, w, c] float32 images in [0, 1].

    Returns:
        The file, on a batch of one image.

    Raises:
        RuntimeError: with the cause, when TensorFlow cannot convert the model.

    Example:
        >>> net = keras.Sequential([keras.Input([4], batch_size=1), keras.layers.Dense(2)])
        >>> converted(net)[4:8]
        b'TFL3'
    """
    converter = tf.lite.TFLiteConverter.from_keras_model(single)
    if quantization is not None:
        sparse = quantization == "sparse"
        optimize = tf.lite.Optimize
        converter.optimizations = [optimize.EXPERIMENTAL_SPARSITY if sparse else optimize.DEFAULT]
    if quantization == "float16":
        converter.target_spec.supported_types = [tf.float16]
    if quantization == "int8" and calibration is not None:
        images = calibration
        converter.representative_dataset = lambda: ([image[None]] for image in images)
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
    try:
        with _quiet():
            content: bytes = converter.convert()
    # The converter raises errors of many types.
    except Exception as error:
        raise RuntimeError(
            f"TensorFlow cannot convert the model to TFLite: {_reason(error)}"
        ) from error
    return content


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Hide the messages and warnings of the converter."""
    with (
        hidden_stderr(),
        contextlib.redirect_stdout(io.StringIO()),
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("ignore")
        yield


def _reason(error: Exception) -> str:
    """Return the line with the cause from a converter's message, which can be very long."""
    missing = sorted(set(re.findall(r"'tf\.(\w+)' op is neither", str(error))))
    if missing:
        return f"TFLite has no operation for {', '.join(missing)}."
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
