"""Bytes and latency of sparse TFLite files, as ratios to a lower bound and to dense files.

    python -m benchmarks.export_size [--part=size,latency]
        [--models=mnist_cnn,cnn_large,resnet18] [--densities=0.1,0.05,0.01] [--rounds=101]

Kernels are normal random numbers of which only the largest remain, as after pruning by magnitude.

Size: bytes over (entropy bound + bare graph). The bound is, for each kernel, the bits of the kept
values and n H(density) bits for their positions; the bare graph is the dense file without kernels.
The targets are 1.13, 1.14 and 1.2 for float32 at 10%, 5% and 1%, for int8 1.35, 1.32 and 1.35, and
after gzip 1.1.

Latency: medians on one thread, in turn with the dense file, as ratios to it; 1.05 at most. The time
from opening the sparse file to its first outputs is 0.5 s at most.
"""

from __future__ import annotations

import argparse
import pathlib
import tempfile
from typing import Any

import numpy as np

SHAPES = {"mnist_cnn": (28, 28, 1), "cnn_large": (32, 32, 3), "resnet18": (32, 32, 3)}
QUANTIZATIONS = (None, "float16", "int8")


def pruned_network(name: str, density: float):
    """Return a network of the zoo with random kernels of a density."""
    import hydra_tf

    net = hydra_tf.models.build(name, input_shape=SHAPES[name], num_classes=10)
    rng = np.random.default_rng(0)
    weights = []
    for variable in net.weights:
        weight = np.asarray(variable)
        if variable.path.endswith("bias"):
            # Zeros would be left out of the file.
            weight = 0.05 * rng.normal(size=weight.shape)
        if weight.ndim > 1:
            values = rng.normal(size=weight.shape)
            kept = max(1, round(density * values.size))
            values *= np.abs(values) >= np.sort(np.abs(values), axis=None)[-kept]
            # Activations keep their size, as in He's initialisation.
            inputs = np.prod(weight.shape[:-1])
            weight = values * np.sqrt(2 / inputs / np.mean(values**2))
        weights.append(weight)
    net.set_weights(weights)
    return net


def converters_bytes(net) -> int:
    """Return the size of the float32 file that TensorFlow's own sparse encoding makes."""
    import tensorflow as tf

    from hydra_tf.export.examiner import convert
    from hydra_tf.export.prepare import for_one_image

    converter = tf.lite.TFLiteConverter.from_keras_model(for_one_image(net))
    converter.optimizations = [tf.lite.Optimize.EXPERIMENTAL_SPARSITY]
    return len(convert(converter))


def compare_sizes(name: str, density: float, folder: pathlib.Path) -> None:
    """Print a row of ratios to the bound."""
    from hydra_tf import export

    net = pruned_network(name, density)
    images = np.random.default_rng(1).random([64, *SHAPES[name]], dtype=np.float32)
    ratios: list[float] = []
    for quantization in QUANTIZATIONS:
        options: dict[str, Any] = {"representative": images, "min_agreement": 0.0}
        report = export.to_tflite(net, folder / "net.tflite", quantization, **options)
        bound = report.entropy_bytes + report.bare_bytes
        if quantization is None:
            ratios.append(converters_bytes(net) / bound)
        ratios.append(report.bytes / bound)
    ratios.append(report.gzip_bytes / bound)
    cells = " | ".join(f"{ratio:.3f}" for ratio in ratios)
    print(f"| {name} | {density:.0%} | {cells} |", flush=True)


def compare_latencies(name: str, density: float, rounds: int, folder: pathlib.Path) -> None:
    """Print a row for each number format: ratios to the dense file, and the time to load."""
    from hydra_tf import export

    net = pruned_network(name, density)
    images = np.random.default_rng(1).random([64, *SHAPES[name]], dtype=np.float32)
    ways: list[dict[str, Any]] = [{"sparse": False}, {}, {"prefer": "latency"}]
    for quantization in QUANTIZATIONS:
        options: dict[str, Any] = {"representative": images, "min_agreement": 0.0}
        paths = [folder / f"{i}.tflite" for i in range(len(ways))]
        for path, way in zip(paths, ways, strict=True):
            export.to_tflite(net, path, quantization, **options, **way)
        dense, small, fast = export.measure_latency(paths, images[0], rounds)
        print(
            f"| {name} | {density:.0%} | {quantization or 'float32'} | {dense.milliseconds:.3f} "
            f"| {small.milliseconds / dense.milliseconds:.2f} "
            f"| {fast.milliseconds / dense.milliseconds:.2f} | {small.first_milliseconds:.0f} |",
            flush=True,
        )


def main() -> None:
    """Parse the arguments and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--part", default="size,latency")
    parser.add_argument("--models", default=",".join(SHAPES))
    parser.add_argument("--densities", default="0.1,0.05,0.01")
    parser.add_argument("--rounds", type=int, default=101)
    arguments = parser.parse_args()
    cases = [
        (name, float(density))
        for name in arguments.models.split(",")
        for density in arguments.densities.split(",")
    ]
    with tempfile.TemporaryDirectory(prefix="hydra_tf-") as made:
        folder = pathlib.Path(made)
        if "size" in arguments.part:
            print("| model | density | converter float32 | float32 | float16 | int8 | int8 gzip |")
            print("|---" * 7 + "|")
            for case in cases:
                compare_sizes(*case, folder)
        if "latency" in arguments.part:
            print("| model | density | format | dense (ms) | size | latency | load (ms) |")
            print("|---" * 7 + "|")
            for name, density in cases:
                compare_latencies(name, density, arguments.rounds, folder)


if __name__ == "__main__":
    main()
