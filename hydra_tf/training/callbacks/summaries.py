"""What TensorBoard shows of masks and of attacks, once an epoch."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from hydra_tf import attacks
from hydra_tf.attacks.losses import misclassified
from hydra_tf.sparsity.masked_kernels import masks_by_name

_SHOWN = 8  # images with their adversarial twins
_BATCH = 128


class _Summaries(keras.callbacks.Callback):
    """Writes values of each epoch to a folder of TensorBoard's logs."""

    def __init__(self, log_dir: str | os.PathLike[str]) -> None:
        super().__init__()
        self.log_dir = os.fspath(log_dir)
        self._writer: Any = None

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Write the values of the epoch."""
        if self._writer is None:
            self._writer = tf.summary.create_file_writer(self.log_dir)
        with self._writer.as_default(step=epoch):
            self.write(epoch)
        self._writer.flush()

    def write(self, epoch: int) -> None:
        """Write the values of an epoch with `tf.summary`."""
        raise NotImplementedError


class MaskSummaries(_Summaries):
    """Writes the density of each layer and the churn of its mask for TensorBoard.

    The churn is the share of the weights that a mask keeps at the end of an epoch and did not keep
    at the end of the one before. It falls as the scores settle. The tags are ``density/LAYER``,
    ``churn/LAYER``, and ``churn`` for all layers together.

    Args:
        log_dir: folder for the logs.

    Example:
        >>> import hydra_tf, tempfile
        >>> net = keras.Sequential([keras.Input([2]), keras.layers.Dense(2)])
        >>> model = hydra_tf.RobustModel(net, objective="natural")
        >>> model.compile("sgd")
        >>> x, y = keras.ops.zeros([4, 2]), keras.ops.zeros([4], "int32")
        >>> masks = MaskSummaries(tempfile.mkdtemp())
        >>> _ = model.fit(x, y, verbose=0, callbacks=[masks])
        >>> [name.startswith("events") for name in os.listdir(masks.log_dir)]
        [True]
    """

    def __init__(self, log_dir: str | os.PathLike[str]) -> None:
        super().__init__(log_dir)
        self._before: dict[str, np.ndarray[Any, Any]] = {}

    def write(self, epoch: int) -> None:
        """Write density and churn of all layers."""
        new = kept = 0
        for name, layer in masks_by_name(self.model).items():
            mask = np.asarray(layer.mask).astype(bool).reshape(-1)
            tf.summary.scalar(f"density/{name}", mask.mean())
            packed = np.packbits(mask)  # a bit for each weight
            if name in self._before:
                added = int(np.unpackbits(packed & ~self._before[name]).sum())
                tf.summary.scalar(f"churn/{name}", added / max(1, int(mask.sum())))
                new, kept = new + added, kept + int(mask.sum())
            self._before[name] = packed
        if kept:
            tf.summary.scalar("churn", new / kept)


class AttackSummaries(_Summaries):
    """Writes a security curve and adversarial images of each epoch for TensorBoard.

    The tags are ``security/EPSILON``, the robust accuracy at each epsilon (0 is the benign
    accuracy), and ``images``: some images in the upper row, their adversarial twins at the middle
    epsilon in the lower one.

    Args:
        log_dir: folder for the logs.
        images: [count, ...] images in [0, 1], of the validation split.
        labels: [count] integer labels.
        epsilons: radii of the curve, above 0.
        norm: ``"linf"`` or ``"l2"``.
        attack: spec of the attack, without norm and epsilon.
        seed: seed of the attack.

    Raises:
        ValueError: without epsilons, or for an unknown attack.

    Example:
        >>> watch = AttackSummaries("logs", np.zeros([2, 4, 4, 1]), [0, 1], [0.1, 0.2])
        >>> watch.epsilons
        [0.1, 0.2]
    """

    def __init__(
        self,
        log_dir: str | os.PathLike[str],
        images: Any,
        labels: Any,
        epsilons: Sequence[float],
        norm: str = "linf",
        attack: str = "pgd:steps=20",
        seed: int = 0,
    ) -> None:
        super().__init__(log_dir)
        self.epsilons = [float(epsilon) for epsilon in epsilons]
        if not self.epsilons:
            raise ValueError("epsilons must list the radii of the curve, at least one.")
        self.images = np.asarray(images, np.float32)
        self.labels = np.asarray(labels)
        self.seed = seed
        self._attacks = [attacks.build(attack, norm=norm, epsilon=e) for e in self.epsilons]

    def write(self, epoch: int) -> None:
        """Attack the model at each epsilon."""
        self._write_accuracy(0.0, self.images)
        twins = self.images
        for i, (epsilon, attack) in enumerate(zip(self.epsilons, self._attacks, strict=True)):
            parts = [
                np.asarray(attack(self.model, x, y, seed=self.seed + start))
                for start, x, y in self._batches(self.images)
            ]
            adversarial = np.concatenate(parts)
            self._write_accuracy(epsilon, adversarial)
            if i == (len(self.epsilons) - 1) // 2:
                twins = adversarial
        if self.images.ndim == 4 and self.images.shape[-1] in (1, 3):
            rows = [np.concatenate(list(row[:_SHOWN]), axis=1) for row in (self.images, twins)]
            tf.summary.image("images", np.concatenate(rows)[None])

    def _write_accuracy(self, epsilon: float, images: Any) -> None:
        """Write the share of images that the model classifies as labelled."""
        wrong = [
            np.asarray(misclassified(y, self.model(x, training=False)))
            for _, x, y in self._batches(images)
        ]
        tf.summary.scalar(f"security/{epsilon:.4g}", 1.0 - float(np.mean(np.concatenate(wrong))))

    def _batches(self, images: Any) -> Iterator[tuple[int, Any, Any]]:
        """Yield the position of each batch, its images and its labels."""
        for start in range(0, len(images), _BATCH):
            yield start, images[start : start + _BATCH], self.labels[start : start + _BATCH]
