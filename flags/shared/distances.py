"""Smallest adversarial distances of a run: distances.csv, a plot, and an entry of report.json."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import numpy as np

from hydra_tf import attacks, objectives
from hydra_tf.attacks.base import smallest_change_attack

from . import run_directory
from .flag_values import ball_of
from .run_report import add_to_report
from .types import Report, Settings

if TYPE_CHECKING:
    import keras

    from hydra_tf.data import DataSplits

_SHARES = np.arange(9) / 4  # of epsilon, at which the report states robust accuracies


def build_attack(spec: str, settings: Settings) -> Any:
    """Return the attack of a spec; norm and epsilon default to those of the run.

    Args:
        spec: spec of an attack that looks for the smallest change.
        settings: see :func:`training_flags.training_settings`.

    Raises:
        ValueError: for another attack.
    """
    return smallest_change_attack(spec, **ball_of(objectives.build(settings["objective"])))


def measure(
    net: keras.Model,
    data: DataSplits,
    settings: Settings,
    out: str,
    *,
    spec: str,
    seed: int,
    verbose: int,
) -> Report:
    """Measure distances on the settings' split; write the file, the plot and the report's entry.

    Args:
        net: the network.
        data: data splits.
        settings: see :func:`training_flags.training_settings`.
        out: run directory, locked by this process, with a report.json.
        spec: spec of the attack.
        seed: seed of the attack.
        verbose: as in Keras.

    Returns:
        The entry: parameters of the attack, ``median`` distance (None if infinite), ``broken``
        (share of the images with a finite distance), and ``curve``, the robust accuracy at
        multiples of epsilon.
    """
    from hydra_tf import evaluation
    from hydra_tf.evaluation import plots

    attack, split = build_attack(spec, settings), settings["split"]
    found = evaluation.labelled_distances(
        net, getattr(data, split), attack, seed=seed, verbose=verbose
    )
    epsilons = np.unique(_SHARES * attack.epsilon)
    shares = evaluation.robust_accuracy_curve(found.values, epsilons)
    median = float(np.median(found.values))
    entry = {
        **attacks.ATTACKS.config(attack),
        "split": split,
        "samples": len(found.values),
        "median": median if np.isfinite(median) else None,
        "broken": float(np.mean(np.isfinite(found.values))),
        "curve": [
            {"epsilon": float(epsilon), "robust_accuracy": float(share)}
            for epsilon, share in zip(epsilons, shares, strict=True)
        ],
    }
    with run_directory.writing(out):
        evaluation.write_distances(os.path.join(out, "distances.csv"), found)
        os.makedirs(os.path.join(out, "plots"), exist_ok=True)
        plot = os.path.join(out, "plots", "distances.png")
        plots.security_curve({entry["name"]: found.values}, plot, attack.norm, attack.epsilon)
    add_to_report(out, {"distances": entry})
    return entry


def table(entry: Report) -> str:
    """Return the lines that a binary prints about an entry of :func:`measure`.

    Example:
        >>> curve = [{"epsilon": 0.1, "robust_accuracy": 0.5}]
        >>> print(table({"norm": "linf", "median": 0.1, "broken": 1.0, "curve": curve}), end="")
        median distance (linf) 0.1, broken 100.00%
           epsilon  robust accuracy
            0.1000           50.00%
    """
    median = "infinite" if entry["median"] is None else f"{entry['median']:.4g}"
    head = f"median distance ({entry['norm']}) {median}, broken {entry['broken']:.2%}\n"
    rows = [f"{row['epsilon']:10.4f}  {row['robust_accuracy']:15.2%}\n" for row in entry["curve"]]
    return head + "   epsilon  robust accuracy\n" + "".join(rows)
