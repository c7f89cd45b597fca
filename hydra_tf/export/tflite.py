"""TFLite files that are run and compared with Keras before they are kept."""

from __future__ import annotations

import contextlib
import dataclasses
import os
from typing import Any, Literal

import keras
import numpy as np
from absl import logging

from hydra_tf.core.files import replacing
from hydra_tf.core.keras_models import wrapped_network
from hydra_tf.core.registry import unknown
from hydra_tf.export import compaction
from hydra_tf.export.budget import Budget, OverBudgetError
from hydra_tf.export.converter import converted
from hydra_tf.export.dead_layers import explain_dead_layers
from hydra_tf.export.examiner import LIMITS, Examiner, Limits
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
    keras_outputs,
    random_probes,
    representative_images,
    spaced_evenly,
)
from hydra_tf.export.size import ExportReport, measure
from hydra_tf.export.sparse_encoding import (
    PREFERENCES,
    Preference,
    bare_bytes,
    encode_sparsely,
    for_any_batch,
    with_float_logits,
)
from hydra_tf.export.zipping import gzipped

Form = Preference | Literal["gzip"]
FORMS = (*PREFERENCES, "gzip")


def _limits(quantization: str | None, tolerance: float | None, agreement: float | None) -> Limits:
    """Return the limits of a quantization, with the user's values in place of the defaults."""
    if quantization is not None and "dynamic" in quantization:
        raise ValueError(
            f'quantization="{quantization}" is not offered: LiteRT loads no sparse 8-bit kernels '
            'of float32 inputs; use "int8", which quantizes the inputs too.'
        )
    if quantization not in LIMITS:
        known = [name for name in LIMITS if name]
        sentence = unknown("quantization", str(quantization), known)
        raise ValueError(f"{sentence} Leave it out for float32.")
    default = LIMITS[quantization]
    limits = Limits(
        default.relative_error if tolerance is None else tolerance,
        default.agreement if agreement is None else agreement,
    )
    if not limits.relative_error >= 0:
        raise ValueError(f"tolerance must be a number of at least 0, not {tolerance}.")
    if not 0 <= limits.agreement <= 1:
        raise ValueError(f"min_agreement must be in [0, 1], not {agreement}.")
    return limits


def _check_preference(prefer: str, quantization: str | None, sparse: bool) -> None:
    """Check that a preference is known, and that the other settings leave it a choice."""
    if prefer not in FORMS:
        raise ValueError(unknown("preference", prefer, list(FORMS)))
    if prefer == "latency" and (quantization is not None or not sparse):
        setting = f'quantization="{quantization}"' if quantization is not None else "sparse=False"
        raise ValueError(
            f'prefer="latency" has no effect with {setting}: only sparse float32 kernels have a '
            "faster form; leave it out."
        )


def needs_images(quantization: str | None) -> bool:
    """Return whether the ranges of a quantization are measured on representative images.

    Example:
        >>> needs_images("int8"), needs_images("float16"), needs_images(None)
        (True, False, False)
    """
    return quantization is not None and quantization.startswith("int8")


def _dense(
    plain: keras.Model, quantization: str | None, calibration: np.ndarray[Any, Any] | None
) -> bytes:
    """Return the file of a plain network with dense kernels, for any number of images."""
    number_format = "int8" if needs_images(quantization) else quantization
    content = for_any_batch(converted(for_one_image(plain), number_format, calibration))
    return with_float_logits(content) if quantization == "int8_float_logits" else content


def draft(
    model: keras.Model,
    quantization: str | None = None,
    sparse: bool = True,
    representative: np.ndarray[Any, Any] | None = None,
    prefer: Form = "size",
    compact: bool = False,
) -> bytes:
    """Return the TFLite file of a network without trying it; see :func:`to_tflite`.

    Args:
        model: as in :func:`to_tflite`, and so are the others.
        quantization: None, ``"float16"``, ``"int8"`` or ``"int8_float_logits"``.
        sparse: whether kernels may be stored sparsely.
        representative: [n, h, w, c] images; int8 measures ranges on all of them.
        prefer: ``"size"``, ``"latency"`` or ``"gzip"``, which is as ``"size"`` here.
        compact: whether channels without effect are removed.

    Example:
        >>> draft(keras.Sequential([keras.Input([4]), keras.layers.Dense(2)]))[4:8]
        b'TFL3'
    """
    plain = plain_copy(model)
    if computes_in_half(plain):
        plain = in_float32(plain)
    if compact:
        plain = compaction.compact(plain)
    dense = _dense(plain, quantization, representative)
    if not sparse:
        return dense
    return min(dense, encode_sparsely(dense, "size" if prefer == "gzip" else prefer), key=len)


