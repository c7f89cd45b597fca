"""How many weights of a model are kept, and how many have no mask."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from absl import logging

from hydra_tf.core.lazy import keras
from hydra_tf.sparsity.granularity import GRANULARITIES
from hydra_tf.sparsity.masked_kernels import MaskedLike, kernels

_UNMASKED = 0.01  # share of the kernel weights without a mask that is not worth a warning
_SHOWN = 5  # layers in a warning


def report(model: keras.Model) -> dict[str, Any]:
    """Return the number of weights of each kernel, and how many are kept.

    Returns:
        ``{"layers": [...], "total": {...}}``; every entry has ``weights``, ``kept`` and
        ``density``, and those of kernels also ``name``, ``shape`` and ``masked``. Kernels whose
        masks keep groups of weights have ``group``, the size of a group along each axis. A kernel
        without a mask has density 1. Embeddings without a mask, biases and normalisation are not
        counted.

    Example:
        >>> import keras
        >>> report(keras.Sequential([keras.Input([2]), keras.layers.Dense(3)]))["total"]
        {'weights': 6, 'kept': 6, 'density': 1.0}
    """
    rows = []
    for kernel in kernels(model):
        weights = math.prod(kernel.variable.shape)
        kept = weights if kernel.mask is None else int(np.sum(np.asarray(kernel.mask.mask)))
        rows.append(
            {
                "name": kernel.label,
                "shape": [int(size) for size in kernel.variable.shape],
                "masked": kernel.mask is not None,
                "weights": weights,
                "kept": kept,
                "density": kept / weights,
                **_group(kernel.mask),
            }
        )
    weights, kept = sum(r["weights"] for r in rows), sum(r["kept"] for r in rows)
    total = {"weights": weights, "kept": kept, "density": kept / weights if weights else 1.0}
    return {"layers": rows, "total": total}


def _group(mask: MaskedLike | None) -> dict[str, list[int]]:
    """Return the entry of a report for the groups of a mask, empty for single weights."""
    if mask is None:
        return {}
    shape = tuple(int(size) for size in mask.kernel.shape)
    window = GRANULARITIES.build(mask.granularity).window(shape, mask.axes)
    return {} if math.prod(window) == 1 else {"group": list(window)}


def warn_of_unmasked(model: keras.Model, density: float | None = None) -> None:
    """Log a warning if masks reach less than 99% of the kernel weights of a model.

    Args:
        model: a model with masked layers.
        density: density that the masked layers will have, None if unknown.
    """
    rows = kernels(model)
    unmasked: dict[str, int] = {}
    for row in rows:
        if row.mask is None:
            name = f"{row.layer.name} ({type(row.layer).__name__})"
            unmasked[name] = unmasked.get(name, 0) + math.prod(row.variable.shape)
    whole = sum(math.prod(row.variable.shape) for row in rows)
    left = sum(unmasked.values()) / whole if whole else 0.0
    if left <= _UNMASKED:
        return
    names = sorted(unmasked, key=lambda name: -unmasked[name])
    shown = ", ".join(f"{name} {unmasked[name] / whole:.1%}" for name in names[:_SHOWN])
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    asked = 0.1 if density is None else density
    logging.warning(
        "hydra_tf: the masks reach %.1f%% of the kernel weights of %s, so that at a density of %g "
        "of the masked layers it keeps %.1f%% of all; layers without a mask: %s%s.",
        *(100 * (1 - left), model.name, asked, 100 * (asked * (1 - left) + left), shown, more),
    )
