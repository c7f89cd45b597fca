"""The order of the callbacks in robust training, and a warning about their learning rates."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf
from absl import logging

from hydra_tf.training.callbacks.nan_guard import NaNGuard
from hydra_tf.training.callbacks.pipeline import HydraCallback
from hydra_tf.training.callbacks.progress_bar import PhaseProgbar
from hydra_tf.training.callbacks.single_phase import SinglePhase

Callbacks = Sequence[keras.callbacks.Callback]


def ordered_callbacks(
    callbacks: Any,
    verbose: Any,
    resumes: bool = False,
    sets_rate: bool = True,
    steps_per_execution: int | None = None,
) -> list[keras.callbacks.Callback]:
    """Return the callbacks of a robust `fit` in their order.

    The HYDRA callback comes first, because others restore or save the state that it prepares.
    Without one, the whole `fit` is one phase. The guard against NaN and the progress bar are
    added.

    Args:
        callbacks: a callback, a list of them, or None.
        verbose: as in Keras's `fit`.
        resumes: whether a pipeline continues from an earlier `fit`.
        sets_rate: whether the pipeline sets the learning rate; otherwise the graph of a step does.
        steps_per_execution: steps of one call of a graph; as compiled when left out.

    Raises:
        ValueError: for more than one HydraCallback.
    """
    flat = list(tf.nest.flatten(callbacks)) if callbacks is not None else []
    pipelines = [c for c in flat if isinstance(c, HydraCallback)]
    if len(pipelines) > 1:
        raise ValueError("fit takes one HydraCallback; put all phases into one.")
    others = [c for c in flat if c not in pipelines]
    for pipeline in pipelines:
        pipeline.attach(others, resumes, sets_rate, steps_per_execution)
    bars = [PhaseProgbar()] if verbose not in (0, False) else []
    if any(isinstance(c, keras.callbacks.ProgbarLogger) for c in others):
        bars = []
    return [*(pipelines or [SinglePhase()]), NaNGuard(), *others, *bars]


def warn_of_coarse_rates(callbacks: Callbacks, steps_per_execution: int) -> None:
    """Warn if Keras lets a schedule set the learning rate only once for several steps.

    Args:
        callbacks: callbacks of a `fit`.
        steps_per_execution: as compiled.
    """
    scheduled = any(isinstance(c, HydraCallback) and c.schedule is not None for c in callbacks)
    if steps_per_execution > 1 and scheduled:
        logging.warning(
            "hydra_tf: with steps_per_execution=%d the learning rate is set once for that many "
            "steps; hydra_tf.training.train sets it for each step.",
            steps_per_execution,
        )
