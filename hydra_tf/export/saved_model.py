"""A pruned network as a TensorFlow SavedModel, for servers and other converters."""

from __future__ import annotations

import os
import pathlib
import shutil
import tempfile

import keras
import numpy as np
import tensorflow as tf

from hydra_tf.core.stderr import hidden_stderr
from hydra_tf.export.plain_outputs import PlainNetwork, plain_network, require_equal
from hydra_tf.export.size import ExportReport, measure

_FILE = "saved_model.pb"


def to_saved_model(
    model: keras.Model, path: str | os.PathLike[str], batch_size: int | None = None
) -> ExportReport:
    """Save a network as a SavedModel folder that needs neither Keras nor hydra_tf.

    Its signatures ``serve`` and ``serving_default`` map float32 images [batch, ...] in [0, 1] to
    float32 outputs [batch, classes]. Batch normalisation is part of the kernels where that is
    possible, and pruned weights are zeros. The folder is written under a temporary name, loaded and
    compared with the Keras model before it replaces an older SavedModel.

    Args:
        model: masked or plain functional or Sequential model, or a :class:`hydra_tf.RobustModel`.
        path: folder to write.
        batch_size: number of images of a call; None for any.

    Returns:
        The report: sizes in bytes, of all files of the folder, and errors in units of the outputs.

    Raises:
        TypeError: for a subclassed model.
        ValueError: more than one input or output, NaN outputs, a batch size below 1.
        FileExistsError: for a file, or a folder that is not a SavedModel.
        FileNotFoundError: when the parent folder does not exist.
        RuntimeError: when the outputs of the saved network differ from those of the model.

    Example:
        >>> net = keras.Sequential([keras.Input([4]), keras.layers.Dense(2)])
        >>> folder = os.path.join(tempfile.mkdtemp(), "served")
        >>> to_saved_model(net, folder).relative_error < 1e-5
        True
        >>> loaded = tf.saved_model.load(folder)
        >>> loaded.serve(np.zeros([3, 4], np.float32)).shape
        TensorShape([3, 2])
    """
    target = _checked_folder(path)
    network = plain_network(model, batch_size)
    with tempfile.TemporaryDirectory(prefix=f".{target.name}.", dir=target.parent) as parent:
        folder = pathlib.Path(parent, "new")
        with hidden_stderr():
            _save(network, folder)
        comparison = require_equal(network, _outputs(folder, network), "SavedModel")
        report = measure(folder, path, network.model, comparison)
        if target.exists():
            target.rename(pathlib.Path(parent, "old"))
        folder.rename(target)
    return report


def _checked_folder(path: str | os.PathLike[str]) -> pathlib.Path:
    """Return the target as a path, after checking that it may be written or replaced."""
    target = pathlib.Path(path)
    if not target.parent.is_dir():
        raise FileNotFoundError(f'The folder "{target.parent}" does not exist; create it first.')
    if target.is_dir() and not any(target.iterdir()):
        shutil.rmtree(target)
    if target.exists() and not (target / _FILE).is_file():
        raise FileExistsError(
            f'"{target}" exists and is not a SavedModel; it is kept: choose another path.'
        )
    return target


def _save(network: PlainNetwork, folder: pathlib.Path) -> None:
    """Write the network with one function, which also is the default signature."""
    archive = keras.export.ExportArchive()
    archive.track(network.model)
    archive.add_endpoint("serve", network.function, [network.signature])
    archive.write_out(folder, verbose=False)


def _outputs(folder: pathlib.Path, network: PlainNetwork) -> np.ndarray:
    """Return the outputs of a saved network on the probe images."""
    loaded = tf.saved_model.load(os.fspath(folder))
    return np.concatenate([np.asarray(loaded.serve(batch)) for batch in network.batches()])
