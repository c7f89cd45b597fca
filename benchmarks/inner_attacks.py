"""Attacks of other origin within a training step, beside the library's own ascent.

    python -m benchmarks.inner_attacks [--part=cost,accuracy] [--rounds=25]
        [--attacks=own,cleverhans_pgd,apgd] [--seeds=0,1,2]

Cost: TRADES and PGD steps of mnist_cnn at batch 128 with ten ascent steps, whose images come from
our own loop, from CleverHans or from APGD. The steps take turns in one process; the ratio to the
step with our own loop is the median over the rounds. CleverHans may cost 1.5 times as much.

Accuracy: mnist_cnn is trained on mnist_5k with each attack and each seed, and judged once, on the
first images of the test split, by PGD with 50 steps and 10 restarts, and by AutoAttack.
"""

from __future__ import annotations

import argparse

import numpy as np

from benchmarks.pruning_step import network, seconds, training_step

ATTACKS = {
    "own": "",
    "cleverhans_pgd": ",attack=cleverhans_pgd",
    "apgd": ",attack=apgd",
}
COST = {"trades": "trades:epsilon=0.2,steps=10", "pgd": "pgd:epsilon=0.2,steps=10"}
# The settings of flags/recipes/mnist_5k_trades.flags, for half of the epochs.
TRAINED = "trades:epsilon=0.2,steps=10,start=uniform"
EPOCHS = 10
# With the number of images.
JUDGES = {"pgd:steps=50,restarts=10": 500, "autoattack": 200}


def compare_costs(names: list[str], rounds: int) -> None:
    """Print a row for each objective and attack: median seconds, and the ratio to our own loop."""
    net, shape, batch = network("mnist_cnn")
    print("| objective | images from | step (s) | ratio to our own loop (quartiles) |")
    print("|---|---|---|---|")
    for objective, spec in COST.items():
        specs = [spec + ATTACKS[name] for name in ("own", *names)]
        steps = [training_step(net, "pretrain", shape, batch, spec) for spec in specs]
        for step in [*steps, *steps]:
            step()
        times = np.zeros([rounds, len(steps)])
        for i in range(rounds):
            # The order alternates, so that the state of the caches affects all equally often.
            for k in np.roll(np.arange(len(steps)), i):
                times[i, k] = seconds(steps[k])
        low, middle, high = np.percentile(times / times[:, :1], [25, 50, 75], axis=0)
        for k, name in enumerate(("own", *names)):
            print(
                f"| {objective} | {name} | {np.median(times[:, k]):.3f} "
                f"| {middle[k]:.3f} ({low[k]:.3f}-{high[k]:.3f}) |",
                flush=True,
            )


def trained_network(attack: str, seed: int):
    """Return mnist_cnn after training on mnist_5k with one of the attacks."""
    import keras

    import hydra_tf

    data = hydra_tf.data.load("mnist_5k", batch_size=128, seed=seed)
    net = hydra_tf.models.build("mnist_cnn", input_shape=(28, 28, 1), num_classes=10, seed=seed)
    model = hydra_tf.RobustModel(net, TRAINED + ATTACKS[attack], seed=seed)
    model.compile(keras.optimizers.SGD(0.05, momentum=0.9))
    phases = hydra_tf.HydraCallback(1.0, EPOCHS, 0, 0)
    model.fit(data.train, epochs=EPOCHS, callbacks=[phases], verbose=0)
    return model.net, data.test


def compare_accuracies(names: list[str], seeds: list[int]) -> None:
    """Print a row for each seed and attack, and mean and standard deviation of each attack."""
    from hydra_tf import attacks, evaluation

    print("| images from | seed | benign | " + " | ".join(JUDGES) + " |")
    print("|---" * (3 + len(JUDGES)) + "|")
    rows: dict[str, list[list[float]]] = {name: [] for name in names}
    for seed in seeds:
        for name, results in rows.items():
            net, test = trained_network(name, seed)
            results.append([float(evaluation.accuracy(net, test))])
            for spec, images in JUDGES.items():
                judge = attacks.build(spec, epsilon=0.2)
                first = test.unbatch().take(images).batch(100)
                results[-1].append(float(evaluation.robust_accuracy(net, first, judge)))
            values = " | ".join(f"{value:.1%}" for value in results[-1])
            print(f"| {name} | {seed} | {values} |", flush=True)
    for name, results in rows.items():
        spreads = np.std(results, axis=0, ddof=1) if len(seeds) > 1 else np.zeros(len(results[0]))
        pairs = zip(np.mean(results, axis=0), spreads, strict=True)
        print(f"| {name} | mean | " + " | ".join(f"{m:.1%} ± {s:.1%}" for m, s in pairs) + " |")


def main() -> None:
    """Parse the arguments and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--part", default="cost,accuracy")
    parser.add_argument("--rounds", type=int, default=25)
    parser.add_argument("--attacks", default=",".join(ATTACKS))
    parser.add_argument("--seeds", default="0,1,2")
    arguments = parser.parse_args()
    names = arguments.attacks.split(",")
    if "cost" in arguments.part:
        compare_costs([name for name in names if name != "own"], arguments.rounds)
    if "accuracy" in arguments.part:
        compare_accuracies(names, [int(seed) for seed in arguments.seeds.split(",")])


if __name__ == "__main__":
    main()
