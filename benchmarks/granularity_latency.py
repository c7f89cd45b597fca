"""The latency of pruned dense networks in LiteRT, by the granularity of pruning.

    python -m benchmarks.granularity_latency [--density=0.05] [--rounds=200]

A network of three dense layers with 1024 inputs and outputs each is pruned in blocks of 4 inputs,
in single weights (both to `--density`) and in the pattern 2:4, and exported in float32. Runs of the
files alternate with runs of the dense file in one process. The ratio is the latency of the dense
network divided by that of the pruned one; above 1 is faster.
"""

from __future__ import annotations

import argparse
import pathlib
import tempfile
import time

import numpy as np

WIDTH = 1024


def exported(folder: pathlib.Path, name: str, density: float, granularity: str) -> pathlib.Path:
    """Return the TFLite file of a network that is pruned by magnitude."""
    import keras

    import hydra_tf

    keras.utils.set_random_seed(0)
    layers = [keras.layers.Dense(WIDTH, activation="relu") for _ in range(2)]
    net = keras.Sequential([keras.Input([WIDTH]), *layers, keras.layers.Dense(WIDTH)])
    if density < 1:
        masked = hydra_tf.mask_model(net)
        hydra_tf.set_density(masked, density, granularity=granularity)
        net = hydra_tf.strip_masks(masked)
    path = folder / f"{name}.tflite"
    hydra_tf.export.to_tflite(net, str(path), sparse=density < 1, prefer="latency")
    return path


def interpreter_of(path: pathlib.Path):
    """Return an interpreter with a random input."""
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_path=str(path), num_threads=1)
    interpreter.allocate_tensors()
    source = interpreter.get_input_details()[0]["index"]
    image = np.random.default_rng(0).random((1, WIDTH), dtype=np.float32)
    interpreter.set_tensor(source, image)
    return interpreter


def main() -> None:
    """Parse the arguments and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--density", type=float, default=0.05)
    parser.add_argument("--rounds", type=int, default=200)
    arguments = parser.parse_args()
    variants = {
        "dense": (1.0, "element"),
        "block:size=4": (arguments.density, "block:size=4"),
        "element": (arguments.density, "element"),
        "n_m:n=2,m=4": (0.5, "n_m:n=2,m=4"),
    }
    with tempfile.TemporaryDirectory() as folder:
        paths = {
            name: exported(pathlib.Path(folder), str(i), *values)
            for i, (name, values) in enumerate(variants.items())
        }
        sizes = {name: path.stat().st_size for name, path in paths.items()}
        interpreters = {name: interpreter_of(path) for name, path in paths.items()}
        times = []
        for _ in range(arguments.rounds):
            row = []
            for interpreter in interpreters.values():
                start = time.perf_counter()
                interpreter.invoke()
                row.append(time.perf_counter() - start)
            times.append(row)
    measured = np.array(times)
    ratios = np.median(measured[:, :1] / measured, axis=0)
    print("| granularity | density | bytes | ms | dense / pruned |")
    print("|---|---|---|---|---|")
    for i, (name, (density, _)) in enumerate(variants.items()):
        milliseconds = 1e3 * np.median(measured[:, i])
        print(f"| {name} | {density:g} | {sizes[name]:,} | {milliseconds:.3f} | {ratios[i]:.2f} |")


if __name__ == "__main__":
    main()
