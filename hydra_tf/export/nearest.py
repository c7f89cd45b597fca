"""The density and granularity nearest to a network's own at which its file meets a budget."""

from __future__ import annotations

import bisect
import os
import pathlib
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from hydra_tf.evaluation.progress import ProgressBar
from hydra_tf.export.budget import Budget
from hydra_tf.export.prepare import image_shape, plain_copy
from hydra_tf.export.probes import random_probes, representative_images, spaced_evenly
from hydra_tf.export.tflite import Form, draft, needs_images
from hydra_tf.models.masking import mask_model
from hydra_tf.sparsity.allocation import AllocationSpec
from hydra_tf.sparsity.granularity import GRANULARITIES, GranularitySpec, granularity_name
from hydra_tf.sparsity.layer_budgets import kept_weights
from hydra_tf.sparsity.masked_kernels import kernels
from hydra_tf.sparsity.model import set_density

# Densities of two digits, falling.
DENSITIES = tuple(
    float(f"{digits / 100 / 10**power:.2g}") for power in range(3) for digits in range(99, 9, -1)
)
_STEP = 30  # densities between two attempts to find the smallest at which a network can be exported
_CALIBRATION = 16  # images; the ranges of int8 have no influence on bytes or time


@dataclass(frozen=True)
class Candidate:
    """A way to prune a network, with the file that it gives.

    Args:
        density: share of the weights that are kept.
        granularity: spec of the unit that is kept or pruned as one.
        prefer: preference of the export.
        compact: whether channels without effect are removed in the export.
        bytes: size of the file.
        milliseconds: median time of one image; None if there is no budget for it.

    Example:
        >>> way = Candidate(0.25, "filter", "size", True, bytes=900, milliseconds=None)
        >>> f"{way.settings()}: {way.figures()}"
        'density 0.25 with granularity filter and compact: 900 bytes'
    """

    density: float
    granularity: str
    prefer: Form
    compact: bool
    bytes: int
    milliseconds: float | None

    def figures(self) -> str:
        """Return the measured numbers as a text.

        Example:
            >>> Candidate(0.1, "element", "size", False, 1200, 0.25).figures()
            '1,200 bytes, 0.25 ms'
        """
        size = f"{self.bytes:,} bytes"
        return size if self.milliseconds is None else f"{size}, {self.milliseconds:.4g} ms"

    def settings(self) -> str:
        """Return how to prune and export, as a text.

        Example:
            >>> Candidate(0.1, "filter", "size", True, 1200, None).settings()
            'density 0.1 with granularity filter and compact'
        """
        further = [f"granularity {self.granularity}"]
        further += ["prefer latency"] if self.prefer == "latency" else []
        further += ["compact"] if self.compact else []
        return f"density {self.density:g} with {' and '.join(further)}"


@dataclass(frozen=True)
class Fit:
    """What a search for a budget has found.

    Args:
        nearest: the way of the largest density that fits; None if none was found.
        failed: for each way that was tried before and never fits, its smallest density.

    Example:
        >>> way = Candidate(0.25, "filter", "size", True, bytes=900, milliseconds=None)
        >>> Fit(nearest=way, failed=()).nearest.density
        0.25
    """

    nearest: Candidate | None
    failed: tuple[Candidate, ...]

    def text(self) -> str:
        """Return what was found, without a full stop.

        Example:
            >>> Fit(Candidate(0.1, "element", "size", False, 1200, None), ()).text()
            'density 0.1 with granularity element would fit (1,200 bytes)'
            >>> Fit(None, ()).text()
            'no density was found that fits'
        """
        tried = [f"{way.settings()} still needs {way.figures()}" for way in self.failed]
        if self.nearest is None:
            return "; ".join(["no density was found that fits", *tried])
        return "; ".join(
            [*tried, f"{self.nearest.settings()} would fit ({self.nearest.figures()})"]
        )


def nearest_fit(
    model: keras.Model,
    *,
    budget_bytes: int | None = None,
    budget_ms: float | None = None,
    quantization: str | None = None,
    sparse: bool = True,
    representative: Any = None,
    prefer: Form = "size",
    compact: bool = False,
    allocation: AllocationSpec = "uniform",
    granularity: GranularitySpec = "element",
    verbose: int = 0,
) -> Fit:
    """Return the largest density at which the file of a network meets its budgets.

    The weights of the network are pruned by magnitude to densities of two digits, and each is
    converted, encoded and, for `budget_ms`, run on this machine; accuracy is not looked at. The
    bytes of a file depend on how many weights each layer keeps, hardly on which. If no density of
    the given granularity fits, blocks of four inputs (float32 and a time budget only) and filters
    with compaction are tried.

    Args:
        model: as in :func:`hydra_tf.export.to_tflite`, pruned or not.
        budget_bytes: largest size of the file, before gzip.
        budget_ms: largest median time of one image on this machine, on one thread of LiteRT.
        quantization: as in :func:`hydra_tf.export.to_tflite`, and so are the four below.
        sparse: whether kernels may be stored sparsely.
        representative: images for int8.
        prefer: ``"size"`` or ``"latency"``.
        compact: whether channels without effect are removed.
        allocation: density per layer, as in :func:`hydra_tf.set_density`.
        granularity: the unit that is pruned, as in :func:`hydra_tf.set_density`.
        verbose: 1 shows a progress bar for each way to prune, with the density being tried.

    Raises:
        ValueError: without a budget, for a budget that is not positive, int8 without images.

    Example:
        >>> net = keras.Sequential([keras.Input([100]), keras.layers.Dense(100)])
        >>> nearest_fit(net, budget_bytes=12_000).nearest.density < 0.25
        True
    """
    budget = Budget(budget_bytes, budget_ms)
    if not budget:
        raise ValueError("A search needs a budget: pass budget_bytes or budget_ms.")
    if needs_images(quantization) and representative is None:
        raise ValueError(f'quantization="{quantization}" needs representative images.')
    plain = _full_copy(plain_copy(model))
    shape = image_shape(plain)
    images = random_probes(shape)
    if representative is not None:
        images = spaced_evenly(representative_images(representative, shape), _CALIBRATION)
    labels = [kernel.label for kernel in kernels(model) if kernel.mask is not None]
    masked = mask_model(plain, include=labels or None)
    options = {"quantization": quantization, "sparse": sparse, "representative": images}
    search = _Search(masked, budget, allocation, options, verbose)
    failed: list[Candidate] = []
    for way in _ways(granularity, prefer, compact, budget, quantization is None and sparse):
        best, smallest = search.largest(*way)
        if best is not None:
            return Fit(best, tuple(failed))
        if smallest is not None:
            failed.append(smallest)
    return Fit(None, tuple(failed))


