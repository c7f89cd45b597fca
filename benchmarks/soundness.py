"""Look for a point outside the bounds of networks with extreme weights.

    python -m benchmarks.soundness [--networks=10000] [--points=10000] [--out=runs/soundness.jsonl]

Networks are generated: their layers at random, their weights with magnitudes from 1e-45 to 1e38,
moving variances down to 0, balls of radius 0 to 1. ``tightest`` bounds them, which takes the best
bound of every method and so is wrong if one of them is. Random points, corners and edges of the
balls are tried, evaluated by TensorFlow with and without a graph, in batches of several sizes, and
in float64. Each draw of weights counts as a network. The results of every architecture are
appended to ``--out``, where another start of the command continues. A summary is printed: the
networks and points tried, how many networks had finite bounds, and the violations, of which there
must be none.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import pathlib
import time
from collections.abc import Iterator

import keras
import numpy as np
import tensorflow as tf
from keras import layers

from hydra_tf import bounds

SMALLEST, LARGEST = -45.0, 38.0  # exponents of 10
DRAWS = 100  # networks of each architecture


@dataclasses.dataclass
class Found:
    """What was tried of one architecture.

    Args:
        seed: seed of the architecture and its weights.
        networks: draws of weights.
        points: points at which a network was compared with its bounds.
        finite: networks with a finite lower bound of each margin.
        violations: sentences, one for each bound that is wrong.
    """

    seed: int
    networks: int = 0
    points: int = 0
    finite: int = 0
    violations: list[str] = dataclasses.field(default_factory=list)


def architecture(rng: np.random.Generator) -> keras.Model:
    """Return a network of a random shape, whose weights are still to be drawn."""
    image = rng.random() < 0.5
    inputs = keras.Input((4, 4, 2) if image else (int(rng.choice([1, 2, 4, 8])),))
    x = inputs
    if rng.random() < 0.3:
        x = layers.Rescaling(10.0 ** rng.uniform(-3, 3), offset=rng.uniform(-1, 1))(x)
    for _ in range(rng.integers(1, 5)):
        x = _block(x, rng)
        if rng.random() < 0.15:
            x = layers.Normalization(**_statistics(rng, int(x.shape[-1])))(x)
    x = layers.Flatten()(x) if len(x.shape) > 2 else x
    return keras.Model(inputs, layers.Dense(int(rng.integers(2, 5)))(x))


def _statistics(rng: np.random.Generator, channels: int) -> dict[str, np.ndarray]:
    """Return the mean and the variance of a normalisation, as large as float32 has them."""
    signs = rng.choice([-1.0, 1.0], channels)
    mean = signs * 10.0 ** rng.uniform(*rng.choice([(-1, 1), (30, 38.4)]), channels)
    return {
        "mean": mean,
        "variance": 10.0 ** rng.uniform(*rng.choice([(-1, 1), (-45, 38)]), channels),
    }


def _block(x: keras.KerasTensor, rng: np.random.Generator) -> keras.KerasTensor:
    """Return the output of one random layer of weights and what follows it."""
    image = len(x.shape) > 2
    padding = rng.choice(["same", "valid"]) if image and x.shape[1] > 2 else "same"
    if not image:
        y = layers.Dense(int(rng.choice([1, 2, 6])))(x)
    elif rng.random() < 0.3:
        y = layers.DepthwiseConv2D(2, padding=padding)(x)
    else:
        y = layers.Conv2D(3, int(rng.choice([1, 2, 3])), int(rng.choice([1, 2])), padding="same")(x)
    if rng.random() < 0.3:
        y = layers.BatchNormalization(epsilon=float(rng.choice([1e-3, 1e-12, 1e-30, 1.0])))(y)
    y = layers.LeakyReLU(negative_slope=0.1)(y) if rng.random() < 0.2 else layers.ReLU()(y)
    if x.shape == y.shape and rng.random() < 0.4:
        y = (layers.Add() if rng.random() < 0.7 else layers.Subtract())([x, y])
    if image and rng.random() < 0.25:
        pool = layers.MaxPooling2D if rng.random() < 0.5 else layers.AveragePooling2D
        y = pool(2, strides=int(rng.choice([1, 2])), padding="same")(y)
    if image and rng.random() < 0.15:
        y = layers.Flatten()(layers.GlobalAveragePooling2D(keepdims=True)(y))
    return y


def draw_weights(net: keras.Model, rng: np.random.Generator) -> None:
    """Assign random weights whose magnitudes may be as small or as large as float32 has them.

    The exponents of consecutive kernels often cancel, so that logits are neither 0 nor infinite.
    """
    cancel, scale, total = rng.random() < 0.8, rng.choice([0.0, 5.0, 20.0, 38.0]), 0.0
    kernels = [weight for weight in net.weights if "kernel" in weight.name]
    for weight in net.weights:
        size = weight.shape
        values = rng.choice([-1.0, 1.0], size) * rng.uniform(0.1, 1.5, size)
        if "kernel" in weight.name:
            exponent = np.clip(rng.normal(0, scale), SMALLEST, LARGEST)
            if cancel and weight is kernels[-1]:
                exponent = np.clip(rng.uniform(-1, 1) - total, SMALLEST, LARGEST)
            total += exponent
            exponents = np.full(size, exponent)
            if rng.random() < 0.3:
                exponents += rng.normal(0, rng.choice([2.0, 10.0, 40.0]), size)
            values *= rng.random(size) >= rng.choice([0.0, 0.3])
        elif weight.name == "moving_variance":
            values = np.abs(values) * (rng.random(size) >= 0.2)
            exponents = rng.uniform(*rng.choice([(-1, 1), (-45, 0), (-10, 10), (0, 38)]), size)
        else:
            exponents = np.full(size, rng.choice([0.0, total, rng.uniform(SMALLEST, LARGEST)]))
            values *= rng.random() < 0.8
        with np.errstate(over="ignore"):
            values = values * 10.0 ** np.clip(exponents, SMALLEST, LARGEST)
        weight.assign(np.clip(values, -3e38, 3e38).astype(np.float32))


def in_float64(net: keras.Model) -> keras.Model:
    """Return the same network with float64 arithmetic."""

    def clone(layer: keras.layers.Layer) -> keras.layers.Layer:
        return type(layer).from_config({**layer.get_config(), "dtype": "float64"})

    return keras.models.clone_model(net, clone_function=clone)


def points_of(x: np.ndarray, epsilon: float, count: int, rng: np.random.Generator) -> np.ndarray:
    """Return points of the ball around one image: random ones, corners, edges and its centre."""
    directions = rng.uniform(-1, 1, (count, *x.shape))
    corners = rng.random(count) < 0.5
    directions[corners] = np.sign(directions[corners])
    edges = rng.random(directions.shape) < 0.5  # pixels that go to their limit, in other points
    directions = np.where(edges, np.sign(directions), directions)
    directions[0] = 0
    return np.clip(x + np.float32(epsilon) * directions.astype(np.float32), 0, 1)


def outputs_of(
    net: keras.Model,
    exact: keras.Model,
    graph: tf.types.experimental.PolymorphicFunction,
    points: np.ndarray,
) -> Iterator[np.ndarray]:
    """Yield the logits of points, evaluated in several ways."""
    yield graph(tf.constant(points)).numpy()
    few = points[:97]
    yield np.concatenate([net(few[i : i + 7]).numpy() for i in range(0, len(few), 7)])
    exact.set_weights(net.get_weights())
    yield exact(points.astype(np.float64)).numpy()


def try_architecture(seed: int, draws: int, count: int) -> Found:
    """Bound the networks of one architecture, and compare them with points of their balls.

    Args:
        seed: of the architecture, its weights and the points.
        draws: networks, which differ in weights, image and radius.
        count: points for each.
    """
    rng = np.random.default_rng(seed)
    net = architecture(rng)
    exact, graph = in_float64(net), tf.function(lambda x: net(x), reduce_retracing=True)

    @tf.function(autograph=False)
    def bounded(x: tf.Tensor, y: tf.Tensor, epsilon: tf.Tensor) -> tuple[tf.Tensor, ...]:
        box = bounds.bound(net, x, epsilon, "tightest")
        return box.lower, box.upper, bounds.margin_lower_bound(net, x, y, epsilon, "tightest")

    found = Found(seed)
    for draw in range(draws):
        draw_weights(net, rng)
        x = rng.random((1, *net.input_shape[1:])).astype(np.float32)
        x = np.where(rng.random(x.shape) < 0.2, np.round(x), x)
        epsilon = float(rng.choice([0.0, 1e-7, 1e-3, 0.1, 1.0, rng.random()]))
        y = rng.integers(0, net.output_shape[-1], 1)
        points = points_of(x[0], epsilon, count, rng)
        limits = bounded(tf.constant(x), tf.constant(y), tf.constant(epsilon, tf.float32))
        limits = [tensor.numpy()[0] for tensor in limits]
        found.networks += 1
        found.points += len(points)
        found.finite += bool(np.isfinite(limits[2]).all())
        for logits in outputs_of(net, exact, graph, points):
            wrong = violations(logits.astype(np.float64), y[0], *limits)
            found.violations += [f"draw {draw}, {sentence}" for sentence in wrong]
    return found


def violations(
    logits: np.ndarray, y: int, lower: np.ndarray, upper: np.ndarray, low: np.ndarray
) -> list[str]:
    """Return a sentence for each bound that does not hold; no finite bound holds for NaN.

    Args:
        logits: [points, classes] of points in the ball.
        y: the label.
        lower: [classes] lower bounds of the logits.
        upper: [classes] upper bounds of the logits.
        low: [classes] lower bounds of the margins, 0 at `y`.
    """
    sentences = []
    with np.errstate(invalid="ignore"):
        lowest, highest = logits.min(0), logits.max(0)  # NaN if one of them is
        margins = (logits[:, [y]] - logits).min(0)
    margins[y] = 0.0
    if not (lower <= upper).all():
        sentences.append(f"lower bounds {lower} above upper bounds {upper}")
    if not ((lowest >= lower) | (lower == -np.inf)).all():
        sentences.append(f"logits {lowest} below {lower}")
    if not ((highest <= upper) | (upper == np.inf)).all():
        sentences.append(f"logits {highest} above {upper}")
    if not ((margins >= low) | (low == -np.inf)).all():
        sentences.append(f"margins {margins} below {low}")
    return sentences


def main() -> None:
    """Try architectures until so many networks were tried, and print what was found."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--networks", type=int, default=10_000)
    parser.add_argument("--points", type=int, default=10_000, help="for each network")
    parser.add_argument("--minutes", type=float, default=np.inf, help="stop after this time")
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("runs/soundness.jsonl"))
    options = parser.parse_args()
    options.out.parent.mkdir(parents=True, exist_ok=True)
    lines = options.out.read_text().splitlines() if options.out.exists() else []
    results = [Found(**json.loads(line)) for line in lines]
    started = time.monotonic()
    while sum(found.networks for found in results) < options.networks:
        if time.monotonic() - started > 60 * options.minutes:
            break
        found = try_architecture(len(results), DRAWS, options.points)
        results.append(found)
        with options.out.open("a") as file:
            file.write(json.dumps(dataclasses.asdict(found)) + "\n")
        keras.backend.clear_session()
        summarise(results)


def summarise(results: list[Found]) -> None:
    """Print the totals in one line."""
    networks, points, finite = (
        sum(getattr(found, name) for found in results) for name in ("networks", "points", "finite")
    )
    violated = [(found.seed, text) for found in results for text in found.violations]
    print(
        f"{networks} networks of {len(results)} architectures, {points} points, finite bounds of "
        f"{finite} networks, {len(violated)} violations {violated[:1]}",
        flush=True,
    )


if __name__ == "__main__":
    main()
