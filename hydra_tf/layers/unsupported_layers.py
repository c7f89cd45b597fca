"""What a layer may not do when its kernels are masked."""

from __future__ import annotations

import keras

from hydra_tf.core.keras_models import all_layers


def refuse_unsupported(layer: keras.layers.Layer) -> None:
    """Check that no layer inside a layer does something through which masks would not reach.

    Args:
        layer: a Keras layer.

    Raises:
        ValueError: with the name of the layer and what to do, for LoRA or quantized weights,
            stateful recurrent layers, and a method `call` that is a `tf.function`.

    Example:
        >>> refuse_unsupported(keras.layers.Dense(2))
    """
    for inner in (layer, *all_layers(layer)):
        where = f'The layer "{inner.name}" in "{layer.name}"'
        otherwise = "or leave this layer unmasked with mask_model(exclude=...)"
        if getattr(inner, "lora_enabled", False):
            raise ValueError(
                f"{where} has LoRA weights, which have no mask; merge them into the kernel, "
                f"{otherwise}."
            )
        if getattr(inner, "quantization_mode", None):
            raise ValueError(
                f"{where} has quantized weights, which cannot be masked; quantize the network when "
                "it is exported, with hydra_tf.export.to_tflite(quantization=...)."
            )
        if isinstance(inner, keras.layers.RNN) and inner.stateful:
            raise ValueError(
                f"{where} is stateful, which masks do not support; build it with stateful=False, "
                f"{otherwise}."
            )
        if hasattr(inner.call, "get_concrete_function"):
            raise ValueError(
                f'The method call of the layer "{inner.name}" is a tf.function, which would keep '
                f"the masks of its first call; remove the decorator, {otherwise}."
            )
