"""Robust training objectives, one per file."""

from hydra_tf.objectives.base import OBJECTIVES, Objective, build

__all__ = ["OBJECTIVES", "Objective", "build"]
