"""What the page shows of one network beyond report.json, computed once: figures.json."""

from __future__ import annotations

import base64
import io
import os
from typing import TYPE_CHECKING, Any

import numpy as np

from hydra_tf.core.json_files import read_object

from .. import networks, run_directory, run_report, training_run
from ..flag_values import ball_of
from ..types import Config, Report

if TYPE_CHECKING:
    import keras

Array = np.ndarray[Any, Any]

NAME = "figures.json"
_VERSION = 2  # of the content of figures.json
_NEAREST = "fmn:search=true"
_ATTACK = "pgd:steps=20"
_POINTS = 41  # of the security curve
_GREY = 0.5  # in Linf, any image can become grey
_GALLERY = 6  # images
_BINS = 60


def add_figures(out: str, dense: str, config: Config, samples: int, verbose: int) -> None:
    """Write figures.json of a finished network, unless it has it already.

    Args:
        out: run directory of the network.
        dense: run directory of the dense network from which it was pruned; `out` for that one.
        config: config of the run.
        samples: number of images for the security curve, from the first of the split on.
        verbose: as in Keras.

    Raises:
        UsageError: when a directory is in use by training, or is damaged.
    """
    from hydra_tf import evaluation

    run_directory.use(out)
    settings = {"version": _VERSION, "samples": samples}
    if read_figures(out).get("settings") == settings:
        return
    net = networks.load_network(out)
    figures: Report = {"settings": settings}
    if out != dense:
        figures |= chosen_weights(net, networks.load_network(dense))
    ball = ball_of_config(config)
    if ball:
        data = training_run.load_data(config, config["seed"])
        count = min(samples, data.sizes[config["split"]])
        images = run_report.first_images(
            getattr(data, config["split"]), count, config["batch_size"]
        )
        figures["curve"] = _security_curve(net, images, ball, config["seed"], verbose)
        x, y = next(iter(images.unbatch().batch(_GALLERY)))
        figures["gallery"] = _gallery(net, x, y, ball, config["seed"])
    with run_directory.writing(out):
        evaluation.write_json(os.path.join(out, NAME), figures)


def read_figures(out: str) -> Report:
    """Return figures.json of a run directory; empty if there is none, or not of this version."""
    try:
        content = read_object(os.path.join(out, NAME))
    except (FileNotFoundError, ValueError):
        return {}
    settings = content.get("settings")
    known = isinstance(settings, dict) and settings.get("version") == _VERSION
    return content if known else {}


def ball_of_config(config: Config) -> Report:
    """Return norm and epsilon of the objective, empty without an epsilon above 0."""
    from hydra_tf import objectives

    ball = ball_of(objectives.build(config["objective"]))
    return {"norm": "linf", **ball} if ball.get("epsilon") else {}


def chosen_weights(net: keras.Model, dense: keras.Model) -> Report:
    """Return which weights of the dense network a pruned network keeps.

    Args:
        net: the pruned network, with masked layers.
        dense: the network from which it was pruned, with the same layers.

    Returns:
        ``weights``: of the layer with the most weights, ``edges`` of bins of the dense network's
        weights, and in each bin the number of those that are ``kept`` and ``pruned``.
        ``largest``: for each layer, of the kept weights, the share that the same density by
        magnitude would keep. Both are left out if the kernels of the networks have other shapes.
    """
    from hydra_tf.sparsity.masked_kernels import kernels, masks_by_name

    before = [np.asarray(kernel.variable) for kernel in kernels(dense)]
    after = kernels(net)
    if [array.shape for array in before] != [tuple(kernel.variable.shape) for kernel in after]:
        return {}
    names = {id(mask): name for name, mask in masks_by_name(net).items()}
    layers = {
        names[id(kernel.mask)]: (array, np.asarray(kernel.mask.mask).astype(bool))
        for array, kernel in zip(before, after, strict=True)
        if kernel.mask is not None
    }
    if not layers:
        return {}
    name = max(layers, key=lambda label: layers[label][0].size)
    return {
        "weights": {"layer": name, **histogram(*layers[name])},
        "largest": {label: share_of_largest(*pair) for label, pair in layers.items()},
    }


