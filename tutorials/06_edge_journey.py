"""From `model.fit` to a judged 8-bit file under a byte budget, in about two minutes.

Run it from a checkout:  python tutorials/06_edge_journey.py [folder]
"""

# %% [markdown]
# # A robust network for 12 kB of flash memory
#
# A device has 12,000 bytes left for a network that reads digits, and an adversary may
# change every pixel by 0.1. This tutorial trains a robust network, prunes it, finds the
# density that fits the memory, and judges the file itself: its accuracy, what is left of
# its robustness, and its speed.

# %%
import pathlib
import sys
import tempfile

import keras
import numpy as np

import hydra_tf

BUDGET = 12_000  # bytes
EPSILON = 0.1
OBJECTIVE = f"trades:epsilon={EPSILON},steps=5,step_size=0.04,start=uniform"
folder = pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else tempfile.mkdtemp())
data = hydra_tf.data.load("mnist_5k", batch_size=128, seed=0)

# %% [markdown]
# ## Train a robust network
#
# All weights, no masks yet. `strip_masks` returns plain Keras layers.

# %%
model = hydra_tf.RobustModel(
    hydra_tf.models.build("mnist_cnn", data.image_shape, data.num_classes, seed=0), OBJECTIVE
)
model.compile(optimizer=keras.optimizers.SGD(0.05, momentum=0.9))
model.fit(data.train, epochs=8, verbose=2)
robust = hydra_tf.strip_masks(model)

# %% [markdown]
# ## Prune it
#
# Joint pruning trains scores and weights together while the density falls. The allocation
# `erk` gives each layer a share that training does not change, so that the size of the
# file is known before.


# %%
def pruned_to(density):
    """Return the robust network, pruned to a density and fine-tuned."""
    model = hydra_tf.RobustModel(robust, OBJECTIVE)
    model.compile(optimizer=keras.optimizers.SGD(0.1, momentum=0.9))
    plan = hydra_tf.HydraCallback(
        density,
        prune_epochs=8,
        finetune_epochs=4,
        method="hydra:joint=true",
        allocation="erk",
        density_schedule="cubic",
        learning_rate={"finetune": 0.05},
    )
    model.fit(data.train, epochs=plan.epochs, callbacks=[plan], verbose=2)
    return model


# %% [markdown]
# ## Export under a budget
#
# int8 measures the ranges of its numbers on images of the validation split. A file that
# is too large is not kept. `nearest_fit` writes files of other densities, without
# training, to find the largest one that fits. Other positions of the same number of
# weights need a few bytes more or less: hence the factor of 0.97.

# %%
images = np.concatenate([x for x, _ in data.validation])
path = folder / "model.tflite"
settings = {"quantization": "int8", "representative": images, "budget_bytes": BUDGET}
model = pruned_to(0.1)
try:
    report = hydra_tf.export.to_tflite(model, path, **settings)
except hydra_tf.export.OverBudgetError as error:
    print(error)
    fit = hydra_tf.export.nearest_fit(model, **settings, allocation="erk")
    print(fit.text())
    model = pruned_to(0.97 * fit.nearest.density)
    report = hydra_tf.export.to_tflite(model, path, **settings)
print(f"{report.bytes:,} of {BUDGET:,} bytes, {report.sparsity:.1%} zeros")

# %% [markdown]
# ## Judge the file
#
# PGD makes its images on the Keras model, since a file has no gradients; they are then
# shown to the file. Square asks the file itself, again and again. What counts is the
# accuracy under both. It is measured, not proven.

# %%
test = data.test.unbatch().take(300).batch(100)
judged = hydra_tf.export.judge(
    path, model, test, ["pgd:steps=20"], "square:queries=100", norm="linf", epsilon=EPSILON
)
for name, file, in_keras in (
    ("benign accuracy", judged.benign_accuracy, judged.keras_benign_accuracy),
    ("robust accuracy", judged.era, judged.keras_era),
):
    print(f"{name}: {file:.1%} in the file, {in_keras:.1%} in Keras")
print(f"{judged.latency.milliseconds:.3f} ms an image on this machine")
for warning in judged.warnings():
    print(warning)

# %% [markdown]
# ## On the device
#
# The device needs LiteRT, NumPy, the file, and images.

# %%
x, y = (np.concatenate(part)[:200] for part in zip(*data.test, strict=True))
np.savez(folder / "digits.npz", images=x, labels=y)
print(f"python tutorials/10_on_the_device.py {path} {folder / 'digits.npz'}")
