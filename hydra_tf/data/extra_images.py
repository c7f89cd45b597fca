"""Extra images as a fixed share of every batch, for example images with pseudo-labels.

Half of every batch of HYDRA's networks for CIFAR-10 comes from 500,000 images that a classifier
labelled (Carmon et al., NeurIPS 2019).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from hydra_tf.core.lazy import tf
from hydra_tf.core.specs import split_outside

_SHARE = 0.5


def split_share(spec: object) -> tuple[object, float]:
    """Return the spec of a data set without ``share``, and the share of the batch it requests.

    Args:
        spec: name with parameters, or mapping, which may contain ``share``; otherwise it is half.

    Raises:
        ValueError: when the share is not between 0 and 1.
        TypeError: when it is not a number.

    Example:
        >>> split_share("npz:path=tiny.npz,share=0.25")
        ('npz:path=tiny.npz', 0.25)
    """
    share: str | float = _SHARE
    if isinstance(spec, str):
        name, colon, tail = spec.partition(":")
        pairs = split_outside(tail, ",")
        share_pairs = [p for p in pairs if p.partition("=")[0].strip() == "share"]
        if share_pairs:
            share = share_pairs[-1].partition("=")[2].strip()
            spec = f"{name}{colon}{','.join(p for p in pairs if p not in share_pairs)}"
    elif isinstance(spec, Mapping):
        share = spec.get("share", _SHARE)
        spec = {key: value for key, value in spec.items() if key != "share"}
    try:
        value = float(share)
    except (TypeError, ValueError):
        raise TypeError(f"share must be a number between 0 and 1, not {share!r}.") from None
    if not 0 < value < 1:
        raise ValueError(f"share must be a share of every batch, between 0 and 1, not {share}.")
    return spec, value


def extra_per_batch(share: float, batch_size: int) -> int:
    """Return how many images of a batch are extra ones.

    Raises:
        ValueError: when a batch would contain extra images only, or none.

    Example:
        >>> extra_per_batch(0.5, 128)
        64
    """
    count = round(share * batch_size)
    if not 0 < count < batch_size:
        raise ValueError(
            f"With share={share:g}, {count} of the {batch_size} images of a batch would be extra "
            "images, but a batch needs both kinds; choose another share or batch_size."
        )
    return count


def check_compatible(
    shape: Sequence[int], classes: int, extra_shape: Sequence[int], extra_classes: int
) -> None:
    """Check that a network for the labelled images can be trained on the extra images.

    Args:
        shape: (height, width, channels) of the labelled images.
        classes: number of their classes.
        extra_shape: the same of the extra images.
        extra_classes: number of classes of the extra images, which may be fewer.

    Raises:
        ValueError: when shapes differ, or the extra images have more classes.

    Example:
        >>> check_compatible((8, 8, 1), 10, (8, 8, 1), 10)
    """
    if tuple(shape) != tuple(extra_shape):
        raise ValueError(
            f"Extra images must have the shape of the labelled images, {tuple(shape)}, not "
            f"{tuple(extra_shape)}."
        )
    if extra_classes > classes:
        raise ValueError(
            f"Extra images are labelled with {extra_classes} classes, but the data set has "
            f"{classes}; use labels from 0 to {classes - 1}."
        )


def interleaved_order(counts: tuple[int | tf.Tensor, int | tf.Tensor]) -> tf.Tensor:
    """Return the order that interleaves two kinds of images evenly over a batch.

    The slice of every replica then has both kinds in proportion.

    Args:
        counts: number of images of each kind; those of the second kind follow the first.

    Returns:
        int32 [sum of counts], indices.

    Example:
        >>> interleaved_order((4, 2)).numpy().tolist()
        [0, 4, 1, 2, 5, 3]
    """
    positions = [(tf.range(n, dtype=tf.float64) + 0.5) / tf.cast(n, tf.float64) for n in counts]
    return tf.argsort(tf.concat(positions, axis=0), stable=True)
