"""The networks of a run: read, built and written."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Mapping
from typing import Any

import hydra_tf
from hydra_tf.core.files import replacing

from .launcher import UsageError


def network_path(run: str, name: str = "model.keras") -> str:
    """Return the file of a network, looked at without TensorFlow.

    Args:
        run: a run directory, or the path of a .keras file.
        name: the file in the run directory.

    Raises:
        UsageError: when it does not exist, or is no .keras file.
    """
    path = run if run.endswith(".keras") else os.path.join(run, name)
    if not os.path.exists(path):
        raise UsageError(f"{path} does not exist; has the run finished?")
    if not zipfile.is_zipfile(path):
        raise UsageError(
            f"{path} is cut short or not a network: a .keras file is a zip archive, which this is "
            "not; write it again."
        )
    return path


def load_network(run: str, name: str = "model.keras") -> Any:
    """Return a network of a run directory, or of a .keras file that is named itself.

    Raises:
        UsageError: when the file is missing, cut short or holds what cannot be loaded.
    """
    import keras

    path = network_path(run, name)
    try:
        return keras.saving.load_model(path)
    except Exception as error:  # Keras and zipfile raise many kinds, and tell whole configs
        raise UsageError(
            f"{path} is not a network that hydra_tf can load ({type(error).__name__}): it is "
            "damaged, or has layers of another library or Lambda layers."
        ) from error


def build_network(settings: Mapping[str, Any], data: Any, seed: int) -> Any:
    """Return the network to start from: the pretrained one of the settings, else a new one.

    Raises:
        UsageError: when the pretrained one does not fit the data.
        ValueError: when it outputs no logits.
    """
    from hydra_tf import checks, models

    if settings["pretrained"]:
        net = checks.network_of(load_network(settings["pretrained"]))
        if settings.get("dtype_policy", "float32") != "float32":
            raise UsageError("--dtype_policy is that of new networks; --pretrained brings its own.")
        wanted = (*data.image_shape, data.num_classes)
        found = (*net.input_shape[1:], net.output_shape[-1])
        if wanted != found:
            raise UsageError(
                f"The network of {settings['pretrained']} takes images {found[:-1]} to {found[-1]} "
                f"logits, but {settings['dataset']} has images {wanted[:-1]}, {wanted[-1]} classes."
            )
    else:
        shape, classes = data.image_shape, data.num_classes
        net = models.build(settings["model"], input_shape=shape, num_classes=classes, seed=seed)
    return models.synchronize_batchnorm(net) if settings.get("sync_batchnorm") else net


def store(net: Any, out: str) -> None:
    """Write a masked network to a run directory, as it is and with plain layers."""
    save(net, os.path.join(out, "model.keras"))
    hydra_tf.export.to_keras(net, os.path.join(out, "dense.keras"))


def save(net: Any, path: str) -> None:
    """Save a network under a temporary name, then rename."""
    with replacing(path, ".keras") as temporary:
        net.save(temporary)