def _smallest(
    dense: bytes, prefer: Form | None, examiner: Examiner
) -> tuple[Comparison, bool, str]:
    """Write the smallest correct file; return what `accept` returns, and a note.

    Args:
        dense: the dense file.
        prefer: how to encode it sparsely; None for not at all.
        examiner: writes and tries files.
    """
    if prefer is None:
        return *examiner.accept(dense), ""
    try:
        content = encode_sparsely(dense, "size" if prefer == "gzip" else prefer)
        sizes = [len(gzipped(each) if prefer == "gzip" else each) for each in (content, dense)]
        if sizes[0] < sizes[1]:
            return *examiner.accept(content), ""
        after = " after gzip" if prefer == "gzip" else ""
        note = f"sparse encoding would not make the file smaller{after}."
        level = logging.INFO
    except RuntimeError as error:
        note, level = str(error), logging.WARNING
    note = f"Stored densely: {note}"
    logging.log(level, "hydra_tf: %s", note)
    return *examiner.accept(dense), note


@dataclasses.dataclass(frozen=True)
class _Source:
    """What a file is made of and compared with.

    Args:
        plain: the network without masks, in float32.
        probes: [n, ...] images for the comparison.
        expected: [n, classes] outputs of the user's model on them.
        calibration: [n, ...] images on which ranges are measured; None without the user's images.
    """

    plain: keras.Model
    probes: np.ndarray[Any, Any]
    expected: np.ndarray[Any, Any]
    calibration: np.ndarray[Any, Any] | None

    @classmethod
    def of(cls, model: keras.Model, representative: Any, compact: bool) -> _Source:
        """Return the source for the arguments of :func:`to_tflite`."""
        plain = plain_copy(model)
        shape = image_shape(plain)
        reference = wrapped_network(model)
        if computes_in_half(plain):
            reference = plain = in_float32(plain)
        if compact:
            plain = compaction.compact(plain)
        probes, calibration = random_probes(shape), None
        if representative is not None:
            images = representative_images(representative, shape)
            probes, calibration = spaced_evenly(images, PROBES), spaced_evenly(images, CALIBRATION)
        return cls(plain, probes, keras_outputs(reference, probes), calibration)


def _write(
    source: _Source, quantization: str | None, prefer: Form | None, examiner: Examiner
) -> tuple[bytes, tuple[Comparison, bool, str]]:
    """Write the smallest correct file; return the dense one, and what `_smallest` returns."""
    try:
        dense = _dense(source.plain, quantization, source.calibration)
        return dense, _smallest(dense, prefer, examiner)
    except RuntimeError as error:
        if not needs_images(quantization) or source.calibration is None:
            raise
        raise explain_dead_layers(error, source.plain, source.calibration) from error


