"""Export the network of a run directory as a TFLite file."""

from __future__ import annotations

import os
import pathlib
import sys
import tempfile
from collections.abc import Iterator
from typing import TYPE_CHECKING

from absl import flags

from .shared import flag_values, launcher, networks, run_directory, training_run
from .shared.launcher import FLAGS, UsageError
from .shared.types import Config, Report

if TYPE_CHECKING:
    import keras

    from hydra_tf.data import DataSplits

DESCRIPTION = """
Export the network of a run directory to TFLite: sparse float32, float16 or int8. The file
is written only after its outputs have been compared with those of Keras.

  python -m flags.export --run=runs/a
  python -m flags.export --run=runs/a --quantization=int8 --out=a.tflite

With --compact, channels whose weights are all pruned are removed: the file is smaller and faster,
and its outputs stay.

With --judge, the file itself is measured on test images: accuracy, robust accuracy under images
that attacks made on the Keras model and under Square, which needs no gradients, and latency; for
networks trained by smoothing also certificates, which then hold for the file.

  python -m flags.export --run=runs/a --quantization=int8 --judge
"""

flags.DEFINE_string("run", None, "Run directory to export.")
flags.DEFINE_string("out", None, "File to write; model.tflite in the run directory by default.")
flags.DEFINE_enum("quantization", "none", ["none", "float16", "int8"], "Number format.")
flags.DEFINE_bool("sparse", True, "Store tensors in a sparse format where it is smaller.")
flags.DEFINE_enum(
    "prefer", "size", ["size", "latency"], "Smallest or fastest form of sparse kernels."
)
flags.DEFINE_bool("gzip", False, "Also write the file after gzip, under its name with .gz added.")
flags.DEFINE_bool("compact", False, "Remove channels that have no effect on the outputs first.")
flags.DEFINE_bool("judge", False, "Measure accuracy, robustness and latency of the file.")
flags.DEFINE_integer("judge_samples", 1_000, "Number of test images for --judge.")
flags.DEFINE_string(
    "judge_attacks",
    "pgd:steps=50",
    "Attacks whose images are made on the Keras model and moved to the file, separated by "
    "semicolons.",
)
flags.DEFINE_string("judge_search", "square:queries=200", "Attack without gradients on the file.")
flags.DEFINE_integer(
    "judge_certify_n",
    1_000,
    "Noise draws per image for the certificates of a file, on 100 images; 0 for none.",
)


def validate() -> Config:
    """Check that the network exists and the file can be written; return the config of the run."""
    from hydra_tf.core.files import checked_path

    if not FLAGS.run:
        raise UsageError("--run is missing: name the run directory to export.")
    config = run_directory.use(FLAGS.run)
    networks.network_path(FLAGS.run)
    target = checked_path(_target(), ".tflite")
    if target.exists() and not _is_tflite(target):
        raise UsageError(f"{target} is not a TFLite file; it is kept: choose another --out.")
    if FLAGS.judge:
        _check_judgement(config)
    return config


def _check_judgement(config: Config) -> None:
    """Check the flags of --judge before the export."""
    from hydra_tf import attacks, objectives
    from hydra_tf.core.types import Sampling

    flag_values.at_least("judge_samples", 1)
    flag_values.at_least("judge_certify_n", 0)
    objective = objectives.build(config["objective"])
    ball = flag_values.ball_of(objective)
    for spec in flag_values.attack_specs(FLAGS.judge_attacks):
        attacks.build(spec, **ball)
    if attacks.build(FLAGS.judge_search, **ball).uses_gradients:
        raise UsageError(
            f"--judge_search={FLAGS.judge_search} follows gradients, which a file does not have; "
            "choose square, or list it in --judge_attacks."
        )
    if (sigma := _sigma(objective)) and FLAGS.judge_certify_n:
        Sampling(sigma, n=FLAGS.judge_certify_n)


def _sigma(objective: object) -> float | None:
    """Return the noise for which an objective trains, None if it does not train by smoothing."""
    certificate = getattr(objective, "certificate", lambda: None)() or {}
    return certificate["sigma"] if certificate.get("method") == "smoothing" else None


