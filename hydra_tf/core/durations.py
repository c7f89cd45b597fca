"""Times in words."""

from __future__ import annotations

import math


def duration(seconds: float) -> str:
    """Return a time in seconds below a minute, else in minutes, or in hours and minutes.

    Args:
        seconds: the time; minutes are rounded up.

    Example:
        >>> duration(0.123), duration(100), duration(5000)
        ('0.12 s', '2 min', '1 h 24 min')
    """
    if seconds < 60:
        return f"{seconds:.2g} s"
    minutes = math.ceil(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02} min"
