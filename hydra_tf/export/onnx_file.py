"""A pruned network as an ONNX file, for ONNX Runtime, TensorRT, OpenVINO and others."""

from __future__ import annotations

import importlib.util
import os
import pathlib
from typing import Any

import keras
import numpy as np

from hydra_tf.core.files import replacing
from hydra_tf.core.stderr import hidden_stderr
from hydra_tf.export.plain_outputs import PlainNetwork, plain_network, require_equal
from hydra_tf.export.size import ExportReport, measure

OPSET = 17  # of ONNX 1.12 (2022); version of the operators
_NEEDED = ("tf2onnx", "onnx", "onnxruntime")


def to_onnx(
    model: keras.Model,
    path: str | os.PathLike[str],
    batch_size: int | None = None,
    opset: int = OPSET,
) -> ExportReport:
    """Save a network as an ONNX file whose outputs in ONNX Runtime agree with those of Keras.

    The file maps ``images``, float32 [batch, h, w, c] in [0, 1], to ``outputs``, float32 [batch,
    classes]. Pruned weights are zeros; ONNX stores them like others, so that the file is small
    only after compression, or after :func:`hydra_tf.export.compact`. Batch normalisation is part of
    the kernels where that is possible.

    Args:
        model: masked or plain functional or Sequential model, or a :class:`hydra_tf.RobustModel`.
        path: file to write, ending in ``.onnx``.
        batch_size: number of images of a call; None for any.
        opset: version of ONNX's operators.

    Returns:
        The report: sizes in bytes, errors in units of the outputs.

    Raises:
        ImportError: without the packages of the extra ``onnx``.
        TypeError: for a subclassed model.
        ValueError: another suffix, more than one input or output, NaN outputs, a batch size below
            1.
        OSError: a missing folder, a path that is a folder, or no permission to write.
        RuntimeError: when tf2onnx cannot convert the model, or the outputs differ from Keras's.

    Example:
        >>> import tempfile
        >>> net = keras.Sequential([keras.Input([4]), keras.layers.Dense(2)])
        >>> to_onnx(net, os.path.join(tempfile.mkdtemp(), "net.onnx")).relative_error < 1e-5
        True
    """
    require_onnx()
    with replacing(path, ".onnx") as temporary:
        network = plain_network(model, batch_size)
        temporary.write_bytes(_converted(network, opset))
        comparison = require_equal(network, _outputs(temporary, network), "ONNX file")
        return measure(temporary, path, network.model, comparison)


def require_onnx() -> None:
    """Check that the packages of the extra ``onnx`` are installed.

    Raises:
        ImportError: if one is missing; the sentence says how to install them.

    Example:
        >>> require_onnx()
    """
    missing = [name for name in _NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        raise ImportError(
            f"ONNX files need {' and '.join(missing)}; run: pip install 'hydra_tf[onnx]'."
        )


def _converted(network: PlainNetwork, opset: int) -> bytes:
    """Return the ONNX file of a network."""
    import tf2onnx

    try:
        with hidden_stderr():
            proto, _ = tf2onnx.convert.from_function(
                network.function, input_signature=[network.signature], opset=opset
            )
    # tf2onnx raises errors of many types.
    except Exception as error:
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise RuntimeError(f"tf2onnx cannot convert the model to ONNX: {first}") from error
    _rename(proto.graph)
    content: bytes = proto.SerializeToString()
    return content


def _rename(graph: Any) -> None:
    """Name the output, and the batch of any size, which tf2onnx numbers."""
    old, new = graph.output[0].name, "outputs"
    for node in graph.node:
        node.output[:] = [new if name == old else name for name in node.output]
        node.input[:] = [new if name == old else name for name in node.input]
    graph.output[0].name = new
    for value in (*graph.input, *graph.output):
        batch = value.type.tensor_type.shape.dim[0]
        if not batch.dim_value:
            batch.dim_param = "batch"


def _outputs(path: pathlib.Path, network: PlainNetwork) -> np.ndarray[Any, Any]:
    """Return the outputs of a file on the probe images, in ONNX Runtime."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors
    session = onnxruntime.InferenceSession(
        path.read_bytes(), options, providers=["CPUExecutionProvider"]
    )
    return np.concatenate(
        [session.run(["outputs"], {"images": batch})[0] for batch in network.batches()]
    )
