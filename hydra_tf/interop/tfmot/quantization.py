"""The TFLite file of a network after TFMOT's quantization-aware training."""

from __future__ import annotations

import os
from typing import Any

import keras

from hydra_tf.core.files import replacing
from hydra_tf.export.converter import converted
from hydra_tf.export.examiner import LIMITS, Examiner
from hydra_tf.export.prepare import image_shape
from hydra_tf.export.probes import (
    PROBES,
    keras_outputs,
    random_probes,
    representative_images,
    spaced_evenly,
)
from hydra_tf.export.size import ExportReport, measure
from hydra_tf.interop.tfmot.bridge import from_tf_keras
from hydra_tf.interop.tfmot.importing import import_tf_keras
from hydra_tf.interop.tfmot.layer_parts import is_quantized, weights_by_name


def quantized_to_tflite(
    model: Any, path: str | os.PathLike[str], representative: Any = None
) -> ExportReport:
    """Write an 8-bit TFLite file whose outputs in LiteRT agree with those of the trained network.

    Weights and activations have the ranges that quantization-aware training found, so that no
    images are needed to measure them. As with :func:`hydra_tf.export.to_tflite`, the file takes
    one float32 image and returns float32 outputs, it is run in a separate process on 64 images,
    and if outputs differ, it is not kept, and a previous file at `path` is not replaced.

    Args:
        model: tf_keras model of one input and one output that
            ``tfmot.quantization.keras.quantize_apply`` returned, after training.
        path: file to write, ending in ``.tflite``.
        representative: [n, h, w, c] images in [0, 1] on which the file is compared with the
            model, an array or tf.data.Dataset; random images if left out.

    Returns:
        The report. Its sparsity is that of the trained kernels.

    Raises:
        TypeError: for a model that is not of tf_keras.
        ValueError: for a model without quantization, a kernel that TFMOT did not quantize,
            several inputs, images of another shape or outside [0, 1], another suffix.
        OSError: a missing folder, a path that is a folder, or no permission to write.
        RuntimeError: TensorFlow cannot convert the model, or the file's outputs are wrong.

    Example:
        >>> import tempfile
        >>> import numpy as np
        >>> from hydra_tf.interop import tfmot
        >>> quantize_model = tfmot.import_tfmot().quantization.keras.quantize_model
        >>> layers = [keras.Input([4, 4, 1]), keras.layers.Flatten()]
        >>> layers += [keras.layers.Dense(2)]
        >>> trained = quantize_model(tfmot.to_tf_keras(keras.Sequential(layers)))
        >>> trained.compile("sgd", "mse")
        >>> images = np.random.default_rng(0).random([32, 4, 4, 1])
        >>> _ = trained.fit(images, np.zeros([32, 2]), verbose=0)
        >>> path = os.path.join(tempfile.mkdtemp(), "net.tflite")
        >>> tfmot.quantized_to_tflite(trained, path, images).quantization
        'int8'
    """
    tf_keras = import_tf_keras()
    if not isinstance(model, tf_keras.Model):
        raise TypeError(
            "quantized_to_tflite takes a tf_keras model after quantization-aware training, not "
            f"{type(model).__name__}; use hydra_tf.export.to_tflite for Keras 3 models."
        )
    if not any(map(is_quantized, model.layers)):
        raise ValueError(
            "No layer of the model is quantized; call tfmot.quantization.keras.quantize_apply "
            "and train it first, or use hydra_tf.export.to_tflite."
        )
    _require_quantized_kernels(model)
    shape = image_shape(model)
    probes = random_probes(shape)
    if representative is not None:
        probes = spaced_evenly(representative_images(representative, shape), PROBES)
    with replacing(path, ".tflite") as temporary:
        plain: keras.Model = from_tf_keras(model)
        image = tf_keras.Input(shape, batch_size=1, name="image")
        single = tf_keras.Model(image, model(image, training=False), name="single")
        examiner = Examiner(temporary, probes, keras_outputs(model, probes), LIMITS["int8"])
        comparison, _ = examiner.accept(converted(single, "trained"))
        return measure(temporary, path, plain, comparison, quantization="int8")


def _require_quantized_kernels(model: Any) -> None:
    """Check that TFMOT quantizes the kernels of all layers that it wrapped."""
    names = []
    for layer in filter(is_quantized, model.layers):
        weights = weights_by_name(layer)
        kernels = [name for name in weights if name in ("kernel", "depthwise_kernel")]
        names += [layer.layer.name for kernel in kernels if f"{kernel}_min" not in weights]
    if names:
        raise ValueError(
            f"TFMOT does not quantize the kernels of {', '.join(names)}, nor preserve their zeros, "
            "because a ReLU layer follows; convert the network with to_tf_keras(fuse_relu=True), "
            'and use activation="relu" instead of a ReLU with a max_value.'
        )
