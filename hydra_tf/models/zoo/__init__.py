"""Plain Keras networks that output logits, one file per family."""

from hydra_tf.models.zoo.base import MODELS, Network, build

__all__ = ["MODELS", "Network", "build"]
