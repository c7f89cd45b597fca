"""Evaluate the network of a run directory."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator

from absl import flags

from .shared import (
    distances,
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

DESCRIPTION = """
Attack the network of a run directory on its test split and replace the accuracies in
report.json. Norm and epsilon default to those of the run; era is the share of images that
stay correctly classified under all attacks. An attack that found no gradient for more than 1% of
the images says so, because those may seem robust for that reason only.

With --distances, an attack that looks for the smallest change measures how far each image is from
one that is misclassified. It writes distances.csv (index, label, distance; inf if none was found),
plots/distances.png (robust accuracy against epsilon), and "distances" in report.json. Without
--attacks, the accuracies of the report stay as they are. fmn attacks once, fmn:search=true four
times with different losses and steps, keeping the smallest change.

  python -m flags.evaluate --run=runs/a --attacks="pgd:steps=50,restarts=10;fgsm"
  python -m flags.evaluate --run=runs/a --attacks=autoattack
  python -m flags.evaluate --run=runs/a --distances=fmn:norm=linf,steps=100
"""

flags.DEFINE_string("run", None, "Run directory to evaluate.")
flags.DEFINE_string("attacks", None, "Attacks, separated by semicolons; by default the run's.")
flags.DEFINE_string(
    "distances", None, "Attack that measures the smallest adversarial distances, such as fmn."
)
flags.DEFINE_integer("seed", 0, "Seed of the attacks.")
flags.DEFINE_integer("verbose", 1, "0 is silent, 1 shows progress bars.")


def validate() -> Config:
    """Check the flags and return the config of the run and its attacks, without TensorFlow."""
    from hydra_tf import attacks, objectives

    if not FLAGS.run:
        raise UsageError("--run is missing: name the run directory to evaluate.")
    flag_values.seed("seed")
    config = run_directory.use(FLAGS.run)
    networks.network_path(FLAGS.run)
    run_directory.require_finished(FLAGS.run)
    run_files.read_metrics(FLAGS.run)
    if os.path.exists(os.path.join(FLAGS.run, "report.json")):
        run_files.read_report(FLAGS.run)
    if FLAGS.attacks is not None:
        config["attacks"] = FLAGS.attacks
    for spec in flag_values.attack_specs(config["attacks"]):
        attacks.build(spec, **flag_values.ball_of(objectives.build(config["objective"])))
    if FLAGS.distances is not None:
        if not FLAGS.distances or ";" in FLAGS.distances:
            raise UsageError(f"--distances takes one attack, such as fmn, not {FLAGS.distances!r}.")
        distances.build_attack(FLAGS.distances, config)
    return {**config, "certify_n": 0}  # certificates are not computed again


def run(config: Config) -> None:
    """Evaluate the network and write the report."""
    net = networks.load_network(FLAGS.run)
    data = training_run.load_data(config, config["seed"])
    has_report = os.path.exists(os.path.join(FLAGS.run, "report.json"))
    if FLAGS.attacks is not None or FLAGS.distances is None or not has_report:
        report = run_report.write_report(
            net, data, config, FLAGS.run, seed=FLAGS.seed, verbose=FLAGS.verbose
        )
        sys.stdout.writelines(_lines(report))
    if FLAGS.distances is not None:
        entry = distances.measure(
            net, data, config, FLAGS.run, spec=FLAGS.distances, seed=FLAGS.seed,
            verbose=FLAGS.verbose,
        )  # fmt: skip
        sys.stdout.write(distances.table(entry))


def _lines(report: Report) -> Iterator[str]:
    """Yield the accuracies of a report, one in each line."""
    rows = [("benign", report["benign_accuracy"], "")]
    rows += [
        (attack["name"], attack["robust_accuracy"], run_report.gradient_note(attack))
        for attack in report["attacks"]
    ]
    if report["attacks"]:
        rows.append(("all attacks (era)", report["era"], ""))
    yield from (f"{name:20} {value:.2%}{note}\n" for name, value, note in rows)


def main() -> None:
    """Run the command line."""
    launcher.launch("evaluate", DESCRIPTION, validate, run)


if __name__ == "__main__":
    main()
