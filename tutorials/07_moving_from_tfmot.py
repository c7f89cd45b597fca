"""From TFMOT's pruning to a sparse, robust and quantized 8-bit file, in about four minutes.

Run it from a checkout:  python tutorials/07_moving_from_tfmot.py
"""

# %% [markdown]
# # Moving from TensorFlow Model Optimization
#
# TensorFlow Model Optimization (TFMOT) prunes by magnitude, and trains networks with emulated
# rounding, but knows only Keras 2, the package `tf_keras`. This tutorial
#
# 1. runs a program for TFMOT on Keras 3, with one import changed,
# 2. shows what an adversary does to its network, and prunes a robust one with HYDRA,
# 3. takes that to TFMOT's quantization-aware training, where it sees adversarial images while
#    every pruned weight stays 0, and compares two files of 8-bit numbers.
#
# For its quantization, TFMOT itself is imported through `import_tfmot`: a plain import would
# change what `tf.keras` means in the whole program.

# %%
import pathlib
import tempfile

import keras
import numpy as np
import tensorflow as tf
from ai_edge_litert.interpreter import Interpreter

import hydra_tf

# import tensorflow_model_optimization as tfmot
from hydra_tf.interop import tfmot
from hydra_tf.interop.tfmot import (
    from_tf_keras,
    import_tf_keras,
    import_tfmot,
    quantized_to_tflite,
    to_tf_keras,
)

EPSILON = 0.2
data = hydra_tf.data.load("mnist_5k", batch_size=128, seed=0)
test = data.test.unbatch().take(300).batch(100).cache()
folder = pathlib.Path(tempfile.mkdtemp())

# %% [markdown]
# ## Your program, with one import changed
#
# Of the imports above, `from hydra_tf.interop import tfmot` replaces the line above it. The rest
# is a program for TFMOT as it was: a schedule, `prune_low_magnitude`, its callback, and
# `strip_pruning`. The masks are those of TFMOT at every step.

# %%
begin, end = 0, 8 * data.steps
natural = tfmot.sparsity.keras.prune_low_magnitude(
    hydra_tf.models.build("mnist_cnn", data.image_shape, data.num_classes, seed=0),
    pruning_schedule=tfmot.sparsity.keras.PolynomialDecay(
        initial_sparsity=0.0, final_sparsity=0.9, begin_step=begin, end_step=end, frequency=10
    ),
)
natural.compile(
    keras.optimizers.SGD(0.05, momentum=0.9),
    keras.losses.SparseCategoricalCrossentropy(from_logits=True),
)
update = tfmot.sparsity.keras.UpdatePruningStep()
natural.fit(data.train, epochs=10, callbacks=[update], verbose=0)
stripped = tfmot.sparsity.keras.strip_pruning(natural)
kernels = [layer.kernel for layer in stripped.layers if hasattr(layer, "kernel")]
zeros = sum(np.count_nonzero(np.asarray(kernel) == 0) for kernel in kernels)
print(f"TFMOT's program: {zeros / sum(np.size(kernel) for kernel in kernels):.1%} zeros")

# %% [markdown]
# ## What an adversary does to it
#
# Its accuracy is high, and hardly anything is left under PGD. Nothing in the program asked
# for more: neither its loss nor its choice of the weights knows about adversaries. (The masked
# model `natural` could go on with a robust objective as it is:
# `hydra_tf.RobustModel(natural, objective="trades:epsilon=0.2")` with the same callback.)

# %%
benign = hydra_tf.evaluation.accuracy(stripped, test)
attacked = hydra_tf.evaluation.robust_accuracy(
    stripped, test, f"pgd:epsilon={EPSILON},steps=20,step_size=0.03,restarts=2"
)
print(f"TFMOT's program: benign accuracy {benign:.1%}, under PGD {attacked:.1%}")

# %% [markdown]
# ## HYDRA: 10% of the weights, robust
#
# The method of the first tutorial, with the robust objective in every phase.

# %%
model = hydra_tf.RobustModel(
    hydra_tf.models.build("mnist_cnn", data.image_shape, data.num_classes, seed=0),
    objective=f"trades:epsilon={EPSILON},steps=5,step_size=0.08,start=uniform",
)
model.compile(optimizer=keras.optimizers.SGD(0.05, momentum=0.9), metrics=["accuracy"])
hydra = hydra_tf.HydraCallback(
    density=0.1,
    pretrain_epochs=10,
    prune_epochs=10,
    finetune_epochs=10,
    learning_rate={"prune": 0.1, "finetune": 0.1},
    allocation="uniform",  # the same density in every layer
)
model.fit(data.train, epochs=hydra.epochs, callbacks=[hydra], verbose=0)
pruned = hydra_tf.strip_masks(model)

# %% [markdown]
# ## The same network in tf_keras
#
# `to_tf_keras` copies layers and weights and checks that the outputs are equal. TFMOT
# then wraps every layer with emulated rounding; the scheme multiplies the kernels by
# what is not 0 now.

