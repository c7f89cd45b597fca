"""Readers of hydra_tf, each with files to change: what they return or raise for a changed file.

A target is a function of a folder. It writes intact files there and returns a function of a random
generator, which changes a file, reads it, and returns "result" or "refused", or raises an
:class:`AssertionError` that says what is wrong.
"""

from __future__ import annotations

import json
import pathlib
import random
from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks._fuzz_mutations import mutate_bytes, mutate_json, mutate_text, mutate_zip

Attempt = Callable[[random.Random], str]
REFUSALS = (ValueError, TypeError, FileNotFoundError)


def outcome(read: Callable[[], Any], check: Callable[[Any], bool], given: str = "") -> str:
    """Return "result" or "refused"; raise if the error is no sentence, or the result is wrong.

    Args:
        read: reads the changed input.
        check: returns whether the result can be right.
        given: text of the user's that the error may repeat.
    """
    try:
        result = read()
    except REFUSALS as error:
        text = str(error)
        assert text.endswith(".") and len(text) < 1500 + 3 * len(given), f"says {text[:300]!r}"
        assert "\n" not in text or "\n" in given, f"says {text[:300]!r}"
        return "refused"
    assert check(result), "a wrong result without an error"
    return "result"


def keras_files(folder: pathlib.Path) -> Attempt:
    """Networks: plain, masked and nested."""
    import keras

    import hydra_tf
    from hydra_tf.core.keras_files import load_keras_file

    layers, path = keras.layers, folder / "net.keras"
    inner = keras.Sequential([keras.Input([6, 6, 2]), layers.Conv2D(2, 3, activation="relu")])
    net = keras.Sequential(
        [
            keras.Input([8, 8, 1]),
            layers.Conv2D(2, 3, strides=1),
            layers.BatchNormalization(),
            inner,
            layers.Flatten(),
            layers.Dense(4, activation="relu"),
            layers.Dense(3),
        ]
    )
    files = []
    for one in (net, hydra_tf.mask_model(net)):
        one.save(path)
        files.append((path.read_bytes(), one.get_weights()))

    def attempt(draw: random.Random) -> str:
        content, weights = draw.choice(files)
        raw = draw.random() < 0.3
        path.write_bytes(mutate_bytes(content, draw) if raw else mutate_zip(content, draw))
        keras.backend.clear_session()

        def same(loaded: Any) -> bool:
            # The archive has a checksum of each member: changed bytes must not be accepted.
            found = loaded.get_weights()
            return not raw or (
                len(found) == len(weights)
                and all(np.array_equal(a, b) for a, b in zip(found, weights, strict=True))
            )

        return outcome(lambda: load_keras_file(path), same)

    return attempt


def torch_files(folder: pathlib.Path) -> Attempt:
    """PyTorch files, in the format of today and in the older one."""
    import torch

    from hydra_tf import models
    from hydra_tf.interop.torch import load_checkpoint, save_checkpoint

    path = folder / "net.pt"
    net = models.build("mnist_cnn", (8, 8, 1), 3, seed=0)
    save_checkpoint(net, path)
    zipped, weights = path.read_bytes(), net.get_weights()
    torch.save(torch.load(path), path, _use_new_zipfile_serialization=False)
    older = path.read_bytes()

    def attempt(draw: random.Random) -> str:
        raw, whole = draw.random() < 0.4, draw.random() < 0.6
        content = zipped if whole else older
        changed = mutate_zip if whole and not raw else mutate_bytes
        path.write_bytes(changed(content, draw))

        def same(loaded: Any) -> bool:
            # Only the format of today has checksums.
            found = loaded.get_weights()
            return not (raw and whole) or (
                len(found) == len(weights)
                and all(np.array_equal(a, b) for a, b in zip(found, weights, strict=True))
            )

        return outcome(lambda: load_checkpoint(path), same)

    return attempt


