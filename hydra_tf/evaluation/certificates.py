"""The certificates of a whole dataset, in a file from which an interrupted call resumes."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import keras
import numpy as np

from hydra_tf.checks.models import network_of
from hydra_tf.core.files import naming
from hydra_tf.core.types import Sampling
from hydra_tf.evaluation.accuracy import as_dataset, checked_batches
from hydra_tf.evaluation.certificate_file import Row, open_certificates
from hydra_tf.evaluation.certify import certifier, pieces, require_sizes
from hydra_tf.evaluation.progress import ProgressBar

VRA_S_RADIUS = 110 / 255  # L2, in pixel values: the radius of VRA-s in arXiv 2002.10509
RADII = (0.0, 0.25, VRA_S_RADIUS, 0.5, 0.75, 1.0)


def certify_dataset(
    model: Any,
    data: Any,
    path: str | os.PathLike[str],
    sigma: float = 0.25,
    n0: int = 100,
    n: int = 10_000,
    alpha: float = 0.001,
    seed: int = 0,
    *,
    samples: int | None = None,
    batch_size: int = 512,
    shared_noise: bool = True,
    verbose: int = 0,
) -> list[Row]:
    """Certify the images of a dataset, and write each certificate to a file at once.

    The same call resumes where an interrupted one stopped, and ends with the same file. The
    first line of the file has the settings and a hash of the network; every other line is the
    certificate of one image, with a hash of the image. Any other file at `path` is left unchanged.

    Args:
        model: Keras model that outputs logits.
        data: tf.data.Dataset of (images, labels) batches in a fixed order, or a pair of arrays.
        path: file with one JSON object per line.
        sigma: standard deviation of the noise in pixel values.
        n0: draws that choose the class.
        n: draws that bound its probability.
        alpha: probability that a certificate is wrong.
        seed: seed of the noise.
        samples: number of images to certify, from the first on; all of them when left out.
        batch_size: noisy images per forward pass.
        shared_noise: as in :func:`hydra_tf.evaluation.certify`.
        verbose: 1 shows a progress bar.

    Returns:
        A mapping for each image in order: ``index``, ``image`` (a hash), ``label``,
        ``predicted`` (-1 for an abstention), ``radius`` (L2, in pixel values) and ``correct``.

    Raises:
        TypeError: as in :func:`hydra_tf.evaluation.certify`.
        ValueError: a file of another kind, of other settings, another network or other data, or
            one that is damaged; invalid input as in :func:`hydra_tf.evaluation.certify`.
        BlockingIOError: when another process is writing to the file.
        OSError: when the file cannot be written.

    Example:
        >>> import tempfile
        >>> net = keras.Sequential([keras.Input([2]), keras.layers.Dense(2, use_bias=False)])
        >>> net.set_weights([np.array([[0.0, 2.0], [0.0, 0.0]])])
        >>> data = np.array([[1.0, 0.0], [1.0, 0.0]]), np.array([1, 0])
        >>> path = os.path.join(tempfile.mkdtemp(), "certify.jsonl")
        >>> rows = certify_dataset(net, data, path, n=1000)
        >>> [(row["predicted"], row["correct"]) for row in rows]
        [(1, True), (1, False)]
        >>> certified_accuracy(rows, 110 / 255)
        0.5
    """
    sampling = Sampling(sigma, n0, n, alpha)
    require_sizes(seed, batch_size=batch_size, samples=1 if samples is None else samples)
    model = network_of(model)
    total = samples
    if isinstance(data, tuple | list):
        total = min(len(data[1]), samples or len(data[1]))
    data = as_dataset(data, 256)
    settings = {**dataclasses.asdict(sampling), "seed": seed, "shared_noise": shared_noise}
    bar = ProgressBar(total, "certified", verbose, f"sigma={sigma:g}")
    certify_images = None
    with open_certificates(path, {**settings, "network": network_hash(model)}) as finished:
        rows = finished[:samples]
        for x, labels in _uncertified(model, data, rows, samples):
            if certify_images is None:
                shape = tuple(x.shape[1:])
                certify_images = certifier(model, shape, sampling, seed, batch_size, shared_noise)
            for piece in pieces(len(x), shared_noise, batch_size):
                classes, radii = certify_images(x[piece], len(rows))
                rows += _append(path, len(rows), x[piece], labels[piece], classes, radii)
                bar.show(len(rows), certified_accuracy(rows, VRA_S_RADIUS))
    if not rows:
        raise ValueError("The dataset is empty: there is nothing to certify.")
    return rows


def _uncertified(
    model: Any, data: Any, rows: Sequence[Row], samples: int | None
) -> Iterator[tuple[Any, np.ndarray[Any, Any]]]:
    """Yield the images without a certificate, after checking the images that have one."""
    done, seen = list(rows), 0
    for x, y in checked_batches(model, data):
        labels = y.numpy()[: None if samples is None else samples - seen]
        old = done[seen : seen + len(labels)]
        current = {"label": labels[: len(old)].tolist(), "image": _hashes(x[: len(old)])}
        for key, values in current.items():
            if [row.get(key) for row in old] != values:
                raise ValueError(
                    f"The {key}s differ from those in the file of certificates; pass the same data "
                    "in the same order, or write to another file."
                )
        seen += len(labels)
        if len(labels) > len(old):
            yield x[len(old) : len(labels)], labels[len(old) :]
        if samples is not None and seen >= samples:
            return


def _append(
    path: str | os.PathLike[str],
    first: int,
    x: Any,
    labels: np.ndarray[Any, Any],
    classes: np.ndarray[Any, Any],
    radii: np.ndarray[Any, Any],
) -> list[Row]:
    """Write finished images to the file and return their rows."""
    rows = [
        {
            "index": first + i,
            "image": image,
            "label": int(label),
            "predicted": int(predicted),
            "radius": float(radius),
            "correct": bool(predicted == label),
        }
        for i, (image, label, predicted, radius) in enumerate(
            zip(_hashes(x), labels, classes, radii, strict=True)
        )
    ]
    with naming(path), open(path, "a", encoding="utf-8") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)
    return rows


def _hashes(x: Any) -> list[str]:
    """Return a short hash of each image."""
    return [hashlib.sha256(image.tobytes()).hexdigest()[:12] for image in np.asarray(x)]


def network_hash(model: Any) -> str:
    """Return a short hash of a model's layers and weights, which identifies a network.

    The names of layers are ignored, so that a network that is built again has the same hash.

    Example:
        >>> nets = [keras.Sequential([keras.Input([2]), keras.layers.ReLU()]) for _ in range(2)]
        >>> network_hash(nets[0]) == network_hash(nets[1])
        True
    """
    digest = hashlib.sha256()
    try:
        config = json.loads(model.to_json())
        names = {name: f"#{i}" for i, name in enumerate(_names(config))}
        digest.update(json.dumps(_form(config, names)).encode())
    except (AttributeError, NotImplementedError, TypeError, ValueError):
        pass  # not a Keras model, or one whose layers cannot be serialised
    for weight in getattr(model, "weights", ()):
        digest.update(np.ascontiguousarray(keras.ops.convert_to_numpy(weight)).tobytes())
    return digest.hexdigest()[:12]


# Entries of a configuration that describe how a network was built and is trained.
_HISTORY = ("shared_object_id", "build_config", "compile_config", "trainable", "seed")
_OF_TRAINING = ("_initializer", "_regularizer", "_constraint")


def _names(config: Any) -> Iterator[str]:
    """Yield the names of a model and of its layers, in order."""
    yield config["config"]["name"]
    for layer in config["config"].get("layers", ()):
        yield from _names(layer)


def _form(config: Any, names: Mapping[str, str]) -> Any:
    """Return a configuration with numbers for names, without entries that no output depends on."""
    if isinstance(config, Mapping):
        return {
            key: _form(value, names)
            for key, value in config.items()
            if key not in _HISTORY and not key.endswith(_OF_TRAINING)
        }
    if isinstance(config, list):
        return [_form(value, names) for value in config]
    return names.get(config, config) if isinstance(config, str) else config


def certified_accuracy(rows: Sequence[Row], radius: float = VRA_S_RADIUS) -> float:
    """Return the share of images with the correct class and at least this certified radius.

    Args:
        rows: rows of :func:`certify_dataset`.
        radius: L2 radius in pixel values; at 0, every correct class without abstention counts.

    Raises:
        ValueError: when there are no rows.

    Example:
        >>> certified_accuracy([{"correct": True, "radius": 0.5}], 0.25)
        1.0
    """
    if not rows:
        raise ValueError("There are no certificates to count.")
    return sum(row["correct"] and row["radius"] >= radius for row in rows) / len(rows)
