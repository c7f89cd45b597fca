"""The registered data sets, one file each, and the helpers that only they use."""

from hydra_tf.data.sets.base import DATASETS, DataSet, build

__all__ = ["DATASETS", "DataSet", "build"]
