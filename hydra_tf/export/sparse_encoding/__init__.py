"""Sparse encoding of TFLite files."""

from hydra_tf.export.sparse_encoding.dense import bare_bytes, for_any_batch
from hydra_tf.export.sparse_encoding.encoder import encode_sparsely
from hydra_tf.export.sparse_encoding.float_logits import with_float_logits
from hydra_tf.export.sparse_encoding.plans import PREFERENCES, Preference

__all__ = [
    "PREFERENCES",
    "Preference",
    "bare_bytes",
    "encode_sparsely",
    "for_any_batch",
    "with_float_logits",
]
