"""Networks of run directories and `.keras` files, with images of their data set."""

from __future__ import annotations

import dataclasses
import json
import os
import pathlib
from typing import Any

import numpy as np


@dataclasses.dataclass(frozen=True)
class Run:
    """A trained network.

    Args:
        name: that of the folder or file.
        net: the network without masks.
        config: settings of the run; empty for a `.keras` file.
        validation: images and labels; random images and labels 0 for a `.keras` file.
        test: the same.
    """

    name: str
    net: Any
    config: dict[str, Any]
    validation: tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]
    test: tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]

    @property
    def density(self) -> float:
        """Share of the weights of all kernels that are not zero."""
        from hydra_tf.export.size import zero_share

        return 1 - zero_share(self.net)

    @property
    def ball(self) -> dict[str, Any]:
        """Norm and epsilon of the objective."""
        from hydra_tf import objectives

        objective = objectives.build(self.config["objective"])
        return {"norm": objective.norm, "epsilon": objective.epsilon}


def open_run(path: str | os.PathLike[str]) -> Run:
    """Return the network of a run directory or of a `.keras` file."""
    import hydra_tf
    from hydra_tf.core.keras_files import load_keras_file

    path = pathlib.Path(path)
    if path.suffix == ".keras":
        net = hydra_tf.strip_masks(load_keras_file(str(path)))
        rng = np.random.default_rng(1)
        images = rng.random([64, *net.input_shape[1:]], dtype=np.float32)
        pair = images, np.zeros(len(images), np.int64)
        return Run(path.stem, net, {}, pair, pair)
    net = hydra_tf.strip_masks(load_keras_file(str(path / "model.keras")))
    config = json.loads((path / "config.json").read_text(encoding="utf-8"))
    data = hydra_tf.data.load(config["dataset"], batch_size=500, seed=config["seed"])
    return Run(path.name, net, config, _arrays(data.validation), _arrays(data.test))


def _arrays(batches: Any) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Return all images and labels of a split."""
    images, labels = zip(*batches, strict=True)
    return np.concatenate(images), np.concatenate(labels)
