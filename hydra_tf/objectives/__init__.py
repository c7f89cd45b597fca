"""Robust training objectives, one file each."""

from hydra_tf.objectives.base import OBJECTIVES, Objective, build

__all__ = ["OBJECTIVES", "Objective", "build"]
