"""TFLite files that are run and compared with Keras before they are kept."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import os
import pathlib
import re
import warnings
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from absl import logging

from hydra_tf.core.files import replacing
from hydra_tf.core.keras_models import wrapped_network
from hydra_tf.core.registry import unknown
from hydra_tf.core.stderr import hidden_stderr
from hydra_tf.export.dead_layers import explain_dead_layers
from hydra_tf.export.litert import run_file
from hydra_tf.export.prepare import (
    computes_in_half,
    for_one_image,
    image_shape,
    in_float32,
    plain_copy,
)
from hydra_tf.export.probes import (
    CALIBRATION,
    PROBES,
    Comparison,
    compare,
    keras_outputs,
    random_probes,
    representative_images,
    spaced_evenly,
)
from hydra_tf.export.size import ExportReport, measure


@dataclasses.dataclass(frozen=True)
class _Limits:
    """What a file must satisfy to be kept: maximum relative error, minimum agreement."""

    relative_error: float
    agreement: float


_LIMITS = {
    None: _Limits(1e-4, 0.0),
    "float16": _Limits(1e-2, 0.95),
    "int8": _Limits(0.25, 0.9),
}
_DENSE_ONLY = {
    "float16": "LiteRT gives NaN or crashes on sparsely stored float16 weights",
    "int8": "LiteRT cannot load sparsely stored int8 weights",
}


def _limits(quantization: str | None, tolerance: float | None, agreement: float | None) -> _Limits:
    """Return the limits of a quantization, with the user's values in place of the defaults."""
    if quantization not in _LIMITS:
        known = [name for name in _LIMITS if name]
        sentence = unknown("quantization", str(quantization), known)
        raise ValueError(f"{sentence} Leave it out for float32.")
    default = _LIMITS[quantization]
    limits = _Limits(
        default.relative_error if tolerance is None else tolerance,
        default.agreement if agreement is None else agreement,
    )
    if not limits.relative_error >= 0:
        raise ValueError(f"tolerance must be a number of at least 0, not {tolerance}.")
    if not 0 <= limits.agreement <= 1:
        raise ValueError(f"min_agreement must be in [0, 1], not {agreement}.")
    return limits


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


def _convert(
    single: keras.Model,
    quantization: str | None,
    sparse: bool,
    calibration: np.ndarray[Any, Any] | None,
) -> bytes:
    """Return the TFLite file of a model of batch one."""
    converter = tf.lite.TFLiteConverter.from_keras_model(single)
    if sparse:
        converter.optimizations = [tf.lite.Optimize.EXPERIMENTAL_SPARSITY]
    elif quantization is not None:
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
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


@dataclasses.dataclass(frozen=True)
class _Examiner:
    """Writes a candidate file, and accepts it only if its outputs match those of Keras."""

    file: pathlib.Path
    probes: np.ndarray
    expected: np.ndarray
    limits: _Limits

    def accept(self, content: bytes) -> tuple[Comparison, bool]:
        """Return the comparison with Keras, and whether the file is stored sparsely."""
        self.file.write_bytes(content)
        outputs, sparse_tensors = run_file(self.file, self.probes)
        comparison = compare(outputs, self.expected)
        if not comparison.relative_error <= self.limits.relative_error:
            raise RuntimeError(
                f"The TFLite file's outputs differ from Keras's by up to "
                f"{comparison.max_abs_error:g}, {comparison.relative_error:.2g} of the largest "
                f"output, but the tolerance is {self.limits.relative_error:g}."
            )
        if comparison.agreement < self.limits.agreement:
            raise RuntimeError(
                f"The TFLite file predicts Keras's class on only {comparison.agreement:.1%} of "
                f"{comparison.probes} images, but at least {self.limits.agreement:.1%} is required."
            )
        return comparison, sparse_tensors > 0


