"""Prove robustness: bounds of the logits, verified accuracy and certificates, in about a minute.

Run it from a checkout:  python tutorials/03_bound_and_certify.py
"""

# %% [markdown]
# # Bound and certify
#
# An attack shows that an image can be misclassified; that it found nothing proves nothing.
# A bound proves: for every image in the ball, the logits lie in an interval. The robust
# accuracy of a network lies between what is proven and what no attack broke.

# %%
import keras
import numpy as np
from scipy.stats import norm

import hydra_tf

EPSILON = 0.05  # Linf: every pixel may change by this much
data = hydra_tf.data.load("digits", batch_size=64, seed=0)
test = data.test.unbatch().take(200).batch(100).cache()
x, y = (np.concatenate(part) for part in zip(*test, strict=True))


def network():
    """Return a small network, with the same first weights at each call."""
    keras.utils.set_random_seed(0)
    return keras.Sequential(
        [
            keras.Input(data.image_shape),
            keras.layers.Conv2D(16, 3, padding="same", activation="relu"),
            keras.layers.Conv2D(16, 3, strides=2, padding="same", activation="relu"),
            keras.layers.Flatten(),
            keras.layers.Dense(64, activation="relu"),
            keras.layers.Dense(data.num_classes, name="logits"),
        ]
    )


def trained(objective, epochs):
    """Return a network trained with an objective."""
    model = hydra_tf.RobustModel(network(), objective)
    model.compile(keras.optimizers.Adam(0.002), metrics=["accuracy"])
    model.fit(data.train, epochs=epochs, verbose=0)
    return hydra_tf.strip_masks(model)


# %% [markdown]
# ## Three networks
#
# `crown_ibp` trains on bounds, while epsilon grows from 0; `trades` trains on attacks.

# %%
networks = {
    "natural": trained("natural", 10),
    "trades": trained(f"trades:epsilon={EPSILON},steps=5,start=uniform", 15),
    "crown_ibp": trained(f"crown_ibp:epsilon={EPSILON}", 40),
}

# %% [markdown]
# ## Bounds of the logits of one image
#
# `ibp` passes intervals through the network, layer by layer; `crown` follows linear
# functions backwards, which is tighter and costs more. Both hold in float32: they cover the
# rounding errors of the network. The wider the interval, the less it proves.

# %%
print("mean width of the intervals of the logits, 20 images")
for name, net in networks.items():
    widths = []
    for method in ("ibp", "crown_ibp", "crown"):
        interval = hydra_tf.bounds.bound(net, x[:20], EPSILON, method)
        widths.append(float(np.mean(interval.upper - interval.lower)))
    print(
        f"width {name:10} ibp {widths[0]:8.2f}, crown_ibp {widths[1]:8.2f}, crown {widths[2]:8.2f}"
    )

# %% [markdown]
# ## Margins decide
#
# The interval of a wrong logit may overlap with that of the label although no single image
# makes the wrong one larger. `margin_lower_bound` bounds the difference itself, label minus
# class j. An image is proven correct if the bounds of all wrong classes are above 0.

# %%
net = networks["crown_ibp"]
margins = hydra_tf.bounds.margin_lower_bound(net, x[:1], y[:1], EPSILON, "crown_ibp").numpy()
wrong = [j for j in range(data.num_classes) if j != y[0]]
print(f"label {y[0]}: smallest margin over the ball at least {margins[0, wrong].min():.2f}")

# %% [markdown]
# ## Verified accuracy
#
# The share of test images that are proven correct, below what PGD leaves. The truth lies
# between the two. The networks that were not trained on bounds may be robust, but `ibp` and
# `crown_ibp` cannot prove it; `crown` can, for some images.

# %%
for name, net in networks.items():
    proven = {
        method: hydra_tf.evaluation.verified_accuracy(net, test, EPSILON, method)
        for method in ("ibp", "crown_ibp", "crown")
    }
    pgd = f"pgd:epsilon={EPSILON},steps=20,restarts=2"
    attacked = hydra_tf.evaluation.robust_accuracy(net, test, pgd)
    benign = hydra_tf.evaluation.accuracy(net, data.test)
    print(
        f"proven {name:10} ibp {proven['ibp']:6.1%}, crown_ibp {proven['crown_ibp']:6.1%}, "
        f"crown {proven['crown']:6.1%}; under PGD {attacked:6.1%}, benign {benign:6.1%}"
    )

# %% [markdown]
# ## Certificates by noise
#
# Randomized smoothing classifies many noisy copies of an image and takes the most frequent
# class. If the class wins clearly, no change within an L2 radius can change the vote. The
# network needs no bound rules, but must classify noisy images: it is trained on them. The
# certificate is for the vote, not for a single prediction, and is wrong with a probability of
# at most `alpha` per image.

# %%
SIGMA = 0.25
smooth = trained(f"smoothing:sigma={SIGMA}", 20)
settings = {"sigma": SIGMA, "n0": 100, "n": 1000, "alpha": 0.001, "seed": 0}
classes, radii = hydra_tf.evaluation.certify(smooth, x, **settings)
right = classes == y
print(f"vote correct {np.mean(right):.1%}, abstained {np.mean(classes == -1):.1%}")
for radius in (0.0, 0.1, 0.2, 0.3, 0.4):
    print(f"certified at L2 radius {radius:.1f}: {np.mean(right & (radii >= radius)):6.1%}")

# %% [markdown]
# More copies give larger radii. If all `n` copies agree, the probability of the class is at
# least `alpha ** (1 / n)`, so that no radius can be larger than the following.

# %%
largest = SIGMA * norm.ppf(settings["alpha"] ** (1 / settings["n"]))
print(f"largest radius measured {radii.max():.3f}, possible {largest:.3f}")

# %% [markdown]
# ## What a radius means
#
# Radii of this library are in pixel values in [0, 1], before any scaling inside the network:
# 8/255 is 8 grey levels of an 8-bit image. A radius without its norm says nothing. In an
# image of d pixels, the L2 ball of radius r contains the Linf ball of radius r / sqrt(d), and
# lies in the Linf ball of radius r. A certificate of L2 radius 0.4 thus proves Linf 0.05 for
# 8x8 pixels, and only 0.014 for 28x28.

# %%
d = int(np.prod(data.image_shape))
for side in (8, 28):
    print(f"L2 radius 0.4 contains Linf radius {0.4 / side:.3f} with {side}x{side} pixels")
needed = EPSILON * np.sqrt(d)
print(
    f"correct on the Linf ball {EPSILON}: certified {np.mean(right & (radii >= needed)):.1%} by "
    f"noise (L2 {needed:.1f}), proven {proven['crown_ibp']:.1%} by crown_ibp"
)
