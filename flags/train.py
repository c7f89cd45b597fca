"""Train, prune and fine-tune one robust network."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from typing import Any

from absl import flags

from .shared import (
    dry_run,
    flag_values,
    judging,
    launcher,
    networks,
    run_directory,
    strategies,
    training_flags,
    training_run,
)
from .shared.launcher import FLAGS, UsageError

TEACH = """
Pretrain a network robustly, prune it under the robust objective, fine-tune it, and judge it
on the test split. Everything lands in the run directory --out; the same command on an
unfinished run goes on where it stopped.

  python -m flags.train --dataset=mnist_5k --model=mnist_cnn --density=0.01 \\
      --objective=trades:epsilon=0.2,start=uniform --learning_rate=0.05 \\
      --pretrain_epochs=20 --prune_epochs=10 --finetune_epochs=10 --out=runs/a
  python -m flags.evaluate --run=runs/a --attacks="pgd:steps=100,restarts=10"
  python -m flags.export --run=runs/a

A robust part of a network that was trained naturally (no fine-tuning; the report shows the
accuracies before and after):

  python -m flags.train --pretrained=runs/natural --density=0.5 --objective=trades:epsilon=0.1 \\
      --pretrain_epochs=0 --prune_epochs=20 --finetune_epochs=0 --out=runs/subnetwork
"""

training_flags.define_training()
flags.DEFINE_float("density", 0.1, "Share of the weights to keep, in (0, 1].")
flags.DEFINE_string("method", "hydra", training_flags.methods_help("Pruning method"))
flags.DEFINE_string("out", None, "Run directory to write.")
flags.DEFINE_integer("seed", 0, "Seed of weights, data order, attacks and pruning.")
flags.DEFINE_string(
    "strategy",
    "default",
    "Devices: default is one, mirrored is all of this machine, multi_worker all of the machines "
    "in TF_CONFIG, each of which runs the same command on a shared --out.",
)
flags.DEFINE_bool("overwrite", False, "Replace another run in --out.")
flags.DEFINE_bool(
    "dry_run",
    False,
    "Build everything, make two steps of each phase, tell what the run would take, and stop.",
)


def validate() -> dict[str, Any]:
    """Return the config of the run; nothing is written and TensorFlow stays unloaded."""
    from hydra_tf.sparsity.topk import kept_count

    settings = training_flags.training_settings()
    strategies.check(FLAGS.strategy)
    kept_count(FLAGS.density, 1)
    if not FLAGS.out:
        raise UsageError("--out is missing: name the run directory to write.")
    flag_values.at_least("seed", 0)
    config = {**settings, "density": FLAGS.density, "method": FLAGS.method, "seed": FLAGS.seed}
    training_flags.check_epochs([FLAGS.method])
    if FLAGS.pretrained:
        config["pretrained"] = FLAGS.pretrained.replace("{seed}", str(FLAGS.seed))
        networks.network_path(config["pretrained"])
    if run_directory.is_finished(FLAGS.out, config, FLAGS.overwrite):
        sys.stdout.write(f"{FLAGS.out} holds this run, finished; see its report.json.\n")
        sys.exit(0)
    return config


def run(config: dict[str, Any], strategy: Any) -> None:
    """Do the run."""
    training_run.set_precision(config)
    data = training_run.load_data(config, config["seed"])
    fewest, replicas = data.last_batch, strategy.num_replicas_in_sync
    if fewest < replicas:
        raise UsageError(
            f"A batch of an epoch would hold {fewest} images, too few for {replicas} replicas; "
            "choose another --batch_size."
        )
    worker = strategies.worker(FLAGS.strategy)
    chief = worker[0] == 0
    how = {key: config[key] for key in ("density", "method", "seed")}
    how |= {"verbose": FLAGS.verbose, "options": training_flags.loop_options(), "chief": chief}
    how["worker"] = worker
    judged: dict[str, Any] = {"seed": config["seed"], "verbose": FLAGS.verbose}
    before = None
    with strategy.scope():
        net = networks.build_network(config, data, config["seed"])
        if FLAGS.dry_run:
            sys.stdout.write(dry_run.rehearse(net, data, config, how))
            return
        if chief:
            run_directory.claim(FLAGS.out, config, FLAGS.overwrite)
            if config["pretrained"]:
                before = judging.measure(net, data, config, **judged)
        with strategies.lost_workers_explained(FLAGS.strategy):
            net = training_run.train_network(net, data, config, FLAGS.out, **how)
    if not chief:
        return
    networks.store(net, FLAGS.out)
    report = judging.judge(net, data, config, FLAGS.out, before=before, **judged)
    run_directory.conclude(FLAGS.out)
    if before is not None:
        sys.stdout.write(f"pretrained: {_accuracies(before)}\n")
    sys.stdout.write(
        f"{_accuracies(report)}, density {report['density']:.2%}: "
        f"{os.path.join(FLAGS.out, 'report.json')}\n"
    )


def _accuracies(report: Mapping[str, Any]) -> str:
    """Benign and robust accuracy of a report in words."""
    return f"benign {report['benign_accuracy']:.2%}, robust {report.get('era', float('nan')):.2%}"


def main() -> None:
    """Entry point."""
    launcher.launch("train", TEACH, validate, run, lambda: strategies.start(FLAGS.strategy))


if __name__ == "__main__":
    main()
