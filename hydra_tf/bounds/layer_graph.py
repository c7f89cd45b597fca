"""The nodes of a network and how they are connected."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from hydra_tf.bounds.rules.nodes import Node
from hydra_tf.bounds.rules.registry import require_rule
from hydra_tf.core.layer_calls import Call


@dataclass(frozen=True, eq=False)
class LayerGraph:
    """The nodes of a network in order; node i computes value i + 1 from its sources.

    Args:
        nodes: what each node computes.
        sources: for each node, the numbers of the values that it takes; value 0 is the input.
    """

    nodes: tuple[Node, ...]
    sources: tuple[tuple[int, ...], ...]

    @classmethod
    def from_calls(cls, calls: Sequence[Call]) -> LayerGraph:
        """Return the nodes of layer calls, with the current weights of the layers."""
        nodes: list[Node] = []
        sources: list[tuple[int, ...]] = []
        outputs = [0]  # the number of the last value of each call
        for call in calls:
            inputs = tuple(outputs[source] for source in call.sources)
            for node in require_rule(call.layer)(call.layer, call.shapes):
                nodes.append(node)
                sources.append(inputs)
                inputs = (len(nodes),)
            outputs.append(inputs[0])
        return cls(tuple(nodes), tuple(sources))

    def consumers(self) -> list[int]:
        """Return, for each node, the largest number of nodes that take one of its inputs."""
        counts = Counter(source for inputs in self.sources for source in inputs)
        return [max(counts[source] for source in inputs) for inputs in self.sources]
