"""Names of the layers of published PyTorch networks, one file for each family."""

from hydra_tf.interop.torch.layouts.base import Layout
from hydra_tf.interop.torch.layouts.choice import LAYOUTS, layout_of, nearest_layout

__all__ = ["LAYOUTS", "Layout", "layout_of", "nearest_layout"]
