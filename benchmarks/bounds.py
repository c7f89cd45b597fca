"""A training step through a bound against a plain training step of the same network.

    python -m benchmarks.bounds [--networks=mnist_cnn] [--methods=ibp,crown_ibp] [--rounds=25]

The plain step computes the cross-entropy of the logits and its gradients and applies SGD with
momentum. The other minimises the cross-entropy of the negated lower bounds of the margins at
epsilon = 2/255, without the margin for rounding error, as in training. The steps alternate in
one process, so that the ratio is reliable on a noisy machine. The targets on mnist_cnn are
3 for ``ibp`` and 8 for ``crown_ibp``.
"""

from __future__ import annotations

import argparse
import time

import numpy as np

CASES = {
    "mnist_cnn": ("mnist_cnn", (28, 28, 1), 128),
    "cnn_large": ("cnn_large", (32, 32, 3), 16),
}
EPSILON = 2 / 255


def make_step(name: str, method: str | None):
    """Return a function that takes one training step on fixed random images."""
    import keras
    import tensorflow as tf

    import hydra_tf

    spec, shape, batch = CASES[name]
    net = hydra_tf.models.build(spec, input_shape=shape, num_classes=10, seed=0)
    variables = net.trainable_variables
    optimizer = keras.optimizers.SGD(1e-3, momentum=0.9)
    optimizer.build(variables)
    x = tf.random.stateless_uniform([batch, *shape], [0, 0])
    y = tf.random.stateless_uniform([batch], [0, 1], 0, 10, tf.int32)

    @tf.function
    def step(x, y) -> tf.Tensor:
        with tf.GradientTape() as tape:
            if method is None:
                logits = net(x, training=True)
            else:
                logits = -hydra_tf.bounds.margin_lower_bound(
                    net, x, y, EPSILON, method, rounding=False
                )
            losses = tf.nn.sparse_softmax_cross_entropy_with_logits(labels=y, logits=logits)
            loss = tf.reduce_mean(losses)
        values = [variable.value for variable in variables]
        optimizer.apply(tape.gradient(loss, values), variables)
        return loss

    return lambda: float(step(x, y))


def seconds(step) -> float:
    """Return the wall-clock seconds of one call."""
    start = time.perf_counter()
    step()
    return time.perf_counter() - start


def compare(name: str, methods: list[str], rounds: int) -> None:
    """Print a row for each method: median seconds, and the median of the paired ratios."""
    steps = [make_step(name, method) for method in (None, *methods)]
    for step in (*steps, *steps):
        step()
    times = np.empty((rounds, len(steps)))
    for i in range(rounds):
        # The order rotates, so that the state of the caches affects all equally often.
        for k in np.roll(np.arange(len(steps)), i):
            times[i, k] = seconds(steps[k])
    plain = np.median(times[:, 0])
    for k, method in enumerate(methods, start=1):
        low, middle, high = np.percentile(times[:, k] / times[:, 0], [25, 50, 75])
        print(
            f"| {name} | {method} | {plain * 1e3:.1f} | {np.median(times[:, k]) * 1e3:.1f} "
            f"| {middle:.2f} ({low:.2f}-{high:.2f}) |",
            flush=True,
        )


def main() -> None:
    """Parse the arguments and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--networks", default="mnist_cnn")
    parser.add_argument("--methods", default="ibp,crown_ibp")
    parser.add_argument("--rounds", type=int, default=25)
    arguments = parser.parse_args()
    print("| network | method | plain step (ms) | step (ms) | ratio (quartiles) |")
    print("|---|---|---|---|---|")
    for name in arguments.networks.split(","):
        compare(name, arguments.methods.split(","), arguments.rounds)


if __name__ == "__main__":
    main()
