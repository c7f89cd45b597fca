"""What holds for every data set."""

import numpy as np
import tensorflow as tf

from hydra_tf import data

SPLITS = ("train", "validation", "test")


def load(spec, **kwargs):
    """Load batches so large that the large data sets have few of them."""
    return data.load(spec, **{"batch_size": 7, **kwargs})


def collect(batches):
    """Return all images and labels."""
    images, labels = zip(*batches.as_numpy_iterator(), strict=True)
    return np.concatenate(images), np.concatenate(labels)


def rows(images):
    """Return sorted images, each as a row."""
    flat = images.reshape(len(images), -1)
    return flat[np.lexsort(flat.T)]


def check_values(spec, **kwargs):
    """Check shapes, types, the range of pixel values and labels, and sizes."""
    splits = load(spec, **kwargs)
    for name in SPLITS:
        images, labels = collect(getattr(splits, name))
        size = splits.sizes[name]
        assert images.shape == (size, *splits.image_shape), f"{name} has images {images.shape}"
        assert labels.shape == (size,), f"{name} has labels {labels.shape}"
        assert (images.dtype, labels.dtype) == (np.float32, np.int32), f"types of {name}"
        assert images.min() >= 0 and images.max() <= 1, f"images of {name} leave [0, 1]"
        assert labels.min() >= 0, f"a label of {name} is negative"
        assert labels.max() < splits.num_classes, f"a label of {name} is not below num_classes"


def check_splits(spec, **kwargs):
    """Check that splits are disjoint, and the same for every seed, pass and global state."""
    collected = []
    for seed in (0, 1):
        np.random.seed(seed)
        tf.random.set_seed(seed)
        splits = load(spec, seed=seed, augment=False, **kwargs)
        fixed = {name: collect(getattr(splits, name)) for name in SPLITS[1:]}
        collected.append({"train": collect(splits.train_pass(seed)), **fixed})
    first, second = collected
    for name in ("validation", "test"):
        for ours, theirs in zip(first[name], second[name], strict=True):
            assert np.array_equal(ours, theirs), f"{name} is not the same in every run"
    train = [rows(split["train"][0]) for split in collected]
    assert np.array_equal(*train), "train is not the same in every run"
    everything = rows(np.concatenate([first[name][0] for name in SPLITS]))
    distinct = len(np.unique(everything, axis=0))
    assert distinct == len(everything), "an image is in two splits, or twice in one"


def check_order(spec, **kwargs):
    """Check that the order and augmentation of a pass are functions of (seed, pass)."""
    batches = {}
    for key, seed in (("first", 3), ("again", 3), ("other", 4)):
        tf.random.set_seed(len(batches))
        splits = load(spec, seed=seed, **kwargs)
        batches[key] = [collect(splits.train)[0] for _ in range(2)]
    assert np.array_equal(batches["first"], batches["again"]), "the order ignores the seed"
    assert not np.array_equal(batches["first"][0], batches["other"][0]), "same for all seeds"
    assert not np.array_equal(*batches["first"]), "all passes have the same order"


def check_resume(spec, **kwargs):
    """Check that a pass resumed in its middle continues as the uninterrupted pass."""
    splits = load(spec, seed=2, **kwargs)
    middle = splits.steps // 2
    whole = [batch for _ in range(2) for batch in splits.train.as_numpy_iterator()]
    late = load(spec, seed=2, first_step=middle, **kwargs).train
    resumed = [batch for _ in range(2) for batch in late.as_numpy_iterator()]
    assert len(resumed) == 2 * splits.steps - middle
    for ours, theirs in zip(whole[middle:], resumed, strict=True):
        for x, y in zip(ours, theirs, strict=True):
            assert np.array_equal(x, y), "a resumed pass differs from the uninterrupted one"
