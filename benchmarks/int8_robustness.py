"""Robust accuracy that int8 files of trained, pruned networks keep, by the way they are quantized.

    python -m benchmarks.int8_robustness [--runs=runs/a,runs/b] [--samples=1000]
        [--calibration=256] [--epochs=3] [--ways=images,attacked,both,noise,dim,trained]

Without --runs, `flags.train` trains a small network first. Each network is written as

- int8 with ranges measured on images of the validation split ("images"), on the same images after
  an attack by PGD on the network ("attacked"), and on one half of each ("both");
- int8 with ranges of the wrong images: of uniform noise ("noise"), and of the images at 0.3 of
  their brightness ("dim");
- int8 after training with emulated rounding on attacked images ("trained"), which continues from
  the pruned network and keeps its zeros; its own float network is the row "trained, float".

Columns: agreement of the classes with the float network, benign accuracy, accuracy under PGD (50
steps, images made on the float network of the row) and under Square (200 queries, guided by the
file), and under both (era), on the same test images. A loss is in points of era against the float
network above.
"""

from __future__ import annotations

import argparse
import dataclasses
import pathlib
import subprocess
import tempfile
from typing import Any

import numpy as np

from hydra_tf.core.isolated import isolated_command

from ._runs import Run, open_run

BATCH = 250
TRAINING = (
    "--dataset=mnist_5k --model=mnist_cnn --density=0.05 --learning_rate=0.05 "
    "--objective=trades:epsilon=0.2,steps=5,step_size=0.08,start=uniform "
    "--pretrain_epochs=4 --prune_epochs=2 --finetune_epochs=2 --attacks=fgsm --verbose=0"
)


@dataclasses.dataclass(frozen=True)
class Measured:
    """Which test images are correct [samples]: unperturbed, under PGD and under Square."""

    classes: np.ndarray[Any, Any]
    benign: np.ndarray[Any, Any]
    pgd: np.ndarray[Any, Any]
    square: np.ndarray[Any, Any]

    @property
    def era(self) -> float:
        """Share of images that are correct unperturbed and under both attacks."""
        return float(np.mean(self.benign & self.pgd & self.square))

    def row(self, name: str, float_network: Measured) -> str:
        """Return the row of a table, with the loss against a float network."""
        agreement = np.mean(self.classes == float_network.classes)
        shares = (agreement, *map(np.mean, (self.benign, self.pgd, self.square)), self.era)
        loss = 100 * (float_network.era - self.era)
        return f"| {name} | " + " | ".join(f"{share:.1%}" for share in shares) + f" | {loss:+.1f} |"


def attacked(run: Run, net: Any, pair: Any, spec: str) -> np.ndarray[Any, Any]:
    """Return the images of an attack on a network in the ball of its training."""
    from hydra_tf import attacks

    attack = attacks.build(spec, **run.ball)
    x, y = pair
    parts = [
        np.asarray(attack(net, x[i : i + BATCH], y[i : i + BATCH], seed=i))
        for i in range(0, len(x), BATCH)
    ]
    return np.concatenate(parts)


def measure(run: Run, model: Any, test: Any, moved: np.ndarray[Any, Any]) -> Measured:
    """Measure a file or a network.

    Args:
        run: gives the ball.
        model: classifier.
        test: images and labels.
        moved: images of PGD.
    """

    def classes(images: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        parts = [
            np.asarray(model(images[i : i + BATCH], training=False))
            for i in range(0, len(images), BATCH)
        ]
        return np.argmax(np.concatenate(parts), axis=-1)

    x, y = test
    clean = classes(x)
    found = classes(attacked(run, model, test, "square:queries=200"))
    return Measured(clean, clean == y, classes(moved) == y, found == y)


def trained_with_rounding(run: Run, train: Any, epochs: int) -> Any:
    """Return the tf_keras network after adversarial training with emulated rounding."""
    from hydra_tf import attacks
    from hydra_tf.interop.tfmot import import_tf_keras, import_tfmot, to_tf_keras

    tfmot, tf_keras = import_tfmot(), import_tf_keras()
    quantization = tfmot.quantization.keras
    net = quantization.quantize_apply(
        quantization.quantize_annotate_model(to_tf_keras(run.net)),
        tfmot.experimental.combine.Default8BitPrunePreserveQuantizeScheme(),
    )
    net.compile(
        tf_keras.optimizers.SGD(0.01, momentum=0.9),
        tf_keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    )
    epsilon = run.ball["epsilon"]
    attack = attacks.build("pgd:steps=5,start=uniform", step_size=0.4 * epsilon, **run.ball)
    for x, y in train:  # measures the ranges of all layers
        net.train_on_batch(x, y)
    for epoch in range(epochs):
        for step, (x, y) in enumerate(train):
            net.train_on_batch(attack(net, x, y, seed=1000 * epoch + step), y)
    return net


def compare(run: Run, arguments: argparse.Namespace, folder: pathlib.Path) -> None:
    """Print the rows of a network."""
    import hydra_tf
    from hydra_tf import export
    from hydra_tf.interop.tfmot import from_tf_keras, quantized_to_tflite

    test = tuple(each[: arguments.samples] for each in run.test)
    images, labels = (each[: arguments.calibration] for each in run.validation)
    moved = attacked(run, run.net, test, "pgd:steps=50")
    reference = measure(run, run.net, test, moved)
    name = f"{run.name} | {run.density:.0%}"
    print(reference.row(f"{name} | float", reference), flush=True)
    hostile = attacked(run, run.net, (images, labels), "pgd:steps=10")
    half = len(images) // 2
    ways = {
        "images": images,
        "attacked": hostile,
        "both": np.concatenate([images[:half], hostile[half:]]),
        "noise": np.random.default_rng(0).random(images.shape, dtype=np.float32),
        "dim": 0.3 * images,
    }
    wanted = arguments.ways.split(",")
    path = folder / "net.tflite"
    for way in (way for way in ways if way in wanted):
        options: dict[str, Any] = {"tolerance": 1.0, "min_agreement": 0.0}
        export.to_tflite(run.net, path, "int8", representative=ways[way], **options)
        file = export.load_tflite(path)
        print(measure(run, file, test, moved).row(f"{name} | {way}", reference), flush=True)
    if "trained" not in wanted:
        return
    data = hydra_tf.data.load(run.config["dataset"], batch_size=128, seed=run.config["seed"])
    quantized = trained_with_rounding(run, data.train, arguments.epochs)
    quantized_to_tflite(quantized, path, representative=images)
    network = from_tf_keras(quantized)
    moved = attacked(run, network, test, "pgd:steps=50")
    own = measure(run, network, test, moved)
    print(own.row(f"{name} | trained, float", reference), flush=True)
    row = measure(run, export.load_tflite(path), test, moved).row(f"{name} | trained", own)
    print(row, flush=True)


def main() -> None:
    """Parse the arguments and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", default="")
    parser.add_argument("--samples", type=int, default=1000)
    parser.add_argument("--calibration", type=int, default=256)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--ways", default="images,attacked,both,noise,dim,trained")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="hydra_tf-") as made:
        runs = [path for path in arguments.runs.split(",") if path]
        if not runs:
            runs = [f"{made}/run"]
            command = isolated_command("flags.train", *TRAINING.split(), f"--out={runs[0]}")
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        print("| network | density | file | agreement | benign | PGD | Square | era | loss |")
        print("|---" * 9 + "|")
        for path in runs:
            compare(open_run(path), arguments, pathlib.Path(made))


if __name__ == "__main__":
    main()
