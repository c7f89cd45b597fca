"""Estimate the time and memory of a run from two steps of each phase."""

from __future__ import annotations

import dataclasses
import functools
import resource
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from hydra_tf.core.durations import duration

from . import run_report, training_run
from .flag_values import attack_specs, ball_of
from .types import Report, Settings

if TYPE_CHECKING:
    import keras

    from hydra_tf.data import DataSplits

_STEPS = 2
# Number of images on which the final report is timed.
_IMAGES = 16
# No attack succeeds within such a ball, so that all steps and restarts are timed.
_TINY_EPSILON = 1e-6


def estimate(
    net: keras.Model, data: DataSplits, settings: Settings, arguments: Mapping[str, Any]
) -> str:
    """Take two steps of each phase and return an estimate of time and memory as text.

    No file is written.

    Args:
        net: the network to start from.
        data: data splits.
        settings: see :func:`training_flags.training_settings`, with method and density.
        arguments: further arguments of :func:`training_run.train_network`.
    """
    timer, parameters = _timer(), net.count_params()
    names = ("pretrain", "prune", "finetune")
    one_epoch = {f"{name}_epochs": min(1, settings[f"{name}_epochs"]) for name in names}
    short = dataclasses.replace(
        data, steps=_STEPS, validation=data.validation.take(1).repeat(_STEPS)
    )
    options = dataclasses.replace(arguments["options"], steps_per_execution=1)
    arguments = {**arguments, "options": options, "verbose": 0, "callbacks": [timer]}
    net = training_run.train_network(net, short, {**settings, **one_epoch}, None, **arguments)
    lines = [
        f"{settings['dataset']}: images {data.image_shape}, {data.num_classes} classes, "
        f"{data.steps} steps an epoch",
        f"{settings['model']}: {parameters:,} parameters",
        f"{settings['objective']}, {settings['method']} at density {settings['density']}",
    ]
    total = 0.0
    validation = timer.seconds.pop("validation") * int(data.validation.cardinality())
    for name, seconds in timer.seconds.items():
        epochs = settings[f"{name}_epochs"]
        total += (seconds * data.steps + validation) * epochs
        lines.append(f"{name}: {epochs} epochs, {seconds:.3g} s a step")
    lines.append(f"validation: {validation:.3g} s an epoch")
    for name, seconds in _report_seconds(net, data, settings):
        total += seconds
        lines.append(f"{name}: at most {duration(seconds)}")
    lines.append(f"about {duration(total)} in all; peak memory {_memory()}")
    return "\n".join(lines) + "\n"


def _timer() -> Any:
    """Return a callback that measures the `seconds` of a step of each phase and of validation."""
    import keras

    class Timer(keras.callbacks.Callback):
        """Times the last batch of each phase; the first includes tracing."""

        def __init__(self) -> None:
            super().__init__()
            self.seconds: dict[str, float] = {}

        def on_train_batch_begin(self, batch: int, logs: object = None) -> None:
            self._start = time.perf_counter()

        def on_train_batch_end(self, batch: int, logs: object = None) -> None:
            self.seconds[self.model.phase.name] = time.perf_counter() - self._start

        def on_test_batch_begin(self, batch: int, logs: object = None) -> None:
            self._start = time.perf_counter()

        def on_test_batch_end(self, batch: int, logs: object = None) -> None:
            self.seconds["validation"] = time.perf_counter() - self._start

    return Timer()


def _report_seconds(
    net: keras.Model, data: DataSplits, settings: Settings
) -> Iterator[tuple[str, float]]:
    """Yield upper bounds of the seconds for each attack of the final report and the certificate."""
    import tensorflow as tf

    from hydra_tf import attacks, objectives

    split = settings["split"]
    images = next(iter(getattr(data, split).unbatch().batch(_IMAGES)))[0]
    # The predictions serve as labels, because attacks skip misclassified images.
    labels = tf.argmax(net(images, training=False), axis=-1, output_type=tf.int32)
    ball = ball_of(objectives.build(settings["objective"]))
    for spec in attack_specs(settings["attacks"]):
        attack = attacks.build(spec, **ball)
        changes: dict[str, Any] = {"epsilon": _TINY_EPSILON, "step_size": None}
        changes = {key: value for key, value in changes.items() if hasattr(attack, key)}
        attack = dataclasses.replace(attack, **changes)
        seconds = _seconds_of_second(functools.partial(attack, net, images, labels, seed=0))
        times = 2 if settings["pretrained"] else 1  # before and after training
        yield f"report, {spec}", times * seconds / len(images) * data.sizes[split]
    with tempfile.TemporaryDirectory() as folder:
        one_image = {**settings, "certify_samples": 1}

        def certify() -> Report:
            with tempfile.TemporaryDirectory(dir=folder) as out:
                return run_report.certify_network(net, data, one_image, out, seed=0, verbose=0)

        if certify():
            size = data.sizes[split]
            samples = min(settings["certify_samples"] or size, size)
            yield "report, certificate", _seconds_of_second(certify) * samples


def _seconds_of_second(call: Callable[[], object]) -> float:
    """Return the seconds of the second call; the first includes tracing."""
    call()
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def _memory() -> str:
    """Return the peak memory of this process and of each GPU in words."""
    import tensorflow as tf

    kilobytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    if sys.platform == "darwin":
        kilobytes //= 1024
    peaks = [f"{kilobytes / 1024:,.0f} MB"]
    for i, _ in enumerate(tf.config.list_logical_devices("GPU")):
        peak = tf.config.experimental.get_memory_info(f"GPU:{i}")["peak"]
        peaks.append(f"{peak / 2**20:,.0f} MB on GPU {i}")
    return ", ".join(peaks)
