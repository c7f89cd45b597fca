"""Make a submission to the Adversarial Pruning Benchmark from a run directory."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

from absl import flags

from .shared import flag_values, launcher, networks, run_directory, run_report, training_run
from .shared.launcher import FLAGS, UsageError
from .shared.types import Config, Report

if TYPE_CHECKING:
    import keras

DESCRIPTION = """
Evaluate the network of a run directory in the setting of the Adversarial Pruning Benchmark
(github.com/pralab/AdversarialPruningBenchmark): AutoAttack in Linf with epsilon 0.031 on the
first 10,000 test images, and the smallest adversarial distance of each image by a search of fast
minimum-norm attacks. The folder --out then has model.pth (PyTorch weights with zeros where they are
pruned), distances.csv, and submission.json with the accuracies and what the form of the benchmark
asks for. PyTorch must be installed: pip install 'hydra_tf[torch]'.

  python -m flags.submission --run=runs/a --out=submission
"""

flags.DEFINE_string("run", None, "Run directory of a network of the zoo, such as resnet18.")
flags.DEFINE_string("out", None, "Folder to write.")
flags.DEFINE_integer("samples", 10_000, "Number of test images, from the first on.")
flags.DEFINE_float("epsilon", 0.031, "Radius of AutoAttack, in pixel values in [0, 1].")
flags.DEFINE_string("attack", "autoattack", "Attack of the robust accuracy.")
flags.DEFINE_string("distances", "fmn:search=true", "Attack of the smallest distances.")
flags.DEFINE_integer("seed", 0, "Seed of the attacks.")
flags.DEFINE_integer("verbose", 1, "0 is silent, 1 shows progress bars.")


def validate() -> Config:
    """Check the flags and that PyTorch is installed; return the config of the run."""
    import importlib.util

    from hydra_tf import attacks
    from hydra_tf.attacks.base import smallest_change_attack

    for name in ("run", "out"):
        if not FLAGS[name].value:
            raise UsageError(
                f"--{name} is missing: name the run directory and the folder to write."
            )
    flag_values.seed("seed")
    flag_values.at_least("samples", 1)
    config = run_directory.use(FLAGS.run)
    networks.network_path(FLAGS.run)
    run_directory.require_finished(FLAGS.run)
    attacks.build(FLAGS.attack, norm="linf", epsilon=FLAGS.epsilon)
    smallest_change_attack(FLAGS.distances, norm="linf")
    if os.path.exists(FLAGS.out) and (not os.path.isdir(FLAGS.out) or os.listdir(FLAGS.out)):
        raise UsageError(f"{FLAGS.out} is not an empty folder; choose another --out.")
    if importlib.util.find_spec("torch") is None:
        raise UsageError("PyTorch is missing: pip install 'hydra_tf[torch]', then try again.")
    return config


def run(config: Config) -> None:
    """Write the weights first, which a network outside the zoo has no form for, then attack."""
    import hydra_tf
    from hydra_tf import evaluation
    from hydra_tf.interop.torch import save_checkpoint

    net = networks.load_network(FLAGS.run)
    os.makedirs(FLAGS.out, exist_ok=True)
    save_checkpoint(hydra_tf.strip_masks(net), os.path.join(FLAGS.out, "model.pth"))
    content = {**_of_run(config), **_measure(net, config)}
    evaluation.write_json(os.path.join(FLAGS.out, "submission.json"), content)
    sys.stdout.writelines(f"{key:20} {value}\n" for key, value in content.items())


def _of_run(config: Config) -> Report:
    """Return what the benchmark asks about the method."""
    return {
        "method": config.get("method"),
        "architecture": config.get("model"),
        "dataset": config["dataset"],
        "structure": config.get("granularity", "element"),
        "objective": config["objective"],
        "epochs": [config.get(f"{name}_epochs") for name in ("pretrain", "prune", "finetune")],
    }


def _measure(net: keras.Model, config: Config) -> Report:
    """Attack the network, write distances.csv, and return the accuracies."""
    import numpy as np

    from hydra_tf import evaluation

    data = training_run.load_data(config, config["seed"])
    count = min(FLAGS.samples, data.sizes["test"])
    images = run_report.first_images(data.test, count, config["batch_size"])
    ball = {"norm": "linf", "epsilon": FLAGS.epsilon}
    options = {"seed": FLAGS.seed, "verbose": FLAGS.verbose}
    report = evaluation.evaluate_model(net, images, [FLAGS.attack], **options, **ball)
    found = evaluation.labelled_distances(net, images, FLAGS.distances, **options)
    evaluation.write_distances(os.path.join(FLAGS.out, "distances.csv"), found)
    median = float(np.median(found.values))
    return {
        "density": report["density"],
        "samples": count,
        "clean_accuracy": report["benign_accuracy"],
        "attack": report["attacks"][0],
        "robust_accuracy": report["era"],
        "distances": FLAGS.distances,
        "median_distance": median if np.isfinite(median) else None,
    }


def main() -> None:
    """Run the command line."""
    launcher.launch("submission", DESCRIPTION, validate, run)


if __name__ == "__main__":
    main()
