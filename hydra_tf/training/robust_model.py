"""A Keras model trained with a robust objective."""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

from hydra_tf import attacks, models, objectives
from hydra_tf.checks.batches import check_use, first_batch
from hydra_tf.checks.models import require_logits
from hydra_tf.core.types import require_number
from hydra_tf.objectives.base import Replayed
from hydra_tf.sparsity.model import adopt_masks, masked_layers
from hydra_tf.training.callbacks.callback_order import arrange, warn_of_coarse_rates
from hydra_tf.training.callbacks.learning_rate import CompiledRate
from hydra_tf.training.step.batch_checks import plain_sentences
from hydra_tf.training.step.model_steps import BatchSteps
from hydra_tf.training.step.optimizer import OptimizerState, require_scope, require_supported
from hydra_tf.training.step.phases import NO_PHASE, PHASES, Phase
from hydra_tf.training.step.replayed_perturbation import carried_shape


@keras.saving.register_keras_serializable(package="hydra_tf")
class RobustModel(BatchSteps):
    """Wraps a network so that `compile`, `fit` and `evaluate` are robust ones.

    Calling it gives the network's logits. `fit` minimises the objective; the metrics given
    to `compile` see the benign logits, and `robust_accuracy` is added: under the
    objective's own attack while training, under `validation_attack` in `evaluate`.

    Args:
        net: functional or Sequential model that outputs logits; masked on the way in if it
            has no masks yet.
        objective: ``"natural"``, ``"pgd:..."``, ``"trades:..."``, a mapping, an instance or
            a callable ``(model, x, y, context) -> LossTerms``.
        seed: every random number of training follows from it, the phase and the step.
        validation_attack: attack spec for `evaluate`; ``"auto"`` takes the objective's own
            ball with twice its steps; None for none.
        train_batchnorm: whether BatchNorm's gamma and beta are trained in the prune phase.

    Raises:
        ValueError: a net that ends in a softmax or has several outputs, an unknown objective
            or attack.
        TypeError: a subclassed net without masks, a RobustModel, a seed that is no whole number.

    Example:
        >>> net = keras.Sequential([keras.Input([4]), keras.layers.Dense(3)])
        >>> model = RobustModel(net, objective="pgd:epsilon=0.1,steps=3")
        >>> model.compile(optimizer="sgd", metrics=["accuracy"])
        >>> tuple(model(tf.zeros([2, 4])).shape)
        (2, 3)
    """

    def __init__(
        self,
        net: keras.Model,
        objective: Any = "trades",
        *,
        seed: int = 0,
        validation_attack: Any = "auto",
        train_batchnorm: bool = True,
        **kwargs: Any,
    ) -> None:
        require_number("seed", seed, whole=True)
        if isinstance(net, RobustModel):
            raise TypeError("The net is a RobustModel already; pass its network, model.net.")
        super().__init__(**kwargs)
        require_logits(net)
        self.net = net if masked_layers(net) else models.mask_model(net)
        self.objective = objectives.build(objective)
        self.seed = seed
        self.train_batchnorm = train_batchnorm
        self.metrics_take_rows = False
        self.phase: Phase = PHASES["pretrain"]
        self.phase_steps: int | None = None
        self.counted_steps: int | None = None  # where `fit` counts them itself
        self.first_batch: tuple[Any, Any] | None = None
        self.compiled_rate = CompiledRate()
        self.optimizer_state = OptimizerState()
        self._traced_for: dict[str, list[Any]] = {}
        self._attack_spec = validation_attack
        if validation_attack == "auto":
            own = getattr(self.objective, "validation_attack", lambda: None)()
            verifies = hasattr(own, "held")
            self.validation_attack = attacks.build(own) if own and not verifies else own
        else:
            self.validation_attack = attacks.build(validation_attack) if validation_attack else None
        # Saved with the weights, so that an interrupted pipeline knows where it was.
        self.phase_entered = self.add_weight(
            name="phase",
            shape=(),
            dtype="int32",
            initializer=keras.initializers.Constant(NO_PHASE),
            trainable=False,
            autocast=False,
            aggregation="only_first_replica",
        )
        self.carried: Any = None
        self.robust_accuracy = keras.metrics.Mean(name="robust_accuracy")
        self.built = True
        # "auto" would compile with XLA on a GPU, where mask selection is not at home.
        self.supports_jit = False

    def call(self, inputs: Any, training: bool | None = None) -> Any:
        """Return the network's logits, [batch, classes]."""
        return self.net(inputs, training=training)

    def set_phase(self, name: str, steps: int | None = None) -> None:
        """Choose what `fit` trains from its next step on, at the density of the present masks.

        Args:
            name: ``"pretrain"``, ``"prune"`` or ``"finetune"``.
            steps: optimizer steps of the phase, for objectives whose epsilon grows over it;
                without them a `fit` without HydraCallback takes all its epochs for the phase.

        Raises:
            ValueError: for an unknown phase.
        """
        if name not in PHASES:
            raise ValueError(f'Unknown phase "{name}". Known: {", ".join(PHASES)}.')
        adopt_masks(self.net)
        self.phase, self.phase_steps = PHASES[name], steps
        self.train_function = None
        if self.compiled:
            self.make_train_function(force=True)

    def fit(  # type: ignore[no-untyped-def]
        self,
        x=None,
        y=None,
        batch_size=None,
        epochs=1,
        verbose="auto",
        callbacks=None,
        **kwargs,
    ) -> Any:
        """Train like `keras.Model.fit`, after a look at the data.

        Args:
            x: arrays, tf.data.Dataset, PyDataset or generator, as Keras takes them.
            y: labels when `x` is an array; integers or one-hot.
            batch_size: as in Keras.
            epochs: as in Keras; with a HydraCallback the sum of its phases.
            verbose: as in Keras.
            callbacks: as in Keras.
            **kwargs: whatever else Keras's `fit` takes, but class and sample weights.

        Raises:
            ValueError: images outside [0, 1] or of the wrong shape, labels out of range, an
                optimizer that averages weights or accumulates gradients itself.
            FloatingPointError: when the loss becomes NaN; the model has the weights of the last
                finished epoch then, and its optimizer the state of a new one.
        """
        for name in ("class_weight", "sample_weight"):
            if kwargs.get(name) is not None:
                raise ValueError(f"RobustModel.fit does not support {name}.")
        self.first_batch = self.check_data(x, y)
        self._trace_for("train_function", self.first_batch)
        data = kwargs.get("validation_data")
        if data is not None:
            pair = data[:2] if isinstance(data, tuple) else (data,)
            self._trace_for("test_function", self.check_data(*pair))
        if y is not None:
            self.first_batch = first_batch(x, y, limit=batch_size or 32)
        if not isinstance(callbacks, keras.callbacks.CallbackList):
            callbacks = arrange(callbacks, verbose, kwargs.get("initial_epoch", 0))
            warn_of_coarse_rates(callbacks, self.steps_per_execution)
        self.prepare()
        if isinstance(x, tf.data.Dataset):
            kwargs.setdefault("shuffle", False)  # Keras cannot, and warns where it is left on
        with plain_sentences():
            return super().fit(x, y, batch_size, epochs, verbose, callbacks, **kwargs)

    def _trace_for(self, function: str, batch: tuple[Any, Any] | None) -> None:
        """Have a graph made anew where what it was made for has changed.

        Densities are numbers of the graph; Keras makes one graph for labels of one and of two
        axes, in which nothing is known of their axes.
        """
        adopt_masks(self.net)
        form: list[Any] = [None if batch is None else batch[1].ndim]
        form += [(layer.density, layer.granularity) for layer in masked_layers(self.net)]
        if self._traced_for.get(function) != form:
            setattr(self, function, None)
            self._traced_for[function] = form

    def prepare(self) -> None:
        """Make what training needs beside the network, once `first_batch` is known.

        Raises:
            ValueError: for an objective that needs the first batch, and there is none; for an
                optimizer that averages weights or accumulates gradients itself; for variables
                that were made outside the scope of the tf.distribute strategy.
        """
        if isinstance(self.objective, Replayed) and self.carried is None:
            if self.first_batch is None:
                raise ValueError(
                    "This objective carries a perturbation of the form of a batch, but the data "
                    "are a generator; pass arrays or a tf.data.Dataset."
                )
            replicas = self.distribute_strategy.num_replicas_in_sync
            self._carry(carried_shape(self.first_batch[0], replicas))
        if self.compiled:
            require_supported(self.optimizer)
            made = [*self.net.variables, self.phase_entered, self.optimizer.iterations]
            require_scope(self.distribute_strategy, made)
            # For all variables, whatever the phase: its saved state keeps one form.
            with self.distribute_strategy.scope():
                self.optimizer_state.build(self.optimizer, self.trainable_variables)

    def renew_optimizer(self) -> None:
        """Give the optimizer the state of a new one: no momentum is left."""
        with self.distribute_strategy.scope():
            self.optimizer_state.renew()

    def evaluate(self, x: Any = None, y: Any = None, *args: Any, **kwargs: Any) -> Any:
        """Evaluate like `keras.Model.evaluate`, with accuracy under `validation_attack`."""
        if not kwargs.get("_use_cached_eval_dataset"):
            self._trace_for("test_function", self.check_data(x, y))
        with plain_sentences():
            return super().evaluate(x, y, *args, **kwargs)

    def train_on_batch(self, x: Any, y: Any = None, *args: Any, **kwargs: Any) -> Any:
        """Train on one batch like `keras.Model.train_on_batch`."""
        self.first_batch = self.check_data(x, y)
        self._trace_for("train_function", self.first_batch)
        self.prepare()
        with plain_sentences():
            return super().train_on_batch(x, y, *args, **kwargs)

    def test_on_batch(self, x: Any, y: Any = None, *args: Any, **kwargs: Any) -> Any:
        """Judge one batch like `keras.Model.test_on_batch`."""
        self._trace_for("test_function", self.check_data(x, y))
        return super().test_on_batch(x, y, *args, **kwargs)

    def export(self, filepath: Any, *args: Any, **kwargs: Any) -> Any:
        """Export the network of plain layers like `keras.Model.export`."""
        return models.strip_masks(self.net).export(filepath, *args, **kwargs)

    def compile_from_config(self, config: dict[str, Any]) -> None:
        """Compile as saved; Keras calls this."""
        super().compile_from_config(config)
        self.compiled_rate.adopt(self.optimizer)
        self.optimizer_state.note(self.optimizer, self.trainable_variables)

    def _carry(self, shape: tuple[int, ...]) -> None:
        """Make room for what a replayed objective carries from batch to batch."""
        with self.distribute_strategy.scope():
            self.carried = self.add_weight(
                name="carried",
                shape=shape,
                initializer="zeros",
                trainable=False,
                autocast=False,
                dtype="float32",
                aggregation="sum",
            )

    def check_data(self, x: Any, y: Any = None) -> tuple[Any, Any] | None:
        """Check all of two arrays, or the first batch of a data set, and return them.

        Raises:
            ValueError: images outside [0, 1] or of the wrong shape, labels out of range, a
                network whose outputs are probabilities.
        """
        batch = first_batch(x, y)
        if batch is not None and not len(batch[0]):
            raise ValueError("The data are empty: there are no images.")
        if batch is not None:
            check_use(self.net, *batch)
        return batch

    def get_config(self) -> dict[str, Any]:
        """The net and the objective's parameters; a bare callable cannot be saved."""
        attack = self._attack_spec
        if attack is not None and not isinstance(attack, str | dict):
            attack = attacks.ATTACKS.config(attack)
        return {
            "name": self.name,
            # Keras wraps the optimizer for loss scaling where this says mixed_float16.
            "dtype": keras.saving.serialize_keras_object(self.dtype_policy),
            "net": keras.saving.serialize_keras_object(self.net),
            "objective": objectives.OBJECTIVES.config(self.objective),
            "seed": self.seed,
            "validation_attack": attack,
            "train_batchnorm": self.train_batchnorm,
            "phase": self.phase.name,
            "compiled_rate": self.compiled_rate.rate,
            "carried": None if self.carried is None else list(self.carried.shape),
        }

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: Any = None) -> RobustModel:
        """Build the model from :meth:`get_config`."""
        config = dict(config)
        net = keras.saving.deserialize_keras_object(config["net"], custom_objects=custom_objects)
        phase, rate = config.pop("phase"), config.pop("compiled_rate")
        carried = config.pop("carried", None)
        model = cls(**{**config, "net": net})
        if carried is not None:
            model._carry(tuple(carried))
        model.phase, model.compiled_rate = PHASES[phase], CompiledRate(rate)
        return model
