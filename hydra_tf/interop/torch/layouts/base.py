"""What a published PyTorch network and a network of the zoo have in common."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from hydra_tf.interop.torch.reading import Shapes


@dataclass(frozen=True)
class Layout:
    """The modules of a PyTorch network, and the layers of a network of the zoo.

    Args:
        name: the network of the zoo.
        modules: names of Keras layers to names of PyTorch modules; a convolution comes first and
            the layer of the logits last.
        first_kernel: height and width of the first kernel.
        side: height and width of the images for which the network was published.
        unused: prefixes of modules that the network does not use, and prefixes of the modules
            that are their copies.

    Example:
        >>> layout = Layout("linear", {"logits": "fc"}, side=28)
        >>> shapes = {"fc.weight": (10, 1), "fc.bias": (10,)}
        >>> layout.image_shape(shapes), layout.num_classes(shapes)
        ((28, 28, 1), 10)
    """

    name: str
    modules: Mapping[str, str]
    first_kernel: int = 3
    side: int = 32
    unused: tuple[tuple[str, str], ...] = ()

    def used(self, shapes: Shapes) -> Shapes:
        """Return the shapes of tensors without those of unused modules."""
        prefixes = tuple(prefix for prefix, _ in self.unused)
        return {name: shape for name, shape in shapes.items() if not name.startswith(prefixes)}

    def architecture(self, shapes: Shapes) -> str:
        """Return the spec of the network of the zoo for a file with tensors of these shapes."""
        return self.name

    def published_name(self, shapes: Shapes) -> str:
        """Return the name of the architecture in files of HYDRA."""
        return self.name

    def image_shape(self, shapes: Shapes) -> tuple[int, int, int]:
        """Return (height, width, channels) of the images for which a file was made."""
        channels = self.size(shapes, next(iter(self.modules)), 1, otherwise=3)
        return (self.side, self.side, channels)

    def num_classes(self, shapes: Shapes) -> int:
        """Return the number of logits."""
        return max(2, self.size(shapes, list(self.modules)[-1], 0, otherwise=10))

    def size(self, shapes: Shapes, layer: str, axis: int, otherwise: int) -> int:
        """Return the size of an axis of the weight of a module.

        Args:
            shapes: names of tensors to shapes.
            layer: name of the Keras layer.
            axis: 0 for outputs, 1 for inputs.
            otherwise: the result for a file without that weight.
        """
        shape = shapes.get(f"{self.modules[layer]}.weight", ())
        return max(1, shape[axis]) if len(shape) > axis else otherwise
