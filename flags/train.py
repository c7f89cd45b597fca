"""Train, prune and fine-tune one robust network."""

from __future__ import annotations

import contextlib
import os
import sys
from typing import TYPE_CHECKING

from absl import flags

from .shared import (
    budgets,
    dry_run,
    flag_values,
    launcher,
    networks,
    replaced_run,
    run_directory,
    run_report,
    strategies,
    training_flags,
    training_run,
)
from .shared.launcher import FLAGS, UsageError
from .shared.types import Config, Report

if TYPE_CHECKING:
    import tensorflow as tf

DESCRIPTION = """
Pretrain a network robustly, prune it under the robust objective, fine-tune it, and evaluate
it on the test split. All results are written to the run directory --out; the same command
resumes an unfinished run from its last checkpoint.

  python -m flags.train --dataset=mnist_5k --model=mnist_cnn --density=0.01 \\
      --objective=trades:epsilon=0.2,start=uniform --learning_rate=0.05 \\
      --pretrain_epochs=20 --prune_epochs=10 --finetune_epochs=10 --out=runs/a
  python -m flags.evaluate --run=runs/a --attacks="pgd:steps=100,restarts=10"
  python -m flags.export --run=runs/a

tensorboard --logdir=runs/a/tensorboard shows the metrics, the density of each layer and the churn
of its mask; with --watch_images=50 also a security curve and adversarial images.

To find a robust subnetwork of a naturally trained network (without fine-tuning; the report
has the accuracies before and after):

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
    "Devices: default uses one, mirrored all GPUs of this machine, multi_worker the machines in "
    "TF_CONFIG, each of which runs the same command with a shared --out.",
)
flags.DEFINE_integer(
    "watch_images",
    0,
    "Number of validation images that are attacked after each epoch, for TensorBoard: robust "
    "accuracy at three epsilons, and images with their adversarial twins; 0 for none.",
)
flags.DEFINE_bool("overwrite", False, "Replace another run in --out.")
flags.DEFINE_bool(
    "dry_run",
    False,
    "Build everything, take two steps of each phase, and print the time and memory that the run "
    "would take; write nothing.",
)


def validate() -> Config:
    """Check the flags and return the config of the run; write nothing, without TensorFlow."""
    from hydra_tf.sparsity.methods import default_allocation
    from hydra_tf.sparsity.topk import kept_count

    settings = training_flags.training_settings(default_allocation(FLAGS.method, FLAGS.granularity))
    strategies.check(FLAGS.strategy)
    kept_count(FLAGS.density, 1)
    training_flags.check_granularity([FLAGS.density], [FLAGS.allocation])
    if not FLAGS.out:
        raise UsageError("--out is missing: name the run directory to write.")
    flag_values.seed("seed")
    _check_watch()
    config = {**settings, "density": FLAGS.density, "method": FLAGS.method, "seed": FLAGS.seed}
    training_flags.check_epochs([FLAGS.method])
    if FLAGS.pretrained:
        config["pretrained"] = FLAGS.pretrained.replace("{seed}", str(FLAGS.seed))
        networks.network_path(config["pretrained"])
        _check_kept(config["pretrained"])
    if run_directory.is_finished(FLAGS.out, config, FLAGS.overwrite):
        sys.stdout.write(f"{FLAGS.out} holds this run, which is finished; see its report.json.\n")
        sys.exit(0)
    return config


def _check_watch() -> None:
    """Check --watch_images."""
    from hydra_tf import objectives

    flag_values.at_least("watch_images", 0)
    if not FLAGS.watch_images:
        return
    if not flag_values.ball_of(objectives.build(FLAGS.objective)).get("epsilon"):
        raise UsageError(
            "--watch_images attacks in the ball of the objective, and this one has no epsilon; "
            "leave it out."
        )
    if FLAGS.strategy != "default":
        raise UsageError("--watch_images needs --strategy=default; leave it out.")


def _check_kept(pretrained: str) -> None:
    """Check that the network to start from is not one that --overwrite would replace."""
    path = os.path.realpath(networks.network_path(pretrained))
    files = [os.path.join(FLAGS.out, name) for name in replaced_run.run_files(FLAGS.out)]
    if FLAGS.overwrite and path in map(os.path.realpath, files):
        raise UsageError(
            f"--overwrite would replace {path}, from which --pretrained starts; choose another "
            "--out."
        )
    if os.path.isdir(pretrained):
        run_directory.lock(pretrained, shared=True)


def run(config: Config, strategy: tf.distribute.Strategy) -> None:
    """Train, save and evaluate the network."""
    training_run.set_precision(config)
    data = training_run.load_data(config, config["seed"])
    images, replicas = data.last_batch, strategy.num_replicas_in_sync
    if images < replicas:
        raise UsageError(
            f"The last batch of an epoch has {images} images, too few for {replicas} replicas; "
            "choose another --batch_size."
        )
    worker = strategies.worker_index(FLAGS.strategy)
    chief = worker[0] == 0
    shared = {"seed": config["seed"], "verbose": FLAGS.verbose}
    arguments = {**shared, "density": config["density"], "method": config["method"]}
    arguments |= {"options": training_flags.loop_options(), "chief": chief, "worker": worker}
    before = None
    with strategy.scope():
        net = networks.build_network(config, data, config["seed"])
        budgets.require_budgets(net, [config])
        if FLAGS.dry_run:
            sys.stdout.write(dry_run.estimate(net, data, config, arguments))
            return
        prepared = run_directory.prepared(FLAGS.out, config, FLAGS.overwrite)
        with prepared if chief else contextlib.nullcontext():
            if chief and config["pretrained"]:
                before = run_report.evaluate_network(net, data, config, **shared)
            if chief and replaced_run.is_aside(FLAGS.out):
                arguments["callbacks"] = [training_run.removes_replaced_run(FLAGS.out)]
            if FLAGS.watch_images:
                arguments.setdefault("callbacks", []).append(
                    training_run.attack_summaries(data, config, FLAGS.out, FLAGS.watch_images)
                )
            with strategies.explain_lost_worker(FLAGS.strategy):
                net = training_run.train_network(net, data, config, FLAGS.out, **arguments)
    if not chief:
        return
    networks.save_masked_and_dense(net, FLAGS.out)
    report = run_report.write_report(net, data, config, FLAGS.out, before=before, **shared)
    run_directory.remove_checkpoints(FLAGS.out)
    if before is not None:
        sys.stdout.write(f"pretrained: {_accuracies(before)}\n")
    sys.stdout.write(
        f"{_accuracies(report)}, density {report['density']:.2%}: "
        f"{os.path.join(FLAGS.out, 'report.json')}\n"
    )


def _accuracies(report: Report) -> str:
    """Return the benign and robust accuracy of a report in words."""
    return f"benign {report['benign_accuracy']:.2%}, robust {report.get('era', float('nan')):.2%}"


def main() -> None:
    """Run the command line."""
    launcher.launch("train", DESCRIPTION, validate, run, lambda: strategies.create(FLAGS.strategy))


if __name__ == "__main__":
    main()