def _ways(
    granularity: GranularitySpec, prefer: Form, compact: bool, budget: Budget, blocks: bool
) -> Iterator[tuple[str, Form, bool]]:
    """Yield granularity, preference and compaction of each way to try, the given ones first."""
    fixed = GRANULARITIES.build(granularity).fixes_density
    given = "element" if fixed else granularity_name(granularity)
    first: tuple[str, Form, bool] = (given, prefer, compact)
    yield first
    if budget.milliseconds is not None and blocks:
        yield ("block:size=4", "latency", False)
    if first[::2] != ("filter", True):
        yield ("filter", "size", True)


def _full_copy(plain: keras.Model) -> keras.Model:
    """Replace zeros by small numbers, so that a larger density really keeps more weights."""
    random = np.random.default_rng(0)
    for kernel in kernels(plain):
        values = np.asarray(kernel.variable)
        noise = random.uniform(0.5, 1.0, values.shape) * 1e-3 * max(1e-3, np.abs(values).max())
        kernel.variable.assign(np.where(values == 0, noise, values))
    return plain


@dataclass
class _Search:
    """Writes and measures files of one network.

    Args:
        masked: the network, whose masks change.
        budget: what fits.
        allocation: density per layer.
        options: settings of :func:`draft`.
        verbose: as in :func:`nearest_fit`.
    """

    masked: keras.Model
    budget: Budget
    allocation: AllocationSpec
    options: dict[str, Any]
    verbose: int = 0

    def largest(
        self, granularity: str, prefer: Form, compact: bool
    ) -> tuple[Candidate | None, Candidate | None]:
        """Return the candidate of largest density that fits, and that of the smallest density."""
        possible = self._possible(granularity)
        # One file of the smallest density, then the range is halved until one density is left.
        steps = 1 + len(possible).bit_length()
        bar = ProgressBar(steps, f"density ({granularity})", self.verbose)
        tried: dict[float, Candidate] = {}

        def fits(density: float) -> bool:
            tried[density] = self._candidate(density, granularity, prefer, compact)
            bar.show(min(len(tried), steps - 1), density)
            return self.budget.excess(tried[density].bytes, tried[density].milliseconds) is None

        best, smallest = self._bisect(possible, fits)
        if smallest is None:
            return None, None
        bar.show(steps, smallest if best is None else best)
        return None if best is None else tried[best], tried[smallest]

    @staticmethod
    def _bisect(
        possible: Sequence[float], fits: Callable[[float], bool]
    ) -> tuple[float | None, float | None]:
        """Return the largest density that fits, and the smallest that can be exported.

        Args:
            possible: densities, falling.
            fits: whether a density fits; raises RuntimeError if it cannot be exported.
        """
        for last in range(len(possible) - 1, -1, -_STEP):
            try:
                if not fits(possible[last]):
                    return None, possible[last]
            except RuntimeError:  # int8 needs layers that have outputs other than 0
                continue
            index = bisect.bisect_left(possible, True, hi=last, key=fits)
            return possible[index], possible[last]
        return None, None

    def _possible(self, granularity: str) -> tuple[float, ...]:
        """Return the densities that the network can have, falling.

        Each layer keeps at least one group of weights, and that of the logits may keep all.
        """

        def refused(density: float) -> bool:
            try:
                kept_weights(self.masked, density, self.allocation, granularity)
            except ValueError:
                return True
            return False

        return DENSITIES[: bisect.bisect_left(DENSITIES, True, key=refused)]

    def _candidate(
        self, density: float, granularity: str, prefer: Form, compact: bool
    ) -> Candidate:
        """Prune the network, and measure its file."""
        set_density(self.masked, density, self.allocation, granularity)
        content = draft(self.masked, prefer=prefer, compact=compact, **self.options)
        with tempfile.TemporaryDirectory(prefix="hydra_tf-") as folder:
            path = pathlib.Path(os.path.join(folder, "draft.tflite"))
            path.write_bytes(content)
            measured = self.budget.measure(path, self.options["representative"][0])
        return Candidate(density, granularity, prefer, compact, *measured)
