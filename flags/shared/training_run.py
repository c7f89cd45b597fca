"""From settings to a trained network: what train and study do alike.

A run directory holds config.json (what was asked), metrics.jsonl (a line per epoch),
model.keras (masked), dense.keras (plain layers), report.json, plots/ and tensorboard/.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

import hydra_tf

from . import networks
from .launcher import StoppedError


def load_data(settings: Mapping[str, Any], seed: int) -> Any:
    """Return the data splits that the settings name."""
    return _splits(settings, seed)


def _splits(
    settings: Mapping[str, Any], seed: int, epoch: int = 0, step: int = 0, **how: Any
) -> Any:
    """The data splits, their training batches from a step of an epoch on."""
    from hydra_tf import data

    return data.load(
        settings["dataset"],
        batch_size=settings["batch_size"],
        seed=seed,
        extra=settings.get("extra"),
        # The first pass is that of a look at the data: epochs are numbered from 1.
        first_epoch=epoch + 1,
        first_step=step,
        **how,
    )


def set_precision(settings: Mapping[str, Any]) -> None:
    """Have layers made from now on compute as the settings say."""
    import keras

    keras.config.set_dtype_policy(settings.get("dtype_policy", "float32"))


def optimizer_of(settings: Mapping[str, Any]) -> Any:
    """Return the Keras optimizer that the settings name."""
    import keras

    how = {
        "learning_rate": settings["learning_rate"],
        "weight_decay": settings["weight_decay"] or None,
    }
    kinds = {
        "sgd": lambda: keras.optimizers.SGD(momentum=0.9, **how),
        "adam": lambda: keras.optimizers.Adam(**how),
        "adamw": lambda: keras.optimizers.AdamW(
            **{**how, "weight_decay": settings["weight_decay"]}
        ),
    }
    return kinds[settings["optimizer"]]()


def train_network(
    net: Any,
    data: Any,
    settings: Mapping[str, Any],
    out: str | None,
    *,
    density: float,
    method: str,
    seed: int,
    verbose: int,
    options: Any = None,
    chief: bool = True,
    worker: tuple[int, int] = (0, 1),
    watchers: Sequence[Any] = (),
) -> Any:
    """Run the phases that the settings give epochs to, going on where `out` has a checkpoint.

    Args:
        net: the network to start from, plain or masked.
        data: data splits.
        settings: see :func:`training_flags.training_settings`.
        out: run directory; gets checkpoints, metrics.jsonl and TensorBoard logs. None keeps
            nothing.
        density: share of the weights to keep.
        method: pruning method.
        seed: seed of training.
        verbose: as in Keras.
        options: see :class:`hydra_tf.training.LoopOptions`.
        chief: whether this process writes.
        worker: number of this worker, and how many there are.
        watchers: further Keras callbacks.

    Returns:
        The trained masked network.
    """
    from hydra_tf import training

    model = hydra_tf.RobustModel(net, settings["objective"], seed=seed)
    model.compile(optimizer_of(settings))
    checkpoints = None
    if out is not None:
        checkpoints = training.Checkpoints(os.path.join(out, "checkpoints"), writes=chief)
    suspects = os.path.join(out, "suspects.npz") if out is not None and chief else None
    wire = {"as_bytes": True, "worker": worker}
    try:
        training.train(
            model,
            lambda epoch, step: _splits(settings, seed, epoch, step, **wire).train.repeat(),
            data.steps,
            _phases(settings, density, method),
            validation_data=data.validation,
            callbacks=[*(_writers(out) if out is not None and chief else []), *watchers],
            checkpoints=checkpoints,
            options=options,
            full_batches_from=lambda epoch, step: _splits(settings, seed, epoch, step).train,
            bad_batches_path=suspects,
            verbose=verbose if chief else 0,
        )
    except training.PreemptionError as error:
        raise StoppedError(str(error)) from error
    except FloatingPointError as error:
        if suspects is None:
            raise
        kept = os.path.join(os.path.dirname(suspects), "last_good.keras")
        networks.save(model.net, kept)
        batch = f", the batch as {suspects}" if os.path.exists(suspects) else ""
        raise FloatingPointError(
            f"{error} They are saved as {kept}{batch}; to go on from them at another rate, pass "
            f"--pretrained={kept} with another --out."
        ) from error
    return model.net


def _phases(settings: Mapping[str, Any], density: float, method: str) -> Any:
    """The phases that the settings give epochs to."""
    names = ("pretrain", "prune", "finetune")
    return hydra_tf.HydraCallback(
        density,
        **{f"{name}_epochs": settings[f"{name}_epochs"] for name in names},
        method=method,
        allocation=settings["allocation"],
        learning_rate={name: settings[f"{name}_learning_rate"] for name in names},
        schedule=settings["schedule"],
        warmup=settings["warmup"],
    )


def _writers(out: str) -> list[Any]:
    """What writes down each epoch in a run directory."""
    import keras

    return [
        keras.callbacks.TensorBoard(os.path.join(out, "tensorboard"), write_graph=False),
        hydra_tf.training.MetricsLog(os.path.join(out, "metrics.jsonl")),
    ]
