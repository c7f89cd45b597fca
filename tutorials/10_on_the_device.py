"""Run an exported network with LiteRT and NumPy alone: no TensorFlow, no Keras, no hydra_tf.

    pip install ai-edge-litert numpy
    python 10_on_the_device.py model.tflite digits.npz

Tutorial 06 writes both files. Copy them and this script to the device.
"""

# %% [markdown]
# # On the device
#
# The file is all that the device needs: images in [0, 1] go in, logits come out. Scaling
# of the pixels, and of 8-bit files, is part of the file.

# %%
import sys
import time

import numpy as np
from ai_edge_litert.interpreter import Interpreter

if len(sys.argv) != 3:
    sys.exit("Usage: python 10_on_the_device.py model.tflite digits.npz")
with np.load(sys.argv[2], allow_pickle=False) as archive:
    images, labels = archive["images"], archive["labels"]  # [n, h, w, c] in [0, 1], [n]

# %% [markdown]
# ## Load
#
# A sparse file decodes its kernels when it is loaded, once.

# %%
start = time.perf_counter()
interpreter = Interpreter(model_path=sys.argv[1], num_threads=1)
interpreter.allocate_tensors()
(source,), (target,) = interpreter.get_input_details(), interpreter.get_output_details()


def logits_of(image):
    """Return the logits of one image."""
    interpreter.set_tensor(source["index"], image[None].astype(source["dtype"]))
    interpreter.invoke()
    return interpreter.get_tensor(target["index"])[0]


logits_of(images[0])
print(f"first logits after {1000 * (time.perf_counter() - start):.0f} ms")

# %% [markdown]
# ## Classify
#
# One image at a time, as a camera delivers them.

# %%
classes = np.array([logits_of(image).argmax() for image in images])
print(f"{len(images)} images, accuracy {np.mean(classes == labels):.1%}")
print(f"first image: digit {labels[0]}, classified as {classes[0]}")

# %% [markdown]
# ## Measure
#
# The median of many runs: the mean would count every pause of the system.

# %%
seconds = []
for image in images[np.arange(300) % len(images)]:
    start = time.perf_counter()
    logits_of(image)
    seconds.append(time.perf_counter() - start)
low, median, high = 1000 * np.quantile(seconds, [0.25, 0.5, 0.75])
print(f"latency {median:.3f} ms an image (quartiles {low:.3f} to {high:.3f})")
