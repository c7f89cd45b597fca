"""Compare pruning methods over allocations, densities and seeds."""

from __future__ import annotations

import dataclasses
import os
import sys
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from absl import flags

from hydra_tf.core import locks

from .shared import (
    budgets,
    flag_values,
    further_attacks,
    html_report,
    judging,
    launcher,
    networks,
    run_directory,
    run_report,
    study_checks,
    study_jobs,
    study_judge,
    study_tables,
    study_variants,
    training_flags,
    training_run,
)
from .shared.launcher import FLAGS, UsageError
from .shared.study_cells import Cell, Study
from .shared.study_variants import Variant

if TYPE_CHECKING:
    import keras

    from hydra_tf.data import DataSplits

DESCRIPTION = """
Train one dense network per seed, prune a copy of it by each method and allocation to each density
and fine-tune it, evaluate all networks on the test split, and write tables (table.md, cells.csv,
report.json) and report.html, a page of interactive plots.

  python -m flags.study --methods=hydra,lwm --densities=0.1,0.05,0.01 --seeds=3 \\
      --objective=trades:epsilon=0.2,start=uniform --learning_rate=0.05 \\
      --pretrain_epochs=20 --prune_epochs=10 --finetune_epochs=10 --out=runs/study

The same command resumes an unfinished study; finished networks are kept. With further methods,
allocations, densities or seeds it adds networks, and with further attacks it evaluates the networks
that it names again; the tables have all finished networks of the folder. Processes with different
seeds (--first_seed) can work in one folder at the same time.

To compare allocations, also under a stronger attack on the first 500 images and with a dense
network of as many epochs as a pruned one:

  python -m flags.study --allocations=uniform,erk,global --dense_epochs=total \\
      --further_attacks=autoattack --attack_samples=500 ... --out=runs/allocations

To compare networks, objectives or granularities too, each in a study of its own below --out:

  python -m flags.study --models=mnist_cnn,cnn_large --granularities=element,filter \\
      ... --out=runs/all

To export every network, also as int8, and measure the files themselves; a later start can add this:

  python -m flags.study --judge --judge_quantizations=none,int8 ... --out=runs/study

To choose hyperparameters, evaluate on the validation split and start from the same dense
networks each time:

  python -m flags.study --split=validation --pretrained=runs/study/seed{seed}/dense \\
      --pretrain_epochs=0 --finetune_learning_rate=0.02 ... --out=runs/choice/0.02
"""

training_flags.define_training()
study_variants.define()
flags.DEFINE_string("methods", "hydra,lwm", training_flags.methods_help("Pruning methods"))
flags.DEFINE_string(
    "allocations",
    None,
    "Allocations to compare, each as in --allocation, and in brackets if it has commas: "
    "uniform,erk,(global:min_kept=4,every_output=true). By default that of --allocation, which is "
    "left out of folder names.",
)
flags.DEFINE_list("densities", ["0.1", "0.05", "0.01"], "Shares of the weights to keep.")
flags.DEFINE_integer("seeds", 1, "Number of seeds.")
flags.DEFINE_integer("first_seed", 0, "The first seed.")
flags.DEFINE_integer(
    "jobs",
    1,
    "Number of seeds that are trained side by side, each in a process with its share of the cores; "
    "small networks gain most. Latencies of --judge are then not comparable with others.",
)
flags.DEFINE_string("out", None, "Directory to write.")
flags.DEFINE_enum(
    "split",
    "test",
    ["test", "validation"],
    "Split for the evaluation: validation to choose hyperparameters, test for results.",
)
flags.DEFINE_string(
    "dense_epochs",
    None,
    "Epochs of a second dense network per seed, dense_long, which is not pruned: a number, or "
    "total for all epochs of a pruned network. By default there is none.",
)
flags.DEFINE_string(
    "further_attacks",
    "",
    "Attacks that each have a column of their own and do not count for era, separated by "
    "semicolons, such as autoattack; they can be added to finished networks.",
)
flags.DEFINE_integer(
    "attack_samples", 0, "Number of images for --further_attacks, from the first on; 0 for all."
)
flags.DEFINE_integer(
    "certify_n",
    1_000,
    "Certify networks trained by smoothing, mixtrain or crown_ibp: number of noise draws per image "
    "for smoothing, any positive number for the others. 0 computes no certificates.",
)
flags.DEFINE_integer("certify_samples", 0, "Number of images to certify; 0 for all of them.")
flags.DEFINE_integer(
    "report_samples",
    200,
    "Number of images for the security curves of report.html; 0 leaves out what needs the networks "
    "again: these curves, images with adversarial twins, and histograms of weights.",
)
flags.DEFINE_bool("tflite", False, "Also write a TFLite file of every network.")
judging.define(
    "Also export every network, finished ones too, and measure accuracy, robustness, size and "
    "latency of its files."
)
flags.DEFINE_list(
    "judge_quantizations",
    ["none"],
    "Number formats of the files of --judge: none (float32), float16, int8, int8_float_logits.",
)


