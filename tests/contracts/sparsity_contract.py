"""What holds for every registered part of pruning."""

import re

import keras
import numpy as np
import tensorflow as tf

import hydra_tf
from hydra_tf.sparsity import METHODS, SCORE_INITS, kept_count, masked_layers, refresh_masks
from hydra_tf.sparsity.allocation import kept_per_layer
from hydra_tf.sparsity.granularities.layer import Layer
from hydra_tf.sparsity.methods import plan_of

KERNELS = ((4, 3), (3, 2, 4), (3, 3, 2, 5), (1, 1))
AXES = (
    ((4, 3), "io"), ((3, 3, 2, 5), "ssio"), ((1, 1), "io"), ((3, 4, 2), "sco"), ((2, 4, 6), "soi"),
    ((9, 2), "io"),
)  # fmt: skip
DENSITIES = (0.001, 0.05, 0.3, 0.77, 1.0)


def normal(shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype("float32")


def _scores(score_init, values, seed):
    gradient = tf.constant(values) if getattr(score_init, "needs_gradient", False) else None
    fan_in = int(np.prod(values.shape[:-1]))
    return score_init(tf.constant(values), fan_in=fan_in, gradient=gradient, seed=seed)


def check_score_init(score_init):
    """Check shape, type and values of scores, and that the seed alone makes them random."""
    for shape in KERNELS:
        for values in (normal(shape), np.zeros(shape, "float32")):
            tf.random.set_seed(1)
            first = _scores(score_init, values, 3)
            assert first.dtype == tf.float32, f"{score_init} has scores of {first.dtype.name}"
            assert first.shape == shape, f"{score_init} has scores of shape {first.shape}"
            assert np.isfinite(first).all(), f"{score_init} has scores that are not finite"
            again = _scores(score_init, values, 3)
            assert np.array_equal(first, again), f"{score_init} ignores its seed"
    one, other = normal((4, 3)), normal((4, 3), seed=1)
    first = _scores(score_init, one, 3)
    if np.array_equal(first, _scores(score_init, other, 3)):  # random, since not of the kernel
        another = _scores(score_init, one, 4)
        assert not np.array_equal(first, another), f"{score_init} is the same for all seeds"


def layers(ties=False):
    """Return the scores of layers, whose names are not in the order of the layers."""
    shapes = {"d": (3, 3, 1, 4), "a": (2, 2), "c": (30, 10), "b": (5,), "e": (3, 3, 4, 6)}
    return {
        name: np.ones(shape, "float32") if ties else normal(shape, i)
        for i, (name, shape) in enumerate(shapes.items())
    }


def check_allocation(allocation):
    """Check density and budget of layers, and whether their order matters."""
    for ties in (False, True):
        for density in DENSITIES:
            _check_densities(allocation, layers(ties), density)


def _check_densities(allocation, scores, density):
    sizes = {name: values.size for name, values in scores.items()}
    whole = sum(sizes.values())
    kept, smallest = _kept_or_smallest(allocation, scores, density)
    if smallest is not None:
        assert density < smallest < 1, f"{allocation} refuses {density}, but names {smallest}"
        kept_per_layer(allocation, scores, smallest + 1 / whole)
        return
    shares = allocation(scores, density)
    assert set(shares) == set(kept) == set(scores), f"{allocation} does not name the layers"
    assert all(0 < share <= 1 for share in shares.values()), (
        f"{allocation} has a density outside (0, 1]: {shares}"
    )
    budget = sum(share * sizes[name] for name, share in shares.items())
    # Each layer keeps at least one weight, which a ranking counts too.
    assert abs(budget - density * whole) <= len(sizes), (
        f"{allocation} has a budget of {budget:g} weights, not {density * whole:g}"
    )
    if not getattr(allocation, "per_layer", False):
        assert sum(kept.values()) == kept_count(density, whole), f"{allocation} misses its budget"
    assert all(1 <= kept[name] <= size for name, size in sizes.items())
    if getattr(allocation, "uses_order", False):
        return
    names = list(scores)
    for order in (names[::-1], sorted(names), names[2:] + names[:2]):
        permuted = kept_per_layer(allocation, {name: scores[name] for name in order}, density)
        assert permuted == kept, f"{allocation} depends on the order of the layers"


def _kept_or_smallest(allocation, scores, density):
    """Return the numbers of kept weights, or the density that the sentence of a refusal names."""
    try:
        return kept_per_layer(allocation, scores, density), None
    except ValueError as error:
        smallest = re.search(r"too small: .* a density of ([0-9.]+)", str(error))
        smallest = smallest or re.search(r"the network has a density from ([0-9.]+)", str(error))
        assert smallest, f"{allocation} refuses a density of {density}: {error}"  # noqa: PT017
        return None, float(smallest[1])


def check_granularity(granularity):
    """Check type, shape and count of masks, that groups are whole, and that the best are kept."""
    for shape, axes in AXES:
        for density in DENSITIES:
            _check_mask(granularity, normal(shape), axes, density)
        _check_mask(granularity, np.ones(shape, "float32"), axes, 0.3)
    scores = tf.constant(normal((3, 3, 4, 5)))
    graph = tf.function(granularity)
    fixed = granularity.fixed_kept(scores.shape, "ssio")
    for kept in (1, 7, 100, 180) if fixed is None else (fixed, 180):
        in_graph = graph(scores, tf.constant(kept))
        assert np.array_equal(in_graph, granularity(scores, kept)), (
            f"{granularity} has other masks in a graph"
        )


def _check_mask(granularity, values, axes, density):
    shape, size = values.shape, values.size
    window = granularity.window(shape, axes)
    unit = int(np.prod(window))
    channels = granularity.channel_axes
    whole = tuple(1 if axis in channels else n for n, axis in zip(shape, axes, strict=True))
    assert not channels or window == whole, (
        f"{granularity} has groups of {window}, which are no channels of a kernel of {shape}"
    )
    assert all(n % w == 0 for n, w in zip(shape, window, strict=True)), (
        f"{granularity} has groups of {window} in a kernel of {shape}"
    )
    fixed, kept = granularity.fixed_kept(shape, axes), kept_count(density, size)
    if fixed is not None and kept not in (fixed, size):
        kept = fixed
    expected = kept if fixed is not None else max(1, kept // unit) * unit
    mask = granularity(tf.constant(values), kept, axes)
    assert mask.dtype == tf.bool, f"{granularity} has masks of {mask.dtype.name}"
    assert mask.shape == shape, f"{granularity} has masks of shape {mask.shape}"
    found = int(np.sum(mask))
    assert found == expected, f"{granularity} keeps {found} weights, not {expected}"
    again = granularity(tf.constant(values), found, axes)
    assert np.array_equal(again, mask), f"{granularity} has another mask for the same number"
    sums, members = _groups(np.abs(values), window), _groups(np.asarray(mask), window)
    assert set(members.ravel()) <= {0, unit}, f"{granularity} keeps parts of groups"
    if fixed is None and 0 < found < size:
        lowest, highest = sums[members > 0].min(), sums[members == 0].max()
        assert lowest >= highest * (1 - 1e-6), f"{granularity} prunes better groups"


def _groups(values, window):
    """Return the sum of each group, by loops."""
    shape = [n // w for n, w in zip(values.shape, window, strict=True)]
    sums = np.zeros(shape)
    for index in np.ndindex(*shape):
        box = tuple(slice(i * w, (i + 1) * w) for i, w in zip(index, window, strict=True))
        sums[index] = values[box].sum()
    return sums


def density_of(granularity, density=0.4):
    """Return a density that small networks can have with a granularity, the given one if any."""
    if granularity == Layer():
        return 1.0
    return granularity.n / granularity.m if hasattr(granularity, "n") else density


def check_method(method):
    """Check plan, score initialisation and config of a pruning method."""
    phases = list(plan_of(method, 3, 2, 1))
    expected = (
        ["pretrain", "prune", "finetune"] if method.trains_scores else ["pretrain", "finetune"]
    )
    assert phases == expected, f"{method} has the phases {phases}"
    assert METHODS.build(METHODS.config(method)) == method, f"{method} is not equal to its config"
    try:
        SCORE_INITS.build(method.score_init)
    except ValueError as error:
        raise AssertionError(f"{method} cannot initialise its scores: {error}") from error


def check_density_schedule(schedule):
    """Check that densities are in (0, 1], never grow, and end at the density of the phase."""
    for density in DENSITIES:
        for steps in (1, 2, 7, 1000):
            current = 1.0
            for step in range(steps):
                new = schedule(step, steps, density)
                new = current if new is None else new
                assert 0 < new <= 1, f"{schedule} has a density of {new}"
                assert new <= current, f"{schedule} grows from {current} to {new}"
                current = new
            assert current == density, f"{schedule} ends at {current}, not {density}"


def residual_network(shape=(6, 6, 2), classes=2):
    """Return a network of a stem, a residual block with a depthwise convolution, and logits."""
    images = keras.Input(shape)
    x = keras.layers.Conv2D(4, 3, padding="same", name="stem")(images)
    y = keras.layers.DepthwiseConv2D(3, padding="same", activation="relu", name="depthwise")(x)
    y = keras.layers.Conv2D(4, 1, name="project")(y)
    x = keras.layers.GlobalAveragePooling2D()(keras.layers.ReLU()(x + y))
    return keras.Model(images, keras.layers.Dense(classes, name="logits")(x))


def check_refresh(granularity, strategy, folder, allocation="uniform"):
    """Check that replicas, and a network that is loaded from a file, choose the same masks."""
    density = density_of(granularity, 0.6)
    with strategy.scope():
        shared = hydra_tf.mask_model(residual_network())
    alone = hydra_tf.mask_model(residual_network())
    for model in (shared, alone):
        _set_scores(model, 0)
        hydra_tf.set_density(model, density, allocation, granularity)
    kept = [int(layer.kept()) for layer in masked_layers(alone)]
    budget = kept_count(density, hydra_tf.sparsity.report(alone)["total"]["weights"])
    alone.save(folder / "net.keras")
    loaded = keras.saving.load_model(folder / "net.keras")
    graph = tf.function(lambda: strategy.run(lambda: refresh_masks(shared)))
    for seed in (1, 2):  # what the first leaves of a budget must not be lost
        for model in (shared, alone, loaded):
            _set_scores(model, seed)
        refresh_masks(alone)
        refresh_masks(loaded)
        graph()
    rows = zip(masked_layers(alone), masked_layers(loaded), masked_layers(shared), strict=True)
    joint = allocation == "global"
    counts = [int(layer.kept()) for layer in masked_layers(alone)]
    assert joint or counts == kept, f"{granularity} keeps {counts} weights, not {kept}"
    assert not joint or sum(counts) <= budget, f"{granularity} exceeds its budget of {budget}"
    for layer, again, replicated in rows:
        mask = np.asarray(layer.mask)
        assert np.array_equal(again.mask, mask), f"{granularity} has other masks from a file"
        for value in replicated.mask.value.values:
            assert np.array_equal(value, mask), f"{granularity} has other masks on a replica"


def _set_scores(model, seed):
    for number, layer in enumerate(masked_layers(model)):
        layer.scores.assign(normal(layer.scores.shape, 100 * seed + number))
