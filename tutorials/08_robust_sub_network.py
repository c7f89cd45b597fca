"""A robust sub-network inside a network that is not robust: no weight is trained, in a minute.

Run it from a checkout:  python tutorials/08_robust_sub_network.py
"""

# %% [markdown]
# # A robust sub-network
#
# Does robustness need other weights, or only fewer? The HYDRA paper asks it like this: take a
# network that was trained without any adversary, freeze every weight, and train nothing but
# the importance scores on a robust objective. Half of the weights are kept, and there is no
# fine-tuning. What is kept are weights of the natural network, unchanged.

# %%
import keras
import numpy as np

import hydra_tf

EPSILON = 0.15
data = hydra_tf.data.load("digits", batch_size=64, seed=0)
keras.utils.set_random_seed(0)
net = keras.Sequential(
    [
        keras.Input(data.image_shape),
        keras.layers.Conv2D(32, 3, padding="same", activation="relu", name="conv1"),
        keras.layers.Conv2D(64, 3, strides=2, padding="same", activation="relu", name="conv2"),
        keras.layers.Flatten(),
        keras.layers.Dense(128, activation="relu", name="hidden"),
        keras.layers.Dense(data.num_classes, name="logits"),
    ]
)

# %% [markdown]
# ## A natural network
#
# High accuracy, and next to nothing of it under attack.

# %%
model = hydra_tf.RobustModel(net, "natural")
model.compile(keras.optimizers.SGD(0.05, momentum=0.9))
model.fit(data.train, epochs=15, verbose=0)
natural = hydra_tf.strip_masks(model)

# %% [markdown]
# ## Only the scores
#
# A pipeline with nothing but `prune_epochs`. `allocation="uniform"` is the setting of the
# paper. The best epoch is chosen by PGD on the validation split. For comparison, `lwm`
# keeps the half of largest magnitude, and needs no training.


# %%
def sub_network(density, epochs=15):
    """Return the natural network with trained masks."""
    model = hydra_tf.RobustModel(natural, f"pgd:epsilon={EPSILON},steps=5")
    model.compile(keras.optimizers.SGD(0.1, momentum=0.9), metrics=["accuracy"])
    plan = hydra_tf.HydraCallback(density, prune_epochs=epochs, allocation="uniform")
    model.fit(
        data.train,
        epochs=plan.epochs,
        validation_data=data.validation,
        callbacks=[plan],
        verbose=0,
    )
    return model


found = sub_network(0.5)
magnitude = hydra_tf.mask_model(natural)
hydra_tf.set_density(magnitude, 0.5, allocation="uniform")

# %% [markdown]
# ## The weights are those of the natural network
#
# Every weight of the sub-network is 0 or equal to the natural one, to the last bit.

# %%
sub = hydra_tf.strip_masks(found)
for layer in natural.layers:
    if hasattr(layer, "kernel"):
        before, after = np.asarray(layer.kernel), np.asarray(sub.get_layer(layer.name).kernel)
        kept = after != 0
        changed = np.count_nonzero(after[kept] != before[kept])
        print(f"{layer.name:7} {kept.sum():6} of {kept.size:6} weights, {changed} of them changed")
        biases = np.asarray(layer.bias), np.asarray(sub.get_layer(layer.name).bias)
        assert np.array_equal(*biases)

# %% [markdown]
# ## Under attack
#
# The same attack for all, on the test split. PGD finds its gradients in the masked network
# itself; Square, which needs none, is a check.

# %%
attacks = ["pgd:steps=30,restarts=3", "square:queries=300"]
networks = {"natural": natural, "largest half": magnitude, "sub-network": found}
print(f"{'':14} benign    PGD  Square")
for name, network in networks.items():
    report = hydra_tf.evaluation.evaluate_model(network, data.test, attacks, epsilon=EPSILON)
    pgd, square = (row["robust_accuracy"] for row in report["attacks"])
    print(f"{name:14} {report['benign_accuracy']:6.1%} {pgd:6.1%} {square:7.1%}")
