"""The callbacks of a robust training in their order."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf
from absl import logging

from hydra_tf.training.callbacks.nan_guard import NaNGuard
from hydra_tf.training.callbacks.pipeline import HydraCallback
from hydra_tf.training.callbacks.progress_bar import PhaseProgbar
from hydra_tf.training.callbacks.single_phase import WholeFit


def arrange(
    callbacks: Any, verbose: Any, initial_epoch: int = 0, moves_rate: bool = True
) -> list[Any]:
    """Return the callbacks of a robust `fit` in their order.

    The HYDRA callback goes first: others restore or save the state that it prepares. Without
    one the whole `fit` is one phase. The guard against NaN and the progress bar are added.

    Args:
        callbacks: a callback, a list of them, or None.
        verbose: as in Keras's `fit`.
        initial_epoch: as in Keras's `fit`; above 0 a pipeline goes on.
        moves_rate: whether the pipeline sets the learning rate, or the graph of a step does.

    Raises:
        ValueError: for more than one HydraCallback.
    """
    given = list(tf.nest.flatten(callbacks)) if callbacks is not None else []
    pipelines = [c for c in given if isinstance(c, HydraCallback)]
    if len(pipelines) > 1:
        raise ValueError("fit takes one HydraCallback; put all phases into one.")
    others = [c for c in given if c not in pipelines]
    for pipeline in pipelines:
        pipeline.peers, pipeline.starts_over = others, initial_epoch == 0
        pipeline.moves_rate = moves_rate
    bars = [PhaseProgbar()] if verbose not in (0, False) else []
    if any(isinstance(c, keras.callbacks.ProgbarLogger) for c in others):
        bars = []
    return [*(pipelines or [WholeFit()]), NaNGuard(), *others, *bars]


def warn_of_coarse_rates(callbacks: Sequence[Any], steps_per_execution: int) -> None:
    """Say so where Keras lets a schedule set the rate only once for several steps.

    Args:
        callbacks: of a `fit`.
        steps_per_execution: as compiled.
    """
    scheduled = any(isinstance(c, HydraCallback) and c.schedule is not None for c in callbacks)
    if steps_per_execution > 1 and scheduled:
        logging.warning(
            "hydra_tf: with steps_per_execution=%d the learning rate is set once for so many "
            "steps; hydra_tf.training.train sets it for each.",
            steps_per_execution,
        )
