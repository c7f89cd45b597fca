"""Every data set, and wrong ones that the contract catches."""

import itertools

import numpy as np
import pytest
import tensorflow as tf

from hydra_tf import data
from hydra_tf.data.sets.splitting import split_arrays
from tests.contracts import data_contract as contract
from tests.data import files

# The embedded data sets have thousands of images, and the others 52.
EMBEDDED = {"digits": {"batch_size": 300}, "mnist_5k": {"batch_size": 500}}
NAMES = data.DATASETS.names()
# Slow tests: sets read by the same code as another one, and those that take 10 to 35 seconds.
FIRST = {type(data.build(name)).__call__: name for name in reversed(NAMES)}.values()
LONG = {"cifar10", "folder", "imagenet", "mnist_5k"}
MARKED = [
    pytest.param(name, marks=() if name in FIRST and name not in LONG else pytest.mark.slow)
    for name in NAMES
]


@pytest.mark.parametrize("name", MARKED)
def test_every_data_set(name, tmp_path):
    spec = files.write(name, tmp_path)
    options = EMBEDDED.get(name, {})
    contract.check_values(spec, **options)
    contract.check_splits(spec, **options)
    contract.check_order(spec, **options)
    contract.check_resume(spec, **options)


def arrays(count=40):
    images = np.random.RandomState(0).random_sample((count, 2, 2, 1)).astype("float32")
    return images, np.arange(count) % 4


def correct():
    return split_arrays(*arrays(), validation=4, test=4)


def leaves_the_range():
    images, labels = arrays()
    return split_arrays(2 * images, labels, validation=4, test=4)


def has_an_unknown_class():
    source = correct()
    return data.Source(source.train, source.validation, source.test, num_classes=3)


def splits_by_global_state():
    images, labels = arrays()
    order = np.random.permutation(len(labels))
    return split_arrays(images[order], labels[order], validation=4, test=4)


def validates_on_the_test_split():
    source = correct()
    return data.Source(source.train, source.test, source.test, 4)


def ordered_by(order):
    def source():
        right = correct()
        return data.Source(
            right.train, right.validation, right.test, 4, order=lambda seeds: order(right.train)
        )

    return source


COUNTER = itertools.count()
shuffles_by_global_state = ordered_by(lambda train: train.shuffle(40, seed=next(COUNTER)))
never_shuffles = ordered_by(lambda train: train)


def test_a_correct_data_set_passes():
    for check in (
        contract.check_values,
        contract.check_splits,
        contract.check_order,
        contract.check_resume,
    ):
        check(correct)


@pytest.mark.parametrize(
    ("check", "wrong", "sentence"),
    [
        (contract.check_values, leaves_the_range, r"images of train leave \[0, 1\]"),
        (contract.check_values, has_an_unknown_class, "a label of train is not below"),
        (contract.check_splits, splits_by_global_state, "is not the same in every run"),
        (contract.check_splits, validates_on_the_test_split, "an image is in two splits"),
        (contract.check_order, shuffles_by_global_state, "the order ignores the seed"),
        (contract.check_order, never_shuffles, "same for all seeds"),
        (contract.check_resume, shuffles_by_global_state, "a resumed pass differs"),
    ],
)
def test_a_wrong_data_set_is_caught(check, wrong, sentence):
    tf.random.set_seed(0)
    with pytest.raises(AssertionError, match=sentence):
        check(wrong)


def test_a_data_set_without_files_is_named(monkeypatch, tmp_path):
    monkeypatch.delitem(files._WRITERS, "npz")
    with pytest.raises(AssertionError, match='No files can be written for the data set "npz"'):
        files.write("npz", tmp_path)
