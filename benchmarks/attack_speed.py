"""PGD beside that of CleverHans, Foolbox and ART: the same network, images, steps and ball.

    python -m benchmarks.attack_speed [--rounds=15] [--steps=50] [--batch=128]

Steps: an untrained mnist_cnn, so that no image is dropped; every library makes --steps ascent steps
from a random start on the same batch. They take turns in one process. The first row is the
reference: CleverHans within tf.function. At most 0.95 of its time is the aim, and a third of the
times of Foolbox and ART.

Restarts: --steps steps and 10 restarts on a mnist_cnn after three epochs of PGD training. Our
attack drops images that are broken; the reference is ten runs of CleverHans within tf.function, and
the aim (1 + 9 r) / 10 of their time, where r is the robust accuracy.

Foolbox and ART are needed: pip install 'hydra_tf[test]'.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from typing import Any

import numpy as np

EPSILON = 0.1
SIZE = EPSILON / 10


def seconds(run: Callable[[], Any]) -> float:
    """Return the time that a call takes."""
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def in_turn(runs: dict[str, Callable[[], Any]], rounds: int) -> dict[str, np.ndarray]:
    """Return the times of each function; the order changes in each round."""
    for run in runs.values():
        run()
    names = list(runs)
    times: dict[str, list[float]] = {name: [] for name in names}
    for i in range(rounds):
        for name in np.roll(names, i):
            times[name].append(seconds(runs[name]))
    return {name: np.array(values) for name, values in times.items()}


def cleverhans(net: Any, x: Any, y: Any, steps: int, graph: bool) -> Callable[[], Any]:
    """Return a run of CleverHans, eager or as one graph."""
    import tensorflow as tf
    from cleverhans.tf2.attacks.projected_gradient_descent import projected_gradient_descent

    def attack() -> Any:
        ball = (EPSILON, SIZE, steps, np.inf)
        return projected_gradient_descent(
            net, x, *ball, clip_min=0.0, clip_max=1.0, y=y, sanity_checks=False
        )

    run = tf.function(attack) if graph else attack
    return lambda: run().numpy()


def foolbox(net: Any, x: Any, y: Any, steps: int) -> Callable[[], Any]:
    """Return a run of Foolbox."""
    import foolbox as fb

    model = fb.TensorFlowModel(net, bounds=(0, 1))
    attack = fb.attacks.LinfPGD(abs_stepsize=SIZE, steps=steps, random_start=True)
    return lambda: attack.run(model, x, fb.criteria.Misclassification(y), epsilon=EPSILON).numpy()


def art(net: Any, x: Any, y: Any, steps: int) -> Callable[[], Any]:
    """Return a run of ART."""
    import keras
    from art.attacks.evasion import ProjectedGradientDescentTensorFlowV2
    from art.estimators.classification import TensorFlowV2Classifier

    classifier = TensorFlowV2Classifier(
        net,
        nb_classes=10,
        input_shape=tuple(x.shape[1:]),
        loss_object=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        clip_values=(0, 1),
    )
    attack = ProjectedGradientDescentTensorFlowV2(
        classifier, eps=EPSILON, eps_step=SIZE, max_iter=steps, num_random_init=1,
        batch_size=len(x), verbose=False,
    )  # fmt: skip
    images, labels = np.asarray(x), np.asarray(y)
    return lambda: attack.generate(images, labels)


def compare_steps(rounds: int, steps: int, batch: int) -> None:
    """Print a row for each library: seconds, and the ratio to CleverHans's graph."""
    import tensorflow as tf

    import hydra_tf

    net = hydra_tf.models.build("mnist_cnn", input_shape=(28, 28, 1), num_classes=10, seed=0)
    x, _ = images(batch)
    labels = tf.argmax(net(x), axis=1)  # all correct at first
    own = hydra_tf.attacks.build(
        f"pgd:norm=linf,epsilon={EPSILON},steps={steps},step_size={SIZE},start=uniform"
    )
    runs = {
        "CleverHans, graph": cleverhans(net, x, labels, steps, graph=True),
        "hydra_tf": lambda: own(net, x, labels, seed=0).numpy(),
        "CleverHans, eager": cleverhans(net, x, labels, steps, graph=False),
        "Foolbox": foolbox(net, x, labels, steps),
        "ART": art(net, x, labels, steps),
    }
    print(f"\n{steps} steps on {batch} images\n")
    print_table(in_turn(runs, rounds), "CleverHans, graph")


def compare_restarts(rounds: int, steps: int, batch: int) -> None:
    """Print our attack with ten restarts beside ten runs of CleverHans's graph."""
    import keras

    import hydra_tf

    data = hydra_tf.data.load("mnist_5k", batch_size=128, seed=0)
    net = hydra_tf.models.build("mnist_cnn", input_shape=(28, 28, 1), num_classes=10, seed=0)
    model = hydra_tf.RobustModel(net, f"pgd:epsilon={EPSILON},steps=5")
    model.compile(keras.optimizers.SGD(0.05, momentum=0.9))
    model.fit(data.train, epochs=3, verbose=0)
    net = hydra_tf.strip_masks(model.net)
    x, y = images(batch)
    ball = f"norm=linf,epsilon={EPSILON},steps={steps},step_size={SIZE},start=uniform"
    own = hydra_tf.attacks.build(f"pgd:{ball},restarts=10")
    share = hydra_tf.evaluation.robust_accuracy(net, (x, y), own, seed=0)
    once = cleverhans(net, x, y, steps, graph=True)
    runs = {
        "CleverHans, graph, ten runs": lambda: [once() for _ in range(10)],
        "hydra_tf, ten restarts": lambda: own(net, x, y, seed=0).numpy(),
    }
    print(f"\n{steps} steps and 10 restarts on {batch} images; robust accuracy r = {share:.3f}, ")
    print(f"(1 + 9 r) / 10 = {(1 + 9 * share) / 10:.3f}\n")
    print_table(in_turn(runs, rounds), "CleverHans, graph, ten runs")


def images(count: int) -> tuple[Any, Any]:
    """Return images and labels of the test split of mnist_5k, as tensors."""
    import hydra_tf

    data = hydra_tf.data.load("mnist_5k", batch_size=count, seed=0)
    return next(iter(data.test))


def print_table(times: dict[str, np.ndarray], reference: str) -> None:
    """Print medians of seconds and of the ratios to the reference, with quartiles."""
    print("| library | seconds | ratio (quartiles) |\n|---|---|---|")
    for name, values in times.items():
        low, middle, high = np.percentile(values / times[reference], [25, 50, 75])
        row = f"| {name} | {np.median(values):.3f} | {middle:.3f} ({low:.3f}-{high:.3f}) |"
        print(row, flush=True)


def main() -> None:
    """Run both comparisons."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--batch", type=int, default=128)
    arguments = parser.parse_args()
    compare_steps(arguments.rounds, arguments.steps, arguments.batch)
    compare_restarts(max(3, arguments.rounds // 3), arguments.steps, arguments.batch)


if __name__ == "__main__":
    main()