def to_tflite(
    model: keras.Model,
    path: str | os.PathLike[str],
    quantization: str | None = None,
    sparse: bool = True,
    representative: Any = None,
    tolerance: float | None = None,
    min_agreement: float | None = None,
    prefer: Form = "size",
    gzip: bool = False,
    compact: bool = False,
    budget_bytes: int | None = None,
    budget_ms: float | None = None,
) -> ExportReport:
    """Write a network as a TFLite file whose outputs in LiteRT agree with those of Keras.

    The file takes one float32 image [1, h, w, c] in [0, 1] and returns float32 outputs
    [1, classes]; `resize_tensor_input` of an interpreter lets it take several. It is run in
    separate processes on 64 images, in LiteRT and tf.lite, each with and without XNNPACK, and
    compared with the Keras model. A sparse file whose outputs differ is replaced by a dense one; if
    those of the dense one differ, it is not kept, and a previous file at `path` is not replaced.
    Models in mixed precision become float32 first.

    Args:
        model: masked or plain functional or Sequential model, or a
            :class:`hydra_tf.RobustModel`.
        path: file to write, ending in ``.tflite``.
        quantization: None (float32), ``"float16"`` (weights in half precision), ``"int8"``
            (weights and activations in 8 bits) or ``"int8_float_logits"`` (as int8, but the last
            layer, which must be dense, computes in float32: more images get Keras's class, for
            three more bytes per weight of that layer).
        sparse: store kernels sparsely, each in its smallest form, if that makes the file smaller.
            The report's `note` says why it was not done.
        representative: [n, h, w, c] images in [0, 1], an array or tf.data.Dataset of them
            (labels are ignored): the ranges of int8 are measured on up to 256 of them,
            and the file is compared on up to 64. Without them it is compared on random images.
        tolerance: maximum difference of an output, as a share of Keras's largest absolute
            output; by default 1e-4, for float16 0.01, for int8 0.25.
        min_agreement: minimum share of images with Keras's class; by default 0, for float16
            0.95, for int8 0.9.
        prefer: ``"size"``; ``"latency"``, which stores dense layers with few nonzero blocks of
            four inputs in such blocks: the file is larger and runs faster; for sparse float32 only;
            or ``"gzip"``, for the smallest ``.gz`` file: the dense file if that is smaller after
            gzip than the sparse one, as int8 files mostly are.
        gzip: also write the file after gzip by libdeflate, under its name with ``.gz`` added.
        compact: remove channels without effect first, as :func:`hydra_tf.export.compact` does; the
            report's sparsity is then that of the smaller model.
        budget_bytes: largest size of the file, before gzip; a larger one is not kept.
        budget_ms: largest median time of an image on this machine, on one thread of LiteRT; a
            slower file is not kept. :func:`hydra_tf.export.nearest_fit` finds a density that fits.

    Returns:
        The report: settings, sizes in bytes, errors in units of the outputs.

    Raises:
        TypeError: for a subclassed model.
        ValueError: unknown quantization or preference, a preference without effect, int8 without
            representative images, images of another shape or outside [0, 1], another suffix,
            several inputs, a budget that is not positive, a model that cannot be compacted.
        OSError: a missing folder, a path that is a folder, or no permission to write.
        OverBudgetError: a RuntimeError; the file exceeds a budget.
        RuntimeError: TensorFlow cannot convert the model, or the file's outputs are wrong.

    Example:
        >>> import tempfile
        >>> net = keras.Sequential([keras.Input([4]), keras.layers.Dense(2)])
        >>> report = to_tflite(net, os.path.join(tempfile.mkdtemp(), "net.tflite"))
        >>> report.sparse_encoding, report.max_abs_error < 1e-4
        (False, True)
    """
    limits = _limits(quantization, tolerance, min_agreement)
    _check_preference(str(prefer), quantization, sparse)
    budget = Budget(budget_bytes, budget_ms)
    if needs_images(quantization) and representative is None:
        raise ValueError(
            f'quantization="{quantization}" needs representative images to measure ranges on; pass '
            "representative, an array [n, h, w, c] in [0, 1]."
        )
    with replacing(path, ".tflite") as temporary, contextlib.ExitStack() as stack:
        zipped = stack.enter_context(replacing(f"{os.fspath(path)}.gz")) if gzip else None
        source = _Source.of(model, representative, compact)
        examiner = Examiner(temporary, source.probes, source.expected, limits)
        dense, accepted = _write(source, quantization, prefer if sparse else None, examiner)
        comparison, sparse_encoding, note = accepted
        if budget and (excess := budget.excess(*budget.measure(temporary, source.probes[0]))):
            raise OverBudgetError(f"{os.fspath(path)} was not kept: {excess}.")
        if zipped is not None:
            zipped.write_bytes(gzipped(temporary.read_bytes()))
        return measure(
            temporary,
            path,
            source.plain,
            comparison,
            quantization=quantization,
            sparse_encoding=sparse_encoding,
            note=note,
            bare=bare_bytes(dense),
            zipped=zipped,
        )