def _smallest(
    single: keras.Model,
    quantization: str | None,
    sparse: bool,
    calibration: np.ndarray[Any, Any] | None,
    examiner: _Examiner,
) -> tuple[Comparison, bool, str]:
    """Write the smallest correct file; return what `accept` returns, and a note."""
    dense = _convert(single, quantization, False, calibration)
    note, level = "", logging.INFO
    if sparse and quantization is not None:
        note = f"Stored densely: {_DENSE_ONLY[quantization]}."
    elif sparse:
        try:
            content = _convert(single, None, True, None)
            if len(content) < len(dense):
                return *examiner.accept(content), ""
            note = "Stored densely: sparse encoding would not make the file smaller."
        except RuntimeError as error:
            note, level = f"Stored densely: {error}", logging.WARNING
    if note:
        logging.log(level, "hydra_tf: %s", note)
    return *examiner.accept(dense), note


def to_tflite(
    model: keras.Model,
    path: str | os.PathLike[str],
    quantization: str | None = None,
    sparse: bool = True,
    representative: Any = None,
    tolerance: float | None = None,
    min_agreement: float | None = None,
) -> ExportReport:
    """Write a network as a TFLite file whose outputs in LiteRT agree with those of Keras.

    The file takes one float32 image [1, h, w, c] in [0, 1] and returns float32 outputs
    [1, classes]: with a variable batch size it would be larger. It is run in a separate process
    on 64 images and compared with the Keras model; if outputs differ, it is not kept, and a
    previous file at `path` is not replaced. Models in mixed precision become float32 first.

    Args:
        model: masked or plain functional or Sequential model, or a
            :class:`hydra_tf.RobustModel`.
        path: file to write, ending in ``.tflite``.
        quantization: None (float32), ``"float16"`` (weights in half precision) or
            ``"int8"`` (weights and activations in 8 bits).
        sparse: store weights sparsely if that makes the file smaller and LiteRT runs it
            correctly; float32 only. The report's `note` says why it was not done.
        representative: [n, h, w, c] images in [0, 1], an array or tf.data.Dataset of them
            (labels are ignored): the ranges of int8 are measured on up to 256 of them,
            and the file is compared on up to 64. Without them it is compared on random images.
        tolerance: maximum difference of an output, as a share of Keras's largest absolute
            output; by default 1e-4, for float16 0.01, for int8 0.25.
        min_agreement: minimum share of images with Keras's class; by default 0, for float16
            0.95, for int8 0.9.

    Returns:
        The report: settings, sizes in bytes, errors in units of the outputs.

    Raises:
        TypeError: for a subclassed model.
        ValueError: unknown quantization, int8 without representative images, images of
            another shape or outside [0, 1], another suffix, several inputs.
        OSError: a missing folder, a path that is a folder, or no permission to write.
        RuntimeError: TensorFlow cannot convert the model, or the file's outputs are wrong.

    Example:
        >>> import tempfile
        >>> net = keras.Sequential([keras.Input([4]), keras.layers.Dense(2)])
        >>> report = to_tflite(net, os.path.join(tempfile.mkdtemp(), "net.tflite"))
        >>> report.sparse_encoding, report.max_abs_error < 1e-4
        (False, True)
    """
    limits = _limits(quantization, tolerance, min_agreement)
    if quantization == "int8" and representative is None:
        raise ValueError(
            'quantization="int8" needs representative images to measure ranges on; pass '
            "representative, an array [n, h, w, c] in [0, 1]."
        )
    with replacing(path, ".tflite") as temporary:
        plain = plain_copy(model)
        shape = image_shape(plain)
        reference = wrapped_network(model)
        if computes_in_half(plain):
            reference = plain = in_float32(plain)
        probes, calibration = random_probes(shape), None
        if representative is not None:
            images = representative_images(representative, shape)
            probes, calibration = spaced_evenly(images, PROBES), spaced_evenly(images, CALIBRATION)
        examiner = _Examiner(temporary, probes, keras_outputs(reference, probes), limits)
        try:
            comparison, sparse_encoding, note = _smallest(
                for_one_image(plain), quantization, sparse, calibration, examiner
            )
        except RuntimeError as error:
            if quantization != "int8" or calibration is None:
                raise
            raise explain_dead_layers(error, plain, calibration) from error
        return measure(
            temporary,
            path,
            plain,
            comparison,
            quantization=quantization,
            sparse_encoding=sparse_encoding,
            note=note,
        )
