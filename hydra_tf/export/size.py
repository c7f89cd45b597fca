"""The sizes of an exported file, and the report of an export."""

from __future__ import annotations

import dataclasses
import os
import pathlib
from typing import Any

import keras
import numpy as np
from absl import logging

from hydra_tf.export.probes import MORE_AGREEMENT, Comparison, below_goal
from hydra_tf.export.zipping import level_9_bytes

_VALUE_BITS = {None: 32, "float16": 16, "int8": 8, "int8_float_logits": 8}


@dataclasses.dataclass(frozen=True)
class ExportReport:
    """Sizes and errors of an exported file, measured on the file itself.

    Args:
        path: the file.
        quantization: None (float32), ``"float16"``, ``"int8"`` or ``"int8_float_logits"``.
        sparse_encoding: whether the file stores weights sparsely.
        bytes: size of the file.
        gzip_bytes: size of the file after gzip: of its ``.gz`` file, if that was asked for, else at
            level 9 of zlib.
        sparsity: share of zeros in the Keras model's kernels, in [0, 1].
        float32_bytes: size of all parameters as float32 numbers, 4 bytes each.
        max_abs_error: largest difference between the outputs of the file and of Keras on the
            probe images, in units of the outputs.
        relative_error: `max_abs_error` over the largest absolute output of Keras.
        agreement: share of probe images with the same largest output, in [0, 1].
        probes: number of probe images.
        note: why weights are not stored sparsely although that was requested, whether outputs
            are constant, and whether the agreement is below :data:`probes.AGREEMENT_GOAL`; else
            empty.
        constant: whether the file gives the same outputs for all probe images, as a network with
            a dead layer does.
        entropy_bytes: least size of the kernels, see :func:`entropy_bytes`; None for Keras files.
        bare_bytes: size of the same TFLite file, stored densely, without its kernels.

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
    entropy_bytes: int | None = None
    bare_bytes: int | None = None

    @property
    def bound_ratio(self) -> float | None:
        """Size of the file as a multiple of `entropy_bytes + bare_bytes`; None for Keras files."""
        if self.entropy_bytes is None or self.bare_bytes is None:
            return None
        return self.bytes / (self.entropy_bytes + self.bare_bytes)

    def to_dict(self) -> dict[str, Any]:
        """Return the fields and `bound_ratio` as a mapping that can be written as JSON."""
        return {**dataclasses.asdict(self), "bound_ratio": self.bound_ratio}


def file_sizes(path: str | os.PathLike[str]) -> tuple[int, int]:
    """Return a file's size in bytes, and its size after gzip at level 9.

    The size of a folder is that of all files in it.

    Example:
        >>> import tempfile
        >>> path = pathlib.Path(tempfile.mkdtemp(), "zeros")
        >>> _ = path.write_bytes(bytes(1000))
        >>> file_sizes(path)[0], file_sizes(path)[1] < 50
        (1000, True)
    """
    target = pathlib.Path(path)
    files = sorted(p for p in target.rglob("*") if p.is_file()) if target.is_dir() else [target]
    content = b"".join(file.read_bytes() for file in files)
    return len(content), level_9_bytes(content)


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


def entropy_bytes(model: keras.Model, value_bits: int) -> int:
    """Return the least size of a plain model's kernels, in bytes.

    It is, for each kernel, `value_bits` for each weight that is not zero, and for the positions of
    these weights the entropy of random positions, -d log2(d) - (1 - d) log2(1 - d) bits per weight
    at density d.

    Args:
        model: as in :func:`zero_share`.
        value_bits: size of a weight.

    Example:
        >>> net = keras.Sequential([keras.Input([4]), keras.layers.Dense(2, use_bias=False)])
        >>> net.set_weights([np.array([[1, 0], [0, 0], [2, 0], [3, 4]])])
        >>> entropy_bytes(net, 8)  # 4 bytes of values and 8 bits of positions
        5
    """
    kernels = [np.asarray(weight) for weight in model.weights if len(weight.shape) > 1]
    return round(sum(entropy_bits(kernel, value_bits) for kernel in kernels) / 8)


def entropy_bits(kernel: np.ndarray[Any, Any], value_bits: int) -> float:
    """Return the least size of one kernel, in bits; see :func:`entropy_bytes`.

    Args:
        kernel: any shape.
        value_bits: size of a weight.

    Example:
        >>> entropy_bits(np.array([1.0, 0.0, 0.0, 2.0]), 8)  # 16 bits of values and 4 of positions
        20.0
    """
    kept = int(np.count_nonzero(kernel))
    shares = np.array([kept, kernel.size - kept]) / kernel.size
    shares = shares[shares > 0]
    return kept * value_bits - kernel.size * float(shares @ np.log2(shares))


def measure(
    file: pathlib.Path,
    path: str | os.PathLike[str],
    plain: keras.Model,
    comparison: Comparison,
    *,
    quantization: str | None = None,
    sparse_encoding: bool = False,
    note: str = "",
    bare: int | None = None,
    zipped: pathlib.Path | None = None,
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
        bare: `bare_bytes` of the report; None for Keras files.
        zipped: current path of the ``.gz`` file; None if there is none.
    """
    size, gzip_bytes = file_sizes(file)
    if zipped is not None:
        gzip_bytes = zipped.stat().st_size
    if comparison.constant:
        warning = (
            f"The outputs are constant, the same for all {comparison.probes} probe images; look "
            "for a layer whose outputs are all 0."
        )
        logging.warning("hydra_tf: %s: %s", os.fspath(path), warning)
        note = f"{note} {warning}".strip()
    elif shortfall := below_goal(comparison.agreement, comparison.probes):
        note = f"{note} {shortfall}".strip()
        note += f" {MORE_AGREEMENT}" if quantization == "int8" else ""
    return ExportReport(
        path=os.fspath(path),
        quantization=quantization,
        sparse_encoding=sparse_encoding,
        bytes=size,
        gzip_bytes=gzip_bytes,
        sparsity=zero_share(plain),
        float32_bytes=4 * plain.count_params(),
        note=note,
        entropy_bytes=None if bare is None else entropy_bytes(plain, _VALUE_BITS[quantization]),
        bare_bytes=bare,
        **dataclasses.asdict(comparison),
    )
