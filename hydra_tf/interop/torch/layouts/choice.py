"""The layout of a file, and that of a Keras model."""

from __future__ import annotations

from typing import Any

from hydra_tf.interop.torch.layouts import resnet, small, vgg, wide_resnet
from hydra_tf.interop.torch.layouts.base import Layout
from hydra_tf.interop.torch.reading import Shapes

LAYOUTS: tuple[Layout, ...] = tuple(
    layout for family in (vgg, wide_resnet, resnet, small) for layout in family.layouts()
)


def nearest_layout(shapes: Shapes) -> Layout:
    """Return the layout that shares most module names with a file.

    Args:
        shapes: names of the tensors in the file, and their shapes.

    Example:
        >>> nearest_layout({"0.weight": (16, 1, 4, 4), "2.weight": (32, 16, 4, 4)}).name
        'cnn_small'
    """

    def shared(layout: Layout) -> float:
        found = {name.rpartition(".")[0] for name in layout.used(shapes)}
        expected = set(layout.modules.values())
        return len(found & expected) / len(found | expected)

    return max(LAYOUTS, key=shared)


def layout_of(model: Any) -> Layout:
    """Return the layout of a Keras model, by the names of its layers.

    Args:
        model: a network of the zoo, masked or plain.

    Raises:
        ValueError: for another model.

    Example:
        >>> from hydra_tf import models
        >>> layout_of(models.build("cnn_large", (8, 8, 3), 10)).name
        'cnn_large'
    """
    names = {layer.name for layer in model.layers if layer.weights}
    for layout in (each for each in LAYOUTS if set(each.modules) == names):
        kernel = getattr(model.get_layer(next(iter(layout.modules))), "kernel", None)
        if kernel is not None and tuple(kernel.shape[:1]) == (layout.first_kernel,):
            return layout
    known = sorted({layout.name for layout in LAYOUTS})
    raise ValueError(
        f'The model "{model.name}" has no counterpart in PyTorch: its layers are not those of a '
        f"network of hydra_tf.models such as {', '.join(known)}."
    )
