"""A pruning step compared with the same robust step on the plain, unmasked network.

    python -m benchmarks.pruning_step [--networks=mnist_cnn,cnn_large,vgg16_bn,wide_resnet]
        [--rounds=15] [--objective=trades:steps=10] [--allocation=uniform]
        [--granularity=element] [--time_only]

Both steps are those of the objective, by default TRADES with ten attack steps, with SGD and
momentum; they alternate in one process, so that the ratio is reliable on a noisy machine. The
targets are 1.05, and 1.15 for the networks of other authors, which run if they are named
(MobileNetV3Small, ResNet50, attention, lstm). Peak memory is the median of three separate
processes per kind of step; the targets are 1.15 and 1.3. --time_only leaves it out.
"""

from __future__ import annotations

import argparse
import gc
import pathlib
import re
import subprocess
import time

import numpy as np

from hydra_tf.core.isolated import isolated_command

# Networks of the zoo: spec, shape of the images, batch size.
ZOO = {
    "mnist_cnn": ("mnist_cnn", (28, 28, 1), 128),
    "cnn_large": ("cnn_large", (32, 32, 3), 128),
    "vgg16_bn": ("vgg16_bn", (32, 32, 3), 32),
    "wide_resnet": ("wide_resnet:depth=28,width=4", (32, 32, 3), 8),
}
# Networks of other authors: shape of the inputs, batch size.
OTHERS = {
    "MobileNetV3Small": ((64, 64, 3), 4),
    "ResNet50": ((64, 64, 3), 4),
    "attention": ((64, 48), 32),
    "lstm": ((28, 28), 32),
}


def network(name: str):
    """Return a network, the shape of its inputs and the batch size."""
    import keras

    import hydra_tf

    if name in ZOO:
        spec, shape, batch = ZOO[name]
        net = hydra_tf.models.build(spec, input_shape=shape, num_classes=10, seed=0)
        return net, shape, batch
    layers = keras.layers
    shape, batch = OTHERS[name]
    if name == "attention":
        images = keras.Input(shape)
        x = layers.Dense(128)(images)
        for _ in range(4):
            attended = layers.MultiHeadAttention(4, 32)(x, x)
            x = layers.LayerNormalization()(x + attended)
            x = layers.LayerNormalization()(x + layers.Dense(128, activation="relu")(x))
        pooled = layers.GlobalAveragePooling1D()(x)
        net = keras.Model(images, layers.Dense(10)(pooled))
    elif name == "lstm":
        recurrent = [layers.LSTM(128, return_sequences=True), layers.LSTM(128)]
        net = keras.Sequential([keras.Input(shape), *recurrent, layers.Dense(10)])
    else:
        net = hydra_tf.models.application(name, input_shape=shape, classes=10)
    return net, shape, batch


def make_step(name: str, allocation: str | None, spec: str, granularity: str = "element"):
    """Return a function that takes one training step of an objective on fixed random images.

    Args:
        name: name of the network.
        allocation: allocation of the densities; None for a plain step.
        spec: the objective.
        granularity: unit that is kept or pruned as one.
    """
    import hydra_tf

    net, shape, batch = network(name)
    densities = None
    if allocation:
        net = hydra_tf.mask_model(net)
        density = 0.5 if granularity.startswith("n_m") else 0.1
        hydra_tf.set_density(net, density, allocation, granularity)
        densities = density_training(net, allocation)
    phase = "prune" if allocation else "pretrain"
    return training_step(net, phase, shape, batch, spec, densities)


def density_training(net, allocation: str):
    """Return what trains the densities of the layers, None if they are not learned."""
    import keras

    from hydra_tf.sparsity.allocation import allocation_of
    from hydra_tf.sparsity.learned import Learned
    from hydra_tf.training.step.density_training import DensityTraining

    part = allocation_of(allocation)
    if not isinstance(part, Learned):
        return None
    training = DensityTraining(net, part, 0.1, keras.layers.Layer().add_weight)
    training.start()
    return training


