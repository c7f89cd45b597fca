"""A `fit` without a pipeline, as one phase."""

from __future__ import annotations

from typing import Any

import keras


class WholeFit(keras.callbacks.Callback):
    """Makes a `fit` without a pipeline one phase, over which an objective's epsilon may grow."""

    def on_train_begin(self, logs: Any = None) -> None:
        """Count the steps, unless `set_phase` was told them.

        Raises:
            ValueError: for an objective whose epsilon grows, when they cannot be counted.
        """
        model, batches = self.model, self.params["steps"]
        if model.phase_steps != model.counted_steps:
            return
        ramp = getattr(model.objective, "ramp", 0.0)
        if not batches and ramp > 0:
            raise ValueError(
                "The length of the dataset is unknown, and the objective needs it to let epsilon "
                f"grow (ramp={ramp:g}); pass steps_per_epoch, use dataset.apply("
                "tf.data.experimental.assert_cardinality(n)), or set ramp=0."
            )
        counted = self.params["epochs"] * batches * model.replays if batches else None
        if counted != model.counted_steps:
            model.counted_steps = counted
            model.set_phase(model.phase.name, counted)
