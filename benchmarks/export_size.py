"""Bytes and latency of sparse TFLite files, as ratios to a lower bound and to dense files.

    python -m benchmarks.export_size [--part=size,latency,kernels]
        [--models=mnist_cnn,cnn_large,resnet18] [--densities=0.1,0.05,0.01] [--rounds=101]
    python -m benchmarks.export_size --runs=runs/a,runs/b,net.keras

Without --runs, kernels are normal random numbers of which only the largest remain, as after pruning
by magnitude. With it, the networks are those of run directories or `.keras` files.

Size: bytes over (entropy bound + bare graph). The bound is, for each kernel, the bits of the kept
values and n H(density) bits for their positions; the bare graph is the dense file without kernels.
The targets are 1.13, 1.14 and 1.2 for float32 at 10%, 5% and 1%, for int8 1.35, 1.32 and 1.35, and
after gzip 1.1. The last two columns are zlib's gzip of the int8 file, and the `.gz` file of
prefer="gzip".

Kernels: why a file is larger than its bound. A sparse form of TFLite takes at least one byte for
the position of a single weight, and a dense one stores every weight: "least" is the smaller of both
for each kernel, without the starts of rows. No file without blocks can be smaller.

Latency: medians on one thread, in turn with the dense file, as ratios to it; 1.05 at most. The
quartiles of the sparse file's times are given as ratios to the same median. The time from opening
the sparse file to its first outputs is 0.5 s at most. For "=", prefer="latency" changes nothing.
"""

from __future__ import annotations

import argparse
import pathlib
import tempfile
from collections.abc import Iterator
from typing import Any

import numpy as np

from ._runs import open_run

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
    from hydra_tf.export.converter import converted
    from hydra_tf.export.prepare import for_one_image

    return len(converted(for_one_image(net), "sparse"))


def networks(arguments: argparse.Namespace) -> Iterator[tuple[str, Any, np.ndarray[Any, Any]]]:
    """Yield the name and density, the network, and representative images."""
    for path in filter(None, arguments.runs.split(",")):
        run = open_run(path)
        yield f"{run.name} | {run.density:.1%}", run.net, run.validation[0]
    if arguments.runs:
        return
    for name in arguments.models.split(","):
        images = np.random.default_rng(1).random([64, *SHAPES[name]], dtype=np.float32)
        for density in map(float, arguments.densities.split(",")):
            yield f"{name} | {density:.0%}", pruned_network(name, density), images


def compare_sizes(name: str, net: Any, images: np.ndarray, folder: pathlib.Path) -> None:
    """Print a row of ratios to the bound."""
    from hydra_tf import export

    ratios: list[float] = []
    options: dict[str, Any] = {"representative": images, "min_agreement": 0.0}
    for quantization in QUANTIZATIONS:
        report = export.to_tflite(net, folder / "net.tflite", quantization, **options)
        bound = report.entropy_bytes + report.bare_bytes
        if quantization is None:
            ratios.append(converters_bytes(net) / bound)
        ratios.append(report.bytes / bound)
    ratios.append(report.gzip_bytes / bound)
    options |= {"prefer": "gzip", "gzip": True}
    report = export.to_tflite(net, folder / "net.tflite", "int8", **options)
    ratios.append(report.gzip_bytes / bound)
    cells = " | ".join(f"{ratio:.3f}" for ratio in ratios)
    print(f"| {name} | {cells} |", flush=True)


def compare_kernels(name: str, net: Any) -> None:
    """Print a row for each kernel, and for all: bounds, and the least sizes in TFLite, in bytes."""
    from hydra_tf.export.size import entropy_bits

    kernels = [np.asarray(weight) for weight in net.weights if len(weight.shape) > 1]
    totals = dict.fromkeys((4, 1), (0, 0))
    for kernel in kernels:
        kept, cells = int(np.count_nonzero(kernel)), []
        for value in totals:
            bound = round(entropy_bits(kernel, 8 * value) / 8)
            least = min(kernel.size * value, kept * (value + 1))
            totals[value] = totals[value][0] + bound, totals[value][1] + least
            cells.append(f"{bound:,} | {least:,} | {least / bound:.2f}")
        shape = " x ".join(map(str, kernel.shape))
        print(f"| {name} | {shape} | {kept / kernel.size:.1%} | {' | '.join(cells)} |")
    ratios = (f"{bound:,} | {least:,} | {least / bound:.2f}" for bound, least in totals.values())
    print(f"| {name} | all | | {' | '.join(ratios)} |", flush=True)


def compare_latencies(
    name: str, net: Any, images: np.ndarray, rounds: int, folder: pathlib.Path
) -> None:
    """Print a row for each number format: ratios to the dense file, and the time to load."""
    from hydra_tf import export

    for quantization in QUANTIZATIONS:
        ways: list[dict[str, Any]] = [{"sparse": False}, {}]
        if quantization is None:  # prefer="latency" changes float32 files only
            ways.append({"prefer": "latency"})
        options: dict[str, Any] = {"representative": images, "min_agreement": 0.0}
        paths = [folder / f"{i}.tflite" for i in range(len(ways))]
        for path, way in zip(paths, ways, strict=True):
            export.to_tflite(net, path, quantization, **options, **way)
        dense, small, *fast = export.measure_latency(paths, images[0], rounds)
        ratios = [f"{each.milliseconds / dense.milliseconds:.2f}" for each in fast] or ["="]
        low, high = (quartile / dense.milliseconds for quartile in small.quartiles)
        print(
            f"| {name} | {quantization or 'float32'} | {dense.milliseconds:.3f} "
            f"| {small.milliseconds / dense.milliseconds:.2f} ({low:.2f} to {high:.2f}) "
            f"| {ratios[0]} | {small.first_milliseconds:.0f} |",
            flush=True,
        )


def main() -> None:
    """Parse the arguments and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--part", default="size,latency")
    parser.add_argument("--models", default=",".join(SHAPES))
    parser.add_argument("--densities", default="0.1,0.05,0.01")
    parser.add_argument("--rounds", type=int, default=101)
    parser.add_argument("--runs", default="")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="hydra_tf-") as made:
        folder = pathlib.Path(made)
        if "size" in arguments.part:
            print("| network | density | converter | float32 | float16 | int8 | gzip | .gz |")
            print("|---" * 8 + "|")
            for case in networks(arguments):
                compare_sizes(*case, folder)
        if "kernels" in arguments.part:
            print("\n| network | density | kernel | kept | float32 bound | least | ratio ", end="")
            print("| int8 bound | least | ratio |")
            print("|---" * 10 + "|")
            for name, net, _ in networks(arguments):
                compare_kernels(name, net)
        if "latency" in arguments.part:
            print("\n| network | density | format | dense (ms) | size | latency | load (ms) |")
            print("|---" * 7 + "|")
            for case in networks(arguments):
                compare_latencies(*case, arguments.rounds, folder)


if __name__ == "__main__":
    main()
