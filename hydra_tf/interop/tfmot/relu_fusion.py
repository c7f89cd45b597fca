"""ReLU layers that become the activation of the layer before them.

TFMOT quantizes a convolution or dense layer and its activation together. If a ReLU layer follows
instead, TFMOT 0.8.1 does not quantize the kernel at all, and no scheme preserves its zeros.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from hydra_tf.core.layer_calls import LayerCalls
from hydra_tf.interop.tfmot.layer_parts import Parts

_BEFORE = ("Conv2D", "Dense", "DepthwiseConv2D", "SeparableConv1D", "SeparableConv2D")


def fuse_relu(found: LayerCalls, parts: Sequence[Parts]) -> list[Parts | None]:
    """Return the parts of the layers that are called, with ReLU layers fused.

    A ReLU is fused if the layer before it is a convolution or dense layer without an activation
    that is called once and whose output is used nowhere else.

    Args:
        found: the calls.
        parts: the parts of the layer of each call.

    Returns:
        The parts for each call; None for a ReLU that is left out.
    """
    users = Counter(source for call in found.calls for source in call.sources)
    users.update(found.outputs)
    calls = Counter(id(call.layer) for call in found.calls)
    fused: list[Parts | None] = list(parts)
    for number, call in enumerate(found.calls):
        source = call.sources[0] - found.inputs
        if source < 0 or not _is_relu(parts[number]):
            continue
        before = parts[source]
        alone = users[call.sources[0]] == 1 and calls[id(found.calls[source].layer)] == 1
        if alone and before.kind in _BEFORE and before.arguments["activation"] == "linear":
            fused[source] = replace(before, arguments={**before.arguments, "activation": "relu"})
            fused[number] = None
    return fused


def _is_relu(parts: Parts) -> bool:
    """Return whether a layer computes max(x, 0)."""
    if parts.kind == "Activation":
        return bool(parts.arguments["activation"] == "relu")
    return parts.kind == "ReLU" and not any(parts.arguments.values())