def histogram(weights: Array, mask: Array) -> dict[str, list[float]]:
    """Return a histogram of the weights that a mask keeps, and of those that it prunes.

    Args:
        weights: weights, [...].
        mask: which of them are kept, booleans of the same shape.

    Example:
        >>> bins = histogram(np.array([-1.0, 1.0, 1.0]), np.array([True, False, True]))
        >>> sum(bins["kept"]), sum(bins["pruned"])
        (2, 1)
    """
    limit = float(np.abs(weights).max()) or 1.0
    edges = np.linspace(-limit, limit, _BINS + 1)
    kept, pruned = (np.histogram(weights[chosen], edges)[0] for chosen in (mask, ~mask))
    return {"edges": edges.tolist(), "kept": kept.tolist(), "pruned": pruned.tolist()}


def share_of_largest(weights: Array, mask: Array) -> float:
    """Return which share of the kept weights are among as many weights of largest magnitude.

    Args:
        weights: weights, [...].
        mask: which of them are kept, booleans of the same shape.

    Example:
        >>> share_of_largest(np.array([3.0, -2.0, 1.0]), np.array([True, False, True]))
        0.5
    """
    kept = int(mask.sum())
    largest = np.argsort(-np.abs(weights), axis=None, kind="stable")[:kept]
    return float(mask.reshape(-1)[largest].mean()) if kept else 1.0


def _security_curve(net: keras.Model, images: Any, ball: Report, seed: int, verbose: int) -> Report:
    """Return robust accuracy against epsilon; at 0 it is the benign accuracy.

    An image counts as broken from the distance on that FMN finds, and at the epsilon of training
    also if PGD breaks it there, which finds more than FMN on sparse networks.
    """
    from hydra_tf import evaluation

    options: Report = {"seed": seed, "verbose": verbose}
    norm, epsilon = ball["norm"], ball["epsilon"]
    distances = evaluation.minimal_distances(net, images, f"{_NEAREST},norm={norm}", **options)
    attack = f"{_ATTACK},norm={norm},epsilon={epsilon!r}"
    correct = evaluation.correct_under(net, images, attack, **options)
    distances = np.where(correct, distances, np.minimum(distances, epsilon))
    last = max(2 * epsilon, _GREY) if norm == "linf" else 2 * epsilon
    epsilons = np.union1d(np.linspace(0, last, _POINTS), [epsilon])
    shares = evaluation.robust_accuracy_curve(distances, epsilons)
    points = np.stack([epsilons, shares], axis=1).tolist()
    return {"attack": "FMN and PGD", **ball, "samples": len(distances), "points": points}


def _gallery(net: keras.Model, x: Any, y: Any, ball: Report, seed: int) -> list[Report]:
    """Return images, their adversarial twins, and the classes that the network predicts."""
    from hydra_tf import attacks

    attack = attacks.build(_ATTACK, **ball)
    adversarial = attack(net, x, y, seed=seed)
    classes = [np.argmax(np.asarray(net(images)), axis=1).tolist() for images in (x, adversarial)]
    return [
        {
            "label": int(label),
            "predicted": [before, after],
            "images": [png(image), png(twin)],
        }
        for label, before, after, image, twin in zip(
            np.asarray(y), *classes, np.asarray(x), np.asarray(adversarial), strict=True
        )
    ]


def png(image: Array) -> str:
    """Return an image as a PNG file in base64.

    Args:
        image: [height, width, channels] in [0, 1]; without three channels, the first is shown.
    """
    from matplotlib.image import imsave

    file = io.BytesIO()
    shown = image if image.shape[-1] == 3 else image[..., 0]
    imsave(file, np.clip(shown, 0, 1), format="png", cmap="gray", vmin=0, vmax=1)
    return base64.b64encode(file.getvalue()).decode()