def npz_files(folder: pathlib.Path) -> Attempt:
    """Data sets in NumPy archives."""
    from hydra_tf import data

    path, draw = folder / "images.npz", np.random.default_rng(0)
    images = draw.integers(0, 256, (30, 4, 4, 1), np.uint8)
    labels = np.arange(30) % 3
    np.savez(path, images=images, labels=labels)
    content = path.read_bytes()
    known = {image.tobytes(): label for image, label in zip(images, labels, strict=True)}

    def read() -> list[tuple[bytes, int]]:
        batches = data.load(f"npz:path={path}", batch_size=8).validation
        pairs = [(x.numpy() * 255, y.numpy()) for x, y in batches]
        return [
            (image.round().astype(np.uint8).tobytes(), int(label))
            for x, y in pairs
            for image, label in zip(x, y, strict=True)
        ]

    def attempt(draw: random.Random) -> str:
        raw = draw.random() < 0.4
        path.write_bytes(mutate_bytes(content, draw) if raw else mutate_zip(content, draw))
        same = lambda pairs: not raw or all(known.get(image) == y for image, y in pairs)  # noqa: E731
        return outcome(read, same)

    return attempt


def certificates(folder: pathlib.Path) -> Attempt:
    """Files of certificates."""
    from hydra_tf import evaluation

    path = folder / "certify.jsonl"
    settings = {"sigma": 0.25, "n0": 100, "n": 1000, "alpha": 0.001, "seed": 0}
    rows = [
        {"index": i, "image": f"{i:012x}", "label": 1, "predicted": 1 if i % 2 else -1,
         "radius": 0.1 * (i % 2), "correct": bool(i % 2)}
        for i in range(6)
    ]  # fmt: skip
    lines = [{**settings, "shared_noise": True, "network": "0123456789ab"}, *rows]

    def consistent(rows: list[dict[str, Any]]) -> bool:
        return all(
            row["index"] == i
            and row["correct"] == (row["label"] == row["predicted"])
            and (row["predicted"] >= 0) == (row["radius"] > 0)
            for i, row in enumerate(rows)
        )

    def attempt(draw: random.Random) -> str:
        texts, at = [json.dumps(line) for line in lines], draw.randrange(len(lines))
        if draw.random() < 0.6:
            texts[at] = json.dumps(mutate_json(lines[at], draw))
            path.write_text("\n".join([*texts, ""]))
        else:
            path.write_bytes(mutate_bytes("\n".join([*texts, ""]).encode(), draw))
        return outcome(lambda: evaluation.read_certificates(path)[1], consistent)

    return attempt


def checkpoints(folder: pathlib.Path) -> Attempt:
    """Checkpoints of a run: the newest is changed, the one before it is intact."""
    import keras

    from hydra_tf.training.long_runs.checkpoints import (
        Checkpoints,
        RunPosition,
        restore_variables,
    )

    store, draw = Checkpoints(folder), np.random.default_rng(0)
    saved = {}
    for step in (1, 2):
        arrays = {f"model/{i}": draw.random((3, i + 2), np.float32) for i in range(3)}
        store.save(RunPosition(0, step), {**arrays, "run": np.asarray('{"seed": 0}')})
        saved[step] = arrays
    path = folder / "at-00000-000000002.npz"
    content = path.read_bytes()
    variables = [keras.Variable(np.zeros((3, i + 2), "float32")) for i in range(3)]

    def read() -> int:
        newest = store.newest()
        assert newest is not None, "the intact checkpoint is not found"
        restore_variables(variables, "model", newest[1])
        return newest[0].step

    def attempt(draw: random.Random) -> str:
        raw = draw.random() < 0.5
        path.write_bytes(mutate_bytes(content, draw) if raw else mutate_zip(content, draw))

        def same(step: int) -> bool:
            arrays = saved[step].values()
            pairs = zip(map(np.asarray, variables), arrays, strict=True)
            return not raw or all(np.array_equal(read, written) for read, written in pairs)

        return outcome(read, same)

    return attempt


