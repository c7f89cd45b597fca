"""Which weights are kept: exact selection, importance scores, density per layer."""

from hydra_tf.sparsity.allocation import ALLOCATIONS
from hydra_tf.sparsity.channel_groups import ChannelGroup, KernelAxis, channel_groups
from hydra_tf.sparsity.density_schedules import DENSITY_SCHEDULES
from hydra_tf.sparsity.granularity import GRANULARITIES
from hydra_tf.sparsity.methods import METHODS
from hydra_tf.sparsity.model import masked_layers, refresh_masks, report, set_density
from hydra_tf.sparsity.score_init import SCORE_INITS, initial_scores
from hydra_tf.sparsity.topk import kept_count, topk_mask

__all__ = [
    "ALLOCATIONS",
    "DENSITY_SCHEDULES",
    "GRANULARITIES",
    "METHODS",
    "SCORE_INITS",
    "ChannelGroup",
    "KernelAxis",
    "channel_groups",
    "initial_scores",
    "kept_count",
    "masked_layers",
    "refresh_masks",
    "report",
    "set_density",
    "topk_mask",
]
