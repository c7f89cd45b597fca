"""How the time of a pruning step and of an attack grows with batch, width, depth and data.

    python -m benchmarks.growth [--rounds=5]

The first row of each part is the reference. "ratio" is its time, "per unit" the time divided by
the growth of the quantity in the first column: 1.0 is linear growth. Steps are TRADES with ten
ascent steps in the prune phase; the attack is PGD with 20 steps on a mnist_cnn without training.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

import numpy as np

from .attack_speed import in_turn
from .pruning_step import training_step

WIDE_RESNET = "wide_resnet:depth={depth},width={width}"


def pruning_step(spec: str, shape: tuple[int, ...], batch: int) -> tuple[Callable[[], Any], int]:
    """Return a TRADES step of a masked network, and the number of its weights."""
    import hydra_tf

    net = hydra_tf.models.build(spec, input_shape=shape, num_classes=10, seed=0)
    weights = net.count_params()
    net = hydra_tf.mask_model(net)
    hydra_tf.set_density(net, 0.1)
    return training_step(net, "prune", shape, batch, "trades:steps=10"), weights


def evaluation(count: int) -> Callable[[], Any]:
    """Return an evaluation of `count` random images by PGD; the labels are the predictions."""
    import hydra_tf

    net = hydra_tf.models.build("mnist_cnn", input_shape=(28, 28, 1), num_classes=10, seed=0)
    images = np.random.default_rng(0).random((count, 28, 28, 1), "float32")
    labels = np.argmax(net.predict(images, verbose=0), axis=1)

    def run() -> float:
        data = (images, labels)
        return hydra_tf.evaluation.robust_accuracy(net, data, "pgd:epsilon=0.1,steps=20", seed=0)

    return run


def print_part(title: str, runs: dict[float, Callable[[], Any]], rounds: int) -> None:
    """Print a table of times that take turns; the keys are the sizes."""
    times = in_turn({str(size): run for size, run in runs.items()}, rounds)
    first = next(iter(runs))
    print(f"\n| {title} | seconds | ratio | per unit |\n|---|---|---|---|")
    for size in runs:
        values = times[str(size)]
        ratio = np.median(values / times[str(first)])
        unit = ratio * first / size
        print(f"| {size:,} | {np.median(values):.3f} | {ratio:.2f} | {unit:.2f} |", flush=True)


def main() -> None:
    """Print all parts."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    batches = {
        size: pruning_step("mnist_cnn", (28, 28, 1), size)[0]
        for size in (16, 32, 64, 128, 256, 512)
    }
    print_part("batch of mnist_cnn", batches, rounds)
    widths = (
        pruning_step(WIDE_RESNET.format(depth=10, width=w), (32, 32, 3), 8) for w in (1, 2, 4)
    )
    print_part("weights of wide_resnet-10, width 1, 2, 4", {n: run for run, n in widths}, rounds)
    depths = {
        depth: pruning_step(WIDE_RESNET.format(depth=depth, width=1), (32, 32, 3), 8)[0]
        for depth in (10, 16, 28, 40)
    }
    print_part("depth of wide_resnet, width 1", depths, rounds)
    data = {count: evaluation(count) for count in (128, 512, 2048)}
    print_part("images that PGD attacks", data, rounds)


if __name__ == "__main__":
    main()