def images(folder: pathlib.Path) -> Attempt:
    """Image files of a folder: an unreadable one is replaced by a readable one."""
    import tensorflow as tf

    from hydra_tf import data

    rng, files = np.random.default_rng(0), []
    encoders = {"png": tf.io.encode_png, "jpg": tf.io.encode_jpeg}
    for i in range(24):
        suffix = ("png", "jpg", "bmp")[i % 3]
        path = folder / "images" / ("dark", "light")[i % 2] / f"{i}.{suffix}"
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = rng.integers(0, 256, (9, 12, 3), np.uint8)
        if suffix == "bmp":
            header = b"BM" + (54 + pixels.size).to_bytes(4, "little") + bytes(4) + b"\x36\0\0\0"
            sizes = b"\x28\0\0\0\x0c\0\0\0\x09\0\0\0\x01\0\x18\0" + bytes(24)
            path.write_bytes(header + sizes + pixels.tobytes())
        else:
            path.write_bytes(encoders[suffix](pixels).numpy())
        files.append((path, path.read_bytes()))
    spec = f"folder:path={folder}/images,size=8,validation_share=0.8,test_share=0.1"
    splits = data.load(spec, batch_size=8)

    def read() -> bool:
        count = 0
        for x, _ in splits.validation:
            count += len(x)
            assert np.isfinite(x).all() and np.min(x) >= 0 and np.max(x) <= 1
        return count == splits.sizes["validation"]

    def attempt(draw: random.Random) -> str:
        path, content = draw.choice(files)
        path.write_bytes(mutate_bytes(content, draw))
        try:
            return outcome(read, bool)
        finally:
            path.write_bytes(content)

    return attempt


def specs(_: pathlib.Path) -> Attempt:
    """Specs of registered parts, as in flags and in config files."""
    from hydra_tf import attacks, bounds, data, models, objectives
    from hydra_tf.sparsity.allocation import ALLOCATIONS
    from hydra_tf.sparsity.methods import METHODS

    parts: list[tuple[Any, str]] = [
        (attacks.ATTACKS, "pgd:norm=linf,epsilon=8/255,steps=50,step_size=2/255,restarts=10"),
        (attacks.ATTACKS, "autoattack:epsilon=0.1"), (attacks.ATTACKS, "square:epsilon=0.1"),
        (objectives.OBJECTIVES, "trades:epsilon=8/255,steps=10,beta=6"),
        (objectives.OBJECTIVES, "pgd:attack=(apgd:steps=5,restarts=2),epsilon=8/255"),
        (objectives.OBJECTIVES, "crown_ibp:epsilon=0.1,ramp=0.5"),
        (objectives.OBJECTIVES, "smoothing:sigma=0.25"),
        (models.MODELS, "wide_resnet:depth=28,width=4"), (models.MODELS, "mnist_cnn"),
        (data.DATASETS, "folder:path=/path,size=64"), (data.DATASETS, "npz:path=/path"),
        (bounds.BOUNDS, "crown_ibp"), (METHODS, "hydra:score_init=magnitude"), (ALLOCATIONS, "erk"),
    ]  # fmt: skip

    def attempt(draw: random.Random) -> str:
        registry, spec = draw.choice(parts)
        changed: Any = mutate_text(spec, draw)
        if draw.random() < 0.4:
            name, parameters = registry.parse(spec)
            if "attack" in parameters:
                nested, settings = attacks.ATTACKS.parse(parameters["attack"])
                parameters["attack"] = {"name": nested, **settings}
            changed = mutate_json({"name": name, **parameters}, draw)
        survives = lambda part: registry.build(registry.config(part)) == part  # noqa: E731
        given = changed if isinstance(changed, str) else f"{changed}\n"
        return outcome(lambda: registry.build(changed), survives, given)

    return attempt


TARGETS: dict[str, Callable[[pathlib.Path], Attempt]] = {
    "specs": specs,
    "certificates": certificates,
    "checkpoints": checkpoints,
    "npz": npz_files,
    "images": images,
    "keras": keras_files,
    "torch": torch_files,
}
