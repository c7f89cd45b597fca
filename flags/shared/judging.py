"""Flags, checks and results of --judge, which measures TFLite files on test images."""

from __future__ import annotations

import json
import os
import pathlib
import tempfile
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from absl import flags

from . import flag_values, run_report
from .launcher import FLAGS, UsageError
from .types import Config, Report, Settings

if TYPE_CHECKING:
    import keras
    import numpy as np

    from hydra_tf.data import DataSplits
    from hydra_tf.export import ExportReport

CERTIFIED = 100  # images whose certificates are computed on the file
_NEED_JUDGE = ["judge_samples", "judge_attacks", "judge_search", "judge_certify_n"]


def define(help_text: str) -> None:
    """Define --judge and the flags that belong to it.

    Args:
        help_text: of --judge.
    """
    flags.DEFINE_bool("judge", False, help_text)
    flags.DEFINE_integer("judge_samples", 1_000, "Number of test images for --judge.")
    flags.DEFINE_string(
        "judge_attacks",
        "pgd:steps=50",
        "Attacks whose images are made on the Keras model and moved to the file, separated by "
        "semicolons.",
    )
    flags.DEFINE_string(
        "judge_search",
        "square:queries=200",
        "Attack without gradients on the file; empty for none.",
    )
    flags.DEFINE_integer(
        "judge_certify_n",
        1_000,
        f"Noise draws per image for the certificates of a file, on {CERTIFIED} images, if the "
        "network was trained by smoothing; 0 for none.",
    )


def check(objective: str, further: Sequence[str] = ()) -> None:
    """Check the flags of --judge before any work.

    Args:
        objective: spec of the objective, whose ball the attacks have by default.
        further: names of other flags that need --judge.

    Raises:
        UsageError: for a flag without --judge, or a search that follows gradients.
        ValueError, TypeError: for an invalid attack.
    """
    from hydra_tf import attacks
    from hydra_tf.core.types import Sampling

    if not FLAGS.judge:
        for name in (*_NEED_JUDGE, *further):
            if FLAGS[name].present:
                raise UsageError(f"--{name} has no effect without --judge; add --judge.")
        return
    flag_values.at_least("judge_samples", 1)
    flag_values.at_least("judge_certify_n", 0)
    settings(objective)
    ball = flag_values.ball_of(_objective(objective))
    if _search() and attacks.build(_search(), **ball).uses_gradients:
        raise UsageError(
            f"--judge_search={FLAGS.judge_search} follows gradients, which a file does not have; "
            "choose square, or list it in --judge_attacks."
        )
    if (sigma := _sigma(objective)) and FLAGS.judge_certify_n:
        Sampling(sigma, n=FLAGS.judge_certify_n)


def settings(objective: str) -> Settings:
    """Return what decides the results of a judgement, as a report has it.

    Args:
        objective: spec of the objective.
    """
    from hydra_tf import attacks

    ball = flag_values.ball_of(_objective(objective))
    specs = [*flag_values.attack_specs(FLAGS.judge_attacks), *([_search()] if _search() else [])]
    return {
        "samples": FLAGS.judge_samples,
        "attacks": json.loads(
            json.dumps([attacks.ATTACKS.config(attacks.build(spec, **ball)) for spec in specs])
        ),
        "search": _search() is not None,
        "certify_n": FLAGS.judge_certify_n if _sigma(objective) else 0,
    }


def judge(
    exported: ExportReport,
    net: keras.Model,
    data: DataSplits,
    config: Config,
    representative: np.ndarray,
    *,
    split: str,
    plot: str,
    verbose: int,
) -> Report:
    """Measure a file and, in turn, the latency of the same network stored densely; plot both.

    Args:
        exported: report of the file.
        net: the network.
        data: data splits.
        config: config of the run.
        representative: images on which int8 measures ranges.
        split: split of the images.
        plot: image file to write.
        verbose: as in Keras.
    """
    from hydra_tf import export
    from hydra_tf.evaluation import plots
    from hydra_tf.export.tflite import draft

    sigma, smoothing = _sigma(config["objective"]), None
    if sigma and FLAGS.judge_certify_n:
        smoothing = {"sigma": sigma, "n": FLAGS.judge_certify_n, "samples": CERTIFIED}
    samples = min(FLAGS.judge_samples, data.sizes[split])
    with tempfile.TemporaryDirectory(prefix="hydra_tf-") as folder:
        dense = pathlib.Path(os.path.join(folder, "dense.tflite"))
        dense.write_bytes(draft(net, exported.quantization, False, representative))
        judged = export.judge(
            exported.path,
            net,
            run_report.first_images(getattr(data, split), samples, config["batch_size"]),
            flag_values.attack_specs(FLAGS.judge_attacks),
            _search(),
            dense_path=dense,
            exported=exported,
            smoothing=smoothing,
            seed=config["seed"],
            verbose=verbose,
            **flag_values.ball_of(_objective(config["objective"])),
        )
    content = judged.to_dict()
    os.makedirs(os.path.dirname(plot), exist_ok=True)
    plots.file_judgement(content, plot)
    return content


def lines(judged: Report) -> Iterator[str]:
    """Yield the lines that show a judgement.

    Args:
        judged: what :func:`judge` returned.
    """
    yield f"\n{'':18} {'file':>8} {'keras':>8}\n"
    same = f"{judged['agreement']:8.2%}  of {judged['samples']:,} images have the class of keras"
    yield f"{'agreement':18} {same}\n"
    yield f"{'benign':18} {judged['benign_accuracy']:8.2%} {judged['keras_benign_accuracy']:8.2%}\n"
    for attack in judged["attacks"]:
        shares = f"{attack['robust_accuracy']:8.2%} {attack['keras_robust_accuracy']:8.2%}"
        yield f"{attack['name']:18} {shares}  images from {attack['images_from']}\n"
    yield f"{'all attacks (era)':18} {judged['era']:8.2%} {judged['keras_era']:8.2%}\n"
    if certified := judged["certified"]:
        share = f"{certified['vra_s']:8.2%}  of {certified['samples']} images"
        yield f"{'certified (VRA-s)':18} {share}\n"
    sizes = f"{judged['bytes']:,} bytes, {judged['gzip_bytes']:,} after gzip"
    if judged["bound_ratio"] is not None:
        sizes += f", {judged['bound_ratio']:.2f} times the entropy bound"
    yield f"{'size':18} {sizes}\n"
    fast, dense = judged["latency"], judged["dense_latency"]
    ratio = fast["milliseconds"] / dense["milliseconds"]
    yield f"{'latency':18} {fast['milliseconds']:.4f} ms, {ratio:.2f} times the dense file's\n"
    memory = f"{fast['peak_bytes'] / 1e6:.1f} MB, dense {dense['peak_bytes'] / 1e6:.1f} MB"
    yield f"{'peak memory':18} {memory}\n"
    yield from (f"{warning}\n" for warning in judged["warnings"])


def _search() -> str | None:
    """Return the attack without gradients, None for none."""
    return FLAGS.judge_search or None


def _objective(spec: str) -> object:
    """Return the objective of a spec."""
    from hydra_tf import objectives

    return objectives.build(spec)


def _sigma(objective: str) -> float | None:
    """Return the noise for which an objective trains, None if it does not train by smoothing."""
    certificate = getattr(_objective(objective), "certificate", lambda: None)() or {}
    return certificate["sigma"] if certificate.get("method") == "smoothing" else None
