"""Budgets of an exported file: its bytes, and its time for one image on this machine."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from typing import Any

import numpy as np

from hydra_tf.export.latency import measure_latency


class OverBudgetError(RuntimeError):
    """A file is larger or slower than its budget allows; it was not kept.

    Example:
        >>> import hydra_tf, keras, tempfile
        >>> net = keras.Sequential([keras.Input([2, 2, 1]), keras.layers.Flatten()])
        >>> path = os.path.join(tempfile.mkdtemp(), "net.tflite")
        >>> hydra_tf.export.to_tflite(net, path, budget_bytes=100)
        Traceback (most recent call last):
        hydra_tf.export.budget.OverBudgetError: ... but the budget is 100.
        >>> os.path.exists(path)
        False
    """


@dataclass(frozen=True)
class Budget:
    """What a TFLite file may need.

    Args:
        bytes: largest size of the file, before gzip; None for any.
        milliseconds: largest median time of one image on this machine, on one thread of LiteRT;
            None for any.

    Example:
        >>> Budget(bytes=100).excess(120, None)
        'the file has 120 bytes, but the budget is 100'
        >>> Budget(bytes=100).excess(100, None) is None
        True
    """

    bytes: int | None = None
    milliseconds: float | None = None

    def __post_init__(self) -> None:
        for name, value in (("budget_bytes", self.bytes), ("budget_ms", self.milliseconds)):
            if value is not None and not (value > 0 and math.isfinite(value)):
                raise ValueError(f"{name} must be a positive number, not {value}.")

    def __bool__(self) -> bool:
        return self.bytes is not None or self.milliseconds is not None

    def measure(
        self, path: str | os.PathLike[str], image: np.ndarray[Any, Any]
    ) -> tuple[int, float | None]:
        """Return the bytes of a file and its milliseconds, None without a budget for them.

        Args:
            path: TFLite file.
            image: [...] float32, the image that it gets.
        """
        size = os.path.getsize(path)
        if self.milliseconds is None:
            return size, None
        return size, measure_latency([path], image)[0].milliseconds

    def excess(self, size: int, milliseconds: float | None) -> str | None:
        """Return which budget a file exceeds, as part of a sentence; None if it exceeds none.

        Args:
            size: bytes of the file.
            milliseconds: its time; None if it was not measured.
        """
        if self.bytes is not None and size > self.bytes:
            return f"the file has {size:,} bytes, but the budget is {self.bytes:,}"
        if self.milliseconds is not None and not (milliseconds or 0) <= self.milliseconds:
            return (
                f"the file takes {milliseconds:.4g} ms per image (median on this machine, one "
                f"thread), but the budget is {self.milliseconds:.4g} ms"
            )
        return None