Plan = list[tuple[Variant, Study, list[Cell]]]


def validate() -> Plan:
    """Check the flags; return the studies and their networks, without TensorFlow."""
    plan: Plan = []
    for variant in study_variants.variants():
        variant.apply()
        plan.append((variant, *_study()))
    return plan


def _study() -> tuple[Study, list[Cell]]:
    """Check the flags and return the study and its networks."""
    settings = training_flags.training_settings("uniform")
    methods = flag_values.spec_list(FLAGS.methods)
    cells = _pruned(methods)
    flag_values.at_least("seeds", 1)
    flag_values.at_least("jobs", 1)
    flag_values.seed("first_seed")
    flag_values.at_least("pretrain_epochs", 0 if FLAGS.pretrained else 1)
    training_flags.check_epochs(methods, True, [cell.allocation for cell in cells])
    if not FLAGS.out:
        raise UsageError("--out is missing: name the directory to write.")
    seeds = range(FLAGS.first_seed, FLAGS.first_seed + FLAGS.seeds)
    for seed in seeds if FLAGS.pretrained else ():
        pretrained = FLAGS.pretrained.replace("{seed}", str(seed))
        networks.network_path(pretrained)
        if os.path.isdir(pretrained):
            run_directory.lock(pretrained, shared=True)
    for name in ("certify_n", "certify_samples"):
        flag_values.at_least(name, 0)
        settings[name] = FLAGS[name].value
    study_checks.check_draws()
    for name in ("attack_samples", "report_samples"):
        flag_values.at_least(name, 0)
    for spec in flag_values.attack_specs(FLAGS.further_attacks):
        further_attacks.parameters(spec, settings)
    study_checks.check_judgement()
    study = Study(FLAGS.out, {**settings, "split": FLAGS.split})
    epochs = study_checks.dense_epochs()
    work = []
    for seed in seeds:
        work.append(study.dense(seed))
        work += [study.dense_long(seed, epochs)] if epochs else []
        work += [dataclasses.replace(cell, seed=seed) for cell in cells]
    study.check_folders(work)
    study.prepare(work, lock_seeds=not _has_jobs())
    return study, work


def _has_jobs() -> bool:
    """Return whether processes of their own train the seeds."""
    return bool(FLAGS.jobs > 1 and FLAGS.seeds > 1)


def _pruned(methods: Sequence[str]) -> list[Cell]:
    """Check methods, allocations and densities; return the pruned networks of a seed."""
    from hydra_tf.sparsity.allocation import ALLOCATIONS
    from hydra_tf.sparsity.methods import METHODS
    from hydra_tf.sparsity.topk import kept_count

    for method in methods:
        METHODS.build(method)
    allocations = [FLAGS.allocation]
    if FLAGS.allocations is not None:
        allocations = flag_values.spec_list(FLAGS.allocations)
    for allocation in allocations:
        ALLOCATIONS.build(allocation)
    densities = flag_values.number_list("densities", FLAGS.densities, float)
    for density in densities:
        kept_count(density, 1)
    training_flags.check_granularity(densities, allocations)
    return [
        Cell(method, allocation, density, FLAGS.first_seed)
        for density in densities
        for allocation in allocations
        for method in methods
    ]


def run(plan: Plan) -> None:
    """Run each study; with several, write the tables of all of them."""
    for variant, study, cells in plan:
        variant.apply()
        _run_study(variant, study, cells)
    if len(plan) > 1:
        out = os.path.dirname(plan[0][0].out)
        study_variants.write_overview(out, [variant for variant, *_ in plan])
        sys.stdout.write(f"\nAll studies: {os.path.join(out, 'report.html')}\n")


