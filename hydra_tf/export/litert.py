"""The outputs of a TFLite file, computed by LiteRT in a separate process."""

from __future__ import annotations

import os
import subprocess
import tempfile
from typing import Any

import numpy as np

from hydra_tf.core.isolated import isolated_command

_WORKER = "hydra_tf.export.litert_worker"


def run_file(
    path: str | os.PathLike[str], images: np.ndarray[Any, Any]
) -> tuple[np.ndarray[Any, Any], int]:
    """Run a TFLite file on images in a separate process.

    LiteRT crashes on some files, such as sparsely stored float16 weights, which must not end
    the user's session.

    Args:
        path: TFLite file with one input [1, ...] and one output.
        images: [n, ...] float32.

    Returns:
        The outputs, [n, ...], and the number of tensors that the file stores sparsely.

    Raises:
        RuntimeError: when LiteRT cannot load or run the file, or crashes on it.
    """
    with tempfile.TemporaryDirectory(prefix="hydra_tf-") as folder:
        inputs, outputs = os.path.join(folder, "in.npy"), os.path.join(folder, "out.npz")
        np.save(inputs, images)
        process = subprocess.run(
            isolated_command(_WORKER, os.fspath(path), inputs, outputs),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
        )
        if process.returncode < 0:
            raise RuntimeError(f"LiteRT crashed on the TFLite file (signal {-process.returncode}).")
        if process.returncode > 0:
            reason = (process.stderr.strip().splitlines() or ["no reason given"])[-1]
            raise RuntimeError(f"LiteRT cannot run the TFLite file: {reason}")
        with np.load(outputs) as stored:
            return stored["outputs"], int(stored["sparse"])
