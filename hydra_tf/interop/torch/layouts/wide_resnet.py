"""Wide residual networks as in HYDRA, TRADES and RobustBench."""

from __future__ import annotations

from dataclasses import dataclass

from hydra_tf.interop.torch.layouts.base import Layout
from hydra_tf.interop.torch.reading import Shapes

_DEPTHS = range(10, 101, 6)


@dataclass(frozen=True)
class _WideResNetLayout(Layout):
    """A layout with a width, which is read from the last block.

    Args:
        depth: number of layers.
    """

    depth: int = 28

    def architecture(self, shapes: Shapes) -> str:
        """Return the spec; see :class:`Layout`."""
        return f"{self.name}:depth={self.depth},width={self._width(shapes)}"

    def published_name(self, shapes: Shapes) -> str:
        """Return a name such as ``wrn_28_4``."""
        return f"wrn_{self.depth}_{self._width(shapes)}"

    def _width(self, shapes: Shapes) -> int:
        return max(1, self.size(shapes, "block3_unit1_conv1", 0, otherwise=64) // 64)


def layouts() -> list[Layout]:
    """Return the layouts of all depths, with and without a projection in the first block.

    Example:
        >>> layouts()[0].modules["block2_unit1_shortcut"]
        'block2.layer.0.convShortcut'
    """
    unused = (("sub_block1.", "block1."),)
    return [
        _WideResNetLayout("wide_resnet", _modules(depth, projected), unused=unused, depth=depth)
        for depth in _DEPTHS
        for projected in (True, False)
    ]


def _modules(depth: int, projected: bool) -> dict[str, str]:
    """Return the modules; the first block of width 1 has no projection."""
    modules = {"conv1": "conv1"}
    for block in (1, 2, 3):
        for unit in range((depth - 4) // 6):
            parts = {name: name for name in ("bn1", "conv1", "bn2", "conv2")}
            if unit == 0 and (block > 1 or projected):
                parts["shortcut"] = "convShortcut"
            for layer, module in parts.items():
                modules[f"block{block}_unit{unit + 1}_{layer}"] = (
                    f"block{block}.layer.{unit}.{module}"
                )
    return {**modules, "bn1": "bn1", "logits": "fc"}
