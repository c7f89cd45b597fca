"""Attack a network, read the numbers, and notice an attack that fails, in about a minute.

Run it from a checkout:  python tutorials/02_attack_a_model.py
"""

# %% [markdown]
# # Attack a model
#
# Robust accuracy is the share of images that stay correct under an attack. Each number is an
# upper bound: a stronger attack can only lower it. This tutorial attacks one network in
# several ways, and then two networks that only seem robust, to show how to notice it.

# %%
import keras
import numpy as np

import hydra_tf

EPSILON = 0.15  # the largest change of a pixel, which lies in [0, 1]
data = hydra_tf.data.load("digits", batch_size=64, seed=0)
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

# %% [markdown]
# ## A network that was trained for it
#
# TRADES without pruning. Keras counts `val_robust_accuracy` under PGD on the validation
# split; choices such as the number of epochs are made by it. The test split is attacked
# below, for a network that is finished.

# %%
model = hydra_tf.RobustModel(net, f"trades:epsilon={EPSILON},steps=5,start=uniform")
model.compile(keras.optimizers.SGD(0.05, momentum=0.9), metrics=["accuracy"])
history = model.fit(data.train, epochs=15, validation_data=data.validation, verbose=0).history
print(f"validation: {history['val_robust_accuracy'][-1]:.1%} under PGD")
robust = hydra_tf.strip_masks(model)

# %% [markdown]
# ## Stronger and stronger attacks
#
# More steps, more starts, other losses. `evaluate_model` makes all of them in one call; its
# `era` counts the images that are correct under every attack. One image of 360 is 0.3
# points, so that smaller differences say nothing. What to report with a number: norm,
# epsilon, steps, restarts. AutoAttack is the standard for comparisons; it has smaller
# settings here than in papers (100 steps, 9 targets, 5,000 queries).

# %%
AUTOATTACK = "autoattack:steps=20,targets=5,queries=200"
ATTACKS = ["fgsm", "pgd:steps=10", "pgd:steps=50", "pgd:steps=50,restarts=5", AUTOATTACK]
report = hydra_tf.evaluation.evaluate_model(robust, data.test, ATTACKS, epsilon=EPSILON)
print(f"{'no attack':45} {report['benign_accuracy']:6.1%} of {report['samples']} images")
for spec, row in zip(ATTACKS, report["attacks"], strict=True):
    print(f"{spec:45} {row['robust_accuracy']:6.1%}")
print(f"{'all of them':45} {report['era']:6.1%}")

# %% [markdown]
# ## A security curve
#
# The same attack with several epsilons. An attack that works brings every network to 0 when
# epsilon is large: at 0.5, any image can become a grey one. A curve that stays up shows that
# the attack fails.


# %%
def accuracy_under(network, attack, epsilon=EPSILON, **parameters):
    """Return the accuracy on the test split under an attack with these parameters."""
    spec = {"name": attack, "epsilon": epsilon, **parameters}
    return hydra_tf.evaluation.robust_accuracy(network, data.test, spec)


print("epsilon        accuracy under PGD")
for epsilon in (0.0, 0.05, 0.1, 0.15, 0.2, 0.3, 0.5):
    print(f"curve {epsilon:4.2f} {accuracy_under(robust, 'pgd', epsilon, steps=20):14.1%}")

# %% [markdown]
# ## First trap: logits without a gradient
#
# The same architecture, trained without an adversary, and its last layer multiplied by
# 1,000. All predictions are the same, but the softmax is 0 or 1 in float32, and the gradient
# of the cross-entropy is exactly 0: PGD as most libraries have it does not move (here that
# of CleverHans). The attacks of this library then follow the gradient on rescaled logits.
# The report says both: `zero_gradient_share` is the share of images without a gradient of
# the loss, `rescued_gradient_share` the share that had one on rescaled logits.

# %%
model = hydra_tf.RobustModel(net, "natural")
model.compile(keras.optimizers.SGD(0.05, momentum=0.9))
model.fit(data.train, epochs=15, verbose=0)
natural = hydra_tf.strip_masks(model)
saturated = keras.models.clone_model(natural)
*weights, kernel, bias = natural.get_weights()
saturated.set_weights([*weights, 1000 * kernel, 1000 * bias])


def show(title, network):
    """Print how several attacks judge a network; Square needs no gradients."""
    attacks = ["cleverhans_pgd:steps=10", "pgd:steps=10", "pgd:steps=100", "square:queries=300"]
    report = hydra_tf.evaluation.evaluate_model(network, data.test, attacks, epsilon=EPSILON)
    print(f"{title}: benign {report['benign_accuracy']:.1%}")
    for spec, row in zip(attacks, report["attacks"], strict=True):
        shares = [row[f"{kind}_gradient_share"] for kind in ("zero", "rescued")]
        print(
            f"  {spec:24} {row['robust_accuracy']:6.1%}, no gradient {shares[0]:6.1%}, "
            f"rescued {shares[1]:6.1%}"
        )


show("natural", natural)
show("saturated", saturated)

# %% [markdown]
# ## Second trap: a layer without a gradient
#
# The digits have 17 grey levels, so that rounding to them changes none of the test images.
# The gradient of rounding is 0, though. Now no rescaling helps, and three signs tell:
#
# 1. `zero_gradient_share` is far above 0, and hydra_tf logs a warning;
# 2. ten times as many steps lower the accuracy by nothing;
# 3. Square, which only looks at outputs, finds more than PGD. PGD sees more of the network,
#    so it must find more where it works.


# %%
class Rounding(keras.layers.Layer):
    """Rounds pixels to multiples of 1/16."""

    def call(self, inputs):
        """Return the rounded images."""
        return keras.ops.round(16 * inputs) / 16


images = keras.Input(data.image_shape)
rounding = keras.Model(images, natural(Rounding()(images)))
show("rounding", rounding)

# %% [markdown]
# ## An attack that fits
#
# An adversary who knows the network attacks it without the layer, and shows the images to the
# network with it. Most of the seeming robustness is gone: rounding is no defence. The number is
# an upper bound, as all of them.

# %%
x, y = (np.concatenate(part) for part in zip(*data.test, strict=True))
attacked = hydra_tf.attacks.build(f"pgd:epsilon={EPSILON},steps=50")(natural, x, y, seed=0)
transferred = hydra_tf.evaluation.accuracy(rounding, (attacked.numpy(), y))
print(f"rounding under the images of PGD on the network without rounding: {transferred:.1%}")
