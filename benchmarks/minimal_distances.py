"""Smallest adversarial distances by FMN, beside Foolbox, PGD and AutoAttack.

    python -m benchmarks.minimal_distances [--images=200] [--seed=0]

mnist_cnn is trained on mnist_5k, naturally and by TRADES in the Linf ball of 0.2. On the first
images of the test split, Foolbox judges the distances: its FMN in Linf and, as the projection of
its L2 form has no effect (version 3.3.4), its DDN attack in L2; all have 100 steps. PGD with 50
steps and 10 restarts, and AutoAttack, judge the robust accuracy at one radius.
"""

from __future__ import annotations

import argparse
from typing import Any

import numpy as np

OBJECTIVES = {"natural": "natural", "trades": "trades:epsilon=0.2,steps=10,start=uniform"}
EPOCHS = 10
# Radii at which robust accuracies are compared.
EPSILONS = {("natural", "linf"): 0.05, ("natural", "l2"): 0.75}
EPSILONS |= {("trades", "linf"): 0.2, ("trades", "l2"): 1.5}
JUDGES = ("pgd:steps=50,restarts=10", "autoattack")
Array = np.ndarray[Any, Any]


def trained_network(objective: str, seed: int) -> tuple[Any, Any]:
    """Return mnist_cnn after training on mnist_5k, and the test split."""
    import keras

    import hydra_tf

    data = hydra_tf.data.load("mnist_5k", batch_size=128, seed=seed)
    net = hydra_tf.models.build("mnist_cnn", input_shape=(28, 28, 1), num_classes=10, seed=seed)
    model = hydra_tf.RobustModel(net, objective, seed=seed)
    model.compile(keras.optimizers.SGD(0.05, momentum=0.9))
    phases = hydra_tf.HydraCallback(1.0, EPOCHS, 0, 0)
    model.fit(data.train, epochs=EPOCHS, callbacks=[phases], verbose=0)
    return model.net, data.test


def foolbox_distances(net: Any, x: Array, y: Array, norm: str) -> Array:
    """Return the distances that Foolbox's attack finds, 0 for misclassified images."""
    import foolbox
    import tensorflow as tf

    kind = {"linf": foolbox.attacks.LInfFMNAttack, "l2": foolbox.attacks.DDNAttack}[norm]
    model = foolbox.TensorFlowModel(net, bounds=(0, 1))
    goal = foolbox.criteria.Misclassification(tf.constant(y, tf.int64))
    found = kind(steps=100).run(model, tf.constant(x), goal).numpy()
    change = (found - x).reshape(len(x), -1)
    lengths = np.linalg.norm(change, ord=np.inf if norm == "linf" else 2, axis=1)
    lengths[np.argmax(net(found, training=False), -1) == y] = np.inf
    lengths[np.argmax(net(x, training=False), -1) != y] = 0
    return np.asarray(lengths)


def main() -> None:
    """Parse the arguments and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()

    from hydra_tf import evaluation

    print("| training | norm | attack | median | mean | robust at epsilon |")
    print("|---" * 6 + "|")
    for name, objective in OBJECTIVES.items():
        net, test = trained_network(objective, arguments.seed)
        first = next(iter(test.unbatch().batch(arguments.images)))
        x, y = first[0].numpy(), first[1].numpy()
        for norm in ("linf", "l2"):
            epsilon = EPSILONS[name, norm]
            for judge in JUDGES:
                spec = {**_parsed(judge), "norm": norm, "epsilon": epsilon}
                share = evaluation.robust_accuracy(net, (x, y), spec)
                print(f"| {name} | {norm} | {judge} | | | {share:.1%} at {epsilon:g} |", flush=True)
            for attack in ("foolbox", "fmn", "fmn:loss=ce", "fmn:search=true"):
                if attack == "foolbox":
                    found = foolbox_distances(net, x, y, norm)
                else:
                    spec = {**_parsed(attack), "norm": norm}
                    found = evaluation.minimal_distances(net, (x, y), spec)
                robust = evaluation.robust_accuracy_curve(found, [epsilon])[0]
                print(
                    f"| {name} | {norm} | {attack} | {np.median(found):.4f} | {found.mean():.4f} "
                    f"| {robust:.1%} at {epsilon:g} |",
                    flush=True,
                )


def _parsed(spec: str) -> dict[str, Any]:
    """Return a spec as a mapping."""
    from hydra_tf.attacks import ATTACKS

    name, parameters = ATTACKS.parse(spec)
    return {"name": name, **parameters}


if __name__ == "__main__":
    main()
