"""Data sets: named, split into training, validation and test, images in [0, 1]."""

from hydra_tf.data.base import DATASETS, DataSet, DataSplits, Source, build, load
from hydra_tf.data.batches import unit_floats

__all__ = ["DATASETS", "DataSet", "DataSplits", "Source", "build", "load", "unit_floats"]
