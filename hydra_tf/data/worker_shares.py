"""Which images of a batch fall to one of several workers, that it decodes those alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from hydra_tf.core.lazy import tf
from hydra_tf.data.extra_images import spread


@dataclass(frozen=True)
class OwnRows:
    """Worker w of W has the rows from n w / W to n (w + 1) / W of a batch of n.

    Args:
        worker: number of this worker, from 0.
        workers: how many there are.
        size: labelled images of a pass.
        labelled: labelled images of a full batch.
        steps: batches of a pass.
        extra: extra images of every batch, spread among them by
            :func:`hydra_tf.data.extra_images.spread`.

    Raises:
        ValueError: for a worker that there is not.

    Example:
        >>> own = OwnRows(worker=1, workers=2, size=10, labelled=4, steps=3)
        >>> [place for place in range(10) if own.of_labelled(place)]
        [2, 3, 6, 7, 9]
    """

    worker: int
    workers: int
    size: int
    labelled: int
    steps: int
    extra: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.worker < self.workers:
            raise ValueError(
                f"worker is (number, how many), the number from 0 up to their count, not "
                f"({self.worker}, {self.workers})."
            )

    def of_labelled(self, place: Any) -> tf.Tensor:
        """Return whether the labelled image at a place of a pass falls to this worker.

        Args:
            place: whole number or scalar tensor.
        """
        place = tf.cast(place, tf.int64)
        return self._own(place // self.labelled, place % self.labelled, 0)

    def of_extra(self, place: Any) -> tf.Tensor:
        """Return whether an extra image falls to this worker.

        Args:
            place: number of extra images before it, over all passes.
        """
        place = tf.cast(place, tf.int64)
        return self._own(place // self.extra % self.steps, place % self.extra, 1)

    def _own(self, step: tf.Tensor, row: tf.Tensor, kind: int) -> tf.Tensor:
        """Whether a row of the images of one kind in a batch is within this worker's share."""
        labelled = tf.minimum(tf.cast(self.labelled, tf.int64), self.size - step * self.labelled)
        if self.extra:
            order = tf.cast(spread((labelled, self.extra)), tf.int64)
            row = tf.argmax(order == row + kind * labelled, output_type=tf.int64)
        total = labelled + self.extra
        first, end = (total * (self.worker + i) // self.workers for i in (0, 1))
        return (first <= row) & (row < end)