# %%
original = import_tfmot()  # TFMOT itself
tf_keras = import_tf_keras()
quantization = original.quantization.keras
quantized = quantization.quantize_apply(
    quantization.quantize_annotate_model(to_tf_keras(pruned)),
    original.experimental.combine.Default8BitPrunePreserveQuantizeScheme(),
)

# %% [markdown]
# ## Robust training with emulated rounding
#
# The attacks of this library take any network, also one of tf_keras: each batch is
# attacked through the emulated rounding, and the network is trained on the result. The
# first pass, on the images as they are, measures the ranges of all layers.

# %%
quantized.compile(
    tf_keras.optimizers.SGD(0.01, momentum=0.9),
    tf_keras.losses.SparseCategoricalCrossentropy(from_logits=True),
)
attack = hydra_tf.attacks.build(f"pgd:epsilon={EPSILON},steps=5,step_size=0.08,start=uniform")
for images, labels in data.train:
    quantized.train_on_batch(images, labels)
for epoch in range(5):
    losses = []
    for step, (images, labels) in enumerate(data.train):
        attacked = attack(quantized, images, labels, seed=1000 * epoch + step)
        losses.append(quantized.train_on_batch(attacked, labels))
    print(f"epoch {epoch + 1}: adversarial loss {np.mean(losses):.3f}")

# %% [markdown]
# ## Back to Keras 3, with every zero
#
# `from_tf_keras` returns the trained float network. None of the pruned weights moved.

# %%
trained = from_tf_keras(quantized)
for layer in model.net.layers:
    if hasattr(layer, "mask"):
        kernel = np.asarray(trained.get_layer(layer.name).kernel)
        pruned_weights = ~np.asarray(layer.mask)
        moved = np.count_nonzero(kernel[pruned_weights])
        print(f"{layer.name:8} {pruned_weights.sum():6} pruned weights, {moved} of them not 0")

# %% [markdown]
# ## Two files
#
# `to_tflite` rounds the pruned network after training and measures ranges on training
# images. `quantized_to_tflite` writes the ranges and weights of the training above. Both
# compare the file in LiteRT with the network before they keep it.

# %%
calibration = np.concatenate([images for images, _ in data.train.take(2)])
reports = {
    "float32": hydra_tf.export.to_tflite(pruned, folder / "float32.tflite", sparse=False),
    "int8, rounded afterwards": hydra_tf.export.to_tflite(
        pruned, folder / "after.tflite", quantization="int8", representative=calibration
    ),
    "int8, trained with rounding": quantized_to_tflite(
        quantized, folder / "trained.tflite", representative=calibration
    ),
}

# %% [markdown]
# ## Robust accuracy of a file
#
# A file has no gradients. Two attacks judge it:
#
# - PGD on the network that the file was made of; the file predicts the classes.
# - Square, which only looks at the outputs of the file itself.


# %%
class File:
    """A TFLite file as a classifier that attacks and evaluation can call."""

    def __init__(self, path):
        self.interpreter = Interpreter(model_path=str(path))
        self.interpreter.allocate_tensors()
        self.source = self.interpreter.get_input_details()[0]["index"]
        self.target = self.interpreter.get_output_details()[0]["index"]

    def run(self, images):
        """Return the logits of images, computed one by one."""
        outputs = []
        for image in images:
            self.interpreter.set_tensor(self.source, image[None])
            self.interpreter.invoke()
            outputs.append(self.interpreter.get_tensor(self.target)[0])
        return np.reshape(outputs, [len(images), data.num_classes]).astype(np.float32)

    def __call__(self, images, training=False):
        """Return the logits of images, in a graph or outside."""
        return tf.ensure_shape(
            tf.numpy_function(self.run, [images], tf.float32), [None, data.num_classes]
        )


networks = dict(zip(reports, (pruned, pruned, quantized), strict=True))
pgd = hydra_tf.attacks.build(f"pgd:epsilon={EPSILON},steps=20,step_size=0.03,restarts=2")
square = f"square:epsilon={EPSILON},queries=100"
print(f"{'file':28} {'gzip bytes':>10} {'zeros':>6} {'benign':>7} {'PGD':>6} {'Square':>7}")
for name, report in reports.items():
    file = File(report.path)
    pairs = [(pgd(networks[name], images, labels), labels) for images, labels in test]
    attacked = tuple(np.concatenate(part) for part in zip(*pairs, strict=True))
    benign = hydra_tf.evaluation.accuracy(file, test)
    transferred = hydra_tf.evaluation.accuracy(file, attacked)
    queried = hydra_tf.evaluation.robust_accuracy(file, test, square)
    print(
        f"{name:28} {report.gzip_bytes:10} {report.sparsity:6.1%} {benign:7.1%} "
        f"{transferred:6.1%} {queried:7.1%}"
    )
