"""A Keras model trained with a robust objective."""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

from hydra_tf import attacks, models, objectives
from hydra_tf.attacks.base import cross_entropy, sparse_labels
from hydra_tf.models.checks import check_batch, check_logits, first_batch, require_logits
from hydra_tf.objectives.base import Replayed
from hydra_tf.sparsity.model import masked_layers
from hydra_tf.training.batches import checked, held, plain_sentences
from hydra_tf.training.callbacks import arrange
from hydra_tf.training.carried import carried_shape, put, take
from hydra_tf.training.parts import StepOptions
from hydra_tf.training.phases import NO_PHASE, PHASES, Phase, trained_variables
from hydra_tf.training.rate import CompiledRate
from hydra_tf.training.step import moment_of, robust_step


@keras.saving.register_keras_serializable(package="hydra_tf")
class RobustModel(keras.Model):
    """Wraps a network so that `compile`, `fit` and `evaluate` are robust ones.

    Calling it gives the network's logits. `fit` minimises the objective; the metrics given
    to `compile` see the benign logits, and `robust_accuracy` is added: under the
    objective's own attack while training, under `validation_attack` in `evaluate`.

    Args:
        net: functional or Sequential model that outputs logits; masked on the way in if it
            has no masks yet.
        objective: ``"natural"``, ``"pgd:..."``, ``"trades:..."``, a mapping, an instance or
            a callable ``(model, x, y, moment) -> LossTerms``.
        seed: every random number of training follows from it, the phase and the step.
        validation_attack: attack spec for `evaluate`; ``"auto"`` takes the objective's own
            ball with twice its steps; None for none.
        train_batchnorm: whether BatchNorm's gamma and beta are trained in the prune phase.

    Raises:
        ValueError: a net that ends in a softmax, an unknown objective or attack.
        TypeError: a subclassed net without masks.

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
        super().__init__(**kwargs)
        require_logits(net)
        self.net = net if masked_layers(net) else models.mask_model(net)
        self.objective = objectives.build(objective)
        self.seed = seed
        self.train_batchnorm = train_batchnorm
        self.phase: Phase = PHASES["pretrain"]
        self.phase_steps: int | None = None
        self.counted_steps: int | None = None  # where `fit` counts them itself
        self.first_batch: tuple[Any, Any] | None = None
        self.compiled_rate = CompiledRate()
        self._traced_for: Any = None
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

    @property
    def replays(self) -> int:
        """Optimizer steps on each batch."""
        return self.objective.replays if isinstance(self.objective, Replayed) else 1

    def call(self, inputs: Any, training: bool | None = None) -> Any:
        """Return the network's logits, [batch, classes]."""
        return self.net(inputs, training=training)

    def set_phase(self, name: str, steps: int | None = None) -> None:
        """Choose what `fit` trains from its next step on.

        Args:
            name: ``"pretrain"``, ``"prune"`` or ``"finetune"``.
            steps: optimizer steps of the phase, for objectives whose epsilon grows over it;
                without them a `fit` without HydraCallback takes all its epochs for the phase.

        Raises:
            ValueError: for an unknown phase.
        """
        if name not in PHASES:
            raise ValueError(f'Unknown phase "{name}". Known: {", ".join(PHASES)}.')
        self.phase, self.phase_steps = PHASES[name], steps
        self.train_function = None
        if self.compiled:
            self.make_train_function(force=True)

    def train_step(self, data: Any) -> dict[str, Any]:
        """One robust step on a batch, or several of a replayed objective; Keras calls this."""
        x, y = checked(data, self.net.output_shape[-1])
        terms = self.robust_batch(x, y)
        self._loss_tracker.update_state(terms.loss, sample_weight=tf.shape(x)[0])
        if terms.adversarial_logits is not None:
            self.robust_accuracy.update_state(held(y, terms.logits, terms.adversarial_logits))
        results: dict[str, Any] = self.compute_metrics(x, y, terms.logits)
        if terms.adversarial_logits is None:
            results.pop("robust_accuracy")
        return results

    def robust_batch(self, x: tf.Tensor, y: tf.Tensor, options: StepOptions | None = None) -> Any:
        """Train on one batch as the phase says, as often as the objective replays it.

        Args:
            x: [batch, ...] float32 images in [0, 1].
            y: [batch] int32 labels.
            options: how a step is worked.

        Returns:
            The objective's :class:`hydra_tf.types.LossTerms` before the last step.
        """
        variables = trained_variables(self.net, self.phase, self.train_batchnorm)
        objective: Any = self.objective
        carries = isinstance(objective, Replayed)
        if carries and self.carried is None:
            raise ValueError(
                "This objective carries a perturbation that fit makes room for: call fit."
            )
        perturbed = objective.begin(x, take(self.carried, x)) if carries else None
        # Unrolled: tf.distribute updates no variable within a loop of the graph.
        for _ in range(self.replays):
            step = self.optimizer.iterations
            terms = robust_step(
                self.net,
                objective,
                self.optimizer,
                variables,
                x,
                y,
                moment_of(self.seed, self.phase.index, step, self.phase_steps),
                refresh=self.phase.trains_scores,
                perturbed=perturbed,
                options=options,
            )
            perturbed = terms.perturbed
        if carries:
            put(self.carried, perturbed - x)
        return terms

    def test_step(self, data: Any) -> dict[str, Any]:
        """Benign loss and metrics, and accuracy under `validation_attack`; Keras calls this."""
        x, y = checked(data, self.net.output_shape[-1])
        logits = self(x, training=False)
        self._loss_tracker.update_state(
            tf.reduce_mean(cross_entropy(y, logits)), sample_weight=tf.shape(x)[0]
        )
        if self.validation_attack is not None:
            self.robust_accuracy.update_state(self.watched(x, y, logits))
        results: dict[str, Any] = self.compute_metrics(x, y, logits)
        if self.validation_attack is None:
            results.pop("robust_accuracy")
        return results

    def watched(self, x: tf.Tensor, y: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
        """Return what `validation_attack` finds of a batch.

        Args:
            x: [batch, ...] images.
            y: [batch] int32 labels.
            logits: [batch, classes] of the images.

        Returns:
            Ones for samples that are verified, or right with and without the attack, zeros for
            the others: [batch], or of the first samples where the objective looks at no more.
        """
        watch: Any = self.validation_attack
        if hasattr(watch, "held"):
            return tf.cast(watch.held(self.net, x, y), tf.float32)
        # One seed for all batches: what is compared between epochs is the network.
        x_adv = watch(self, x, y, seed=self.seed)
        return held(y, logits, self(x_adv, training=False))

    def compute_metrics(self, x: Any, y: Any, y_pred: Any, sample_weight: Any = None) -> Any:
        """Update the compiled metrics with integer labels, whatever form the data have."""
        return super().compute_metrics(x, sparse_labels(y), y_pred, sample_weight)

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
            ValueError: images outside [0, 1] or of the wrong shape, labels out of range.
            FloatingPointError: when the loss becomes NaN; the weights of the last finished
                epoch are restored first.
        """
        for name in ("class_weight", "sample_weight"):
            if kwargs.get(name) is not None:
                raise ValueError(f"RobustModel.fit does not support {name}.")
        self.first_batch = self.check_data(x, y)
        for_validation = kwargs.get("validation_data")
        if isinstance(for_validation, tuple):
            self.check_data(*for_validation[:2])
        elif for_validation is not None:
            self.check_data(for_validation)
        if y is not None:
            self.first_batch = first_batch(x, y, limit=batch_size or 32)
        if not isinstance(callbacks, keras.callbacks.CallbackList):
            callbacks = arrange(callbacks, verbose, kwargs.get("initial_epoch", 0))
        # Densities are numbers of the traced step: after set_density it must be traced anew.
        layers = masked_layers(self.net)
        traced_for = [(layer.density, layer.granularity) for layer in layers]
        if traced_for != self._traced_for:
            self.train_function, self._traced_for = None, traced_for
        self.prepare()
        if isinstance(x, tf.data.Dataset):
            kwargs.setdefault("shuffle", False)  # Keras cannot, and warns where it is left on
        with plain_sentences():
            return super().fit(x, y, batch_size, epochs, verbose, callbacks, **kwargs)

    def prepare(self) -> None:
        """Make what training needs beside the network, once `first_batch` is known.

        Raises:
            ValueError: for an objective that needs the first batch, and there is none.
        """
        if isinstance(self.objective, Replayed) and self.carried is None:
            if self.first_batch is None:
                raise ValueError(
                    "This objective carries a perturbation of the form of a batch, but the data "
                    "are a generator; pass arrays or a tf.data.Dataset."
                )
            replicas = self.distribute_strategy.num_replicas_in_sync
            self._carry(carried_shape(self.first_batch[0], replicas))
        if self.compiled and not self.optimizer.built:
            # For all variables, whatever the phase: its saved state keeps one form.
            with self.distribute_strategy.scope():
                self.optimizer.build(self.trainable_variables)

    def evaluate(self, x: Any = None, y: Any = None, *args: Any, **kwargs: Any) -> Any:
        """Evaluate like `keras.Model.evaluate`, with accuracy under `validation_attack`."""
        if not kwargs.get("_use_cached_eval_dataset"):
            self.check_data(x, y)
        with plain_sentences():
            return super().evaluate(x, y, *args, **kwargs)

    def compile_from_config(self, config: dict[str, Any]) -> None:
        """Compile as saved; Keras calls this."""
        super().compile_from_config(config)
        self.compiled_rate.adopt(self.optimizer)

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
        if batch is not None:
            check_batch(*batch, self.net.input_shape, self.net.output_shape[-1])
            check_logits(self.net(batch[0][:32], training=False))
        return batch

    def get_config(self) -> dict[str, Any]:
        """The net and the objective's parameters; a bare callable cannot be saved."""
        attack = self._attack_spec
        if attack is not None and not isinstance(attack, str | dict):
            attack = attacks.ATTACKS.config(attack)
        return {
            "name": self.name,
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
