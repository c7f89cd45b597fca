"""Candidate TFLite files, run in LiteRT and compared with Keras."""

from __future__ import annotations

import dataclasses
import pathlib
from typing import Any

import numpy as np

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
    "int8_float_logits": Limits(0.25, 0.9),
}


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
