"""Data sets: named, split into training, validation and test, images in [0, 1]."""

from hydra_tf.data.loading import DataSplits, load
from hydra_tf.data.sets.base import DATASETS, DataSet, build
from hydra_tf.data.source import Source

__all__ = ["DATASETS", "DataSet", "DataSplits", "Source", "build", "load"]
