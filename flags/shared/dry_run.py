"""What a run would take: everything is built, and two steps of each phase are made."""

from __future__ import annotations

import dataclasses
import functools
import math
import resource
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from . import judging, training_run
from .flag_values import attack_specs, ball_of

_STEPS = 2
# Images that the final report is timed on.
_IMAGES = 16
# No attack gets anywhere within such a ball: all its steps and restarts are made.
_NOWHERE = 1e-6


def rehearse(net: Any, data: Any, settings: Mapping[str, Any], how: Mapping[str, Any]) -> str:
    """Make two steps of each phase and return what the whole run would take.

    Nothing is written.

    Args:
        net: the network to start from.
        data: data splits.
        settings: see :func:`training_flags.training_settings`, with method and density.
        how: further arguments of :func:`training_run.train_network`.
    """
    clock, parameters = _clock(), net.count_params()
    names = ("pretrain", "prune", "finetune")
    once = {f"{name}_epochs": min(1, settings[f"{name}_epochs"]) for name in names}
    short = dataclasses.replace(
        data, steps=_STEPS, validation=data.validation.take(1).repeat(_STEPS)
    )
    options = dataclasses.replace(how["options"], steps_per_execution=1)
    given = {**how, "options": options, "verbose": 0, "watchers": [clock]}
    net = training_run.train_network(net, short, {**settings, **once}, None, **given)
    lines = [
        f"{settings['dataset']}: images {data.image_shape}, {data.num_classes} classes, "
        f"{data.steps} steps an epoch",
        f"{settings['model']}: {parameters:,} parameters",
        f"{settings['objective']}, {settings['method']} at density {settings['density']}",
    ]
    total = 0.0
    judged = clock.seconds.pop("validation") * int(data.validation.cardinality())
    for name, seconds in clock.seconds.items():
        epochs = settings[f"{name}_epochs"]
        total += (seconds * data.steps + judged) * epochs
        lines.append(f"{name}: {epochs} epochs, {seconds:.3g} s a step")
    lines.append(f"validation: {judged:.3g} s an epoch")
    for name, seconds in _report_seconds(net, data, settings):
        total += seconds
        lines.append(f"{name}: at most {_duration(seconds)}")
    lines.append(f"about {_duration(total)} in all; peak memory {_memory()}")
    return "\n".join(lines) + "\n"


def _clock() -> Any:
    """A callback whose `seconds` are those of each phase's step and of a batch of validation."""
    import keras

    class Clock(keras.callbacks.Callback):
        """Times the last batch of each, for the first is traced."""

        def __init__(self) -> None:
            super().__init__()
            self.seconds: dict[str, float] = {}

        def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
            self._start = time.perf_counter()

        def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
            self.seconds[self.model.phase.name] = time.perf_counter() - self._start

        def on_test_batch_begin(self, batch: int, logs: Any = None) -> None:
            self._start = time.perf_counter()

        def on_test_batch_end(self, batch: int, logs: Any = None) -> None:
            self.seconds["validation"] = time.perf_counter() - self._start

    return Clock()


def _report_seconds(
    net: Any, data: Any, settings: Mapping[str, Any]
) -> Iterator[tuple[str, float]]:
    """What each attack of the final report, and its certificate, may take, in seconds."""
    import tensorflow as tf

    from hydra_tf import attacks, objectives

    split = settings["split"]
    images = next(iter(getattr(data, split).unbatch().batch(_IMAGES)))[0]
    # As the network has it: images that are wrong to begin with are not attacked.
    labels = tf.argmax(net(images, training=False), axis=-1, output_type=tf.int32)
    ball = ball_of(objectives.build(settings["objective"]))
    for spec in attack_specs(settings["attacks"]):
        attack = attacks.build(spec, **ball)
        small: dict[str, Any] = {"epsilon": _NOWHERE, "step_size": None}
        small = {key: value for key, value in small.items() if hasattr(attack, key)}
        attack = dataclasses.replace(attack, **small)
        seconds = _twice(functools.partial(attack, net, images, labels, seed=0))
        times = 2 if settings["pretrained"] else 1  # before and after
        yield f"report, {spec}", times * seconds / len(images) * data.sizes[split]
    with tempfile.TemporaryDirectory() as folder:
        for_one = {**settings, "certify_samples": 1}

        def certify() -> Any:
            with tempfile.TemporaryDirectory(dir=folder) as out:
                return judging.certificate(net, data, for_one, out, seed=0, verbose=0)

        if certify():
            size = data.sizes[split]
            samples = min(settings["certify_samples"] or size, size)
            yield "report, certificate", _twice(certify) * samples


def _twice(call: Callable[[], Any]) -> float:
    """Seconds of a call that has been made once before, when it was traced."""
    call()
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def _duration(seconds: float) -> str:
    """Hours and minutes, or seconds where there are few."""
    if seconds < 60:
        return f"{seconds:.2g} s"
    minutes = math.ceil(seconds / 60)
    return f"{minutes // 60} h {minutes % 60:02} min"


def _memory() -> str:
    """The most memory that this process has had, and each GPU."""
    import tensorflow as tf

    kilobytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    if sys.platform == "darwin":
        kilobytes //= 1024
    found = [f"{kilobytes / 1024:,.0f} MB"]
    for i, _ in enumerate(tf.config.list_logical_devices("GPU")):
        peak = tf.config.experimental.get_memory_info(f"GPU:{i}")["peak"]
        found.append(f"{peak / 2**20:,.0f} MB on GPU {i}")
    return ", ".join(found)
