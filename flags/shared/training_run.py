"""Train a network with the settings of a run: data, optimizer, phases and callbacks."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import hydra_tf

from . import networks, replaced_run
from .flag_values import ball_of, radii
from .launcher import StoppedError
from .types import Settings

if TYPE_CHECKING:
    import keras
    import tensorflow as tf

    from hydra_tf.data import DataSplits
    from hydra_tf.training import LoopOptions


def load_data(
    settings: Settings, seed: int, epoch: int = 0, step: int = 0, **options: Any
) -> DataSplits:
    """Return the data splits, with training batches from a step of an epoch on.

    Args:
        settings: see :func:`training_flags.training_settings`.
        seed: seed of the order and the augmentation of the images.
        epoch: epoch of the first training batch.
        step: step in that epoch of the first training batch.
        **options: further arguments of :func:`hydra_tf.data.load`.
    """
    from hydra_tf import data

    return data.load(
        settings["dataset"],
        batch_size=settings["batch_size"],
        seed=seed,
        extra=settings.get("extra"),
        # data.load starts at pass 0 by default; training starts at pass 1.
        first_epoch=epoch + 1,
        first_step=step,
        **options,
    )


def set_precision(settings: Settings) -> None:
    """Set the dtype policy of the layers that are created from now on."""
    import keras

    keras.config.set_dtype_policy(settings.get("dtype_policy", "float32"))


def optimizer_of(settings: Settings) -> keras.optimizers.Optimizer:
    """Return the Keras optimizer of the settings."""
    import keras

    options = {
        "learning_rate": settings["learning_rate"],
        "weight_decay": settings["weight_decay"] or None,
    }
    optimizers = {
        "sgd": lambda: keras.optimizers.SGD(momentum=0.9, **options),
        "adam": lambda: keras.optimizers.Adam(**options),
        "adamw": lambda: keras.optimizers.AdamW(
            **{**options, "weight_decay": settings["weight_decay"]}
        ),
    }
    return optimizers[settings["optimizer"]]()


def train_network(
    net: keras.Model,
    data: DataSplits,
    settings: Settings,
    out: str | None,
    *,
    density: float,
    method: str,
    seed: int,
    verbose: int,
    options: LoopOptions | None = None,
    chief: bool = True,
    worker: tuple[int, int] = (0, 1),
    callbacks: Sequence[keras.callbacks.Callback] = (),
) -> keras.Model:
    """Run all phases that have epochs, or resume them from a checkpoint in `out`.

    Args:
        net: the network to start from, plain or masked.
        data: data splits.
        settings: see :func:`training_flags.training_settings`.
        out: run directory for checkpoints, metrics.jsonl and TensorBoard logs; None writes
            nothing.
        density: share of the weights to keep.
        method: spec of the pruning method.
        seed: seed of training.
        verbose: as in Keras.
        options: see :class:`hydra_tf.training.LoopOptions`.
        chief: whether this process writes files.
        worker: index of this worker, and the number of workers.
        callbacks: further Keras callbacks.

    Returns:
        The trained masked network.
    """
    from hydra_tf import training

    model = hydra_tf.RobustModel(net, settings["objective"], seed=seed)
    model.compile(optimizer_of(settings))
    checkpoints = None
    if out is not None:
        checkpoints = training.Checkpoints(os.path.join(out, "checkpoints"), writes=chief)
    bad_batches_path = os.path.join(out, "suspects.npz") if out is not None and chief else None
    writers = _writers(out) if out is not None and chief else []

    def batches_from(epoch: int, step: int) -> tf.data.Dataset:
        splits = load_data(settings, seed, epoch, step, as_bytes=True, worker=worker)
        return splits.train.repeat()

    with _explain_stop(model, bad_batches_path):
        training.train(
            model,
            batches_from,
            data.steps,
            _pipeline(settings, density, method),
            validation_data=data.validation,
            callbacks=[*writers, *callbacks],
            checkpoints=checkpoints,
            options=options,
            full_batches_from=lambda epoch, step: load_data(settings, seed, epoch, step).train,
            bad_batches_path=bad_batches_path,
            data_hash=None if out is None else data.fingerprint(),
            verbose=verbose if chief else 0,
        )
    return model.net


@contextlib.contextmanager
def _explain_stop(model: hydra_tf.RobustModel, bad_batches_path: str | None) -> Iterator[None]:
    """Explain how to continue after training that was stopped or whose loss was not finite.

    Args:
        model: the model in training; its last good weights are saved if its loss is not finite.
        bad_batches_path: file of the batches with this loss; None to save nothing.

    Raises:
        StoppedError: if training was stopped by SIGTERM.
        FloatingPointError: if the loss or the weights are not finite.
    """
    from hydra_tf import training

    try:
        yield
    except training.PreemptionError as error:
        raise StoppedError(str(error)) from error
    except FloatingPointError as error:
        if bad_batches_path is None:
            raise
        path = os.path.join(os.path.dirname(bad_batches_path), "last_good.keras")
        networks.save_network(model.net, path)
        batch = f", the batch as {bad_batches_path}" if os.path.exists(bad_batches_path) else ""
        raise FloatingPointError(
            f"{error} They are saved as {path}{batch}; to continue from them at another learning "
            f"rate, pass --pretrained={path} with another --out."
        ) from error


def _pipeline(settings: Settings, density: float, method: str) -> hydra_tf.HydraCallback:
    """Return the callback that runs the phases of the settings."""
    from hydra_tf.sparsity.methods import METHODS

    names = ("pretrain", "prune", "finetune")
    part = METHODS.build(method)
    prunes = part.has_prune_phase and settings["prune_epochs"]
    scheduled = settings.get("density_schedule_phase", "prune")
    return hydra_tf.HydraCallback(
        density,
        **{f"{name}_epochs": settings[f"{name}_epochs"] for name in names},
        method=method,
        allocation=settings["allocation"],
        granularity=settings.get("granularity", "element"),
        density_schedule=(
            settings.get("density_schedule") if prunes or scheduled == "pretrain" else None
        ),
        density_schedule_phase=scheduled,
        score_perturbation=(
            settings.get("score_perturbation", 0.0) if prunes and part.trains_scores else 0.0
        ),
        learning_rate={name: settings[f"{name}_learning_rate"] for name in names},
        schedule=settings["schedule"],
        warmup=settings["warmup"],
    )


def removes_replaced_run(out: str) -> keras.callbacks.Callback:
    """Return a callback that removes the run that was replaced in `out`, after a step."""
    import keras

    class RemovesReplacedRun(keras.callbacks.Callback):
        """Removes the replaced run after the first step."""

        done = False

        def on_train_batch_end(self, batch: int, logs: object = None) -> None:
            """Remove it, once."""
            if not self.done:
                replaced_run.remove(out)
                self.done = True

    return RemovesReplacedRun()


def attack_summaries(
    data: DataSplits, settings: Settings, out: str, count: int
) -> keras.callbacks.Callback:
    """Return the callback that attacks validation images after each epoch, for TensorBoard.

    Args:
        data: data splits.
        settings: with an objective that has an epsilon, which is the middle one of the curve.
        out: run directory.
        count: number of images, from the first on.
    """
    import numpy as np

    from hydra_tf import objectives, training

    ball = ball_of(objectives.build(settings["objective"]))
    pairs = [(x.numpy(), y.numpy()) for x, y in data.validation.unbatch().take(count)]
    images, labels = map(np.stack, zip(*pairs, strict=True))
    return training.AttackSummaries(
        os.path.join(out, "tensorboard", "attacks"),
        images,
        labels,
        radii(ball, (0.5, 1.0, 1.5)),
        norm=ball.get("norm", "linf"),
        seed=settings["seed"],
    )


def _writers(out: str) -> list[keras.callbacks.Callback]:
    """Return the callbacks that write the metrics of each epoch to a run directory."""
    import keras

    logs = os.path.join(out, "tensorboard")
    return [
        keras.callbacks.TensorBoard(logs, write_graph=False),
        hydra_tf.training.MaskSummaries(os.path.join(logs, "masks")),
        hydra_tf.training.MetricsLog(os.path.join(out, "metrics.jsonl")),
    ]
