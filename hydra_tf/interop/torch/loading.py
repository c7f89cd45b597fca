"""Published PyTorch checkpoints as Keras models of the zoo."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence

import keras
import tensorflow as tf

from hydra_tf.interop.torch.layouts import Layout, layout_of, nearest_layout
from hydra_tf.interop.torch.masks import harp_kept, hydra_kept
from hydra_tf.interop.torch.reading import Shapes, TorchFile, read_torch_file
from hydra_tf.interop.torch.requirement import require_torch
from hydra_tf.interop.torch.tensors import tensor_links
from hydra_tf.models import build, mask_model
from hydra_tf.sparsity.model import MaskedLike, masked_layers
from hydra_tf.sparsity.topk import kept_count

_WEIGHT, _SCORES, _RATE = ".weight", ".popup_scores", ".k_score"
_SHOWN = 3  # tensors of a kind in an error


def load_checkpoint(
    path: str | os.PathLike[str],
    architecture: str | None = None,
    *,
    density: float | None = None,
    input_shape: Sequence[int] | None = None,
) -> keras.Model:
    """Return the network of a PyTorch file as a Keras model with equal outputs.

    Read are files of HYDRA and HARP, with scores or as dense networks, and plain weights with the
    same names, such as those of RobustBench's ``Sehwag2020Hydra``, of the Adversarial Pruning
    Benchmark, and of torchvision's residual networks. A file with scores becomes a masked model,
    whose masks keep the weights that the PyTorch network keeps; any other file becomes a plain
    model, of which ``mask_model(net, keep_zeros=True)`` has the zeros as masks.

    The model takes the images that the PyTorch network takes, with channels last. If these are
    normalised, put a layer in front; see :func:`hydra_tf.models.with_preprocessing`.

    Args:
        path: file of ``torch.save``. Nothing in it is executed.
        architecture: network of the zoo (``"wide_resnet:depth=28,width=4"``); by default the one
            whose tensors have the names of those in the file.
        density: share of the weights that the masks keep, which HYDRA calls `k` and its files
            do not contain; needed for files with scores. For files of HARP, the density that the
            network was pruned to.
        input_shape: (height, width, channels) of the images; by default those for which the
            network was published.

    Returns:
        A Keras model, not compiled: images [batch, height, width, channels] to logits
        [batch, classes].

    Raises:
        FileNotFoundError: when there is no file.
        ImportError: without PyTorch.
        TypeError: for an `input_shape` that is not a sequence.
        ValueError: for a file that is damaged, wants to execute code, or does not fit the
            architecture; for tensors without elements, or with NaN, infinite or complex values;
            for a density that is missing, superfluous or outside (0, 1]; for an `input_shape`
            that is not three whole numbers.

    Example:
        >>> import tempfile
        >>> from hydra_tf.interop.torch import save_checkpoint
        >>> path = os.path.join(tempfile.mkdtemp(), "net.pth.tar")
        >>> net = build("cnn_small", (28, 28, 1), 10)
        >>> _ = save_checkpoint(net, path)
        >>> load_checkpoint(path, input_shape=(28, 28, 1)).output_shape
        (None, 10)
    """
    if density is not None:
        kept_count(density, 1)
    file = read_torch_file(path)
    scored = any(name.endswith(_SCORES) for name in file.tensors)
    _check_density(file, density, scored)
    nearest = nearest_layout(file.shapes)
    proposed = nearest.architecture(file.shapes)
    shape = nearest.image_shape(file.shapes) if input_shape is None else input_shape
    chosen = (architecture or proposed, shape, nearest.num_classes(file.shapes))
    with tf.Graph().as_default():  # shapes alone: a small file could claim a huge network
        sketch = build(*chosen, seed=0)
    layout = layout_of(sketch)
    expected = _expected(sketch, layout, file)
    if difference := _difference(layout.used(file.shapes), expected):
        if architecture is None:
            start = f"{file.path}{_called(file)} is nearest to {proposed}, but does not fit"
            raise ValueError(f"{start}: {difference}.")
        raise ValueError(
            f"{file.path}{_called(file)} does not fit {architecture}: {difference}; the nearest "
            f"architecture is {proposed}."
        )
    net = build(*chosen, seed=0)
    model = mask_model(net) if scored else net
    for link in tensor_links(model, layout):
        link.variable.assign(link.arrangement.to_keras(file.tensors[link.name]))
    for layer in masked_layers(model):
        _choose_mask(layer, file, layout.modules[layer.name], density or 1.0)
    return model


def _expected(net: keras.Model, layout: Layout, file: TorchFile) -> Shapes:
    """Return the tensors of a plain network, with scores and rates if a file has any."""
    expected = {link.name: link.shape for link in tensor_links(net, layout)}
    for part, shape in ((_SCORES, None), (_RATE, ())):
        if any(name.endswith(part) for name in file.tensors):
            expected |= {
                name.removesuffix(_WEIGHT) + part: weight if shape is None else shape
                for name, weight in expected.items()
                if name.endswith(_WEIGHT) and len(weight) > 1  # not of BatchNorm
            }
    return expected


def _called(file: TorchFile) -> str:
    """Return what a file calls its architecture, in parentheses."""
    return "" if file.arch is None else f' (which calls itself "{file.arch[:40]}")'


def _check_density(file: TorchFile, density: float | None, scored: bool) -> None:
    """Check that there is a density if, and only if, a file has scores."""
    if scored and density is None:
        raise ValueError(
            f"{file.path} has scores, but not how many weights they keep; pass the density to "
            "which the network was pruned, such as density=0.1, or 1.0 if it was not."
        )
    if not scored and density is not None:
        raise ValueError(
            f"{file.path} has no scores from which weights could be chosen at a density of "
            f"{density}; load it without density, then use hydra_tf.mask_model, with "
            "keep_zeros=True if it is pruned already."
        )


def _choose_mask(layer: MaskedLike, file: TorchFile, module: str, density: float) -> None:
    """Keep as many weights as the PyTorch network does."""
    size = math.prod(layer.kernel.shape)
    rate = file.tensors.get(module + _RATE)
    if rate is None:
        kept = hydra_kept(density, size)
    else:
        kept = harp_kept(rate, density, size, require_torch())
    layer.density = kept / size


def _difference(found: Shapes, expected: Shapes) -> str:
    """Return a phrase that says how the tensors of a file differ from those of a network.

    Example:
        >>> _difference({"a": (1, 2), "b": (3,)}, {"a": (2, 2), "c": ()})
        'it has no c []; a is [1, 2] instead of [2, 2]; it also has b [3]'
    """
    both = [name for name in expected if name in found]
    missing = [f"{name} {list(expected[name])}" for name in expected if name not in found]
    wrong = [
        f"{name} is {list(found[name])} instead of {list(expected[name])}"
        for name in both
        if found[name] != expected[name]
    ]
    surplus = [f"{name} {list(found[name])}" for name in found if name not in expected]
    phrases = [
        missing and f"it has no {_listed(missing)}",
        _listed(wrong),
        surplus and f"it also has {_listed(surplus)}",
    ]
    return "; ".join(phrase for phrase in phrases if phrase)


def _listed(items: list[str]) -> str:
    """Return some items, and the number of the others."""
    more = f" and {len(items) - _SHOWN} more" if len(items) > _SHOWN else ""
    return ", ".join(items[:_SHOWN]) + more
