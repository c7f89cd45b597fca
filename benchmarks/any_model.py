"""What masks cost networks of other authors: masking, the first fit, and the wrapper of layers.

    python -m benchmarks.any_model [--network=MobileNetV2] [--rounds=9]

- seconds of ``mask_model``;
- seconds of the first ``fit`` of two natural steps, which traces the graph, in each phase, as a
  ratio to that of the plain network in Keras, each in a process of its own (median of three); the
  target is 2;
- a TRADES pruning step with ``MaskedConv2D`` and ``MaskedDense`` against the same step with every
  layer in a ``MaskedLayer``, alternating in one process.
"""

from __future__ import annotations

import argparse
import subprocess
import time

import numpy as np

from benchmarks.pruning_step import network as zoo_network
from benchmarks.pruning_step import seconds, training_step
from hydra_tf.core.isolated import isolated_command

SHAPE = (64, 64, 3)
PHASES = ("pretrain", "prune", "finetune")


def network(name: str):
    """Return a network of keras.applications."""
    import keras

    import hydra_tf

    keras.utils.set_random_seed(0)
    return hydra_tf.models.application(name, input_shape=SHAPE, classes=10)


def first_fit(name: str, phase: str) -> None:
    """Print the seconds of `mask_model` and of the first `fit`, of Keras if phase is ``plain``."""
    import keras

    import hydra_tf

    net, masking = network(name), 0.0
    if phase != "plain":
        start = time.perf_counter()
        net = hydra_tf.mask_model(net)
        masking = time.perf_counter() - start
        hydra_tf.set_density(net, 0.1)
        net = hydra_tf.RobustModel(net, "natural")
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    net.compile(keras.optimizers.SGD(0.1), **({"loss": loss} if phase == "plain" else {}))
    if phase != "plain":
        net.set_phase(phase)
    x, y = np.random.default_rng(0).random((8, *SHAPE), np.float32), np.arange(8)
    start = time.perf_counter()
    net.fit(x, y, batch_size=4, verbose=0)
    print(masking, time.perf_counter() - start)


def measured(name: str, phase: str) -> tuple[float, float]:
    """Return the medians of what three processes of :func:`first_fit` print."""
    command = isolated_command("benchmarks.any_model", "--probe", name, phase)
    runs = [subprocess.run(command, capture_output=True, text=True, check=True) for _ in range(3)]
    values = [[float(value) for value in run.stdout.split()[-2:]] for run in runs]
    return tuple(float(value) for value in np.median(values, axis=0))


def pruning_step(wrapped: bool):
    """Return a function that takes one TRADES pruning step of cnn_large."""
    import keras

    import hydra_tf
    from hydra_tf.layers import MaskedLayer

    net, shape, batch = zoo_network("cnn_large")
    if wrapped:
        layers = keras.layers.Dense | keras.layers.Conv2D
        net = keras.models.clone_model(
            net,
            clone_function=lambda layer: (
                MaskedLayer(copied(layer)) if isinstance(layer, layers) else copied(layer)
            ),
        )
    else:
        net = hydra_tf.mask_model(net)
    hydra_tf.set_density(net, 0.1)
    return training_step(net, "prune", shape, batch, "trades:steps=10")


def copied(layer):
    """Return a new layer of the same class and config."""
    return type(layer).from_config(layer.get_config())


def main() -> None:
    """Parse the arguments and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--network", default="MobileNetV2")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--probe", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.probe:
        first_fit(*arguments.probe)
        return
    _, plain = measured(arguments.network, "plain")
    print(f"first fit of {arguments.network} in Keras: {plain:.1f} s")
    for phase in PHASES:
        masking, fit = measured(arguments.network, phase)
        print(
            f"{phase}: {fit:.1f} s, ratio {fit / plain:.2f}; mask_model {masking:.1f} s", flush=True
        )
    steps = [pruning_step(wrapped) for wrapped in (False, True)]
    for step in steps * 2:
        step()
    ratios = []
    for number in range(arguments.rounds):
        order = steps if number % 2 else steps[::-1]
        times = {id(step): seconds(step) for step in order}
        ratios.append(times[id(steps[1])] / times[id(steps[0])])
    low, middle, high = np.percentile(ratios, [25, 50, 75])
    print(f"pruning step with every layer wrapped: ratio {middle:.3f} ({low:.3f}-{high:.3f})")


if __name__ == "__main__":
    main()
