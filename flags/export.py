"""Export the network of a run directory as a TFLite file, a SavedModel or an ONNX file."""

from __future__ import annotations

import math
import os
import pathlib
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from absl import flags

from .shared import (
    judging,
    launcher,
    model_card,
    networks,
    other_formats,
    run_directory,
    training_run,
)
from .shared.launcher import FLAGS, UsageError
from .shared.types import Config, Report

if TYPE_CHECKING:
    import keras

DESCRIPTION = """
Export the network of a run directory to TFLite: sparse float32, float16 or int8. The file
is written only after its outputs have been compared with those of Keras.

  python -m flags.export --run=runs/a
  python -m flags.export --run=runs/a --quantization=int8 --out=a.tflite

With --quantization=int8_float_logits, the last layer of an int8 file computes in float32, so that
more images get the class of the Keras model.

With --compact, channels whose weights are all pruned are removed: the file is smaller and faster,
and its outputs stay.

With --judge, the file itself is measured on test images: accuracy, robust accuracy under images
that attacks made on the Keras model and under Square, which needs no gradients, and latency; for
networks trained by smoothing also certificates, which then hold for the file. The measurements
are in export.json and plots/judgement.png.

  python -m flags.export --run=runs/a --quantization=int8 --judge

With --budget_bytes or --budget_ms, a file that is larger or slower is not kept; the command ends
with status 2 and names the nearest density, and granularity, that would fit.

  python -m flags.export --run=runs/a --budget_bytes=60000

MODEL_CARD.md of the run directory says what the network is, how it was trained, and what was
measured.

Other runtimes take a SavedModel or an ONNX file, which are compared with Keras too:

  python -m flags.export --run=runs/a --format=onnx
  python -m flags.export --run=runs/a --format=saved_model --out=served
"""

flags.DEFINE_string("run", None, "Run directory to export.")
flags.DEFINE_string(
    "out",
    None,
    "File to write, for a SavedModel the folder; model.tflite or model.onnx in the run directory "
    "by default.",
)
flags.DEFINE_enum("format", "tflite", other_formats.FORMATS, "Format of the file.")
flags.DEFINE_integer(
    "batch_size", 0, "Images of a call of a SavedModel or an ONNX file; 0 for any number."
)
flags.DEFINE_enum(
    "quantization", "none", ["none", "float16", "int8", "int8_float_logits"], "Number format."
)
flags.DEFINE_bool("sparse", True, "Store tensors in a sparse format where it is smaller.")
flags.DEFINE_enum(
    "prefer",
    "size",
    ["size", "latency", "gzip"],
    "Form of sparse kernels: smallest, fastest, or smallest in the file of --gzip.",
)
flags.DEFINE_bool("gzip", False, "Also write the file after gzip, under its name with .gz added.")
flags.DEFINE_bool("compact", False, "Remove channels that have no effect on the outputs first.")
flags.DEFINE_integer(
    "budget_bytes",
    None,
    "Largest size of the file, before gzip. A larger file is not kept, and a density that fits is "
    "named.",
)
flags.DEFINE_float(
    "budget_ms",
    None,
    "Largest median time of an image on this machine, on one thread of LiteRT. A slower file is "
    "not kept, and a density and granularity that fit are named.",
)
flags.DEFINE_integer("verbose", 1, "0 is silent, 1 shows progress bars.")
judging.define("Measure accuracy, robustness and latency of the file; plot them.")


def validate() -> Config:
    """Check that the network exists and the file can be written; return the config of the run."""
    from hydra_tf.core.files import checked_path

    if not FLAGS.run:
        raise UsageError("--run is missing: name the run directory to export.")
    config = run_directory.use(FLAGS.run)
    networks.network_path(FLAGS.run)
    other_formats.check()
    if FLAGS.format != "tflite":
        return config
    target = checked_path(_target(), ".tflite")
    if target.exists() and not _is_tflite(target):
        raise UsageError(f"{target} is not a TFLite file; it is kept: choose another --out.")
    _check_choices()
    judging.check(config["objective"])
    return config


def _check_choices() -> None:
    """Check the flags that others may leave without effect, and the budgets."""
    if FLAGS.prefer == "latency" and (FLAGS.quantization != "none" or not FLAGS.sparse):
        other = "--nosparse" if not FLAGS.sparse else f"--quantization={FLAGS.quantization}"
        raise UsageError(
            f"--prefer=latency has no effect with {other}: only sparse float32 kernels have a "
            "faster form; leave it out."
        )
    for name in ("budget_bytes", "budget_ms"):
        value = FLAGS[name].value
        if value is not None and not 0 < value < math.inf:
            raise UsageError(f"--{name} must be a positive number, not {value}.")


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
    """Convert the network, compare the outputs, and write export.json for a TFLite file."""
    import numpy as np

    from hydra_tf import evaluation, export

    net = networks.load_network(FLAGS.run)
    if FLAGS.format != "tflite":
        with run_directory.writing(FLAGS.run):
            sys.stdout.writelines(_lines(other_formats.write(net).to_dict()))
            _write_card(config)
        return
    data = training_run.load_data(config, config["seed"])
    images = np.concatenate([x for x, _ in data.validation.take(2)])
    options = {
        "quantization": _quantization(),
        "sparse": FLAGS.sparse,
        "representative": images,
        "prefer": FLAGS.prefer,
        "compact": FLAGS.compact,
    }
    budgets = {"budget_bytes": FLAGS.budget_bytes, "budget_ms": FLAGS.budget_ms}
    with run_directory.writing(FLAGS.run):  # so that export.json is about the file
        try:
            report = export.to_tflite(net, _target(), gzip=FLAGS.gzip, **options, **budgets)
        except export.OverBudgetError as error:
            raise UsageError(_with_nearest(error, net, config, {**options, **budgets})) from error
        content = report.to_dict()
        if FLAGS.judge:
            plot = os.path.join(FLAGS.run, "plots", "judgement.png")
            content["judgement"] = judging.judge(
                report, net, data, config, images, split="test", plot=plot, verbose=FLAGS.verbose
            )
        evaluation.write_json(os.path.join(FLAGS.run, "export.json"), content)
        sys.stdout.writelines(_lines(content))
        _write_card(config, content)


def _write_card(config: Config, exported: Report | None = None) -> None:
    """Write MODEL_CARD.md and say where it is."""
    path = model_card.write(FLAGS.run, config, exported)
    sys.stdout.write(f"{'model card':18} {path}\n")


def _with_nearest(
    error: Exception, net: keras.Model, config: Config, options: dict[str, Any]
) -> str:
    """Return the sentence of an exceeded budget, with the nearest density that fits."""
    from hydra_tf import export

    sys.stdout.write("The file exceeds its budget; looking for a density that fits...\n")
    sys.stdout.flush()
    ways = {key: config[key] for key in ("allocation", "granularity") if config.get(key)}
    fit = export.nearest_fit(net, **options, **ways, verbose=FLAGS.verbose)
    return f"{str(error).rstrip('.')}; {fit.text()}."


def _lines(content: Report) -> Iterator[str]:
    """Yield the lines that show a report."""
    yield from (f"{key:18} {value}\n" for key, value in content.items() if key != "judgement")
    if "judgement" in content:
        yield from judging.lines(content["judgement"])


def main() -> None:
    """Run the command line."""
    launcher.launch("export", DESCRIPTION, validate, run)


if __name__ == "__main__":
    main()
