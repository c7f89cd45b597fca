"""Latency of networks without some of their filters, compacted, against the dense networks.

    python -m benchmarks.compaction_latency [--models=cnn_large,resnet18] [--rounds=51]

Filters of each group of tied channels are pruned by their norm. The TFLite files of the network
before and after compaction are measured in turn, on one thread of LiteRT. The target is a speed-up
of at least 1/1.3 of that in multiplications.
"""

from __future__ import annotations

import argparse
import math
import os
import tempfile
from typing import Any


def main() -> None:
    """Parse the arguments and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", default="cnn_large,resnet18")
    parser.add_argument("--rounds", type=int, default=51)
    arguments = parser.parse_args()

    print(
        "| network | filters pruned | weights | multiplications | promised | dense (ms) "
        "| compacted (ms) | speed-up | promised / speed-up |"
    )
    print("|---|---|---|---|---|---|---|---|---|")
    for name in arguments.models.split(","):
        for share in (0.5, 0.75):
            print(
                f"| {name} | {share:.0%} | {' | '.join(_measured(name, share, arguments.rounds))} |"
            )


def _measured(name: str, share: float, rounds: int) -> list[str]:
    """Return the other cells of a row."""
    import numpy as np

    from hydra_tf import export, models

    net = models.build(name, input_shape=(32, 32, 3), num_classes=10)
    _prune(net, share)
    small = export.compact(net)
    with tempfile.TemporaryDirectory() as folder:
        paths = [os.path.join(folder, file) for file in ("dense.tflite", "compacted.tflite")]
        for path in paths:
            export.to_tflite(net, path, sparse=False, compact=path == paths[1])
        image = np.random.default_rng(0).random([32, 32, 3], "float32")
        dense, compacted = export.measure_latency(paths, image, rounds)
    before, after = _multiplications(net), _multiplications(small)
    promised, reached = before / after, dense.milliseconds / compacted.milliseconds
    return [
        f"{net.count_params():,} to {small.count_params():,}",
        f"{before / 1e6:.1f}M to {after / 1e6:.1f}M",
        f"{promised:.2f}",
        f"{dense.milliseconds:.2f}",
        f"{compacted.milliseconds:.2f}",
        f"{reached:.2f}",
        f"{promised / reached:.2f}",
    ]


def _prune(net: Any, share: float) -> None:
    """Set the filters with the smallest norms to zero, the same ones in all tied kernels."""
    import keras
    import numpy as np

    from hydra_tf.sparsity import channel_groups

    rng = np.random.default_rng(0)
    for layer in net.layers:
        if isinstance(layer, keras.layers.BatchNormalization):  # as after training
            layer.beta.assign(rng.normal(size=layer.beta.shape) / 10)
    for group in channel_groups(net):
        if not group.producers or not group.removable.all():
            continue
        norms = np.zeros(group.size)
        for axis in group.producers:
            kernel = np.moveaxis(axis.layer.kernel.numpy(), axis.axis, 0)
            squares = np.square(kernel).reshape(len(kernel), -1).sum(1)
            np.add.at(norms, axis.channels, squares)
        pruned = np.argsort(norms)[: round(share * group.size)]
        for axis in group.producers:
            kernel = axis.layer.kernel.numpy()
            np.moveaxis(kernel, axis.axis, 0)[np.isin(axis.channels, pruned)] = 0
            axis.layer.kernel.assign(kernel)


def _multiplications(net: Any) -> int:
    """Return the number of multiplications of kernels for one image."""
    from hydra_tf.core.layer_calls import read_calls

    total = 0
    for call in read_calls(net, lambda layer: None).calls:
        if hasattr(call.layer, "kernel"):
            places = call.layer.compute_output_shape(call.shapes[0])[1:-1]
            total += math.prod(places) * math.prod(call.layer.kernel.shape)
    return total


if __name__ == "__main__":
    main()
