"""A `fit` without a pipeline, as one phase."""

from __future__ import annotations

from typing import Any

import keras


class SinglePhase(keras.callbacks.Callback):
    """Makes a whole `fit` without a pipeline one phase, over which epsilon may grow."""

    def on_train_begin(self, logs: Any = None) -> None:
        """Set the length of the phase, unless `set_phase` was given one.

        Raises:
            ValueError: if the objective's epsilon grows and the number of steps is unknown.
        """
        model, batches = self.model, self.params["steps"]
        model.train_densities(None)  # which an earlier pipeline may have trained
        if not model.counts_steps:
            return
        ramp = getattr(model.objective, "ramp", 0.0)
        if not batches and ramp > 0:
            raise ValueError(
                "The length of the dataset is unknown, but the objective needs it to let epsilon "
                f"grow (ramp={ramp:g}); pass steps_per_epoch, use dataset.apply("
                "tf.data.experimental.assert_cardinality(n)), or set ramp=0."
            )
        steps = self.params["epochs"] * batches * model.replays if batches else None
        model.set_counted_steps(steps)
