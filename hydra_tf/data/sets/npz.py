"""Images and labels in a NumPy archive, such as extra images with pseudo-labels."""

from __future__ import annotations

import os
from dataclasses import dataclass

import numpy as np

from hydra_tf.core.archives import read_archive
from hydra_tf.data.sets.base import DATASETS, DataSet
from hydra_tf.data.sets.splitting import check_shares, share_sizes, split_arrays
from hydra_tf.data.source import Source

# The second pair of names is that of the 500,000 images of Carmon et al. (NeurIPS 2019).
_KEYS = (("images", "labels"), ("data", "extrapolated_targets"))
# A network has an output for each class up to the largest label.
_MOST_CLASSES = 1_000_000


@DATASETS.register()
@dataclass(frozen=True)
class Npz(DataSet):
    """A ``.npz`` file of ``images`` uint8 [n, height, width, channels] and ``labels`` [n].

    The names ``data`` and ``extrapolated_targets`` are accepted too. The images are in memory
    once. The split is stratified and the same in every run; as extra images all are used.

    Args:
        crop: pixels of random shift, see :class:`DataSet`.
        flip: mirror training images at random.
        path: the file.
        validation_share: share of the images used for validation.
        test_share: share of the images used for the test.

    Example:
        >>> Npz(path="tiny.npz").flip
        False
    """

    path: str = ""
    validation_share: float = 0.1
    test_share: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        check_shares(self.validation_share, self.test_share)

    def __call__(self) -> Source:
        """Read the data set; see :class:`DataSet`.

        Raises:
            FileNotFoundError: when the file does not exist.
            ValueError: when it does not contain valid images and labels.
        """
        if not self.path:
            raise ValueError(
                'The data set "npz" needs the path of its file: npz:path=/data/tiny.npz.'
            )
        images, labels = _read(os.path.expanduser(self.path))
        validation, test = share_sizes(len(labels), self.validation_share, self.test_share)
        return split_arrays(images, labels, validation, test, augment=self.augmentation())


def _read(path: str) -> tuple[np.ndarray, np.ndarray]:
    """Return images uint8 [n, height, width, channels] and labels int64 [n] of a file."""
    if not os.path.isfile(path):
        raise FileNotFoundError(f'The file "{path}" of images does not exist.')
    try:
        images, labels = read_archive(path, _KEYS).values()
    except (ValueError, OSError) as error:
        raise ValueError(
            f'"{path}" is not a .npz file of images and labels (or data and extrapolated_targets): '
            f"{error}."
        ) from error
    if labels.ndim == 2 and labels.shape[1] > 1:
        raise ValueError(
            f'The labels in "{path}" have the shape {list(labels.shape)}; store one whole number '
            "for each image (argmax(axis=1) converts one-hot rows)."
        )
    labels = labels.reshape(-1)
    if images.ndim != 4 or images.dtype != np.uint8 or len(images) != len(labels):
        raise ValueError(
            f'"{path}" must contain uint8 images [n, height, width, channels] and n labels, not '
            f"{images.dtype} {list(images.shape)} and {len(labels)} labels."
        )
    if not np.issubdtype(labels.dtype, np.integer) or len(labels) == 0 or labels.min() < 0:
        raise ValueError(
            f'The labels in "{path}" must be whole numbers of at least 0, and not empty; '
            "unlabelled images need pseudo-labels."
        )
    if labels.max() >= _MOST_CLASSES:
        raise ValueError(
            f'The labels in "{path}" go up to {labels.max()}; number the classes from 0, with at '
            f"most {_MOST_CLASSES} classes."
        )
    return images, labels.astype(np.int64)
