"""Certification by randomized smoothing compared with the network's bare forward passes.

    python -m benchmarks.certification [--networks=mnist_cnn,cnn_large] [--rounds=9]

One side is `hydra_tf.evaluation.certify` of 32 images, noise, votes and bounds included; the
other is ``model(x, training=False)`` in a `tf.function` on one fixed batch, at the fastest of
several batch sizes. Both classify the same number of images per round and alternate in one
process, so that the ratio of their throughputs is reliable on a noisy machine. The target is 0.9.
"""

from __future__ import annotations

import argparse
import time

import numpy as np

CASES = {
    "mnist_cnn": ("mnist_cnn", (28, 28, 1), 1000),
    "cnn_large": ("cnn_large", (32, 32, 3), 60),
}
IMAGES, SELECTED = 32, 20
BATCH_SIZES = (64, 128, 256, 512, 1024, 2048)


def make_sides(name: str):
    """Return the certification of fixed random images, and a bare pass for each batch size."""
    import tensorflow as tf

    import hydra_tf

    spec, shape, draws = CASES[name]
    net = hydra_tf.models.build(spec, input_shape=shape, num_classes=10, seed=0)
    x = np.random.default_rng(0).random((IMAGES, *shape), np.float32)
    total = IMAGES * (SELECTED + draws)

    def certify() -> None:
        hydra_tf.evaluation.certify(net, x, n0=SELECTED, n=draws)

    forward = tf.function(lambda z: net(z, training=False))

    def bare(batch_size: int):
        z = tf.random.stateless_uniform([batch_size, *shape], [0, 0])
        passes = -(-total // batch_size)

        def run() -> None:
            for _ in range(passes):
                logits = forward(z)
            logits.numpy()

        return run, passes * batch_size

    return (certify, total), {size: bare(size) for size in BATCH_SIZES}


def throughput(run, images: int) -> float:
    """Return the images per second of one round."""
    start = time.perf_counter()
    run()
    return images / (time.perf_counter() - start)


def compare(name: str, rounds: int) -> None:
    """Print one row: median throughputs, and the median of the paired ratios."""
    certify, bare = make_sides(name)
    for side in (certify, *bare.values()):
        throughput(*side)
    trials = {size: np.median([throughput(*side) for _ in range(3)]) for size, side in bare.items()}
    best = max(trials, key=trials.get)
    pairs = []
    for i in range(rounds):
        # The order alternates, so that the state of the caches affects both equally often.
        sides = (certify, bare[best]) if i % 2 else (bare[best], certify)
        pair = [throughput(*side) for side in sides]
        pairs.append(pair[::-1] if i % 2 else pair)
    rates = np.array(pairs)
    low, middle, high = np.percentile(rates[:, 1] / rates[:, 0], [25, 50, 75])
    median = np.median(rates, axis=0)
    print(
        f"| {name} | {best} | {median[0]:,.0f} | {median[1]:,.0f} "
        f"| {middle:.3f} ({low:.3f}-{high:.3f}) |",
        flush=True,
    )


def main() -> None:
    """Parse the arguments and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--networks", default=",".join(CASES))
    parser.add_argument("--rounds", type=int, default=9)
    arguments = parser.parse_args()
    print("| network | best batch | bare (images/s) | certify (images/s) | ratio (quartiles) |")
    print("|---|---|---|---|---|")
    for name in arguments.networks.split(","):
        compare(name, arguments.rounds)


if __name__ == "__main__":
    main()