def _is_tflite(path: pathlib.Path) -> bool:
    """Return whether a file may be replaced: a TFLite file, or an empty one."""
    if not path.is_file():
        return False
    with path.open("rb") as file:
        start = file.read(8)
    return not start or start[4:] == b"TFL3"


def _target() -> str:
    """Return the path of the file to write."""
    return FLAGS.out or os.path.join(FLAGS.run, "model.tflite")


def _quantization() -> str | None:
    """Return the number format for to_tflite."""
    return None if FLAGS.quantization == "none" else str(FLAGS.quantization)


def run(config: Config) -> None:
    """Convert the network, compare the outputs, and write export.json."""
    import numpy as np

    from hydra_tf import evaluation, export

    net = networks.load_network(FLAGS.run)
    data = training_run.load_data(config, config["seed"])
    images = np.concatenate([x for x, _ in data.validation.take(2)])
    with run_directory.writing(FLAGS.run):  # so that export.json is about the file
        report = export.to_tflite(
            net,
            _target(),
            quantization=_quantization(),
            sparse=FLAGS.sparse,
            representative=images,
            prefer=FLAGS.prefer,
            gzip=FLAGS.gzip,
            compact=FLAGS.compact,
        )
        content = report.to_dict()
        if FLAGS.judge:
            content["judgement"] = _judgement(net, data, config)
        evaluation.write_json(os.path.join(FLAGS.run, "export.json"), content)
    sys.stdout.writelines(_lines(content))


def _judgement(net: keras.Model, data: DataSplits, config: Config) -> Report:
    """Return the measurements of the file and, in turn, of the network stored densely."""
    import numpy as np
    import tensorflow as tf

    from hydra_tf import export, objectives

    objective = objectives.build(config["objective"])
    sigma, smoothing = _sigma(objective), None
    if sigma and FLAGS.judge_certify_n:
        smoothing = {"sigma": sigma, "n": FLAGS.judge_certify_n, "samples": 100}
    samples = min(FLAGS.judge_samples, data.sizes["test"])
    images = data.test.unbatch().take(samples).batch(config["batch_size"])
    batches = -(-samples // config["batch_size"])
    images = images.apply(tf.data.experimental.assert_cardinality(batches))
    with tempfile.TemporaryDirectory(prefix="hydra_tf-") as folder:
        dense = os.path.join(folder, "dense.tflite")
        probes = np.concatenate([x for x, _ in data.validation.take(2)])
        export.to_tflite(net, dense, _quantization(), sparse=False, representative=probes)
        judged = export.judge(
            _target(),
            net,
            images,
            flag_values.attack_specs(FLAGS.judge_attacks),
            FLAGS.judge_search,
            dense_path=dense,
            smoothing=smoothing,
            verbose=1,
            **flag_values.ball_of(objective),
        )
    return judged.to_dict()


def _lines(content: Report) -> Iterator[str]:
    """Yield the lines that show a report."""
    judged = content.get("judgement")
    yield from (f"{key:18} {value}\n" for key, value in content.items() if key != "judgement")
    if judged is None:
        return
    yield f"\n{'':18} {'file':>8} {'keras':>8}\n"
    yield f"{'benign':18} {judged['benign_accuracy']:8.2%} {judged['keras_benign_accuracy']:8.2%}\n"
    for attack in judged["attacks"]:
        shares = f"{attack['robust_accuracy']:8.2%} {attack['keras_robust_accuracy']:8.2%}"
        yield f"{attack['name']:18} {shares}  images from {attack['images_from']}\n"
    yield f"{'all attacks (era)':18} {judged['era']:8.2%} {judged['keras_era']:8.2%}\n"
    if certified := judged["certified"]:
        share = f"{certified['vra_s']:8.2%}  of {certified['samples']} images"
        yield f"{'certified (VRA-s)':18} {share}\n"
    times = judged["latency"]["milliseconds"], judged["dense_latency"]["milliseconds"]
    yield f"{'latency':18} {times[0]:.4f} ms, {times[0] / times[1]:.2f} times the dense file's\n"
    yield from (f"{warning}\n" for warning in judged["warnings"])


def main() -> None:
    """Run the command line."""
    launcher.launch("export", DESCRIPTION, validate, run)


if __name__ == "__main__":
    main()
