"""The measured numbers of one model, as a mapping and as JSON."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from hydra_tf import attacks
from hydra_tf.attacks.base import attack_name
from hydra_tf.core.files import replacing
from hydra_tf.core.registry import unknown
from hydra_tf.evaluation.accuracy import DEFAULT_ATTACK, correct_under_each
from hydra_tf.sparsity.model import report


def evaluate_model(
    model: Any,
    data: Any,
    attack_specs: Sequence[Any] = (DEFAULT_ATTACK,),
    *,
    seed: int = 0,
    verbose: int = 0,
    **defaults: Any,
) -> dict[str, Any]:
    """Measure a model and count its weights.

    Args:
        model: Keras model that outputs logits.
        data: tf.data.Dataset of (images, labels) batches, or a pair of arrays.
        attack_specs: attacks; `era` counts the samples that are correct under all of them.
        seed: seed of the attacks.
        verbose: 1 shows a progress bar.
        **defaults: attack parameters for specs that leave them out, such as `epsilon`; they are
            ignored for attacks without such a parameter.

    Returns:
        ``benign_accuracy`` and ``era`` (both in [0, 1]; era only with attacks), ``attacks``,
        ``samples``, ``density`` and ``layers``. Each entry of ``attacks`` has the parameters of
        the attack, its ``robust_accuracy``, and two shares of the images that are correct without
        an attack: ``zero_gradient_share``, for which the gradient of the attack's loss was zero or
        not finite at every step, and ``rescued_gradient_share``, those among them for which the
        attack followed the gradient of its loss on rescaled logits instead. The shares are left
        out for callables that are not attacks of this library.

    Raises:
        ValueError: as :func:`hydra_tf.evaluation.correct_under`, and for a default that is not
            a parameter of any attack.

    Example:
        >>> import keras
        >>> net = keras.Sequential([keras.Input([2]), keras.layers.Dense(2)])
        >>> data = np.zeros((3, 2), "float32"), np.zeros(3, int)
        >>> evaluate_model(net, data, ["fgsm:epsilon=0.1"])["benign_accuracy"]
        1.0
    """
    attack_list, entries = _build_all(attack_specs, defaults)
    measured = correct_under_each(model, data, attack_list, seed=seed, verbose=verbose)
    correct = measured.correct
    results: dict[str, Any] = {
        "benign_accuracy": float(np.mean(correct[0])),
        "samples": int(correct.shape[1]),
        "attacks": [
            {**entry, "robust_accuracy": float(np.mean(row)), **measured.gradient_shares(i)}
            for i, (entry, row) in enumerate(zip(entries, correct[1:], strict=True))
        ],
    }
    if attack_list:
        results["era"] = float(np.mean(correct.all(axis=0)))
    counts = report(model)
    return {**results, "density": counts["total"]["density"], "layers": counts["layers"]}


def _build_all(
    specs: Sequence[Any], defaults: Mapping[str, Any]
) -> tuple[list[Any], list[dict[str, Any]]]:
    """Return the attacks, and the entry of each in the report: parameters, or a callable's name."""
    if isinstance(specs, str | Mapping) or callable(specs):
        specs = [specs]
    registry = attacks.ATTACKS
    known = {key for name in registry.names() for key in registry.parameters(name)}
    for key in defaults:
        if key not in known:
            raise ValueError(unknown("attack parameter", key, known))
    attack_list = [attacks.build(spec, **defaults) for spec in specs]
    return attack_list, [_entry(attack) for attack in attack_list]


def _entry(attack: Any) -> dict[str, Any]:
    """Return name and parameters of an attack; the name only, if it is not a registered one."""
    try:
        return attacks.ATTACKS.config(attack)
    except TypeError:
        return {"name": attack_name(attack)}


def write_json(path: str | os.PathLike[str], content: Any) -> None:
    """Write JSON to a temporary file, then rename it, so that a reader never sees half a file.

    Raises:
        TypeError: for content that JSON cannot represent.

    Example:
        >>> import tempfile
        >>> write_json(os.path.join(tempfile.mkdtemp(), "a.json"), {"era": 0.5})
    """
    text = json.dumps(content, indent=2) + "\n"
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
