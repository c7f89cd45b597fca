"""The sizes of an exported file, and the report of an export."""

from __future__ import annotations

import dataclasses
import gzip
import os
import pathlib
from typing import Any

import keras
import numpy as np
from absl import logging

from hydra_tf.export.probes import Comparison


@dataclasses.dataclass(frozen=True)
class ExportReport:
    """Sizes and errors of an exported file, measured on the file itself.

    Args:
        path: the file.
        quantization: None (float32), ``"float16"`` or ``"int8"``.
        sparse_encoding: whether the file stores weights sparsely.
        bytes: size of the file.
        gzip_bytes: size of the file after gzip at level 9.
        sparsity: share of zeros in the Keras model's kernels, in [0, 1].
        float32_bytes: size of all parameters as float32 numbers, 4 bytes each.
        max_abs_error: largest difference between the outputs of the file and of Keras on the
            probe images, in units of the outputs.
        relative_error: `max_abs_error` over the largest absolute output of Keras.
        agreement: share of probe images with the same largest output, in [0, 1].
        probes: number of probe images.
        note: why weights are not stored sparsely although that was requested, and whether outputs
            are constant; else empty.
        constant: whether the file gives the same outputs for all probe images, as a network with
            a dead layer does.

    Example:
        >>> ExportReport("a.tflite", None, True, 10, 8, 0.9, 80, 0.0, 0.0, 1.0, 64).bytes
        10
    """

    path: str
    quantization: str | None
    sparse_encoding: bool
    bytes: int
    gzip_bytes: int
    sparsity: float
    float32_bytes: int
    max_abs_error: float
    relative_error: float
    agreement: float
    probes: int
    note: str = ""
    constant: bool = False

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as a mapping that can be written as JSON."""
        return dataclasses.asdict(self)


def file_sizes(path: str | os.PathLike[str]) -> tuple[int, int]:
    """Return a file's size in bytes, and its size after gzip at level 9.

    Example:
        >>> import tempfile
        >>> path = pathlib.Path(tempfile.mkdtemp(), "zeros")
        >>> _ = path.write_bytes(bytes(1000))
        >>> file_sizes(path)[0], file_sizes(path)[1] < 50
        (1000, True)
    """
    content = pathlib.Path(path).read_bytes()
    return len(content), len(gzip.compress(content, compresslevel=9, mtime=0))


def zero_share(model: keras.Model) -> float:
    """Return the share of zeros in a plain model's kernels, in [0, 1].

    Kernels are the weights of rank 2 or more; biases and BatchNorm do not count. A
    model without kernels has share 0.

    Example:
        >>> net = keras.Sequential([keras.Input([4]), keras.layers.Dense(2)])
        >>> net.layers[0].kernel.assign([[1, 0], [0, 0], [2, 0], [3, 4]])[0, 0].numpy().item()
        1.0
        >>> zero_share(net)
        0.5
    """
    kernels = [np.asarray(weight) for weight in model.weights if len(weight.shape) > 1]
    weights = sum(kernel.size for kernel in kernels)
    zeros = weights - sum(int(np.count_nonzero(kernel)) for kernel in kernels)
    return zeros / weights if weights else 0.0


def measure(
    file: pathlib.Path,
    path: str | os.PathLike[str],
    plain: keras.Model,
    comparison: Comparison,
    *,
    quantization: str | None = None,
    sparse_encoding: bool = False,
    note: str = "",
) -> ExportReport:
    """Return the report of a file that still has its temporary name; warn of constant outputs.

    Args:
        file: current path of the file.
        path: its final path.
        plain: the Keras model without masks that was exported.
        comparison: comparison of its outputs with those of Keras.
        quantization: as in the report.
        sparse_encoding: whether the file stores weights sparsely.
        note: as in the report.
    """
    size, zipped = file_sizes(file)
    if comparison.constant:
        warning = (
            f"The outputs are constant, the same for all {comparison.probes} probe images; look "
            "for a layer whose outputs are all 0."
        )
        logging.warning("hydra_tf: %s: %s", os.fspath(path), warning)
        note = f"{note} {warning}".strip()
    return ExportReport(
        path=os.fspath(path),
        quantization=quantization,
        sparse_encoding=sparse_encoding,
        bytes=size,
        gzip_bytes=zipped,
        sparsity=zero_share(plain),
        float32_bytes=4 * plain.count_params(),
        note=note,
        **dataclasses.asdict(comparison),
    )
