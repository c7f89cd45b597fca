"""Formats of flags.export beside TFLite: SavedModel and ONNX."""

from __future__ import annotations

import importlib.util
import os
from typing import TYPE_CHECKING

from . import flag_values
from .launcher import FLAGS, UsageError

if TYPE_CHECKING:
    import keras

    from hydra_tf.export import ExportReport

FORMATS = ("tflite", "saved_model", "onnx")
# Flags that only TFLite files have.
_TFLITE = ("quantization", "sparse", "prefer", "gzip", "budget_bytes", "budget_ms", "judge")


def check() -> None:
    """Check the flags of --format before any work.

    Raises:
        UsageError: for a flag that the format does not have, a missing --out or package.
        ValueError, OSError: for a path that cannot be written.
    """
    from hydra_tf.core.files import checked_path

    flag_values.at_least("batch_size", 0)
    if FLAGS.format == "tflite":
        if FLAGS.batch_size:
            raise UsageError(
                "--batch_size has no effect with --format=tflite: the file takes one image, and "
                "resize_tensor_input of an interpreter changes that. Leave it out."
            )
        return
    for name in _TFLITE:
        if FLAGS[name].present:
            raise UsageError(f"--{name} has no effect with --format={FLAGS.format}; leave it out.")
    if FLAGS.format == "onnx":
        missing = [n for n in ("tf2onnx", "onnx", "onnxruntime") if not importlib.util.find_spec(n)]
        if missing:
            raise UsageError(
                f"--format=onnx needs {' and '.join(missing)}; run: pip install 'hydra_tf[onnx]'."
            )
        target = checked_path(target_path(), ".onnx")
        if target.exists() and not target.is_file():
            raise UsageError(f"{target} is not a file; choose another --out.")
    elif not FLAGS.out:
        raise UsageError("--out is missing: name the folder of the SavedModel.")


def target_path() -> str:
    """Return the path to write."""
    return FLAGS.out or os.path.join(FLAGS.run, "model.onnx")


def write(net: keras.Model) -> ExportReport:
    """Write a network in the format of --format.

    Args:
        net: the network.
    """
    from hydra_tf import export

    writer = export.to_onnx if FLAGS.format == "onnx" else export.to_saved_model
    if FLAGS.compact:
        net = export.compact(net)
    return writer(net, target_path(), FLAGS.batch_size or None)
