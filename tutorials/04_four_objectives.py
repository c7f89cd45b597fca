"""Train and prune with four robust objectives, and read what each of them gives, in two minutes.

Run it from a checkout:  python tutorials/04_four_objectives.py
"""

# %% [markdown]
# # Four objectives
#
# Robustness can be measured or proven, and a network gives what it was trained for. HYDRA
# prunes with any objective, by the same three phases:
#
# | objective | trains on | measure | meaning |
# |---|---|---|---|
# | `trades` | adversarial images | era | correct under an attack (empirical robust accuracy) |
# | `smoothing` | noisy images | VRA-s | certified by noise, L2 radius 110/255 |
# | `mixtrain` | bounds of a few images | VRA-m | proven by symbolic intervals |
# | `crown_ibp` | bounds of all images | VRA-t | proven by CROWN-IBP |
#
# VRA is verified robust accuracy. An era is an upper bound of what holds against every
# adversary, a VRA a lower bound: never compare one with another.

# %%
import keras
import numpy as np

import hydra_tf

EPSILON, SIGMA, DENSITY = 0.05, 0.25, 0.1
data = hydra_tf.data.load("digits", batch_size=64, seed=0)
test = data.test.unbatch().take(200).batch(100).cache()
x, y = (np.concatenate(part) for part in zip(*test, strict=True))

# %% [markdown]
# ## The four measures


# %%
def era(net):
    """Return the accuracy under PGD."""
    attack = f"pgd:epsilon={EPSILON},steps=20,restarts=2"
    return hydra_tf.evaluation.robust_accuracy(net, test, attack)


def vra_s(net):
    """Return the share of images certified by noise, to the radius of the paper."""
    classes, radii = hydra_tf.evaluation.certify(net, x, sigma=SIGMA, n=500)
    return np.mean((classes == y) & (radii >= hydra_tf.evaluation.VRA_S_RADIUS))


def vra_m(net):
    """Return the share of images proven correct by symbolic intervals."""
    return hydra_tf.evaluation.verified_accuracy(net, test, EPSILON, "symbolic")


def vra_t(net):
    """Return the share of images proven correct by CROWN-IBP."""
    return hydra_tf.evaluation.verified_accuracy(net, test, EPSILON, "crown_ibp")


measures = {"era": era, "vra_s": vra_s, "vra_m": vra_m, "vra_t": vra_t}

# %% [markdown]
# ## Train, then prune
#
# The objective is the only difference. `HydraCallback` keeps the best epoch of each phase,
# by the validation measure of the objective: PGD, noise, or proofs. For objectives on
# bounds, epsilon grows from 0 in every phase.


# %%
def phases(net, objective, rate, **epochs):
    """Return the network after some phases of the pipeline, with its masks."""
    model = hydra_tf.RobustModel(net, objective)
    model.compile(keras.optimizers.Adam(rate), metrics=["accuracy"])
    plan = hydra_tf.HydraCallback(DENSITY, **epochs, learning_rate={"finetune": rate})
    model.fit(
        data.train,
        epochs=plan.epochs,
        validation_data=data.validation,
        callbacks=[plan],
        verbose=0,
    )
    return model


def network():
    """Return a small network, with the same first weights at each call."""
    keras.utils.set_random_seed(0)
    return keras.Sequential(
        [
            keras.Input(data.image_shape),
            keras.layers.Conv2D(16, 3, padding="same", activation="relu"),
            keras.layers.Conv2D(16, 3, strides=2, padding="same", activation="relu"),
            keras.layers.Flatten(),
            keras.layers.Dense(32, activation="relu"),
            keras.layers.Dense(data.num_classes, name="logits"),
        ]
    )


objectives = {
    "trades": f"trades:epsilon={EPSILON},steps=5,start=uniform",
    "smoothing": f"smoothing:sigma={SIGMA}",
    "mixtrain": f"mixtrain:epsilon={EPSILON},samples=2",
    "crown_ibp": f"crown_ibp:epsilon={EPSILON}",
}
networks = {}
for name, objective in objectives.items():
    dense = phases(network(), objective, 0.003, pretrain_epochs=14)
    networks[name, "dense"] = dense = hydra_tf.strip_masks(dense)
    pruned = phases(dense, objective, 0.003, prune_epochs=7, finetune_epochs=7)
    networks[name, f"{DENSITY:.0%}"] = pruned
print("weights kept:", hydra_tf.sparsity.report(pruned)["total"]["kept"])

# %% [markdown]
# ## Every measure of every network
#
# Read it by columns: each measure is a different question. Three things to see:
#
# - Most of the robustness is still there with a tenth of the weights, whatever the measure.
# - Nothing of the dense networks is proven by CROWN-IBP (VRA-t), except of the one that was
#   trained with it. After pruning there is a proof: CROWN-IBP bounds the inner layers by
#   intervals, which add up what every weight could do at worst, and there are fewer weights.
#   Symbolic intervals (VRA-m) are tighter, and prove nearly as much before pruning.
# - At this small epsilon, training on proofs costs benign accuracy and gains no proof by
#   symbolic intervals that training on attacks has not. It pays with larger balls and deeper
#   networks, where bounds are loose.
#
# The networks are small, and 200 test images few: differences of a few points are noise.

# %%
print(f"{'':16} benign " + " ".join(f"{name:>6}" for name in measures))
for (name, density), net in networks.items():
    numbers = [hydra_tf.evaluation.accuracy(net, test), *(f(net) for f in measures.values())]
    print(f"{name:10} {density:5} " + " ".join(f"{number:6.1%}" for number in numbers))
