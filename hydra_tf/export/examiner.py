"""Candidate TFLite files: converted quietly, run in LiteRT and compared with Keras."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import pathlib
import re
import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np

from hydra_tf.core.stderr import hidden_stderr
from hydra_tf.export.litert import LITERT, run_everywhere
from hydra_tf.export.probes import Comparison, compare


@dataclasses.dataclass(frozen=True)
class Limits:
    """What a file must satisfy to be kept: maximum relative error, minimum agreement."""

    relative_error: float
    agreement: float


LIMITS = {
    None: Limits(1e-4, 0.0),
    "float16": Limits(1e-2, 0.95),
    "int8": Limits(0.25, 0.9),
}


def convert(converter: Any) -> bytes:
    """Return the TFLite file that a converter makes, without its messages and warnings.

    Args:
        converter: a `tf.lite.TFLiteConverter` with its settings.

    Raises:
        RuntimeError: with the cause, when TensorFlow cannot convert the model.
    """
    try:
        with _quiet():
            content: bytes = converter.convert()
    # The converter raises errors of many types.
    except Exception as error:
        raise RuntimeError(
            f"TensorFlow cannot convert the model to TFLite: {_reason(error)}"
        ) from error
    return content


@dataclasses.dataclass(frozen=True)
class Examiner:
    """Writes a candidate file, and accepts it only if its outputs match those of Keras.

    Args:
        file: where to write it.
        probes: [n, ...] images.
        expected: [n, classes] outputs of Keras on them.
        limits: how far the outputs may differ.
    """

    file: pathlib.Path
    probes: np.ndarray
    expected: np.ndarray
    limits: Limits

    def accept(self, content: bytes) -> tuple[Comparison, bool]:
        """Try a file in every interpreter, with and without XNNPACK.

        Returns:
            The comparison with Keras, in LiteRT with XNNPACK, and whether the file is stored
            sparsely.
        """
        self.file.write_bytes(content)
        trials = run_everywhere(self.file, self.probes)
        for name, trial in trials.items():
            for outputs, how in ((trial.outputs, "with"), (trial.without_xnnpack, "without")):
                try:
                    self._checked(outputs)
                except RuntimeError as error:
                    raise RuntimeError(f"In {name} {how} XNNPACK: {error}") from error
        kept = trials[LITERT]
        return compare(kept.outputs, self.expected), kept.sparse > 0

    def _checked(self, outputs: np.ndarray[Any, Any]) -> None:
        """Check that outputs are within the limits."""
        comparison = compare(outputs, self.expected)
        if not comparison.relative_error <= self.limits.relative_error:
            raise RuntimeError(
                f"The TFLite file's outputs differ from Keras's by up to "
                f"{comparison.max_abs_error:g}, {comparison.relative_error:.2g} of the largest "
                f"output, but the tolerance is {self.limits.relative_error:g}."
            )
        if comparison.agreement < self.limits.agreement:
            raise RuntimeError(
                f"The TFLite file predicts Keras's class on only {comparison.agreement:.1%} of "
                f"{comparison.probes} images, but at least {self.limits.agreement:.1%} is required."
            )


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Hide the messages and warnings of the converter."""
    with (
        hidden_stderr(),
        contextlib.redirect_stdout(io.StringIO()),
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("ignore")
        yield


def _reason(error: Exception) -> str:
    """Return the line with the cause from a converter's message, which can be very long."""
    missing = sorted(set(re.findall(r"'tf\.(\w+)' op is neither", str(error))))
    if missing:
        return f"TFLite has no operation for {', '.join(missing)}."
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
