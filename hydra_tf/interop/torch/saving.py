"""Networks of the zoo as PyTorch checkpoints."""

from __future__ import annotations

import math
import os
from typing import Any

import keras
import numpy as np

from hydra_tf.core.files import replacing
from hydra_tf.core.keras_models import wrapped_network
from hydra_tf.interop.torch.layouts import Layout, layout_of
from hydra_tf.interop.torch.masks import as_hydra, common_density, hydra_kept
from hydra_tf.interop.torch.reading import Tensors
from hydra_tf.interop.torch.rebuilding import require_zoo_network
from hydra_tf.interop.torch.requirement import require_torch
from hydra_tf.interop.torch.tensors import tensor_links
from hydra_tf.sparsity.model import MaskedLike, kernels, masked_layers

_STRIP = "write hydra_tf.strip_masks(model), which has zeros for pruned weights"


def save_checkpoint(
    model: keras.Model, path: str | os.PathLike[str], *, sub_block1: bool = False
) -> float:
    """Write a network of the zoo as a PyTorch file with the keys of HYDRA's.

    ``torch.load(path)["state_dict"]`` then loads strictly into the PyTorch network, which gives
    the same outputs. A masked model is written with its scores (``popup_scores``), for HYDRA's
    layers. A plain model is written as plain weights: ``hydra_tf.strip_masks(model)`` for
    HYDRA's dense networks, and for submissions to the Adversarial Pruning Benchmark.

    HYDRA has one density `k` for all layers, and rounds up the number of weights in each. Where
    it keeps a weight more than the mask, that weight is written as 0.

    Args:
        model: a network of :mod:`hydra_tf.models`, or a :class:`hydra_tf.RobustModel` of one.
        path: file to write; an older one is replaced when the new one is complete.
        sub_block1: also write the block ``sub_block1`` of wide residual networks, which the
            classes of HYDRA and TRADES have and do not use.

    Returns:
        The density to pass to HYDRA as `k`; 1.0 for a plain model.

    Raises:
        ImportError: without PyTorch.
        TypeError: for something that is not a Keras model.
        ValueError: for a model that is not from the zoo or computes something else, such as one
            with another activation; for outputs that are not finite; for masks of different
            densities or that are not chosen by the scores; and for `sub_block1` of another
            architecture.
        OSError: a missing folder, a path that is a folder, or no permission to write.

    Example:
        >>> import hydra_tf, tempfile
        >>> net = hydra_tf.models.build("cnn_small", (28, 28, 1), 10)
        >>> masked = hydra_tf.mask_model(net)
        >>> hydra_tf.set_density(masked, 0.1)
        >>> path = os.path.join(tempfile.mkdtemp(), "net.pth.tar")
        >>> round(save_checkpoint(masked, path), 3)  # k of HYDRA
        0.1
    """
    net = wrapped_network(model)
    if not isinstance(net, keras.Model):
        raise TypeError(f"Expected a Keras model, not {type(net).__name__}.")
    layout = layout_of(net)
    if sub_block1 and not layout.unused:
        raise ValueError(f"{layout.name} has no sub_block1; only wide residual networks do.")
    torch = require_torch()
    require_zoo_network(net, layout)
    density, changed = _as_hydra(net)
    tensors: Tensors = {}
    for link in tensor_links(net, layout):
        value = changed.get(id(link.variable), link.variable)
        tensors[link.name] = link.arrangement.to_torch(np.array(value, np.float32))
        if link.name.endswith(".running_var"):
            tensors[link.name.replace("running_var", "num_batches_tracked")] = np.array(0)
    if sub_block1:
        tensors |= _unused_copies(tensors, layout)
    content = {
        "epoch": 0,
        "arch": layout.published_name({name: array.shape for name, array in tensors.items()}),
        "state_dict": {name: torch.from_numpy(array) for name, array in tensors.items()},
        "best_prec1": 0.0,
        "optimizer": {},
    }
    # Given a path, PyTorch would write the temporary name into the file.
    with replacing(path) as temporary, open(temporary, "wb") as file:
        torch.save(content, file)
    return density


def _as_hydra(net: keras.Model) -> tuple[float, dict[int, np.ndarray[Any, Any]]]:
    """Return HYDRA's density, and the weights and scores that differ for it, by variable."""
    layers = masked_layers(net)
    if not layers:
        return 1.0, {}
    plain = [kernel.label for kernel in kernels(net) if kernel.mask is None]
    if plain:
        raise ValueError(
            f"HYDRA's files have masks of all layers, but {', '.join(plain[:3])} of this model "
            f"have none; {_STRIP}."
        )
    sizes = [math.prod(layer.kernel.shape) for layer in layers]
    density = common_density([int(np.sum(layer.mask)) for layer in layers], sizes)
    if density is None:
        shares = sorted((layer.density, layer.label) for layer in layers)
        raise ValueError(
            "HYDRA's files have one density for all layers, but this model keeps "
            f"{shares[0][0]:.3g} of {shares[0][1]} and {shares[-1][0]:.3g} of {shares[-1][1]}; "
            f"{_STRIP}."
        )
    changed: dict[int, np.ndarray[Any, Any]] = {}
    for layer, size in zip(layers, sizes, strict=True):
        kernel, scores = _converted(layer, hydra_kept(density, size))
        changed |= {id(layer.kernel): kernel, id(layer.scores): scores}
    return density, changed


def _converted(layer: MaskedLike, kept: int) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Return kernel and scores of a layer for HYDRA, which keeps `kept` of its weights."""
    kernel, scores, mask = (np.asarray(v) for v in (layer.kernel, layer.scores, layer.mask))
    try:
        return as_hydra(kernel, scores, mask, kept)
    except ValueError as error:
        raise ValueError(f"{layer.label} cannot be written: {error}; {_STRIP}.") from error


def _unused_copies(tensors: Tensors, layout: Layout) -> Tensors:
    """Return the tensors of modules that the network does not use."""
    return {
        unused + name.removeprefix(used): array
        for unused, used in layout.unused
        for name, array in tensors.items()
        if name.startswith(used)
    }
