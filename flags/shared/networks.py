"""Find, load, build and save the networks of a run."""

from __future__ import annotations

import os
import zipfile
from typing import TYPE_CHECKING

import hydra_tf
from hydra_tf.core.files import replacing
from hydra_tf.core.keras_files import load_keras_file

from .launcher import UsageError
from .types import Settings

if TYPE_CHECKING:
    import keras

    from hydra_tf.data import DataSplits


def network_path(run: str, name: str = "model.keras") -> str:
    """Return the path of a network's file; check the file without TensorFlow.

    Args:
        run: a run directory, or the path of a .keras file.
        name: the file in the run directory.

    Raises:
        UsageError: when the file does not exist or is not a .keras file.
    """
    is_file = run.endswith(".keras") and not os.path.isdir(run)
    path = run if is_file else os.path.join(run, name)
    if not os.path.exists(path):
        raise UsageError(f"{path} does not exist; has the run finished?")
    if not os.path.isfile(path):  # a pipe would block for ever
        raise UsageError(f"{path} is not a file.")
    if not zipfile.is_zipfile(path):
        raise UsageError(
            f"{path} is cut short or not a network: a .keras file is a zip archive, but this is "
            "not one; write it again."
        )
    return path


def load_network(run: str, name: str = "model.keras") -> keras.Model:
    """Return a network of a run directory or of a .keras file.

    Raises:
        UsageError: when the file is missing, cut short or cannot be loaded.
    """
    try:
        return load_keras_file(network_path(run, name))
    except (ValueError, OSError) as error:
        raise UsageError(str(error)) from error


def build_network(settings: Settings, data: DataSplits, seed: int) -> keras.Model:
    """Return the network to start from: the pretrained one of the settings, else a new one.

    Raises:
        UsageError: when the pretrained network does not fit the data.
        ValueError: when it does not output logits.
    """
    from hydra_tf import checks, models

    if settings["pretrained"]:
        net = checks.network_of(load_network(settings["pretrained"]))
        if settings.get("dtype_policy", "float32") != "float32":
            raise UsageError(
                "--dtype_policy applies to new networks only: a --pretrained one has its own. "
                "Leave it out."
            )
        expected = (*data.image_shape, data.num_classes)
        actual = (*net.input_shape[1:], net.output_shape[-1])
        if expected != actual:
            raise UsageError(
                f"The network of {settings['pretrained']} takes images {actual[:-1]} to "
                f"{actual[-1]} logits, but {settings['dataset']} has images {expected[:-1]}, "
                f"{expected[-1]} classes."
            )
    else:
        shape, classes = data.image_shape, data.num_classes
        net = models.build(settings["model"], input_shape=shape, num_classes=classes, seed=seed)
    return models.synchronize_batchnorm(net) if settings.get("sync_batchnorm") else net


def save_masked_and_dense(net: keras.Model, out: str) -> None:
    """Save a masked network in a run directory, with its masks and with plain layers."""
    save_network(net, os.path.join(out, "model.keras"))
    hydra_tf.export.to_keras(net, os.path.join(out, "dense.keras"))


def save_network(net: keras.Model, path: str) -> None:
    """Save a network under a temporary name, then rename the file."""
    with replacing(path, ".keras") as temporary:
        net.save(temporary)
