"""Compare pruning methods over densities and seeds."""

from __future__ import annotations

import dataclasses
import os
import re
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from absl import flags

from hydra_tf.core.files import replacing

from .shared import (
    flag_values,
    launcher,
    networks,
    run_directory,
    run_files,
    run_report,
    training_flags,
    training_run,
)
from .shared.launcher import FLAGS, UsageError
from .shared.types import Config, Report, Settings

if TYPE_CHECKING:
    import keras

    from hydra_tf.data import DataSplits

DESCRIPTION = """
Train one dense network per seed, prune a copy of it by each method to each density and
fine-tune it, evaluate all networks on the test split, and write a table and plots. The same
command resumes an unfinished study; finished networks are kept.

  python -m flags.study --methods=hydra,lwm --densities=0.1,0.05,0.01 --seeds=3 \\
      --objective=trades:epsilon=0.2,start=uniform --learning_rate=0.05 \\
      --pretrain_epochs=20 --prune_epochs=10 --finetune_epochs=10 --out=runs/study

To choose hyperparameters, evaluate on the validation split and start from the same dense
networks each time:

  python -m flags.study --split=validation --pretrained=runs/study/seed{seed}/dense \\
      --pretrain_epochs=0 --finetune_learning_rate=0.02 ... --out=runs/choice/0.02
"""

MEASURES = {
    "benign_accuracy": "benign",
    "era": "robust (era)",
    "vra_s": "certified (VRA-s)",
    "vra_m": "verified (VRA-m)",
    "vra_t": "verified (VRA-t)",
}

# Of the images, those for which the attack that found the fewest gradients found none.
_SHARE = "zero_gradient_share"

training_flags.define_training()
flags.DEFINE_list("methods", ["hydra", "lwm"], training_flags.methods_help("Pruning methods"))
flags.DEFINE_list("densities", ["0.1", "0.05", "0.01"], "Shares of the weights to keep.")
flags.DEFINE_integer("seeds", 1, "Number of seeds; the first is 0.")
flags.DEFINE_string("out", None, "Directory to write.")
flags.DEFINE_enum(
    "split",
    "test",
    ["test", "validation"],
    "Split for the evaluation: validation to choose hyperparameters, test for results.",
)
flags.DEFINE_integer(
    "certify_n",
    1_000,
    "Certify networks trained by smoothing, mixtrain or crown_ibp: number of noise draws per image "
    "for smoothing, any positive number for the others. 0 computes no certificates.",
)
flags.DEFINE_integer("certify_samples", 0, "Number of images to certify; 0 for all of them.")
flags.DEFINE_bool("tflite", False, "Also write a TFLite file of every network.")


def validate() -> Config:
    """Check the flags and return the settings and densities, without TensorFlow."""
    from hydra_tf.sparsity.methods import METHODS
    from hydra_tf.sparsity.topk import kept_count

    settings = training_flags.training_settings()
    for method in FLAGS.methods:
        METHODS.build(method)
    densities = flag_values.number_list("densities", FLAGS.densities, float)
    for density in densities:
        kept_count(density, 1)
    folders = Counter(_folder(method, d) for method in FLAGS.methods for d in densities)
    for folder, count in folders.items():
        if count > 1:
            raise UsageError(
                f"--methods and --densities give {count} networks the folder {folder!r}; list each "
                "of them once."
            )
    flag_values.at_least("seeds", 1)
    flag_values.at_least("pretrain_epochs", 0 if FLAGS.pretrained else 1)
    training_flags.check_epochs(FLAGS.methods, pretrained=True)
    if not FLAGS.out:
        raise UsageError("--out is missing: name the directory to write.")
    for seed in range(FLAGS.seeds if FLAGS.pretrained else 0):
        pretrained = FLAGS.pretrained.replace("{seed}", str(seed))
        networks.network_path(pretrained)
        if os.path.isdir(pretrained):
            run_directory.lock(pretrained, shared=True)
    for name in ("certify_n", "certify_samples"):
        flag_values.at_least(name, 0)
        settings[name] = FLAGS[name].value
    _check_draws()
    settings["split"] = FLAGS.split
    _check_directory(settings, densities)
    return {**settings, "densities": densities}


def _check_draws() -> None:
    """Check that --certify_n can certify, if the networks are certified by smoothing."""
    from hydra_tf import objectives
    from hydra_tf.core.types import Sampling

    certificate = objectives.build(FLAGS.objective).certificate() or {}
    if certificate.get("method") == "smoothing" and FLAGS.certify_n:
        Sampling(certificate["sigma"], n=FLAGS.certify_n)


def _check_directory(settings: Settings, densities: Sequence[float]) -> None:
    """Create and lock the directory; check the networks in it that are finished or begun."""
    if os.path.exists(os.path.join(FLAGS.out, "config.json")):
        raise UsageError(f"{FLAGS.out} holds a run of flags.train; choose another --out.")
    os.makedirs(FLAGS.out, exist_ok=True)
    run_directory.lock(FLAGS.out)
    for cell in _cells(densities):
        run_directory.is_finished(_directory(*cell), _config(settings, *cell))


def run(plan: Config) -> None:
    """Train and evaluate every unfinished network, then write the table and the plots."""
    from hydra_tf import evaluation
    from hydra_tf.evaluation import plots

    densities = plan.pop("densities")
    training_run.set_precision(plan)
    rows = [_row(plan, *cell) for cell in _cells(densities)]
    summary = summarise(rows)
    evaluation.write_json(os.path.join(FLAGS.out, "report.json"), {"rows": rows, "table": summary})
    table = markdown(summary)
    with replacing(os.path.join(FLAGS.out, "table.md")) as temporary:
        temporary.write_text(table, encoding="utf-8")
    for measure in list(MEASURES)[1:]:
        if any(measure in row for row in rows):
            target = os.path.join(FLAGS.out, f"{measure}.png")
            plots.accuracy_against_density(rows, target, measure)
    sys.stdout.write(table)


