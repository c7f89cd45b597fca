"""Judge the network of a run directory."""

from __future__ import annotations

import sys
from typing import Any

from absl import flags

from .shared import flag_values, judging, launcher, networks, run_directory, training_run
from .shared.launcher import FLAGS, UsageError

TEACH = """
Attack the network of a run directory on its test split and write report.json anew. The ball
is the run's own unless an attack says otherwise; era counts the images that hold against all
attacks together.

  python -m flags.evaluate --run=runs/a --attacks="pgd:steps=50,restarts=10;fgsm"
  python -m flags.evaluate --run=runs/a --attacks=autoattack

cleverhans_pgd, CleverHans's own PGD, needs: pip install "hydra_tf[cleverhans]"
"""

flags.DEFINE_string("run", None, "Run directory to judge.")
flags.DEFINE_string("attacks", None, "Attacks separated by semicolons; the run's own by default.")
flags.DEFINE_integer("seed", 0, "Seed of the attacks.")
flags.DEFINE_integer("verbose", 1, "0 is silent, 1 shows progress bars.")


def validate() -> dict[str, Any]:
    """Return the run's config with the attacks to make."""
    from hydra_tf import attacks, objectives

    if not FLAGS.run:
        raise UsageError("--run is missing: name the run directory to judge.")
    config = run_directory.read_config(FLAGS.run)
    networks.network_path(FLAGS.run)
    flag_values.at_least("seed", 0)
    if FLAGS.attacks is not None:
        config["attacks"] = FLAGS.attacks
    for spec in flag_values.attack_specs(config["attacks"]):
        attacks.build(spec, **flag_values.ball_of(objectives.build(config["objective"])))
    return {**config, "certify_n": 0}  # what is certified stays so


def run(config: dict[str, Any]) -> None:
    """Measure and write."""
    net = networks.load_network(FLAGS.run)
    data = training_run.load_data(config, config["seed"])
    report = judging.judge(net, data, config, FLAGS.run, seed=FLAGS.seed, verbose=FLAGS.verbose)
    rows = [("benign", report["benign_accuracy"])]
    rows += [(attack["name"], attack["robust_accuracy"]) for attack in report["attacks"]]
    if report["attacks"]:
        rows.append(("all attacks (era)", report["era"]))
    sys.stdout.writelines(f"{name:20} {value:.2%}\n" for name, value in rows)


def main() -> None:
    """Entry point."""
    launcher.launch("evaluate", TEACH, validate, run)


if __name__ == "__main__":
    main()
