"""Attacks on the first images of a finished network, beside those of its accuracy `era`."""

from __future__ import annotations

import json
from collections.abc import Sequence

from . import networks, run_directory, run_files, run_report, training_run
from .flag_values import ball_of
from .launcher import UsageError
from .types import Config, Report, Settings

_KEY = "further_attacks"


def add(out: str, config: Config, specs: Sequence[str], samples: int, verbose: int) -> None:
    """Attack a network, and add the results to its report.json, unless it has them already.

    Args:
        out: run directory of the finished network.
        config: config of its run.
        specs: attacks; norm and epsilon default to those of the objective.
        samples: number of images, from the first of the split on; 0 for all.
        verbose: as in Keras.

    Raises:
        UsageError: when the directory is in use by training, or is damaged.
    """
    run_directory.use(out)
    report = run_files.read_report(out)
    if "samples" not in report:
        raise UsageError(
            f"{out} has a report.json without samples; run flags.evaluate on it first."
        )
    samples = min(samples or report["samples"], report["samples"])
    known = report.get(_KEY, [])
    missing = [
        spec
        for spec in specs
        if not any(_is_of(entry, parameters(spec, config), samples) for entry in known)
    ]
    if not missing:
        return
    net = networks.load_network(out)
    data = training_run.load_data(config, config["seed"])
    measured = run_report.evaluate_network(
        net,
        data,
        {**config, "attacks": ";".join(missing)},
        seed=config["seed"],
        verbose=verbose,
        samples=samples,
    )
    entries = [
        {"spec": spec, "samples": samples, **entry}
        for spec, entry in zip(missing, measured["attacks"], strict=True)
    ]
    run_report.add_to_report(out, {_KEY: [*known, *entries]})


def parameters(spec: str, settings: Settings) -> Report:
    """Return the name and the parameters of an attack, as a report has them.

    Args:
        spec: the attack; norm and epsilon default to those of the objective.
        settings: settings with the objective.

    Raises:
        ValueError, TypeError: for an invalid attack.
    """
    from hydra_tf import attacks, objectives

    ball = ball_of(objectives.build(settings["objective"]))
    config = attacks.ATTACKS.config(attacks.build(spec, **ball))
    return json.loads(json.dumps(config))


def accuracies(report: Report) -> dict[str, float]:
    """Return the robust accuracy under each further attack by its spec and number of images.

    Example:
        >>> entry = {"spec": "autoattack", "samples": 500, "robust_accuracy": 0.5}
        >>> accuracies({"further_attacks": [entry]})
        {'autoattack (500 images)': 0.5}
    """
    return {
        f"{entry['spec']} ({entry['samples']} images)": entry["robust_accuracy"]
        for entry in report.get(_KEY, [])
    }


def _is_of(entry: Report, attack: Report, samples: int) -> bool:
    """Return whether an entry of a report is about an attack on a number of images."""
    return entry == {**entry, **attack, "samples": samples}
