"""Checks of models, images and labels, made before any work is done."""

from hydra_tf.checks.batches import check_images, check_use, first_batch
from hydra_tf.checks.labels import check_labels, is_one_hot, sparse_labels
from hydra_tf.checks.models import check_logits, network_of, require_logits

__all__ = [
    "check_images",
    "check_labels",
    "check_logits",
    "check_use",
    "first_batch",
    "is_one_hot",
    "network_of",
    "require_logits",
    "sparse_labels",
]
