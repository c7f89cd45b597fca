"""The metrics of each epoch in a file."""

from __future__ import annotations

import json
import os
from typing import Any

import keras

from hydra_tf.core.files import replacing


class MetricsLog(keras.callbacks.Callback):
    """Appends the metrics of each epoch to a file, one JSON object per line.

    Args:
        path: the file; lines of epochs that are repeated after a restart are replaced.

    Example:
        >>> import hydra_tf, pathlib, tempfile
        >>> net = keras.Sequential([keras.Input([2]), keras.layers.Dense(2)])
        >>> model = hydra_tf.RobustModel(net, objective="natural")
        >>> model.compile("sgd")
        >>> path = pathlib.Path(tempfile.mkdtemp()) / "metrics.jsonl"
        >>> x, y = keras.ops.zeros([4, 2]), keras.ops.zeros([4], "int32")
        >>> _ = model.fit(x, y, epochs=2, verbose=0, callbacks=[MetricsLog(path)])
        >>> [json.loads(line)["epoch"] for line in path.read_text().splitlines()]
        [1, 2]
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        super().__init__()
        self.path = os.fspath(path)

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Write the line of the epoch."""
        lines = []
        if os.path.exists(self.path):
            with open(self.path, encoding="utf-8") as file:
                lines = [line for line in file if json.loads(line)["epoch"] < epoch + 1]
        row = {key: float(value) for key, value in (logs or {}).items()}
        lines.append(json.dumps({"epoch": epoch + 1, "phase": self.model.phase.name, **row}) + "\n")
        with replacing(self.path) as temporary:
            temporary.write_text("".join(lines), encoding="utf-8")
