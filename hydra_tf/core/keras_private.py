"""Attributes that Keras does not document; they are used only through this file.

`tests/test_keras_private.py` fails with the name of the attribute if a version of Keras drops
or renames one.
"""

from __future__ import annotations

# Attributes with the state of Keras's callbacks between epochs, by class of keras.callbacks. Those
# of EarlyStopping and ReduceLROnPlateau are public; ModelCheckpoint counts batches in private ones.
CALLBACK_STATE: dict[str, tuple[str, ...]] = {
    "EarlyStopping": ("best", "wait", "best_epoch", "stopped_epoch", "best_weights"),
    "ReduceLROnPlateau": ("best", "wait", "cooldown_counter"),
    "ModelCheckpoint": ("best", "_batches_seen_since_last_saving", "_last_batch_seen"),
}