def _run_study(variant: Variant, study: Study, cells: Sequence[Cell]) -> None:
    """Train and evaluate every unfinished network, then write the tables and the plots."""
    if _has_jobs():
        seeds = range(FLAGS.first_seed, FLAGS.first_seed + FLAGS.seeds)
        arguments = [*sys.argv[1:], *variant.flags()]
        study_jobs.run_seeds(study.out, seeds, FLAGS.jobs, arguments)
    else:
        _run_cells(study, cells)
    _add_figures(study, cells)
    path = os.path.join(study.out, "tables.lock")
    with open(path, "a", encoding="utf-8"), locks.locked(path, wait=True):
        sys.stdout.write(study_tables.write(study))


def _add_figures(study: Study, cells: Sequence[Cell]) -> None:
    """Compute what report.html shows of single networks, which are those of the first seed."""
    samples = FLAGS.report_samples
    for cell in cells if samples else ():
        if cell.seed == FLAGS.first_seed:
            out, dense = (study.directory(c) for c in (cell, study.dense(cell.seed)))
            html_report.add_figures(out, dense, study.config(cell), samples, FLAGS.verbose)


def _run_cells(study: Study, cells: Sequence[Cell]) -> None:
    """Train and evaluate every unfinished network, and add what the flags ask for."""
    training_run.set_precision(study.settings)
    specs = flag_values.attack_specs(FLAGS.further_attacks)
    _check_budgets(study, [cell for cell in cells if not study.is_finished(cell)])
    for cell in cells:
        if not study.is_finished(cell):
            _train(study, cell)
        if specs:
            out, config = study.directory(cell), study.config(cell)
            further_attacks.add(out, config, specs, FLAGS.attack_samples, FLAGS.verbose)
        if FLAGS.judge:
            formats = dict.fromkeys(FLAGS.judge_quantizations)
            study_judge.add(study.directory(cell), study.config(cell), [*formats], FLAGS.verbose)


def _check_budgets(study: Study, cells: Sequence[Cell]) -> None:
    """Check the densities of the networks that will be trained, with a network of their layers."""
    pruned = [study.config(cell) for cell in cells if not cell.is_dense]
    if not pruned:
        return
    dense = study.dense(cells[0].seed)
    config = study.config(dense)
    net = networks.build_network(config, training_run.load_data(config, dense.seed), dense.seed)
    budgets.require_budgets(net, pruned)


def _train(study: Study, cell: Cell) -> None:
    """Train and evaluate one network, and write its run directory."""
    out, config = study.directory(cell), study.config(cell)
    if not cell.is_dense:
        run_directory.use(study.directory(study.dense(cell.seed)))
    sys.stdout.write(f"\n{out}\n")
    data = training_run.load_data(config, cell.seed)
    if cell.is_dense:
        net = networks.build_network(config, data, cell.seed)
    else:
        net = networks.load_network(study.directory(study.dense(cell.seed)))
    resumed = run_directory.has_checkpoints(out)
    run_directory.prepare(out, config)
    start = time.monotonic()
    if not cell.is_dense or config["pretrain_epochs"]:
        net = training_run.train_network(
            net,
            data,
            config,
            out,
            density=cell.density,
            method="hydra" if cell.is_dense else cell.method,
            seed=cell.seed,
            verbose=FLAGS.verbose,
            options=training_flags.loop_options(),
        )
    seconds = time.monotonic() - start
    networks.save_masked_and_dense(net, out)
    if FLAGS.tflite:
        _export(net, data, out)
    run_report.write_report(net, data, config, out, seed=cell.seed, verbose=FLAGS.verbose)
    if not resumed:  # else they are not all seconds of the run
        run_report.add_to_report(out, {"seconds": round(seconds, 3)})
    run_directory.remove_checkpoints(out)
    run_directory.share(out)  # a finished network can be evaluated while the study goes on


def _export(net: keras.Model, data: DataSplits, out: str) -> None:
    """Write the TFLite file of a network to its run directory."""
    import numpy as np

    from hydra_tf import evaluation, export

    images = np.concatenate([x for x, _ in data.validation.take(1)])
    report = export.to_tflite(net, os.path.join(out, "model.tflite"), representative=images)
    evaluation.write_json(os.path.join(out, "export.json"), report.to_dict())


def main() -> None:
    """Run the command line."""
    launcher.launch("study", DESCRIPTION, validate, run)


if __name__ == "__main__":
    main()
