"""A pruned network as a plain Keras file that does not need hydra_tf."""

from __future__ import annotations

import os

import keras

from hydra_tf.core.files import replacing
from hydra_tf.core.keras_models import wrapped_network
from hydra_tf.export.prepare import computes_in_half, image_shape, plain_copy, without_optimizer
from hydra_tf.export.probes import compare, keras_outputs, random_probes
from hydra_tf.export.size import ExportReport, measure

_RELATIVE_ERROR = 1e-4
_HALF_RELATIVE_ERROR = 1e-2


def to_keras(model: keras.Model, path: str | os.PathLike[str]) -> ExportReport:
    """Save a network as plain Keras layers, with zeros for pruned weights.

    The file has no optimizer. Before it replaces an older file of the same name, it is loaded
    in Keras's safe mode and its outputs are compared with those of the model.

    Args:
        model: masked or plain functional or Sequential model, or a
            :class:`hydra_tf.RobustModel`, on images in [0, 1].
        path: file to write, ending in ``.keras``.

    Returns:
        The report; sizes are in bytes, errors in units of the logits.

    Raises:
        TypeError: for a subclassed model.
        ValueError: another suffix, more than one input or output, NaN outputs.
        OSError: a missing folder, a path that is a folder, or no permission to write.
        RuntimeError: when the loaded file's outputs differ from the model's.

    Example:
        >>> import tempfile
        >>> net = keras.Sequential([keras.Input([4]), keras.layers.Dense(2)])
        >>> to_keras(net, os.path.join(tempfile.mkdtemp(), "net.keras")).max_abs_error
        0.0
    """
    with replacing(path, ".keras") as temporary:
        plain = without_optimizer(plain_copy(model))
        probes = random_probes(image_shape(plain))
        expected = keras_outputs(wrapped_network(model), probes)
        plain.save(temporary)
        loaded = keras.models.load_model(temporary, compile=False, safe_mode=True)
        comparison = compare(keras_outputs(loaded, probes), expected)
        limit = _HALF_RELATIVE_ERROR if computes_in_half(plain) else _RELATIVE_ERROR
        if comparison.relative_error > limit:
            raise RuntimeError(
                f"The saved file's outputs differ from the model's by up to "
                f"{comparison.max_abs_error:g}, so it was not kept."
            )
        return measure(temporary, path, plain, comparison)
