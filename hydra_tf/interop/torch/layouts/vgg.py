"""VGG with BatchNorm as in HYDRA, HARP and the Adversarial Pruning Benchmark."""

from __future__ import annotations

from hydra_tf.interop.torch.layouts.base import Layout
from hydra_tf.models.zoo.vgg import STAGES


def layouts() -> list[Layout]:
    """Return the layouts of all depths.

    Example:
        >>> layouts()[0].modules["conv2"]
        'features.4'
    """
    return [Layout(f"vgg{depth}_bn", _modules(depth)) for depth in STAGES]


def _modules(depth: int) -> dict[str, str]:
    """Return the modules: ``features`` counts convolutions, BatchNorm, ReLU and pooling."""
    modules, position, i = {}, 0, 0
    for stage, convolutions in enumerate(STAGES[depth]):
        position += stage > 0  # pooling
        for _ in range(convolutions):
            i += 1
            modules[f"conv{i}"] = f"features.{position}"
            modules[f"bn{i}"] = f"features.{position + 1}"
            position += 3
    return {**modules, "fc1": "classifier.0", "fc2": "classifier.2", "logits": "classifier.4"}
