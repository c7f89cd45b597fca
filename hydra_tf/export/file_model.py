"""A TFLite file as a Keras model, so that the file can be measured, attacked and certified."""

from __future__ import annotations

import concurrent.futures
import os
import threading
from typing import Any

import keras
import numpy as np
import tensorflow as tf


def load_tflite(
    path: str | os.PathLike[str], threads: int = 1, workers: int | None = None
) -> keras.Model:
    """Return a Keras model that computes its outputs with a TFLite file in LiteRT.

    Whatever needs outputs only takes this model: :func:`hydra_tf.evaluation.accuracy`, the attack
    ``"square"``, and :func:`hydra_tf.evaluation.certify`, whose certificates then hold for the
    file, with its quantized and rounded numbers. There are no gradients, so that an attack that
    follows them does not move; make its images on the Keras model instead.

    LiteRT runs in this process and can crash on a damaged file; :func:`hydra_tf.export.to_tflite`
    has tried the files that it writes.

    Args:
        path: TFLite file with one float32 input [1, ...] and one float32 output [1, classes], as
            :func:`hydra_tf.export.to_tflite` writes it.
        threads: number of threads of LiteRT for an image.
        workers: number of images that are computed at the same time, each by an interpreter of its
            own; by default that of the processors that this process may use, at most 8. It does
            not change the outputs.

    Returns:
        A functional model [batch, ...] to [batch, classes], which cannot be trained or saved.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: for a file that LiteRT cannot load, or with other inputs or outputs, and for
            fewer than one worker.

    Example:
        >>> import tempfile
        >>> from hydra_tf import export
        >>> net = keras.Sequential([keras.Input([4]), keras.layers.Dense(2)])
        >>> path = os.path.join(tempfile.mkdtemp(), "net.tflite")
        >>> _ = export.to_tflite(net, path)
        >>> load_tflite(path)(np.zeros([3, 4], "float32")).shape
        TensorShape([3, 2])
    """
    if workers is None:
        workers = min(8, _processors())
    if workers < 1:
        raise ValueError(f"workers must be at least 1, not {workers}.")
    layer = _FileLayer(path, threads, workers)
    images = keras.Input(layer.image_shape, name="images")
    return keras.Model(images, layer(images), name="tflite_file")


def _processors() -> int:
    """Return the number of processors that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


class _FileLayer(keras.layers.Layer):
    """Runs a TFLite file on each image of a batch."""

    def __init__(self, path: str | os.PathLike[str], threads: int, workers: int) -> None:
        super().__init__(name="tflite", dtype="float32", trainable=False)
        self._interpreters = tuple(_interpreter(path, threads) for _ in range(workers))
        self._pool = concurrent.futures.ThreadPoolExecutor(workers)
        self._in_use = threading.Lock()  # an interpreter is not safe for several threads
        source, target = _single(self._interpreters[0], path)
        self._source, self._target = source["index"], target["index"]
        self.image_shape = tuple(int(size) for size in source["shape"][1:])
        self._output_shape = tuple(int(size) for size in target["shape"][1:])

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        """Return the outputs of the file, [batch, ...]."""
        outputs = tf.numpy_function(self._run, [inputs], tf.float32)
        return tf.ensure_shape(outputs, [inputs.shape[0], *self._output_shape])

    def compute_output_shape(self, input_shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        """Return the shape of the outputs."""
        return (input_shape[0], *self._output_shape)

    def _run(self, images: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        outputs = np.empty([len(images), *self._output_shape], np.float32)
        shares = np.array_split(np.arange(len(images)), len(self._interpreters))
        with self._in_use:
            jobs = [
                self._pool.submit(self._run_one, interpreter, images, outputs, share)
                for interpreter, share in zip(self._interpreters, shares, strict=True)
                if len(share)
            ]
            for job in jobs:
                job.result()
        return outputs

    def _run_one(
        self,
        interpreter: Any,
        images: np.ndarray[Any, Any],
        outputs: np.ndarray[Any, Any],
        chosen: np.ndarray[Any, Any],
    ) -> None:
        """Write the outputs for the chosen images, computed by one interpreter."""
        for index in chosen:
            interpreter.set_tensor(self._source, images[index : index + 1])
            interpreter.invoke()
            outputs[index] = interpreter.get_tensor(self._target)[0]


def _interpreter(path: str | os.PathLike[str], threads: int) -> Any:
    """Return LiteRT's interpreter of a file, with memory for its tensors."""
    from ai_edge_litert.interpreter import Interpreter

    if not os.path.isfile(path):
        raise FileNotFoundError(f"There is no TFLite file {os.fspath(path)}.")
    try:
        interpreter = Interpreter(model_path=os.fspath(path), num_threads=threads)
        interpreter.allocate_tensors()
    except (RuntimeError, ValueError) as error:
        raise ValueError(f"LiteRT cannot load {os.fspath(path)}: {error}") from error
    return interpreter


def _single(interpreter: Any, path: str | os.PathLike[str]) -> tuple[Any, Any]:
    """Return the details of the only input and the only output, both float32 with batch size 1."""
    sides = interpreter.get_input_details(), interpreter.get_output_details()
    for side, word in zip(sides, ("input", "output"), strict=True):
        if len(side) != 1 or side[0]["dtype"] != np.float32 or side[0]["shape"][0] != 1:
            found = [(entry["dtype"].__name__, entry["shape"].tolist()) for entry in side]
            raise ValueError(
                f"{os.fspath(path)} needs one float32 {word} with batch size 1, but has {found}; "
                "write it with hydra_tf.export.to_tflite."
            )
    return sides[0][0], sides[1][0]
