"""Overhead of the training loop, time spent waiting for data, and memory over time.

    python -m benchmarks.long_runs [--epochs=50]

Loop: epochs of :func:`hydra_tf.training.train` on one device and of a bare loop that calls the
same step on the same batches, alternating in one process (mnist_cnn, TRADES with ten steps, batch
128); the target is 1.03. Waiting: the share of time that a natural training step of cnn_large (the
shortest step used with such data) waits for batches of 45,000 CIFAR-sized images, cropped and
flipped; the target is 5%. Memory: resident memory of the process over many epochs,
and peak memory of an epoch on image folders of two sizes, one ten times the other.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import tempfile
import time

import numpy as np

from hydra_tf.core.isolated import isolated_command


def loop_against_bare(epochs: int) -> np.ndarray:
    """Return, per epoch, the time in the training loop divided by that in a bare loop."""
    import keras
    import tensorflow as tf

    import hydra_tf
    from hydra_tf.training.step.robust_step import robust_step, step_context

    data = hydra_tf.data.load("mnist_5k", batch_size=128)

    def model_of():
        net = hydra_tf.models.build("mnist_cnn", input_shape=(28, 28, 1), num_classes=10, seed=0)
        model = hydra_tf.RobustModel(net, "trades:epsilon=0.2,steps=10,step_size=0.04")
        model.compile(keras.optimizers.SGD(0.05, momentum=0.9))
        return model

    bare = model_of()
    bare.prepare()
    variables = hydra_tf.training.trained_variables(bare.net, hydra_tf.training.PHASES["pretrain"])

    @tf.function
    def step(iterator):
        x, y = next(iterator)
        context = step_context(0, 0, bare.optimizer.iterations, None)
        return robust_step(
            bare.net, bare.objective, bare.optimizer, variables, x, y, context, refresh=False
        ).loss

    iterator = iter(data.train.repeat())
    float(step(iterator))
    times = []

    class Clock(keras.callbacks.Callback):
        """Times all steps of an epoch but the first, then as many steps of the bare loop."""

        def on_train_batch_end(self, batch, logs=None):
            if batch == 0:
                self.start = time.perf_counter()
            elif batch == data.steps - 1:
                loop = time.perf_counter() - self.start
                start = time.perf_counter()
                for _ in range(data.steps - 1):
                    float(step(iterator))
                times.append((loop, time.perf_counter() - start))

    pipeline = hydra_tf.HydraCallback(1.0, epochs, restore_best_weights=False)
    hydra_tf.training.train(
        model_of(),
        lambda epoch, step: hydra_tf.data.load("mnist_5k", batch_size=128).train.repeat(),
        data.steps,
        pipeline,
        callbacks=[Clock()],
        verbose=0,
    )
    loop, reference = np.array(times[1:]).T
    return loop / reference


def waiting(steps: int = 60) -> tuple[float, float]:
    """Return the share of time spent waiting for data, and the seconds per step."""
    import keras
    import tensorflow as tf

    import hydra_tf
    from hydra_tf.data.augmentation import crop_and_flip

    def source():
        images = np.random.default_rng(0).integers(0, 256, (45_000, 32, 32, 3), np.uint8)
        labels = np.arange(45_000) % 10
        whole = tf.data.Dataset.from_tensor_slices((images, labels))
        few = whole.take(128)
        return hydra_tf.data.Source(whole, few, few, 10, crop_and_flip(4, True))

    data = hydra_tf.data.load(source, batch_size=128)
    net = hydra_tf.models.build("cnn_large", input_shape=(32, 32, 3), num_classes=10, seed=0)
    variables = net.trainable_variables
    optimizer = keras.optimizers.SGD(1e-3, momentum=0.9)
    optimizer.build(variables)

    @tf.function(reduce_retracing=True)
    def step(x, y):
        with tf.GradientTape() as tape:
            loss = tf.nn.sparse_softmax_cross_entropy_with_logits(labels=y, logits=net(x))
            loss = tf.reduce_mean(loss)
        optimizer.apply(tape.gradient(loss, [v.value for v in variables]), variables)
        return loss

    iterator = iter(data.train)
    float(step(*next(iterator)))
    waited = 0.0
    start = time.perf_counter()
    for _ in range(steps):
        before = time.perf_counter()
        batch = next(iterator)
        waited += time.perf_counter() - before
        float(step(*batch))
    whole = time.perf_counter() - start
    return waited / whole, whole / steps


def resident() -> float:
    """Return the resident memory of this process in megabytes."""
    with open("/proc/self/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


def memory_over_epochs(epochs: int) -> list[float]:
    """Return the resident memory after each epoch of one long phase."""
    import keras

    import hydra_tf

    memory: list[float] = []

    class MemoryLog(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            memory.append(resident())

    data = hydra_tf.data.load("digits", batch_size=64)
    net = hydra_tf.models.build("mnist_cnn", input_shape=data.image_shape, num_classes=10, seed=0)
    model = hydra_tf.RobustModel(net, "pgd:epsilon=0.1,steps=3")
    model.compile("sgd")
    with tempfile.TemporaryDirectory() as folder:
        hydra_tf.training.train(
            model,
            lambda epoch, step: hydra_tf.data.load("digits", batch_size=64).train.repeat(),
            data.steps,
            hydra_tf.HydraCallback(1.0, epochs),
            validation_data=data.validation,
            callbacks=[MemoryLog()],
            checkpoints=hydra_tf.training.Checkpoints(folder),
            verbose=0,
        )
    return memory


def peak_on_folder(count: int) -> float:
    """Return the peak memory, in megabytes, of an epoch on a folder of `count` images."""
    with tempfile.TemporaryDirectory() as folder:
        write_images(folder, count)
        result = subprocess.run(
            isolated_command("benchmarks.long_runs", f"--folder={folder}"),
            capture_output=True,
            text=True,
            check=True,
        )
    return float(result.stdout.split()[-1])


def write_images(folder: str, count: int) -> None:
    """Write JPEG images of smooth noise in two classes."""
    import tensorflow as tf

    generator = np.random.default_rng(0)
    for name in ("dark", "light"):
        os.makedirs(os.path.join(folder, name))
    for i in range(count):
        pixels = tf.image.resize(generator.integers(0, 256, (8, 8, 3)), (256, 256))
        name = os.path.join(folder, ("dark", "light")[i % 2], f"{i:05}.jpg")
        tf.io.write_file(name, tf.io.encode_jpeg(tf.cast(pixels, tf.uint8)))


def one_epoch(folder: str) -> None:
    """Print the peak memory of this process after an epoch on a folder of images."""
    import resource

    import hydra_tf

    data = hydra_tf.data.load(f"folder:path={folder},size=64", batch_size=32)
    for x, _ in data.train:
        float(x[0, 0, 0, 0])
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)


def main() -> None:
    """Parse the arguments and print the results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=50)
    parser.add_argument("--long", type=int, default=100)
    parser.add_argument("--folder", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.folder:
        one_epoch(arguments.folder)
        return
    low, middle, high = np.percentile(loop_against_bare(arguments.epochs), [25, 50, 75])
    print(f"loop / bare loop: {middle:.3f} ({low:.3f}-{high:.3f})", flush=True)
    share, seconds = waiting()
    print(f"waiting for data: {share:.2%} of steps of {seconds * 1e3:.0f} ms", flush=True)
    memory = memory_over_epochs(arguments.long)
    print(
        f"resident memory after epoch 10: {memory[9]:.0f} MB, after epoch {len(memory)}: "
        f"{memory[-1]:.0f} MB",
        flush=True,
    )
    few, many = (peak_on_folder(count) for count in (300, 3000))
    print(f"peak on 300 images: {few:.0f} MB, on 3000: {many:.0f} MB")


if __name__ == "__main__":
    main()
