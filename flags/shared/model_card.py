"""MODEL_CARD.md: what a network is, how it was trained, and how robust it was measured to be."""

from __future__ import annotations

import os
from collections.abc import Iterator

from hydra_tf.core.files import replacing
from hydra_tf.core.json_files import read_object

from . import run_files
from .run_report import gradient_note
from .study_results import MEASURES, markdown_table
from .types import Config, Report

NAME = "MODEL_CARD.md"
_MEANINGS = {
    "vra_s": "certificates by randomized smoothing, which hold with high probability for the "
    "smoothed classifier",
    "vra_m": "proofs by symbolic intervals, sound in float32",
    "vra_t": "proofs by interval and linear bounds, sound in float32",
}
# Of export.json, with their units.
_OF_FILE = {
    "quantization": "number format", "bytes": "bytes", "gzip_bytes": "bytes after gzip",
    "sparsity": "share of zeros", "max_abs_error": "largest difference of outputs from Keras",
    "agreement": "agreement with Keras on the images tried", "bound_ratio": "size / entropy bound",
}  # fmt: skip


def write(run: str, config: Config, exported: Report | None = None) -> str:
    """Write the model card of a finished run to its directory.

    Args:
        run: run directory, locked by this process.
        config: config of the run.
        exported: content of export.json; that of the run directory by default, if there is one.

    Returns:
        The path of the card.
    """
    report = {}
    if os.path.exists(os.path.join(run, "report.json")):
        report = run_files.read_report(run)
    stored = os.path.join(run, "export.json")
    if exported is None and os.path.exists(stored):
        exported = read_object(stored)
    path = os.path.join(run, NAME)
    with replacing(path, ".md") as temporary:
        temporary.write_text("\n".join(lines(config, report, exported)) + "\n", encoding="utf-8")
    return path


def lines(config: Config, report: Report, exported: Report | None = None) -> Iterator[str]:
    """Yield the lines of the card; see :func:`write`.

    Args:
        config: config of the run.
        report: report.json of the run; empty if it was not evaluated.
        exported: content of export.json, if there is one.
    """
    density = float(report.get("density", config.get("density")) or 1.0)
    yield f"# {config.get('model', 'network')} on {config['dataset']}"
    yield ""
    kind = "A dense network"
    if density < 1:
        kind = f"A network that keeps {100 * density:.3g}% of its weights, pruned by "
        kind += f"`{config.get('method', 'hydra')}`"
    yield f"{kind}, trained with `{config['objective']}`."
    yield ""
    yield from _training(config)
    yield from _accuracy(config, report)
    if exported:
        yield from _file(exported)
    yield from _limits(report)


def _training(config: Config) -> Iterator[str]:
    """Yield how the network was trained."""
    names = {
        "dataset": "data set", "model": "network", "objective": "objective",
        "method": "pruning method", "allocation": "density per layer",
        "granularity": "granularity", "density_schedule": "density schedule",
        "pretrain_epochs": "epochs of pretraining", "prune_epochs": "epochs of pruning",
        "finetune_epochs": "epochs of fine-tuning", "pretrained": "network to start from",
        "optimizer": "optimizer", "learning_rate": "learning rate", "extra": "extra images",
        "seed": "seed", "hydra_tf": "version of hydra_tf",
    }  # fmt: skip
    yield "## Training\n"
    rows = [
        [title, f"`{config[key]}`"]
        for key, title in names.items()
        if config.get(key) not in (None, "") and not (key.endswith("epochs") and config[key] == 0)
    ]
    yield markdown_table(["setting", "value"], rows)
    yield "Images have values in [0, 1]; the network normalises them itself if it needs that.\n"


