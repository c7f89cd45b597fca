"""Checks of flags that only studies have, before any work."""

from __future__ import annotations

from . import judging
from .launcher import FLAGS, UsageError

_FORMATS = ("none", "float16", "int8", "int8_float_logits")


def dense_epochs() -> int:
    """Check --dense_epochs; return the epochs of the second dense network, 0 for none."""
    text = FLAGS.dense_epochs
    if text is None:
        return 0
    if text == "total":
        return FLAGS.pretrain_epochs + FLAGS.prune_epochs + FLAGS.finetune_epochs
    try:
        epochs = int(text)
    except ValueError:
        epochs = 0
    if epochs < 1:
        raise UsageError(f"--dense_epochs must be total or a number of at least 1, not {text!r}.")
    return epochs


def check_judgement() -> None:
    """Check --judge and the flags that belong to it."""
    judging.check(FLAGS.objective, ["judge_quantizations"])
    wrong = [name for name in FLAGS.judge_quantizations if name not in _FORMATS]
    if wrong or not FLAGS.judge_quantizations:
        raise UsageError(
            f"--judge_quantizations must list formats of {', '.join(_FORMATS)}, not "
            f"{','.join(FLAGS.judge_quantizations)!r}."
        )


def check_draws() -> None:
    """Check that --certify_n can certify, if the networks are certified by smoothing."""
    from hydra_tf import objectives
    from hydra_tf.core.types import Sampling

    certificate = objectives.build(FLAGS.objective).certificate() or {}
    if certificate.get("method") == "smoothing" and FLAGS.certify_n:
        Sampling(certificate["sigma"], n=FLAGS.certify_n)