def _folder(method: str, density: float) -> str:
    """Return the folder name of a network; method specs may have characters such as colons."""
    name = re.sub(r"[^\w.]+", "-", method)
    return name if method == "dense" else f"{name}-{density:g}"


def _cells(densities: Sequence[float]) -> Iterator[tuple[str, float, int]]:
    """Yield method, density and seed of every network, in the order of the work."""
    for seed in range(FLAGS.seeds):
        yield "dense", 1.0, seed
        yield from ((method, density, seed) for density in densities for method in FLAGS.methods)


def _directory(method: str, density: float, seed: int) -> str:
    """Return the run directory of a network."""
    return os.path.join(FLAGS.out, f"seed{seed}", _folder(method, density))


def _config(settings: Settings, method: str, density: float, seed: int) -> Config:
    """Return the config of the run of a network."""
    skipped = ("prune_epochs", "finetune_epochs") if method == "dense" else ("pretrain_epochs",)
    config = {**settings, **dict.fromkeys(skipped, 0)}
    if config["pretrained"]:
        config["pretrained"] = config["pretrained"].replace("{seed}", str(seed))
    return {**config, "density": density, "method": method, "seed": seed}


def _row(settings: Settings, method: str, density: float, seed: int) -> Report:
    """Train and evaluate one network unless it is finished; return its row of the table."""
    out = _directory(method, density, seed)
    config = _config(settings, method, density, seed)
    if not run_directory.is_finished(out, config):
        _train(config, out)
    report = run_files.read_report(out)
    row = {"method": method, "density": density, "seed": seed}
    shares = [entry[_SHARE] for entry in report.get("attacks", []) if _SHARE in entry]
    row |= {_SHARE: max(shares)} if shares else {}  # none in reports of earlier versions
    return {**row, **{key: report[key] for key in MEASURES if key in report}}


def _train(config: Config, out: str) -> None:
    """Train and evaluate one network, and write its run directory."""
    seed, is_dense = config["seed"], config["method"] == "dense"
    sys.stdout.write(f"\n{out}\n")
    data = training_run.load_data(config, seed)
    if is_dense:
        net = networks.build_network(config, data, seed)
    else:
        dense_run = _directory("dense", 1.0, seed)
        run_directory.use(dense_run)
        net = networks.load_network(dense_run)
    run_directory.prepare(out, config)
    if not is_dense or config["pretrain_epochs"]:
        net = training_run.train_network(
            net,
            data,
            config,
            out,
            density=config["density"],
            method="hydra" if is_dense else config["method"],
            seed=seed,
            verbose=FLAGS.verbose,
            options=training_flags.loop_options(),
        )
    networks.save_masked_and_dense(net, out)
    if FLAGS.tflite:
        _export(net, data, out)
    run_report.write_report(net, data, config, out, seed=seed, verbose=FLAGS.verbose)
    run_directory.remove_checkpoints(out)
    run_directory.share(out)  # a finished network can be evaluated while the study goes on


def _export(net: keras.Model, data: DataSplits, out: str) -> None:
    """Write the TFLite file of a network to its run directory."""
    import numpy as np

    from hydra_tf import evaluation, export

    images = np.concatenate([x for x, _ in data.validation.take(1)])
    report = export.to_tflite(net, os.path.join(out, "model.tflite"), representative=images)
    evaluation.write_json(os.path.join(out, "export.json"), dataclasses.asdict(report))


def summarise(rows: Sequence[Report]) -> list[Report]:
    """Return the mean and population standard deviation over seeds per method and density."""
    import numpy as np

    groups: dict[tuple[float, str], list[Report]] = {}
    for row in rows:
        groups.setdefault((-row["density"], row["method"]), []).append(row)
    table = []
    for (density, method), group in sorted(groups.items()):
        entry: Report = {"method": method, "density": -density, "seeds": len(group)}
        for key in (*MEASURES, _SHARE):
            if all(key in row for row in group):
                values = [row[key] for row in group]
                entry[key] = {"mean": float(np.mean(values)), "std": float(np.std(values))}
        table.append(entry)
    return table


def markdown(table: Sequence[Report]) -> str:
    """Return the summary as a Markdown table, in percent."""

    def cell(entry: Report, key: str) -> str:
        if key not in entry:
            return "unknown"
        deviation = f" ± {100 * entry[key]['std']:.1f}" if entry["seeds"] > 1 else ""
        return f"{100 * entry[key]['mean']:.1f}{deviation}"

    from hydra_tf.attacks.gradients import MAX_SHARE

    measures = {key: head for key, head in MEASURES.items() if table and key in table[0]}
    if any(entry.get(_SHARE, {"mean": 0.0})["mean"] > MAX_SHARE for entry in table):
        measures[_SHARE] = "no gradient"
    heads = ["density", "method", *measures.values(), "seeds"]
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for entry in table:
        cells = [f"{100 * entry['density']:g}%", entry["method"]]
        cells += [cell(entry, key) for key in measures]
        lines.append(f"| {' | '.join([*cells, str(entry['seeds'])])} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Run the command line."""
    launcher.launch("study", DESCRIPTION, validate, run)


if __name__ == "__main__":
    main()
