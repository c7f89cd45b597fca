"""A training step through a bound against a plain training step of the same network.

    python -m benchmarks.bounds [--networks=mnist_cnn] [--methods=ibp,crown_ibp] [--rounds=25]
        [--objectives=crown_ibp;crown_ibp:fusion=false] [--progress=0.25]

The plain step computes the cross-entropy of the logits and its gradients and applies SGD with
momentum. The step of a method minimises the cross-entropy of the negated lower bounds of the
margins at epsilon = 2/255, without the margin for rounding error, as in training. The step of an
objective minimises its loss, natural part included, when a share `progress` of a phase is done: at
0.25, half of the ramp, the bounds of crown_ibp have equal weights. The steps alternate in one
process, so that the ratio is reliable on a noisy machine. The row "limit" is a plain step with a
batch of twice the size: intervals send centres and radii through every layer, which is about the
same work. The targets on mnist_cnn are 3 for the method ``ibp`` and 8 for the objective
``crown_ibp``.
"""

from __future__ import annotations

import argparse
import time

import numpy as np

CASES = {
    "mnist_cnn": ("mnist_cnn", (28, 28, 1), 128),
    "cnn_small": ("cnn_small", (32, 32, 3), 128),
    "cnn_large": ("cnn_large", (32, 32, 3), 16),
}
EPSILON = 2 / 255


def make_loss(net, kind: str, spec: str, progress: float):
    """Return a function of images and labels that computes the loss of a kind of step.

    Args:
        net: network.
        kind: ``"plain"``, ``"limit"``, ``"method"`` or ``"objective"``.
        spec: name of the bound method, or spec of the objective.
        progress: share of the phase that is done, for objectives.
    """
    import tensorflow as tf

    from hydra_tf import bounds, objectives
    from hydra_tf.core.types import StepContext

    def cross_entropy(y, logits):
        losses = tf.nn.sparse_softmax_cross_entropy_with_logits(labels=y, logits=logits)
        return tf.reduce_mean(losses)

    def of_method(x, y):
        lower = bounds.margin_lower_bound(net, x, y, EPSILON, spec, rounding=False, chunk=0)
        return cross_entropy(y, -lower)

    if kind == "objective":
        objective, seed = objectives.build(spec), tf.constant([0, 1])
        # A variable, as TensorFlow would otherwise decide at once which bounds have a weight.
        variable = tf.Variable(progress)
        return lambda x, y: objective(net, x, y, StepContext(seed, variable.value())).loss
    return of_method if kind == "method" else lambda x, y: cross_entropy(y, net(x, training=True))


def make_step(name: str, kind: str, spec: str, progress: float):
    """Return a function that takes one training step on fixed random images."""
    import keras
    import tensorflow as tf

    import hydra_tf

    model, shape, batch = CASES[name]
    batch *= 2 if kind == "limit" else 1
    net = hydra_tf.models.build(model, input_shape=shape, num_classes=10, seed=0)
    variables = net.trainable_variables
    optimizer = keras.optimizers.SGD(1e-3, momentum=0.9)
    optimizer.build(variables)
    x = tf.random.stateless_uniform([batch, *shape], [0, 0])
    y = tf.random.stateless_uniform([batch], [0, 1], 0, 10, tf.int32)

    compute = make_loss(net, kind, spec, progress)

    @tf.function(autograph=False)
    def step(x, y) -> tf.Tensor:
        with tf.GradientTape() as tape:
            loss = compute(x, y)
        values = [variable.value for variable in variables]
        optimizer.apply(tape.gradient(loss, values), variables)
        return loss

    return lambda: float(step(x, y))


def seconds(step) -> float:
    """Return the wall-clock seconds of one call."""
    start = time.perf_counter()
    step()
    return time.perf_counter() - start


def compare(name: str, kinds: list[tuple[str, str]], rounds: int, progress: float) -> None:
    """Print a row for each step: median seconds, and the median of the paired ratios."""
    steps = [make_step(name, *kind, progress) for kind in (("plain", ""), *kinds)]
    for step in (*steps, *steps):
        step()
    times = np.empty((rounds, len(steps)))
    for i in range(rounds):
        # The order rotates, so that the state of the caches affects all equally often.
        for k in np.roll(np.arange(len(steps)), i):
            times[i, k] = seconds(steps[k])
    plain = np.median(times[:, 0])
    for k, (kind, spec) in enumerate(kinds, start=1):
        low, middle, high = np.percentile(times[:, k] / times[:, 0], [25, 50, 75])
        print(
            f"| {name} | {kind} {spec} | {plain * 1e3:.1f} | {np.median(times[:, k]) * 1e3:.1f} "
            f"| {middle:.2f} ({low:.2f}-{high:.2f}) |",
            flush=True,
        )


def main() -> None:
    """Parse the arguments and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--networks", default="mnist_cnn")
    parser.add_argument("--methods", default="ibp,crown_ibp")
    parser.add_argument("--objectives", default="crown_ibp;crown_ibp:fusion=false")
    parser.add_argument("--progress", type=float, default=0.25)
    parser.add_argument("--rounds", type=int, default=25)
    arguments = parser.parse_args()
    print("| network | step through | plain step (ms) | step (ms) | ratio (quartiles) |")
    print("|---|---|---|---|---|")
    kinds = [("limit", "of two batches")]
    kinds += [("method", name) for name in arguments.methods.split(",") if name]
    kinds += [("objective", spec) for spec in arguments.objectives.split(";") if spec]
    for name in arguments.networks.split(","):
        compare(name, kinds, arguments.rounds, arguments.progress)


if __name__ == "__main__":
    main()
