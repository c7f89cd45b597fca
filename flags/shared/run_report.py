"""Evaluate a trained network: accuracies, certificates, report.json and plots."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from . import run_directory, run_files
from .flag_values import attack_specs, ball_of
from .types import Report, Settings

if TYPE_CHECKING:
    import keras
    import tensorflow as tf

    from hydra_tf.data import DataSplits


def evaluate_network(
    net: keras.Model,
    data: DataSplits,
    settings: Settings,
    *,
    seed: int,
    verbose: int,
    samples: int | None = None,
) -> Report:
    """Return the report of :func:`hydra_tf.evaluation.evaluate_model` on the settings' split.

    Args:
        net: the network.
        data: data splits.
        settings: see :func:`training_flags.training_settings`.
        seed: seed of the attacks.
        verbose: as in Keras.
        samples: number of images, from the first on; None for all.
    """
    from hydra_tf import evaluation, objectives

    split = settings["split"]
    ball = ball_of(objectives.build(settings["objective"]))
    specs = attack_specs(settings["attacks"])
    images = getattr(data, split)
    if samples is not None:
        images = first_images(images, samples, settings["batch_size"])
    report = evaluation.evaluate_model(net, images, specs, seed=seed, verbose=verbose, **ball)
    return {"split": split, "num_classes": data.num_classes, **report}


def first_images(images: tf.data.Dataset, samples: int, batch_size: int) -> tf.data.Dataset:
    """Return the first images of a data set of batches.

    Args:
        images: batches of (images, labels).
        samples: number of images to return, at most all.
        batch_size: number of images in each batch that is returned.
    """
    import tensorflow as tf

    # A progress bar needs the number of images.
    cardinality = tf.data.experimental.assert_cardinality(samples)
    return images.unbatch().take(samples).apply(cardinality).batch(batch_size)


def gradient_note(attack: Report) -> str:
    """Return a note on an attack of a report that found too few gradients, else no text.

    Example:
        >>> gradient_note({"zero_gradient_share": 0.4})
        ' (no gradient for 40.0% of the images)'
    """
    from hydra_tf.attacks.gradients import MAX_SHARE

    share = attack.get("zero_gradient_share", 0.0)
    return f" (no gradient for {share:.1%} of the images)" if share > MAX_SHARE else ""


def certify_network(
    net: keras.Model, data: DataSplits, settings: Settings, out: str, *, seed: int, verbose: int
) -> Report:
    """Certify a network by the method that its objective trains for, if the settings ask for it.

    Args:
        net: the network.
        data: data splits.
        settings: `certify_n` draws (0 for no certificates) and `certify_samples` images.
        out: run directory, in which smoothing writes each certificate at once.
        seed: seed of the noise.
        verbose: as in Keras.

    Returns:
        The measure by its name, such as ``vra_s``, and its settings; empty without certificates.
    """
    from hydra_tf import evaluation, objectives

    certificate = objectives.build(settings["objective"]).certificate()
    if certificate is None or not settings["certify_n"]:
        return {}
    split = settings["split"]
    images, size = getattr(data, split), data.sizes[split]
    samples = min(settings["certify_samples"] or size, size)
    details = {**certificate, "samples": samples, "split": split}
    if certificate["method"] == "smoothing":
        path = os.path.join(out, "certify.jsonl")
        options = {"sigma": certificate["sigma"], "n": settings["certify_n"], "seed": seed}
        rows = evaluation.certify_dataset(
            net, images, path, **options, samples=samples, verbose=verbose
        )
        details |= {"n": settings["certify_n"], "radius": evaluation.VRA_S_RADIUS}
        value = evaluation.certified_accuracy(rows)
    else:
        chosen = first_images(images, samples, settings["batch_size"])
        value = evaluation.verified_accuracy(
            net, chosen, certificate["epsilon"], certificate["method"], verbose=verbose
        )
    return {certificate["measure"]: value, "certificate": details}


def write_report(
    net: keras.Model,
    data: DataSplits,
    settings: Settings,
    out: str,
    *,
    seed: int,
    verbose: int,
    before: Report | None = None,
) -> Report:
    """Evaluate a network; write report.json and the plots.

    Args:
        net: the network.
        data: data splits.
        settings: see :func:`training_flags.training_settings`.
        out: run directory.
        seed: seed of the attacks.
        verbose: as in Keras.
        before: report of the network before training, to be stored in this report.

    Returns:
        The report.
    """
    from hydra_tf import evaluation
    from hydra_tf.evaluation import plots

    report = evaluate_network(net, data, settings, seed=seed, verbose=verbose)
    report |= certify_network(net, data, settings, out, seed=seed, verbose=verbose)
    path = os.path.join(out, "report.json")
    with run_directory.writing(out):
        if os.path.exists(path):  # certificates are kept, accuracies replaced
            old = run_files.read_report(out)
            report = {**{k: v for k, v in old.items() if k not in ("era", "attacks")}, **report}
        if before is not None:
            report["pretrained"] = {k: v for k, v in before.items() if isinstance(v, float)}
        os.makedirs(os.path.join(out, "plots"), exist_ok=True)
        if rows := run_files.read_metrics(out):
            plots.training_curves(rows, os.path.join(out, "plots", "training.png"))
        plots.layer_densities(report["layers"], os.path.join(out, "plots", "layers.png"))
        evaluation.write_json(path, report)
    return report


def add_to_report(out: str, entries: Report) -> None:
    """Add entries to the report.json of a run directory.

    Args:
        out: run directory, locked by this process.
        entries: measured numbers by name; they replace those of the same name.
    """
    from hydra_tf import evaluation

    with run_directory.writing(out):
        report = {**run_files.read_report(out), **entries}
        evaluation.write_json(os.path.join(out, "report.json"), report)
