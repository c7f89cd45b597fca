"""Data sets: named, split into training, validation and test, images in [0, 1]."""

from hydra_tf.data.base import DATASETS, DataSet, DataSplits, build, load
from hydra_tf.data.source import Source

__all__ = ["DATASETS", "DataSet", "DataSplits", "Source", "build", "load"]
