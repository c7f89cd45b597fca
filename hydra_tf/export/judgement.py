"""What is left of accuracy and robustness in a TFLite file, measured on the file itself."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np

from hydra_tf import attacks, evaluation
from hydra_tf.attacks.base import attack_name, run_attack
from hydra_tf.checks.models import network_of
from hydra_tf.core.types import Classifier, Images, Labels
from hydra_tf.evaluation.accuracy import as_dataset, checked_batches, correct_on
from hydra_tf.evaluation.progress import ProgressBar, batch_count
from hydra_tf.export.file_model import load_tflite
from hydra_tf.export.latency import Latency, measure_latency
from hydra_tf.export.probes import MORE_AGREEMENT, below_goal
from hydra_tf.export.size import ExportReport, file_sizes

MOVED = ("pgd:steps=50",)  # attacks whose images are made on the Keras model
SEARCH = "square:queries=200"  # an attack that needs outputs only
_CERTIFIED_AT_ONCE = 10  # images per step of the progress bar
LOSS = 0.02  # loss of robust accuracy that a report points out
_REMEDY = (
    "Of an int8 file, measure the ranges on 100 or more images like those that it will see "
    "(`representative`); if that does not suffice, train with rounding (docs/int8_robustness.md)."
)
_Array = np.ndarray[Any, Any]


@dataclasses.dataclass(frozen=True)
class Judgement:
    """Accuracy, robustness, size and speed of a TFLite file beside those of the Keras model.

    An accuracy is a share of the same test images, in [0, 1]. Robust accuracy counts the images
    that are correct without an attack too. Neither it nor bounds of the Keras model prove anything
    of the file; a certificate by smoothing is computed on the file and holds for it.

    Args:
        path: the file.
        samples: number of images.
        agreement: share of images that file and Keras model give the same class.
        benign_accuracy: accuracy of the file.
        keras_benign_accuracy: accuracy of the Keras model.
        attacks: one entry per attack: its parameters, ``images_from`` (``"keras"`` if the images
            were made on the Keras model and moved to the file, ``"file"`` if outputs of the file
            guided the attack), ``robust_accuracy`` of the file and ``keras_robust_accuracy``.
        era: share of images that the file classifies correctly under all attacks.
        keras_era: the same for the Keras model, under its own attacks.
        bytes: size of the file.
        gzip_bytes: its size after gzip at level 9.
        latency: see :class:`hydra_tf.export.latency.Latency`; it has the peak memory too.
        dense_latency: that of the same network stored densely; None if it was not given.
        dense_bytes: size of the same network stored densely; None if it was not given.
        entropy_bytes: least size of the kernels, from the report of the export; None without it.
        bare_bytes: size of the file without its kernels, likewise.
        certified: radius, sigma, draws, samples and certified accuracy of the file by smoothing;
            None without smoothing.

    Example:
        >>> fast = Latency(0.1, (0.1, 0.1), 1.0, 1000)
        >>> Judgement("a.tflite", 10, 1.0, 0.9, 0.9, [], 0.5, 0.6, 10, 9, fast).warnings()[0]
        'The file loses 10.0 points of robust accuracy (60.0% in Keras, 50.0% in the file).'
    """

    path: str
    samples: int
    agreement: float
    benign_accuracy: float
    keras_benign_accuracy: float
    attacks: list[dict[str, Any]]
    era: float
    keras_era: float
    bytes: int
    gzip_bytes: int
    latency: Latency
    dense_latency: Latency | None = None
    dense_bytes: int | None = None
    entropy_bytes: int | None = None
    bare_bytes: int | None = None
    certified: dict[str, Any] | None = None

    def warnings(self) -> list[str]:
        """Return a sentence for each loss of more than two points and for too little agreement.

        After them is what helps.
        """
        pairs = [
            ("benign accuracy", self.keras_benign_accuracy, self.benign_accuracy),
            ("robust accuracy", self.keras_era, self.era),
        ]
        found = [
            f"The file loses {100 * (before - after):.1f} points of {name} ({before:.1%} in Keras, "
            f"{after:.1%} in the file)."
            for name, before, after in pairs
            if before - after > LOSS
        ]
        found += [_REMEDY] if found else []
        if shortfall := below_goal(self.agreement, self.samples):
            found.append(f"{shortfall} {MORE_AGREEMENT}")
        return found

    @property
    def bound_ratio(self) -> float | None:
        """Size of the file as a multiple of `entropy_bytes + bare_bytes`; None if unknown."""
        if self.entropy_bytes is None or self.bare_bytes is None:
            return None
        return self.bytes / (self.entropy_bytes + self.bare_bytes)

    def to_dict(self) -> dict[str, Any]:
        """Return fields, `bound_ratio` and warnings as a mapping that can be written as JSON."""
        content = dataclasses.asdict(self)
        return {**content, "bound_ratio": self.bound_ratio, "warnings": self.warnings()}


def judge(
    path: str | os.PathLike[str],
    model: keras.Model,
    data: Any,
    moved: Sequence[Any] = MOVED,
    search: Any = SEARCH,
    *,
    dense_path: str | os.PathLike[str] | None = None,
    exported: ExportReport | None = None,
    smoothing: Mapping[str, Any] | None = None,
    batch_size: int = 256,
    seed: int = 0,
    verbose: int = 0,
    **ball: Any,
) -> Judgement:
    """Measure a TFLite file and the Keras model that it was exported from, on the same images.

    Args:
        path: TFLite file, as :func:`hydra_tf.export.to_tflite` writes it.
        model: the Keras model, with or without masks.
        data: tf.data.Dataset of (images, labels) batches, or a pair of arrays.
        moved: attacks whose images are made on the Keras model and moved to the file.
        search: attack without gradients, which is run on the file and on the Keras model; None for
            none.
        dense_path: TFLite file of the same network stored densely, whose latency is measured in
            turn with that of `path`.
        exported: what :func:`hydra_tf.export.to_tflite` returned for the file; the judgement has
            its entropy bound.
        smoothing: arguments of :func:`hydra_tf.evaluation.certify` (sigma, n0, n, alpha) and
            ``samples``, the number of images to certify on the file.
        batch_size: batch size for arrays.
        seed: seed of the attacks and of the noise.
        verbose: 1 shows progress bars.
        **ball: norm and epsilon of attacks that leave them out.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: as :func:`hydra_tf.evaluation.robust_accuracy`, and for a `search` that follows
            gradients, which a file does not have.

    Example:
        >>> import tempfile
        >>> from hydra_tf import export
        >>> net = keras.Sequential([keras.Input([4]), keras.layers.Dense(2)])
        >>> path = os.path.join(tempfile.mkdtemp(), "net.tflite")
        >>> _ = export.to_tflite(net, path)
        >>> data = np.zeros([3, 4], "float32"), np.zeros(3, int)
        >>> judge(path, net, data, ["fgsm"], search=None).agreement
        1.0
    """
    net, file = network_of(model), load_tflite(path)
    plan = [(attacks.build(spec, **ball), False) for spec in moved]
    if search is not None:
        plan.append((_search(search, ball), True))
    data = as_dataset(data, batch_size)
    measured = _Measured.of(net, file, data, plan, seed, verbose)
    image = next(iter(checked_batches(net, data)))[0][0]
    paths = [path] if dense_path is None else [path, dense_path]
    latencies = measure_latency(paths, np.asarray(image))
    size, zipped = file_sizes(path)
    certified = None
    if smoothing is not None:
        certified = _certified(file, data, smoothing, len(measured.agree), seed, verbose)
    return Judgement(
        path=os.fspath(path),
        samples=len(measured.agree),
        agreement=float(np.mean(measured.agree)),
        benign_accuracy=float(np.mean(measured.file[0])),
        keras_benign_accuracy=float(np.mean(measured.keras[0])),
        attacks=_entries(plan, measured),
        era=float(np.mean(measured.file.all(axis=0))),
        keras_era=float(np.mean(measured.keras.all(axis=0))),
        bytes=size,
        gzip_bytes=zipped,
        latency=latencies[0],
        dense_latency=latencies[1] if dense_path is not None else None,
        dense_bytes=os.path.getsize(dense_path) if dense_path is not None else None,
        entropy_bytes=exported.entropy_bytes if exported is not None else None,
        bare_bytes=exported.bare_bytes if exported is not None else None,
        certified=certified,
    )


def _entries(
    plan: Sequence[tuple[attacks.Attack, bool]], measured: _Measured
) -> list[dict[str, Any]]:
    """Return the entries of :class:`Judgement` for attacks, made on the file (true) or not."""
    rows = zip(plan, measured.file[1:], measured.keras[1:], strict=True)
    return [
        {
            **attacks.ATTACKS.config(attack),
            "images_from": "file" if on_file else "keras",
            "robust_accuracy": float(np.mean(in_file)),
            "keras_robust_accuracy": float(np.mean(in_keras)),
        }
        for (attack, on_file), in_file, in_keras in rows
    ]


def _search(spec: Any, ball: Mapping[str, Any]) -> attacks.Attack:
    """Return an attack that needs outputs only."""
    attack = attacks.build(spec, **ball)
    if attack.uses_gradients:
        raise ValueError(
            f"The attack {spec!r} follows gradients, which a TFLite file does not have; choose "
            '"square" for `search`, or pass it as one of `moved`.'
        )
    return attack


@dataclasses.dataclass(frozen=True)
class _Measured:
    """Which images are correct: [1 + attacks, samples], without an attack and under each."""

    file: _Array
    keras: _Array
    agree: _Array

    @classmethod
    def of(
        cls,
        net: Classifier,
        file: Classifier,
        data: Any,
        plan: Sequence[tuple[attacks.Attack, bool]],
        seed: int,
        verbose: int,
    ) -> _Measured:
        """Attack both on every batch."""
        title = attack_name(plan[-1][0]) if plan else ""
        bar = ProgressBar(batch_count(data), "accuracy of file", verbose, title)
        parts: list[tuple[_Array, _Array, _Array]] = []
        for i, (x, y) in enumerate(checked_batches(net, data)):
            rows = [correct_on(file, x, y)], [correct_on(net, x, y)]
            for attack, on_file in plan:
                images = run_attack(attack, net, x, y, (seed, i)).images
                moved = run_attack(attack, file, x, y, (seed, i)).images if on_file else images
                for row, model, adversarial in zip(rows, (file, net), (moved, images), strict=True):
                    row.append(row[0] & correct_on(model, adversarial, y))
            parts.append((np.stack(rows[0]), np.stack(rows[1]), _same_class(file, net, x)))
            bar.show(i + 1, float(np.mean(np.concatenate([part[0] for part in parts], 1)[-1])))
        if not parts:
            raise ValueError("The dataset is empty: there is nothing to measure.")
        joined = [np.concatenate(part, axis=-1) for part in zip(*parts, strict=True)]
        return cls(*joined)


def _same_class(first: Classifier, second: Classifier, x: Images) -> _Array:
    """Return for which images the largest logit is the same, [batch]."""
    classes = [np.argmax(np.asarray(model(x, training=False)), -1) for model in (first, second)]
    same: _Array = classes[0] == classes[1]
    return same


def _certified(
    file: keras.Model, data: Any, smoothing: Mapping[str, Any], size: int, seed: int, verbose: int
) -> dict[str, Any]:
    """Return the certified accuracy of the file at the radius of VRA-s.

    Args:
        file: the file as a model.
        data: batches of images and labels.
        smoothing: as in :func:`judge`.
        size: number of images of the data.
        seed: seed of the noise.
        verbose: as in Keras.
    """
    settings = dict(smoothing)
    samples = min(settings.pop("samples", 100), size)
    images: list[Images] = []
    labels: list[Labels] = []
    bar = ProgressBar(-(-samples // _CERTIFIED_AT_ONCE), "certified", verbose, "file")
    chosen = data.unbatch().take(samples).batch(_CERTIFIED_AT_ONCE)
    for x, y in checked_batches(file, chosen):
        images.append(evaluation.certify(file, x, seed=seed, **settings))
        labels.append(np.asarray(y))
        bar.show(len(images), _accuracy(images, labels))
    return {
        **settings,
        "samples": sum(len(y) for y in labels),
        "radius": evaluation.VRA_S_RADIUS,
        "vra_s": _accuracy(images, labels),
    }


def _accuracy(certificates: Sequence[Any], labels: Sequence[Any]) -> float:
    """Return the share of images certified with their label at the radius of VRA-s."""
    right = [
        (classes == y) & (radii >= evaluation.VRA_S_RADIUS)
        for (classes, radii), y in zip(certificates, labels, strict=True)
    ]
    return float(np.mean(np.concatenate(right)))
