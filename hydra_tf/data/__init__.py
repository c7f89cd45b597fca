"""Data sets: named, split into training, validation and test, images in [0, 1]."""

from hydra_tf.data.base import DATASETS, DataSet, DataSplits, Source, build, load

__all__ = ["DATASETS", "DataSet", "DataSplits", "Source", "build", "load"]