def _accuracy(config: Config, report: Report) -> Iterator[str]:
    """Yield the measured accuracies, each with what it was measured under."""
    yield "## Accuracy\n"
    if "benign_accuracy" not in report:
        yield "Not measured: run `flags.evaluate` on the run directory first.\n"
        return
    samples = report.get("samples", "all")
    split = report.get("split", config["split"])
    rows = [["benign", "no attack", f"{100 * report['benign_accuracy']:.1f}", str(samples)]]
    for entry in (*report.get("attacks", []), *report.get("further_attacks", [])):
        text = f"{100 * entry['robust_accuracy']:.1f}"
        under = attack_text(entry) + gradient_note(entry)
        rows.append(["robust", under, text, str(entry.get("samples", samples))])
    if "era" in report:
        rows.append(
            [
                "robust (era)",
                "all attacks above of `--attacks`",
                f"{100 * report['era']:.1f}",
                str(samples),
            ]
        )
    for key, meaning in _MEANINGS.items():
        if key in report:
            details = _details(report, key)
            count = str(details.pop("samples", samples))
            settings = ", ".join(f"{name} {_short(value)}" for name, value in details.items())
            under = f"{meaning}: {settings}" if settings else meaning
            rows.append([MEASURES[key], under, f"{100 * report[key]:.1f}", count])
    yield f"In percent, on images of the {split} split:\n"
    yield markdown_table(["measure", "under", "accuracy", "images"], rows)


def _details(report: Report, key: str) -> Report:
    """Return the settings of a proof, as flags.train or flags.certify stored them."""
    details = dict(report.get("certificate", {}))
    if key == "vra_s":
        details |= report.get("smoothing", {})
    for entry in report.get("verified", {}).values():
        if key != "vra_s" and entry.get("accuracy") == report[key]:
            details |= entry
    left_out = ("measure", "split", "accuracy", "seed")
    return {
        name: value
        for name, value in details.items()
        if name not in left_out and isinstance(value, str | int | float)
    }


def _short(value: object) -> str:
    """Return a value of a table, with four digits if it is a fraction."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def attack_text(entry: Report) -> str:
    """Return an attack of a report as a spec, with its norm and epsilon.

    Example:
        >>> attack_text({"name": "pgd", "norm": "linf", "epsilon": 0.1, "steps": 50,
        ...              "step_size": None, "robust_accuracy": 0.5})
        '`pgd:norm=linf,epsilon=0.1,steps=50`'
    """
    results = ("name", "spec", "samples", "robust_accuracy")
    parameters = ",".join(
        f"{key}={value:.4g}" if isinstance(value, float) else f"{key}={value}"
        for key, value in entry.items()
        if key not in results and not key.endswith("_share") and value is not None
    )
    return f"`{entry.get('name', 'attack')}:{parameters}`"


def _file(exported: Report) -> Iterator[str]:
    """Yield size and accuracy of the exported file."""
    yield "## Exported file\n"
    values = {**exported, "quantization": exported.get("quantization") or "float32"}
    rows = [
        [title, _short(values[key])]
        for key, title in _OF_FILE.items()
        if values.get(key) is not None
    ]
    yield markdown_table(["property", "value"], rows)
    judged = exported.get("judgement")
    if judged:
        names = " and ".join(f"`{attack['name']}`" for attack in judged["attacks"])
        robust = f" and a robust accuracy of {100 * judged['era']:.1f}% under {names}"
        yield (
            f"On {judged['samples']} test images the file itself has a benign accuracy of "
            f"{100 * judged['benign_accuracy']:.1f}%{robust if names else ''}; it gives "
            f"{100 * judged['agreement']:.1f}% of them the class of the Keras model.\n"
        )
        yield from (f"{warning}\n" for warning in judged["warnings"])
    certified = (judged or {}).get("certified")
    if certified:
        yield (
            f"Randomized smoothing of the file itself certifies {100 * certified['vra_s']:.1f}% of "
            f"{certified['samples']} images.\n"
        )


def _limits(report: Report) -> Iterator[str]:
    """Yield what the numbers do not say."""
    yield "## Limits\n"
    yield (
        "Robust accuracy under attacks is an upper bound: a stronger attack may find more. It "
        "holds for the norm and epsilon that are named, not for other changes of an image, and "
        "for images of this data set."
    )
    if any(key in report for key in _MEANINGS):
        yield (
            "A proof is about the Keras network. It does not carry over to an exported file, whose "
            "rounding differs, unless the file itself was certified."
        )
    yield ""
    yield (
        "Method: Sehwag et al., HYDRA: Pruning Adversarially Robust Neural Networks, NeurIPS 2020 "
        "(arXiv 2002.10509)."
    )
