"""Which images of a batch belong to the slice of one of several workers."""

from __future__ import annotations

from dataclasses import dataclass

from hydra_tf.core.lazy import tf
from hydra_tf.data.extra_images import interleaved_order


@dataclass(frozen=True)
class WorkerSlice:
    """Rows n w / W to n (w + 1) / W of a batch of n, which worker w of W decodes.

    Args:
        worker: number of this worker, from 0.
        workers: number of workers.
        size: labelled images of a pass.
        labelled: labelled images of a full batch.
        steps: batches of a pass.
        extra: extra images of every batch, interleaved with the labelled ones by
            :func:`hydra_tf.data.extra_images.interleaved_order`.

    Raises:
        ValueError: for a worker number out of range.

    Example:
        >>> rows = WorkerSlice(worker=1, workers=2, size=10, labelled=4, steps=3)
        >>> [position for position in range(10) if rows.has_labelled(position)]
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
                f"worker must be (number, count) with a number from 0 to below the count of "
                f"workers, not ({self.worker}, {self.workers})."
            )

    def has_labelled(self, position: int | tf.Tensor) -> tf.Tensor:
        """Return whether the slice has the labelled image at a position of a pass.

        Args:
            position: whole number or scalar tensor.
        """
        position = tf.cast(position, tf.int64)
        return self._has_row(position // self.labelled, position % self.labelled, 0)

    def has_extra(self, position: int | tf.Tensor) -> tf.Tensor:
        """Return whether the slice has an extra image.

        Args:
            position: number of extra images before it, over all passes.
        """
        position = tf.cast(position, tf.int64)
        return self._has_row(position // self.extra % self.steps, position % self.extra, 1)

    def _has_row(self, step: tf.Tensor, row: tf.Tensor, kind: int) -> tf.Tensor:
        """Return whether the slice has a row of the labelled (0) or extra (1) images of a batch."""
        labelled = tf.minimum(tf.cast(self.labelled, tf.int64), self.size - step * self.labelled)
        if self.extra:
            order = tf.cast(interleaved_order((labelled, self.extra)), tf.int64)
            row = tf.argmax(order == row + kind * labelled, output_type=tf.int64)
        total = labelled + self.extra
        first, end = (total * (self.worker + i) // self.workers for i in (0, 1))
        return (first <= row) & (row < end)
