"""Residual networks: for small images, and for photographs with the names of torchvision."""

from __future__ import annotations

from hydra_tf.interop.torch.layouts.base import Layout
from hydra_tf.models.zoo.resnet import STAGES


def layouts() -> list[Layout]:
    """Return the layouts of all depths, for small images and for photographs.

    Example:
        >>> [layout.modules["stage2_unit1_shortcut"] for layout in layouts()[:2]]
        ['layer2.0.shortcut.0', 'layer2.0.downsample.0']
    """
    return [
        layout
        for depth in STAGES
        for layout in (
            Layout(f"resnet{depth}", _modules(depth, "shortcut", "linear")),
            Layout(f"resnet{depth}", _modules(depth, "downsample", "fc"), first_kernel=7, side=224),
        )
    ]


def _modules(depth: int, shortcut: str, logits: str) -> dict[str, str]:
    """Return the modules.

    Args:
        depth: number of layers.
        shortcut: name of projections in PyTorch.
        logits: name of the last layer there.
    """
    modules = {"conv1": "conv1", "bn1": "bn1"}
    units, bottleneck = STAGES[depth]
    for stage, count in enumerate(units, start=1):
        for unit in range(count):
            inner = range(1, 4 if bottleneck else 3)
            parts = {f"{kind}{i}": f"{kind}{i}" for i in inner for kind in ("conv", "bn")}
            if unit == 0 and (stage > 1 or bottleneck):
                parts |= {"shortcut": f"{shortcut}.0", "shortcut_bn": f"{shortcut}.1"}
            for layer, module in parts.items():
                modules[f"stage{stage}_unit{unit + 1}_{layer}"] = f"layer{stage}.{unit}.{module}"
    return {**modules, "logits": logits}
