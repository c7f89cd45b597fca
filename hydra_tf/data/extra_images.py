"""Extra images, unlabelled ones with pseudo-labels say, as a fixed share of every batch.

HYDRA's networks for CIFAR-10 see half of every batch from 500,000 images that a classifier has
labelled (Carmon et al., NeurIPS 2019).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hydra_tf.core.lazy import tf

_SHARE = 0.5


def split_share(spec: Any) -> tuple[Any, float]:
    """Return the spec of a data set without ``share``, and the share of the batch it asks for.

    Args:
        spec: name with parameters or mapping, ``share`` among them; anything else has half.

    Raises:
        ValueError: when the share is not between 0 and 1.
        TypeError: when it is not a number.

    Example:
        >>> split_share("npz:path=tiny.npz,share=0.25")
        ('npz:path=tiny.npz', 0.25)
    """
    share: Any = _SHARE
    if isinstance(spec, str):
        name, colon, tail = spec.partition(":")
        pairs = tail.split(",")
        given = [p for p in pairs if p.partition("=")[0].strip() == "share"]
        if given:
            share = given[-1].partition("=")[2].strip()
            spec = f"{name}{colon}{','.join(p for p in pairs if p not in given)}"
    elif isinstance(spec, Mapping):
        share = spec.get("share", _SHARE)
        spec = {key: value for key, value in spec.items() if key != "share"}
    try:
        value = float(share)
    except (TypeError, ValueError):
        raise TypeError(f"share must be a number between 0 and 1, not {share!r}.") from None
    if not 0 < value < 1:
        raise ValueError(f"share is a share of every batch, between 0 and 1, not {share}.")
    return spec, value


def extra_of(share: float, batch_size: int) -> int:
    """Return how many images of a batch are extra ones.

    Raises:
        ValueError: when a batch would hold extra images only, or none.

    Example:
        >>> extra_of(0.5, 128)
        64
    """
    count = round(share * batch_size)
    if not 0 < count < batch_size:
        raise ValueError(
            f"With share={share:g}, {count} of the {batch_size} images of a batch would be extra "
            "ones, and it needs both kinds; choose another share or batch_size."
        )
    return count


def check_match(shape: Any, classes: int, extra_shape: Any, extra_classes: int) -> None:
    """Refuse extra images that the network could not take.

    Args:
        shape: (height, width, channels) of the labelled images.
        classes: number of their classes.
        extra_shape: as `shape`, of the extra images.
        extra_classes: number of classes of the extra images, which may be fewer.

    Raises:
        ValueError: saying what differs.

    Example:
        >>> check_match((8, 8, 1), 10, (8, 8, 1), 10)
    """
    if tuple(shape) != tuple(extra_shape):
        raise ValueError(
            f"Extra images must have the shape of the others, {tuple(shape)}, not "
            f"{tuple(extra_shape)}."
        )
    if extra_classes > classes:
        raise ValueError(
            f"Extra images are labelled with {extra_classes} classes, but the data set has "
            f"{classes}; use labels from 0 to {classes - 1}."
        )


def spread(counts: tuple[Any, Any]) -> tf.Tensor:
    """Return the order that spreads two kinds of images evenly over a batch.

    Replicas that share a batch then get both kinds in proportion.

    Args:
        counts: number of images of either kind; the second stand behind the first.

    Returns:
        int32 [sum of counts], indices.

    Example:
        >>> spread((4, 2)).numpy().tolist()
        [0, 4, 1, 2, 5, 3]
    """
    places = [(tf.range(n, dtype=tf.float64) + 0.5) / tf.cast(n, tf.float64) for n in counts]
    return tf.argsort(tf.concat(places, axis=0), stable=True)