def training_step(
    net, phase_name: str, shape: tuple[int, ...], batch: int, spec: str, densities=None
):
    """Return a function that takes one step of a network in a phase on fixed random images.

    Args:
        net: the network, with masked layers or without.
        phase_name: name of the phase.
        shape: shape of an image.
        batch: images of the step.
        spec: the objective.
        densities: trains the densities of the layers; None if they are fixed.
    """
    import keras
    import tensorflow as tf

    from hydra_tf import objectives
    from hydra_tf.training.step.phases import PHASES, trained_variables
    from hydra_tf.training.step.robust_step import robust_step, step_context

    phase = PHASES[phase_name]
    variables = trained_variables(net, phase)
    optimizer = keras.optimizers.SGD(0.1, momentum=0.9)
    optimizer.build(variables)
    objective = objectives.build(spec)
    x = tf.random.stateless_uniform([batch, *shape], [0, 0])
    y = tf.random.stateless_uniform([batch], [0, 1], 0, 10, tf.int32)

    @tf.function
    def step() -> tf.Tensor:
        context = step_context(0, phase.index, optimizer.iterations, None)
        return robust_step(
            net, objective, optimizer, variables, x, y, context,
            refresh=phase.trains_scores, densities=densities,
        ).loss  # fmt: skip

    return lambda: float(step())


def seconds(step) -> float:
    """Return the wall-clock seconds of one call."""
    start = time.perf_counter()
    step()
    return time.perf_counter() - start


def compare(
    name: str, rounds: int, spec: str, allocation: str, granularity: str, time_only: bool
) -> None:
    """Print one row: median seconds of both steps, and the median of the paired ratios."""
    plain, masked = (make_step(name, kind, spec, granularity) for kind in (None, allocation))
    for step in (plain, masked, plain, masked):
        step()
    pairs = []
    for i in range(rounds):
        # The order alternates, so that the state of the caches affects both equally often.
        if i % 2:
            masked_seconds = seconds(masked)
            pairs.append((seconds(plain), masked_seconds))
        else:
            pairs.append((seconds(plain), seconds(masked)))
    times = np.array(pairs)
    ratios = times[:, 1] / times[:, 0]
    low, middle, high = np.percentile(ratios, [25, 50, 75])
    memory = "not measured"
    if not time_only:
        peaks = [peak_memory(name, kind, spec, granularity) for kind in (allocation, "")]
        memory = f"{peaks[0] / peaks[1]:.3f}"
    median = np.median(times, axis=0)
    print(
        f"| {name} | {median[0]:.3f} | {median[1]:.3f} | {middle:.3f} ({low:.3f}-{high:.3f}) "
        f"| {memory} |",
        flush=True,
    )


def peak_memory(name: str, allocation: str, spec: str, granularity: str) -> float:
    """Return the peak memory in kB (median of three processes) of three steps of one kind."""
    probe = ("--probe", name, allocation, spec, granularity)
    command = isolated_command("benchmarks.pruning_step", *probe)
    runs = [subprocess.run(command, capture_output=True, text=True, check=True) for _ in range(3)]
    return float(np.median([int(run.stdout.split()[-1]) for run in runs]))


def main() -> None:
    """Parse the arguments and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--networks", default=",".join(ZOO))
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--objective", default="trades:steps=10")
    parser.add_argument("--allocation", default="uniform")
    parser.add_argument("--granularity", default="element")
    parser.add_argument("--time_only", action="store_true", help="leave out the peak memory")
    parser.add_argument("--probe", nargs=4, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.probe:
        name, allocation, spec, granularity = arguments.probe
        step = make_step(name, allocation or None, spec, granularity)
        gc.collect()  # frees the plain network that was masked
        for _ in range(3):
            step()
        # Not getrusage: its peak is inherited from the process that started this one.
        status = pathlib.Path("/proc/self/status").read_text()
        print(re.search(r"VmHWM:\s+(\d+) kB", status)[1])
        return
    print("| network | plain step (s) | pruning step (s) | ratio (quartiles) | peak memory ratio |")
    print("|---|---|---|---|---|")
    for name in arguments.networks.split(","):
        specs = (arguments.objective, arguments.allocation, arguments.granularity)
        compare(name, arguments.rounds, *specs, arguments.time_only)


if __name__ == "__main__":
    main()
