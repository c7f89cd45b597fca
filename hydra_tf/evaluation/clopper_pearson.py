"""Confidence bounds of a probability from independent trials (Clopper and Pearson, 1934)."""

from __future__ import annotations

from typing import Any

import numpy as np


def clopper_pearson_lower(successes: Any, n: int, alpha: float) -> np.ndarray[Any, Any]:
    """Return the one-sided lower confidence bound of a probability (Clopper and Pearson, 1934).

    Args:
        successes: [...] successes of `n` independent trials.
        n: number of trials.
        alpha: probability that the bound is too high.

    Returns:
        [...] float64 in [0, 1]; 0 without successes.

    Example:
        >>> round(float(clopper_pearson_lower(100, 100, 0.001)), 4)  # 0.001 ** (1 / 100)
        0.9333
    """
    from scipy.stats import beta

    k = np.asarray(successes, np.float64)
    return np.where(k > 0, beta.ppf(alpha, np.maximum(k, 1), n - k + 1), 0.0)
