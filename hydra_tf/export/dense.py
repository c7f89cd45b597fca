"""A pruned network as a plain Keras file that needs no hydra_tf."""

from __future__ import annotations

import os

import keras

from hydra_tf.core.files import replacing
from hydra_tf.export.prepare import computes_in_half, image_shape, plain_copy, without_optimizer
from hydra_tf.export.probes import compare, keras_outputs, random_probes
from hydra_tf.export.size import ExportReport, measure

_RELATIVE_ERROR = 1e-4
_HALF_RELATIVE_ERROR = 1e-2


def to_keras(model: keras.Model, path: str | os.PathLike[str]) -> ExportReport:
    """Save a network as plain Keras layers, zeros where weights were pruned.

    The file holds no optimizer. It is loaded again in Keras's safe mode and its outputs
    are compared with the model's before it takes its name; an older file of that name stays
    until then.

    Args:
        model: masked or plain functional or Sequential model, or a
            :class:`hydra_tf.RobustModel`, on images in [0, 1].
        path: file to write, ending in ``.keras``.

    Returns:
        The report; sizes are in bytes, errors in units of the logits.

    Raises:
        TypeError: for a subclassed model.
        ValueError: another suffix, more than one input or output, NaN outputs.
        OSError: a missing folder, a folder in the file's place, no right to write.
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
        expected = keras_outputs(getattr(model, "net", model), probes)
        plain.save(temporary)
        loaded = keras.models.load_model(temporary, compile=False, safe_mode=True)
        comparison = compare(keras_outputs(loaded, probes), expected)
        limit = _HALF_RELATIVE_ERROR if computes_in_half(plain) else _RELATIVE_ERROR
        if comparison.relative_error > limit:
            raise RuntimeError(
                f"The saved file's outputs differ from the model's by up to "
                f"{comparison.max_abs_error:g}, so it is not kept."
            )
        return measure(temporary, path, plain, comparison)
