"""What a trained network is worth: accuracies, certificates, report.json and plots."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from typing import Any

from .flag_values import attack_specs, ball_of


def measure(
    net: Any, data: Any, settings: Mapping[str, Any], *, seed: int, verbose: int
) -> dict[str, Any]:
    """Return what :func:`hydra_tf.evaluation.evaluate_model` says on the settings' split."""
    from hydra_tf import evaluation, objectives

    split = settings["split"]
    ball = ball_of(objectives.build(settings["objective"]))
    specs = attack_specs(settings["attacks"])
    how = {"seed": seed, "verbose": verbose, **ball}
    return {"split": split, **evaluation.evaluate_model(net, getattr(data, split), specs, **how)}


def certificate(
    net: Any, data: Any, settings: Mapping[str, Any], out: str, *, seed: int, verbose: int
) -> dict[str, Any]:
    """Prove what the objective trains for, where the settings ask for it.

    Args:
        net: the network.
        data: data splits.
        settings: `certify_n` draws (0 for no certificate at all) and `certify_samples` images.
        out: run directory, where smoothing keeps its certificates as they come.
        seed: seed of the noise.
        verbose: as in Keras.

    Returns:
        The measure by its name, such as ``vra_s``, and how it was taken; empty without one.
    """
    from hydra_tf import evaluation, objectives

    own = objectives.build(settings["objective"]).certificate()
    if own is None or not settings["certify_n"]:
        return {}
    split = settings["split"]
    images, size = getattr(data, split), data.sizes[split]
    samples = min(settings["certify_samples"] or size, size)
    details = {**own, "samples": samples, "split": split}
    if own["method"] == "smoothing":
        path = os.path.join(out, "certify.jsonl")
        how = {"sigma": own["sigma"], "n": settings["certify_n"], "seed": seed}
        rows = evaluation.certify_dataset(
            net, images, path, **how, samples=samples, verbose=verbose
        )
        details |= {"n": settings["certify_n"], "radius": evaluation.VRA_S_RADIUS}
        value = evaluation.certified_accuracy(rows)
    else:
        chosen = images.unbatch().take(samples).batch(settings["batch_size"])
        value = evaluation.verified_accuracy(
            net, chosen, own["epsilon"], own["method"], verbose=verbose
        )
    return {own["measure"]: value, "certificate": details}


def judge(
    net: Any,
    data: Any,
    settings: Mapping[str, Any],
    out: str,
    *,
    seed: int,
    verbose: int,
    before: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Measure a network; write report.json and the plots.

    Args:
        net: the network.
        data: data splits.
        settings: see :func:`training_flags.training_settings`.
        out: run directory.
        seed: seed of the attacks.
        verbose: as in Keras.
        before: report of the network that training started from, to stand beside its own.

    Returns:
        The report.
    """
    from hydra_tf import evaluation
    from hydra_tf.evaluation import plots

    report = measure(net, data, settings, seed=seed, verbose=verbose)
    report |= certificate(net, data, settings, out, seed=seed, verbose=verbose)
    path = os.path.join(out, "report.json")
    if os.path.exists(path):  # certificates of before stay; accuracies do not
        with open(path, encoding="utf-8") as file:
            old = json.load(file)
        report = {**{k: v for k, v in old.items() if k not in ("era", "attacks")}, **report}
    if before is not None:
        report["pretrained"] = {k: v for k, v in before.items() if isinstance(v, float)}
    os.makedirs(os.path.join(out, "plots"), exist_ok=True)
    metrics = os.path.join(out, "metrics.jsonl")
    if os.path.exists(metrics):
        with open(metrics, encoding="utf-8") as file:
            rows = [json.loads(line) for line in file]
        plots.training_curves(rows, os.path.join(out, "plots", "training.png"))
    plots.layer_densities(report["layers"], os.path.join(out, "plots", "layers.png"))
    evaluation.write_json(path, report)
    return report
