"""Export the network of a run directory as a TFLite file."""

from __future__ import annotations

import os
import pathlib
import sys

from absl import flags

from .shared import launcher, networks, run_directory, training_run
from .shared.launcher import FLAGS, UsageError
from .shared.types import Config

DESCRIPTION = """
Export the network of a run directory to TFLite: sparse float32, float16 or int8. The file
is written only after its outputs have been compared with those of Keras.

  python -m flags.export --run=runs/a
  python -m flags.export --run=runs/a --quantization=int8 --out=a.tflite
"""

flags.DEFINE_string("run", None, "Run directory to export.")
flags.DEFINE_string("out", None, "File to write; model.tflite in the run directory by default.")
flags.DEFINE_enum("quantization", "none", ["none", "float16", "int8"], "Number format.")
flags.DEFINE_bool("sparse", True, "Store tensors in a sparse format where it is smaller.")


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
    return config


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


def run(config: Config) -> None:
    """Convert the network, compare the outputs, and write export.json."""
    import dataclasses

    import numpy as np

    from hydra_tf import evaluation, export

    net = networks.load_network(FLAGS.run)
    data = training_run.load_data(config, config["seed"])
    images = np.concatenate([x for x, _ in data.validation.take(2)])
    with run_directory.writing(FLAGS.run):  # so that export.json is about the file
        report = export.to_tflite(
            net,
            _target(),
            quantization=None if FLAGS.quantization == "none" else FLAGS.quantization,
            sparse=FLAGS.sparse,
            representative=images,
        )
        content = dataclasses.asdict(report)
        evaluation.write_json(os.path.join(FLAGS.run, "export.json"), content)
    sys.stdout.writelines(f"{key:18} {value}\n" for key, value in content.items())


def main() -> None:
    """Run the command line."""
    launcher.launch("export", DESCRIPTION, validate, run)


if __name__ == "__main__":
    main()
