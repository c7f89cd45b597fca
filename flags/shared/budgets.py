"""Whether a network can be pruned to the densities of its runs, before anything is trained."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import hydra_tf

from .types import Config

if TYPE_CHECKING:
    import keras

# Steps of a phase, to find the density at which a schedule begins.
_STEPS = 100


def require_budgets(net: keras.Model, configs: Sequence[Config]) -> None:
    """Check the densities of runs that start from networks of the same layers.

    Args:
        net: such a network, with or without masks.
        configs: settings of the runs, with density and allocation.

    Raises:
        ValueError: for a budget of weights that cannot be met; the sentence has the smallest one
            that can.
    """
    from hydra_tf.sparsity.density_schedules import DENSITY_SCHEDULES
    from hydra_tf.sparsity.model import layer_densities, masked_layers

    masked = net if masked_layers(net) else hydra_tf.mask_model(net)
    checked = set()
    for config in configs:
        schedule = DENSITY_SCHEDULES.build(config.get("density_schedule") or "one_shot")
        first = schedule(0, _STEPS, config["density"]) or 1.0
        shape = config.get("granularity", "element")
        checked |= {(d, config["allocation"], shape) for d in (config["density"], first)}
    for density, allocation, granularity in sorted(checked):
        layer_densities(masked, density, allocation, granularity)
