"""Attributes that Keras does not document; they are used only through this file.

`tests/test_keras_private.py` fails with the name of the attribute if a version of Keras drops
or renames one.
"""

from __future__ import annotations

from typing import Any

# Attributes with the state of Keras's callbacks between epochs, by class of keras.callbacks. Those
# of EarlyStopping and ReduceLROnPlateau are public; ModelCheckpoint counts batches in private ones.
CALLBACK_STATE: dict[str, tuple[str, ...]] = {
    "EarlyStopping": ("best", "wait", "best_epoch", "stopped_epoch", "best_weights"),
    "ReduceLROnPlateau": ("best", "wait", "cooldown_counter"),
    "ModelCheckpoint": ("best", "_batches_seen_since_last_saving", "_last_batch_seen"),
}


def trainable_unless_frozen(layer: Any) -> list[Any]:
    """Return the weights that a layer itself created as trainable, also if it is frozen now.

    The public `trainable_variables` of a frozen layer is empty.

    Args:
        layer: a Keras layer.
    """
    return list(layer._trainable_variables)


def arguments_of_calls(operation: Any) -> list[Any]:
    """Return the arguments, positional and named, with which a graph calls an operation.

    Args:
        operation: a layer or operation of a functional model.
    """
    calls = [node.arguments for node in operation._inbound_nodes]
    return [argument for call in calls for argument in (call.args, call.kwargs)]
