"""The outputs of a TFLite file, computed by LiteRT or tf.lite in separate processes."""

from __future__ import annotations

import concurrent.futures
import dataclasses
import importlib.util
import os
import subprocess
import tempfile
from typing import Any

import numpy as np

from hydra_tf.core.isolated import isolated_command

_WORKER = "hydra_tf.export.litert_worker"
LITERT = "LiteRT"
# Names of the interpreters, and their modules. That of tf.lite is going to leave TensorFlow.
RUNTIMES = {
    LITERT: "ai_edge_litert.interpreter",
    "tf.lite": "tensorflow.lite.python.interpreter",
}


@dataclasses.dataclass(frozen=True)
class Trial:
    """What an interpreter made of a TFLite file.

    Args:
        outputs: [n, ...], with XNNPACK, which interpreters use by default.
        without_xnnpack: [n, ...], with the interpreter's own operators.
        sparse: number of tensors that the file stores sparsely.
    """

    outputs: np.ndarray[Any, Any]
    without_xnnpack: np.ndarray[Any, Any]
    sparse: int


def run_file(
    path: str | os.PathLike[str], images: np.ndarray[Any, Any], runtime: str = LITERT
) -> Trial:
    """Run a TFLite file on images in a separate process.

    Interpreters crash on some files, which must not end the user's session.

    Args:
        path: TFLite file with one input [1, ...] and one output.
        images: [n, ...] float32.
        runtime: a key of `RUNTIMES`.

    Returns:
        The outputs with and without XNNPACK.

    Raises:
        RuntimeError: when the interpreter cannot load or run the file, or crashes on it.
    """
    with tempfile.TemporaryDirectory(prefix="hydra_tf-") as folder:
        inputs, outputs = os.path.join(folder, "in.npy"), os.path.join(folder, "out.npz")
        np.save(inputs, images)
        process = subprocess.run(
            isolated_command(_WORKER, os.fspath(path), inputs, outputs, RUNTIMES[runtime]),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
        )
        if process.returncode < 0:
            raise RuntimeError(
                f"{runtime} crashed on the TFLite file (signal {-process.returncode})."
            )
        if process.returncode > 0:
            reason = (process.stderr.strip().splitlines() or ["no reason given"])[-1]
            raise RuntimeError(f"{runtime} cannot run the TFLite file: {reason}")
        with np.load(outputs) as stored:
            return Trial(stored["outputs"], stored["without_xnnpack"], int(stored["sparse"]))


def run_everywhere(path: str | os.PathLike[str], images: np.ndarray[Any, Any]) -> dict[str, Trial]:
    """Run a TFLite file as :func:`run_file` does in every interpreter that is installed, at once.

    Returns:
        The trials by the names of the interpreters, that of LiteRT first.
    """
    names = [name for name, module in RUNTIMES.items() if _is_installed(module)]
    with concurrent.futures.ThreadPoolExecutor() as pool:
        trials = pool.map(lambda name: run_file(path, images, name), names)
        return dict(zip(names, trials, strict=True))


def _is_installed(module: str) -> bool:
    """Return whether a module can be imported."""
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:
        return False
