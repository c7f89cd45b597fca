"""hydra_tf: prune adversarially robust Keras networks and ship them to the edge.

The public names are loaded at first use, so that ``import hydra_tf`` (and the ``--help``
of the binaries) is quick. The layers are made known to Keras as soon as Keras itself is
imported, so that saved models load in safe mode after a bare ``import hydra_tf``.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from wrapt import when_imported

if TYPE_CHECKING:
    from hydra_tf.models.masking import mask_model, strip_masks
    from hydra_tf.sparsity.model import set_density
    from hydra_tf.training.callbacks.pipeline import HydraCallback
    from hydra_tf.training.robust_model import RobustModel

__version__ = "0.2.0"

_MODULES = (
    "attacks",
    "bounds",
    "data",
    "evaluation",
    "export",
    "interop",
    "layers",
    "models",
    "objectives",
    "sparsity",
    "training",
)
_NAMES = {
    "HydraCallback": "hydra_tf.training.callbacks.pipeline",
    "RobustModel": "hydra_tf.training.robust_model",
    "mask_model": "hydra_tf.models.masking",
    "set_density": "hydra_tf.sparsity.model",
    "strip_masks": "hydra_tf.models.masking",
}

__all__ = [
    "HydraCallback",
    "RobustModel",
    "__version__",
    "mask_model",
    "set_density",
    "strip_masks",
]


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return importlib.import_module(f"hydra_tf.{name}")
    if name in _NAMES:
        return getattr(importlib.import_module(_NAMES[name]), name)
    raise AttributeError(f"hydra_tf has no name {name!r}.")


def __dir__() -> list[str]:
    return sorted({*globals(), *_MODULES, *_NAMES})


@when_imported("keras")
def _register_with_keras(_: Any) -> None:
    """Enter the library's serialisable classes into Keras's table."""
    importlib.import_module("hydra_tf.layers.masked")
    importlib.import_module("hydra_tf.training.robust_model")
    importlib.import_module("hydra_tf.interop.tfmot.pruning_wrapper")
