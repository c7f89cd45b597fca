"""A first robust pruning: train, prune and inspect the mask, in about a minute.

Run it from a checkout:  python tutorials/01_first_robust_pruning.py
"""

# %% [markdown]
# # A first robust pruning
#
# A robust network keeps its prediction when an adversary changes every pixel by up to
# epsilon. HYDRA uses the robust loss to decide which weights to keep: the weights are
# frozen, each gets a trainable importance score, the weights with the largest scores of a
# layer are kept, and SGD on the robust loss trains the scores.
#
# The data are the 1,797 handwritten digits of 8x8 pixels in scikit-learn.

# %%
import keras
import numpy as np

import hydra_tf

EPSILON = 0.1
data = hydra_tf.data.load("digits", batch_size=64, seed=0)
print("images", data.image_shape, "classes", data.num_classes)

# %% [markdown]
# ## Any Keras network that outputs logits
#
# The network needs nothing from this library. `RobustModel` makes a copy with masked
# layers and trains it with the objective that the string names.

# %%
keras.utils.set_random_seed(0)
net = keras.Sequential(
    [
        keras.Input(data.image_shape),
        keras.layers.Conv2D(16, 3, padding="same", activation="relu"),
        keras.layers.Conv2D(32, 3, strides=2, padding="same", activation="relu"),
        keras.layers.Flatten(),
        keras.layers.Dense(64, activation="relu"),
        keras.layers.Dense(data.num_classes, name="logits"),
    ]
)
model = hydra_tf.RobustModel(net, objective=f"trades:epsilon={EPSILON},steps=5,start=uniform")
model.compile(optimizer=keras.optimizers.SGD(0.05, momentum=0.9), metrics=["accuracy"])

# %% [markdown]
# ## Three phases in one `fit`
#
# Pretrain all weights, prune by training the scores, fine-tune the kept weights, 5% of
# all.

# %%
pipeline = hydra_tf.HydraCallback(
    density=0.05,
    pretrain_epochs=10,
    prune_epochs=5,
    finetune_epochs=5,
    learning_rate={"prune": 0.1, "finetune": 0.05},
)
model.fit(
    data.train,
    epochs=pipeline.epochs,
    validation_data=data.validation,
    callbacks=[pipeline],
    verbose=2,
)

# %% [markdown]
# ## Which weights are kept
#
# Every layer keeps the same share. Some filters of the first layer lost all their weights,
# although single weights are pruned, not whole filters.

# %%
for row in hydra_tf.sparsity.report(model)["layers"]:
    print(f"{row['name']:12} {row['weights']:6} weights, {row['kept']:4} kept")
mask = np.asarray(model.net.layers[0].mask)
print("weights kept in each first-layer filter:", mask.sum((0, 1, 2)).astype(int).tolist())

# %% [markdown]
# ## Evaluation
#
# Accuracy on the test split, and under PGD with 20 steps and 3 restarts.

# %%
attack = f"pgd:epsilon={EPSILON},steps=20,restarts=3"
benign = hydra_tf.evaluation.accuracy(model, data.test)
robust = hydra_tf.evaluation.robust_accuracy(model, data.test, attack)
print(f"benign accuracy {benign:.1%}, robust accuracy {robust:.1%}")

# %% [markdown]
# ## A plain Keras model
#
# `strip_masks` writes the zeros into the kernels and returns plain Keras layers.

# %%
plain = hydra_tf.strip_masks(model)
print([type(layer).__name__ for layer in plain.layers])
zeros = int((np.asarray(plain.layers[0].kernel) == 0).sum())
print("zeros in the first kernel:", zeros, "of", mask.size)
