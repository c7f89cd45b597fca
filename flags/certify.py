"""Certify the network of a run directory."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

from absl import flags

from .shared import (
    flag_values,
    launcher,
    networks,
    run_directory,
    run_files,
    run_report,
    training_run,
)
from .shared.launcher import FLAGS, UsageError
from .shared.types import Config, Report

if TYPE_CHECKING:
    import keras
    import tensorflow as tf

DESCRIPTION = """
Prove for images of a run that no attack can change their class, and add the results to its
report.json:

- by randomized smoothing (the default): for each image, an L2 radius within which the smoothed
  network predicts the same class; vra_s is the share of images that are correct with a radius
  of at least 110/255. Certificates are stored in certify.jsonl, from which the same command
  resumes if it was interrupted;
- by bounds on the network itself (--method=ibp, crown_ibp, crown, symbolic or tightest): the
  share of images proven correct on the whole Linf ball; vra_m for symbolic, vra_t for ibp and
  crown_ibp.

  python -m flags.certify --run=runs/a --sigma=0.25 --samples=100
  python -m flags.certify --run=runs/a --method=crown_ibp --epsilon=2/255
"""

_SAMPLING = ("sigma", "n0", "n", "alpha", "seed", "out")
_VERIFIED = {"symbolic": "vra_m", "ibp": "vra_t", "crown_ibp": "vra_t"}

flags.DEFINE_string("run", None, "Run directory to certify.")
flags.DEFINE_string(
    "method", "smoothing", "smoothing, or a bound such as ibp, crown_ibp, crown or symbolic."
)
flags.DEFINE_float("sigma", 0.25, "Smoothing: standard deviation of the noise, in pixel values.")
flags.DEFINE_integer("n0", 100, "Smoothing: number of draws that choose the class.")
flags.DEFINE_integer("n", 10_000, "Smoothing: number of draws that bound its probability.")
flags.DEFINE_float("alpha", 0.001, "Smoothing: probability that a certificate is wrong.")
flags.DEFINE_integer("seed", 0, "Smoothing: seed of the noise.")
flags.DEFINE_string(
    "out", None, "Smoothing: file of certificates; certify.jsonl in the run directory by default."
)
flags.DEFINE_string("epsilon", "2/255", "Bounds: Linf radius, in pixel values.")
flags.DEFINE_integer("samples", 0, "Number of images to certify, from the first on; 0 for all.")
flags.DEFINE_enum("split", "test", ["test", "validation"], "Split whose images are certified.")
flags.DEFINE_integer("batch_size", 512, "Images per forward pass; fewer need less memory.")
flags.DEFINE_integer("verbose", 1, "0 is silent, 1 shows progress bars.")


def validate() -> Config:
    """Check the flags and return the config of the run, without TensorFlow."""
    from hydra_tf import bounds
    from hydra_tf.core.registry import unknown
    from hydra_tf.core.types import Sampling

    if not FLAGS.run:
        raise UsageError("--run is missing: name the run directory to certify.")
    if FLAGS.method == "smoothing":
        Sampling(FLAGS.sigma, FLAGS.n0, FLAGS.n, FLAGS.alpha)
        ignored = ["epsilon"]
    else:
        name = FLAGS.method.partition(":")[0]
        if name not in bounds.BOUNDS.names():
            raise UsageError(unknown("method", name, ("smoothing", *bounds.BOUNDS.names())))
        bounds.build(FLAGS.method)
        _epsilon()
        ignored = list(_SAMPLING)
    for name in ignored:
        if FLAGS[name].present:
            raise UsageError(f"--{name} has no effect with --method={FLAGS.method}; leave it out.")
    flag_values.at_least("samples", 0)
    flag_values.seed("seed")
    flag_values.at_least("batch_size", 1)
    config = run_directory.use(FLAGS.run)
    networks.network_path(FLAGS.run)
    run_directory.require_finished(FLAGS.run)
    run_files.read_report(FLAGS.run)
    return config


def _epsilon() -> float:
    """Check --epsilon without TensorFlow, and return it as a number."""
    from hydra_tf.core.registry import parse_value
    from hydra_tf.core.types import require_linf_radius

    value = parse_value(FLAGS.epsilon)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise UsageError(f"--epsilon must be a number such as 2/255, not {FLAGS.epsilon!r}.")
    require_linf_radius(value)
    return float(value)


def run(config: Config) -> None:
    """Certify, print the results, and add them to the report."""
    from hydra_tf import evaluation

    net = networks.load_network(FLAGS.run)
    data = training_run.load_data(config, config["seed"])
    size = data.sizes[FLAGS.split]
    samples = min(FLAGS.samples or size, size)
    images = getattr(data, FLAGS.split)
    certify = _smoothing if FLAGS.method == "smoothing" else _bounds
    entries = certify(net, images, samples)
    with run_directory.writing(FLAGS.run):
        report = run_files.read_report(FLAGS.run)
        if report.get("split", "test") != FLAGS.split:
            sys.stdout.write(
                f"report.json is not about the {FLAGS.split} split; it is not changed.\n"
            )
            return
        for key, value in entries.items():
            # The results of other bound methods are kept.
            report[key] = {**report.get(key, {}), **value} if key == "verified" else value
        evaluation.write_json(os.path.join(FLAGS.run, "report.json"), report)


def _smoothing(net: keras.Model, images: tf.data.Dataset, samples: int) -> Report:
    """Return the certified accuracy by randomized smoothing; write certificates and a plot."""
    from hydra_tf import evaluation
    from hydra_tf.evaluation import plots

    name = "certify.jsonl" if FLAGS.split == "test" else f"certify_{FLAGS.split}.jsonl"
    path = FLAGS.out or os.path.join(FLAGS.run, name)
    sampling = {key: FLAGS[key].value for key in ("sigma", "n0", "n", "alpha", "seed")}
    rows = evaluation.certify_dataset(
        net,
        images,
        path,
        **sampling,
        samples=samples,
        batch_size=FLAGS.batch_size,
        verbose=FLAGS.verbose,
    )
    table = [
        {"radius": radius, "accuracy": evaluation.certified_accuracy(rows, radius)}
        for radius in evaluation.RADII
    ]
    abstained = sum(row["predicted"] < 0 for row in rows) / len(rows)
    radius = evaluation.VRA_S_RADIUS
    with run_directory.writing(FLAGS.run):
        os.makedirs(os.path.join(FLAGS.run, "plots"), exist_ok=True)
        target = os.path.join(FLAGS.run, "plots", "certified.png")
        plots.certified_accuracy({f"sigma {FLAGS.sigma:g}": rows}, target, radius)
    sys.stdout.write(f"{len(rows)} images, {abstained:.2%} abstained\nL2 radius  certified\n")
    sys.stdout.writelines(f"{row['radius']:9.4f}  {row['accuracy']:9.2%}\n" for row in table)
    details = {**sampling, "radius": radius, "samples": len(rows), "split": FLAGS.split}
    details |= {"abstained": abstained, "certified": table}
    return {"vra_s": evaluation.certified_accuracy(rows, radius), "smoothing": details}


def _bounds(net: keras.Model, images: tf.data.Dataset, samples: int) -> Report:
    """Return the verified accuracy by bounds."""
    from hydra_tf import bounds, evaluation

    epsilon, (name, parameters) = _epsilon(), bounds.BOUNDS.parse(FLAGS.method)
    chosen = run_report.first_images(images, samples, FLAGS.batch_size)
    share = evaluation.verified_accuracy(
        net, chosen, epsilon, method=FLAGS.method, verbose=FLAGS.verbose
    )
    sys.stdout.write(f"{samples} images, {share:.2%} verified at Linf radius {FLAGS.epsilon}\n")
    details = {"accuracy": share, "epsilon": epsilon, "samples": samples, "split": FLAGS.split}
    headline = {_VERIFIED[name]: share} if name in _VERIFIED else {}
    return {**headline, "verified": {name: {**details, **parameters}}}


def main() -> None:
    """Run the command line."""
    launcher.launch("certify", DESCRIPTION, validate, run)


if __name__ == "__main__":
    main()
