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
