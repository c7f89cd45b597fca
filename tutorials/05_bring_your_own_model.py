"""Your own Keras model: densities by layer, whole filters, and a smaller network, in a minute.

Run it from a checkout:  python tutorials/05_bring_your_own_model.py
"""

# %% [markdown]
# # Bring your own model
#
# Any Keras model that outputs logits can be pruned: functional, Sequential or subclassed, with
# layers of its own. This one has a residual connection, batch normalisation and a layer
# that Keras does not have. It trains on the 8x8 digits of scikit-learn.

# %%
import keras
import numpy as np

import hydra_tf
from hydra_tf.sparsity.channel_rules.registry import (
    ChannelWeight,
    PerChannel,
    register_channel_rule,
)

EPSILON = 0.1
OBJECTIVE = f"pgd:epsilon={EPSILON},steps=5"
data = hydra_tf.data.load("digits", batch_size=64, seed=0)


@keras.saving.register_keras_serializable(package="tutorial")
class Scale(keras.layers.Layer):
    """Multiplies each channel by a trained factor."""

    def build(self, input_shape):
        """Make the factors."""
        self.factor = self.add_weight(name="factor", shape=(input_shape[-1],), initializer="ones")

    def call(self, inputs):
        """Return the multiplied channels."""
        return inputs * self.factor


def network():
    """Return the model of your project, untrained."""
    keras.utils.set_random_seed(0)
    images = keras.Input(data.image_shape)
    x = keras.layers.Conv2D(32, 3, padding="same", activation="relu", name="stem")(images)
    x = keras.layers.MaxPooling2D()(x)
    y = keras.layers.Conv2D(32, 3, padding="same", use_bias=False, name="conv1")(x)
    y = keras.layers.BatchNormalization()(y)
    y = keras.layers.ReLU()(y)
    y = keras.layers.Conv2D(32, 3, padding="same", name="conv2")(y)
    x = keras.layers.ReLU()(x + y)
    x = keras.layers.Flatten()(x)
    x = keras.layers.Dense(64, activation="relu", name="hidden")(x)
    return keras.Model(images, keras.layers.Dense(data.num_classes, name="logits")(Scale()(x)))


# %% [markdown]
# ## What gets a mask
#
# `mask_model` copies the model; weights and outputs stay. The report lists what can be
# pruned: kernels, not biases, normalisation or the factors of `Scale`. Your own layers may
# have kernels too; [any Keras model](../docs/any_model.md) says which weights count.
# `RobustModel` does the same by itself when it gets a plain model.

# %%
masked = hydra_tf.mask_model(network())
for row in hydra_tf.sparsity.report(masked)["layers"]:
    print(f"kernel {row['name']:8} {row['weights']:6} weights")

# %% [markdown]
# ## Who keeps how many
#
# An allocation divides the budget among the layers. `uniform` gives each the same share,
# `erk` more to small layers, `global` ranks the scores of all. A mapping from names, or
# patterns of names, gives your own densities; the layers that it leaves out share the rest.

# %%
allocations = {
    "uniform": "uniform",
    "erk": "erk",
    "global": "global",
    "own": {"stem": 1.0, "conv*": 0.2, "logits": 0.5},
}
for name, allocation in allocations.items():
    hydra_tf.set_density(masked, 0.1, allocation=allocation)
    report = hydra_tf.sparsity.report(masked)
    shares = ", ".join(f"{row['name']} {row['density']:.0%}" for row in report["layers"])
    print(f"10% by {name:8} {shares}")

# %% [markdown]
# ## Train and prune
#
# Pretrain once; prune the result in two ways. Which allocation is better is decided on the
# validation split: PGD, which Keras reports as `val_robust_accuracy`.


# %%
def fit(net, density, allocation="uniform", granularity="element", **epochs):
    """Return a trained model and its robust accuracy on the validation split."""
    model = hydra_tf.RobustModel(net, OBJECTIVE)
    model.compile(keras.optimizers.SGD(0.05, momentum=0.9), metrics=["accuracy"])
    plan = hydra_tf.HydraCallback(density, **epochs, allocation=allocation, granularity=granularity)
    model.fit(
        data.train,
        epochs=plan.epochs,
        validation_data=data.validation,
        callbacks=[plan],
        verbose=0,
    )
    robust = model.evaluate(data.validation, return_dict=True, verbose=0)["robust_accuracy"]
    return model, robust


dense, robust = fit(network(), 1.0, pretrain_epochs=8)
dense = hydra_tf.strip_masks(dense)
print(f"validation, dense: {robust:.1%} under PGD")
candidates = {}
for name in ("uniform", "own"):
    candidates[name] = fit(dense, 0.1, allocations[name], prune_epochs=4, finetune_epochs=4)
    print(f"validation, 10% by {name}: {candidates[name][1]:.1%} under PGD")
best = max(candidates, key=lambda name: candidates[name][1])

# %% [markdown]
# ## Whole filters, and a smaller network
#
# Zeros make a file small, but a dense kernel computes with them. With
# `granularity="filter"` all weights of an output channel are kept or pruned together. The
# residual connection adds the channels of `stem` and `conv2`, so that they can only be
# removed together: hydra_tf sees that and prunes the same ones. `compact` then returns a plain
# model without them, with the same outputs.

# %%
filters, robust = fit(dense, 0.4, granularity="filter", prune_epochs=4, finetune_epochs=4)
print(f"validation, 40% by filters: {robust:.1%} under PGD")


def show(net):
    """Print the shapes of the kernels."""
    shapes = ", ".join(
        f"{layer.name} {layer.kernel.shape}" for layer in net.layers if hasattr(layer, "kernel")
    )
    print(f"{net.count_params():6,} parameters: {shapes}")


show(dense)
show(hydra_tf.export.compact(filters))

# %% [markdown]
# `hidden` still has all its units. Pruned ones could go, but hydra_tf does not know what
# `Scale` does to the channels that it reads, and leaves those next to it. A channel rule says it:
# output channel i depends on input channel i, and `factor` has a number for each.


# %%
@register_channel_rule(Scale)
def scale_rule(layer, shapes):
    """Return how `Scale` passes channels on."""
    return PerChannel((np.arange(shapes[0][-1]),), (ChannelWeight("factor"),))


small = hydra_tf.export.compact(filters)
show(small)
x, y = (np.concatenate(part) for part in zip(*data.test, strict=True))
difference = np.max(np.abs(np.asarray(small(x)) - np.asarray(filters(x, training=False))))
print(f"the outputs of the last one differ by at most {difference:.1e}")

# %% [markdown]
# ## The test split, once
#
# For the chosen networks, with a stronger attack than in training.

# %%
attack = f"pgd:epsilon={EPSILON},steps=20,restarts=2"
for name, net in {"dense": dense, f"10% by {best}": candidates[best][0], "compact": small}.items():
    benign = hydra_tf.evaluation.accuracy(net, data.test)
    robust = hydra_tf.evaluation.robust_accuracy(net, data.test, attack)
    print(f"test, {name}: benign {benign:.1%}, under PGD {robust:.1%}")
