"""What a run would take: everything is built, and two steps of each phase are made."""

from __future__ import annotations

import dataclasses
import resource
import sys
import time
from collections.abc import Mapping
from typing import Any

from . import pipeline

_STEPS = 2


def rehearse(net: Any, data: Any, settings: Mapping[str, Any], how: Mapping[str, Any]) -> str:
    """Make two steps of each phase and return what the whole run would take.

    The final report, whose attacks take as long as they have steps and restarts, is not in the
    estimate. Nothing is written.

    Args:
        net: the network to start from.
        data: data splits.
        settings: see :func:`recipe.training_settings`, with method and density.
        how: further arguments of :func:`pipeline.train_network`.
    """
    import keras

    class Clock(keras.callbacks.Callback):
        """Seconds of each phase's second step, the first of which traces the graph too."""

        def __init__(self) -> None:
            super().__init__()
            self.seconds: dict[str, float] = {}

        def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
            self._start = time.perf_counter()

        def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
            self.seconds[self.model.phase.name] = time.perf_counter() - self._start

    clock = Clock()
    names = ("pretrain", "prune", "finetune")
    once = {f"{name}_epochs": min(1, settings[f"{name}_epochs"]) for name in names}
    short = dataclasses.replace(data, steps=_STEPS, validation=data.validation.take(1))
    options = dataclasses.replace(how["options"], steps_per_execution=1)
    given = {**how, "options": options, "verbose": 0, "watchers": [clock]}
    pipeline.train_network(net, short, {**settings, **once}, None, **given)

    lines = [
        f"{settings['dataset']}: images {data.image_shape}, {data.num_classes} classes, "
        f"{data.steps} steps an epoch",
        f"{settings['model']}: {net.count_params():,} parameters",
        f"{settings['objective']}, {settings['method']} at density {settings['density']}",
    ]
    total = 0.0
    for name, seconds in clock.seconds.items():
        epochs = settings[f"{name}_epochs"]
        total += seconds * data.steps * epochs
        lines.append(f"{name}: {epochs} epochs, {seconds:.3g} s a step")
    kilobytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    if sys.platform == "darwin":
        kilobytes //= 1024
    minutes = -(-int(total) // 60)
    lines.append(
        f"about {minutes // 60} h {minutes % 60:02} min of training, validation and final report "
        f"apart; peak memory {kilobytes / 1024:,.0f} MB"
    )
    return "\n".join(lines) + "\n"
