"""A pruning step with our masks beside one whose layers sort their scores in every forward pass.

    python -m benchmarks.sorted_masks [--networks=mnist_cnn,cnn_large] [--rounds=15]

The peer is what one writes in an afternoon: subclasses of Conv2D and Dense with a score for each
weight, whose call sorts the magnitudes of the scores, masks the kernel from the threshold and hands
the gradient of the mask to the scores. Both make a TRADES step with ten ascent steps, SGD and
momentum, at a density of 10%; the plain network's step is the reference. They take turns.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

import numpy as np

from .attack_speed import in_turn
from .pruning_step import ZOO, make_step, network

DENSITY = 0.1


def sorting_layers() -> dict[str, Any]:
    """Return Keras layers that sort their scores in every call."""
    import keras
    import tensorflow as tf

    @tf.custom_gradient
    def masked(kernel: tf.Tensor, scores: tf.Tensor) -> tuple[tf.Tensor, Callable[..., Any]]:
        magnitudes = tf.abs(tf.reshape(scores, [-1]))
        kept = round(DENSITY * magnitudes.shape[0])
        threshold = tf.sort(magnitudes, direction="DESCENDING")[kept - 1]
        mask = tf.cast(tf.abs(scores) >= threshold, kernel.dtype)
        return kernel * mask, lambda upstream: (upstream * mask, upstream * kernel)

    class SortedConv2D(keras.layers.Conv2D):
        def build(self, input_shape: Any) -> None:
            super().build(input_shape)
            self.scores = self.add_weight(self.kernel.shape, "random_normal", name="scores")

        def call(self, inputs: tf.Tensor) -> tf.Tensor:
            kernel = masked(tf.convert_to_tensor(self.kernel), tf.convert_to_tensor(self.scores))
            padding = self.padding.upper()
            return tf.nn.conv2d(inputs, kernel, self.strides, padding) + self.bias

    class SortedDense(keras.layers.Dense):
        def build(self, input_shape: Any) -> None:
            super().build(input_shape)
            self.scores = self.add_weight(self.kernel.shape, "random_normal", name="scores")

        def call(self, inputs: tf.Tensor) -> tf.Tensor:
            kernel = masked(tf.convert_to_tensor(self.kernel), tf.convert_to_tensor(self.scores))
            return inputs @ kernel + self.bias

    return {"Conv2D": SortedConv2D, "Dense": SortedDense}


def sorting_step(name: str) -> Callable[[], Any]:
    """Return a function that makes one TRADES step for the scores of sorting layers."""
    import keras
    import tensorflow as tf

    from hydra_tf import objectives
    from hydra_tf.training.step.robust_step import step_context

    net, shape, batch = network(name)
    layers = sorting_layers()

    def sorting(layer: keras.layers.Layer) -> keras.layers.Layer:
        kind = layers.get(type(layer).__name__, type(layer))
        return kind.from_config(layer.get_config())

    net = keras.models.clone_model(net, clone_function=sorting)
    scores = [weight for weight in net.trainable_variables if weight.name == "scores"]
    optimizer = keras.optimizers.SGD(0.1, momentum=0.9)
    optimizer.build(scores)
    objective = objectives.build("trades:steps=10")
    x = tf.random.stateless_uniform([batch, *shape], [0, 0])
    y = tf.random.stateless_uniform([batch], [0, 1], 0, 10, tf.int32)

    @tf.function
    def step() -> tf.Tensor:
        context = step_context(0, 1, optimizer.iterations, None)
        with tf.GradientTape() as tape:
            loss = objective(net, x, y, context).loss
        optimizer.apply(tape.gradient(loss, scores), scores)
        return loss

    return lambda: float(step())


def main() -> None:
    """Print a row for each network."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--networks", default="mnist_cnn,cnn_large", help=", ".join(ZOO))
    parser.add_argument("--rounds", type=int, default=15)
    arguments = parser.parse_args()
    print("| network | plain step (s) | hydra_tf / plain | sorting / plain | sorting / hydra_tf |")
    print("|---|---|---|---|---|")
    for name in arguments.networks.split(","):
        runs = {
            "plain": make_step(name, None, "trades:steps=10"),
            "hydra_tf": make_step(name, "uniform", "trades:steps=10"),
            "sorting": sorting_step(name),
        }
        times = in_turn(runs, arguments.rounds)
        pairs = (("hydra_tf", "plain"), ("sorting", "plain"), ("sorting", "hydra_tf"))
        ratios = (np.median(times[one] / times[other]) for one, other in pairs)
        cells = " | ".join(f"{ratio:.2f}" for ratio in ratios)
        print(f"| {name} | {np.median(times['plain']):.3f} | {cells} |", flush=True)


if __name__ == "__main__":
    main()
