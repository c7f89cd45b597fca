"""How many weights the masks of HYDRA and HARP keep, and how masks of ours become theirs.

Both sort the scores of a layer and drop the ``int((1 - k) * n)`` smallest, so that a layer keeps up
to one weight more than ``round(k * n)``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]

_LEAST_SHARE = 0.1  # of the density, which HARP keeps in every layer


def hydra_kept(k: float, size: int) -> int:
    """Return how many of `size` weights HYDRA keeps at a density `k`.

    Example:
        >>> hydra_kept(0.1, 36_864), round(0.1 * 36_864)
        (3687, 3686)
    """
    return max(1, size - int((1 - k) * size))


def harp_kept(k_score: Array, density: float, size: int, torch: Any) -> int:
    """Return how many of `size` weights HARP keeps (Zhao and Wressnegger, ICLR 2023, eq. 6).

    The rate of a layer is ``sigmoid(k_score) * (1 - k_min) + k_min``, with 0.1 times the density
    of the network as `k_min`. PyTorch computes it, because another rounding of the rate could keep
    another number of weights.

    Args:
        k_score: the scalar of the layer.
        density: density of the network.
        size: number of weights in the layer.
        torch: the module.
    """
    least = density * _LEAST_SHARE
    rate = torch.sigmoid(torch.tensor(float(k_score), dtype=torch.float32)) * (1 - least) + least
    return max(1, size - int((1 - rate) * size))


def common_density(kept: Sequence[int], sizes: Sequence[int]) -> float | None:
    """Return the roundest density at which HYDRA keeps as many weights of each layer, or one more.

    Args:
        kept: number of weights that each layer keeps.
        sizes: number of weights of each layer.

    Returns:
        The density, or None if there is none.

    Example:
        >>> common_density([173, 3686], [1728, 36_864])
        0.1
    """
    whole = sum(kept) / sum(sizes)
    for digits in range(1, 17):
        k = float(f"{whole:.{digits}g}")
        more = [hydra_kept(k, n) - count for count, n in zip(kept, sizes, strict=True)]
        if k <= 1 and all(0 <= number <= 1 for number in more):
            return k
    return None


def as_hydra(kernel: Array, scores: Array, mask: Array, kept: int) -> tuple[Array, Array]:
    """Return a kernel and scores from which HYDRA computes ``kernel * mask``.

    HYDRA keeps `kept` weights, which may be more than the mask does, and chooses any of equal
    scores. Pruned weights that it would or could keep become 0, and scores that equal theirs
    are raised to the next number, so that no kept weight is dropped.

    Args:
        kernel: weights.
        scores: their scores.
        mask: booleans; the scores of what it keeps are the largest in magnitude.
        kept: number of weights that HYDRA keeps, at least as many as the mask.

    Raises:
        ValueError: for a mask that is not chosen by the scores.

    Example:
        >>> as_hydra(np.array([3.0, 4.0]), np.array([1.0, 1.0]), np.array([True, False]), 1)
        (array([3., 0.]), array([1., 1.]))
    """
    magnitudes = np.abs(scores)
    if not mask.all() and magnitudes[~mask].max() > magnitudes[mask].min():
        raise ValueError("its mask does not keep the weights of the largest scores")
    threshold = np.partition(magnitudes.ravel(), -kept)[-kept]
    extra = ~mask & (magnitudes >= threshold)
    if extra.any():
        tied = mask & (magnitudes == threshold)
        raised = np.copysign(np.nextafter(magnitudes, np.inf, dtype=scores.dtype), scores)
        scores = np.where(tied, raised, scores)
    return np.where(extra, 0, kernel).astype(kernel.dtype), scores
