"""A Keras model that is trained with a robust objective."""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

from hydra_tf import attacks, models, objectives
from hydra_tf.checks import first_batch, require_logits
from hydra_tf.core.types import Images, Logits, require_number
from hydra_tf.objectives.validation import validation_measure
from hydra_tf.sparsity.allocation import ALLOCATIONS
from hydra_tf.sparsity.model import masked_layers
from hydra_tf.training.callbacks.callback_order import ordered_callbacks, warn_of_coarse_rates
from hydra_tf.training.callbacks.learning_rate import CompiledRate
from hydra_tf.training.step.batch_checks import checked_first_batch, plain_sentences
from hydra_tf.training.step.gradient_watch import GradientWatch
from hydra_tf.training.step.keras_arguments import (
    check_batch_size,
    check_fit_arguments,
    refuse_jit,
    refuse_losses,
    refuse_weights,
)
from hydra_tf.training.step.model_phases import PhasedModel
from hydra_tf.training.step.optimizer import OptimizerState, require_scope, require_supported
from hydra_tf.training.step.phases import PHASES

Batch = tuple[Any, Any]


@keras.saving.register_keras_serializable(package="hydra_tf")
class RobustModel(PhasedModel):
    """A Keras model that trains and evaluates a network robustly.

    Calling the model returns the logits of the network. `fit` minimises the objective; the metrics
    given to `compile` are computed on the benign logits, and `robust_accuracy` is added: under the
    objective's own attack in training, under `validation_attack` in `evaluate`.

    Args:
        net: Keras model that outputs logits; masks are added if it has none.
        objective: ``"natural"``, ``"pgd:..."``, ``"trades:..."``, a mapping, an instance or
            a callable ``(model, x, y, context) -> LossTerms``.
        seed: every random number of training is a function of it, the phase and the step.
        validation_attack: attack spec for `evaluate`; ``"auto"`` uses the attack that the
            objective defines, such as PGD with twice its steps; None for none.
        train_batchnorm: whether gamma and beta of BatchNorm are trained in the prune phase. Its
            moving averages follow the masks in any case: they are statistics of the network that
            is evaluated, and those of the dense network would be wrong for the pruned one.
        output: the output with the logits if the net has several; see
            :func:`hydra_tf.models.select_output`.

    Raises:
        ValueError: a net that ends in a softmax or has several outputs, an unknown objective
            or attack.
        TypeError: a RobustModel, a seed that is not an integer.

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
        output: str | int | None = None,
        **kwargs: Any,
    ) -> None:
        require_number("seed", seed, whole=True)
        if isinstance(net, RobustModel):
            raise TypeError("The net is already a RobustModel; pass its network, model.net.")
        super().__init__(**kwargs)
        net = net if output is None else models.select_output(net, output)
        require_logits(net)
        self.net = net if masked_layers(net) else models.mask_model(net)
        self.objective = objectives.build(objective)
        self.seed = seed
        self.train_batchnorm = train_batchnorm
        self.compiled_rate = CompiledRate()
        self._metrics_take_one_hot = False
        self._first_batch: Batch | None = None
        self._optimizer_state = OptimizerState()
        self._traced_for: dict[str, int | None] = {}
        self._attack_spec = validation_attack
        if validation_attack == "auto":
            validation_attack = getattr(self.objective, "validation_attack", lambda: None)()
        self.validation_measure = validation_measure(validation_attack)
        self._perturbation: keras.Variable | None = None
        self._robust_accuracy = keras.metrics.Mean(name="robust_accuracy")
        self.gradient_watch = GradientWatch()
        self.built = True
        # By default, Keras would use XLA on GPUs, but XLA does not support mask selection.
        self.supports_jit = False

    def call(self, inputs: Images, training: bool | None = None) -> Logits:
        """Return the network's logits, [batch, classes]."""
        return self.net(inputs, training=training)

    def compile(  # type: ignore[no-untyped-def]
        self, optimizer="rmsprop", loss=None, loss_weights=None, **kwargs
    ) -> None:
        """Compile like `keras.Model.compile`; the loss is the model's objective.

        Args:
            optimizer: as in Keras.
            loss: not supported; see `objective` of :class:`RobustModel`.
            loss_weights: not supported.
            **kwargs: further arguments of Keras's `compile`, except `jit_compile=True`.

        Raises:
            ValueError: for a loss, loss weights or XLA.
        """
        refuse_jit(kwargs.get("jit_compile"))
        refuse_losses(loss=loss, loss_weights=loss_weights)
        super().compile(optimizer=optimizer, **kwargs)

    @property
    def first_batch(self) -> Batch | None:
        """Images and labels of the first training batch, None before training."""
        return self._first_batch

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
        """Train like `keras.Model.fit`, after checking the data.

        Args:
            x: arrays, tf.data.Dataset, PyDataset or generator, as in Keras; pixels that lie
                outside [0, 1] by rounding, up to 1e-6, are clipped.
            y: labels when `x` is an array; integers or one-hot.
            batch_size: as in Keras, for arrays.
            epochs: as in Keras; with a HydraCallback the sum of its phases.
            verbose: as in Keras.
            callbacks: as in Keras.
            **kwargs: further arguments of Keras's `fit`, except class and sample weights.

        Raises:
            ValueError: images outside [0, 1] or of the wrong shape, labels out of range, an
                optimizer that averages weights or accumulates gradients itself, an argument that
                would be ignored with these data.
            FloatingPointError: when the loss is not finite; the model then has the weights of the
                last finished epoch, and its optimizer the state of a new one.
        """
        check_fit_arguments(x, batch_size=batch_size, **kwargs)
        self.check_training_data(x, y)
        self.gradient_watch.warned = False
        self._retrace_if_needed("train_function", self._first_batch)
        self._check_validation_data(kwargs.get("validation_data"))
        if y is not None:
            self._first_batch = first_batch(x, y, limit=batch_size or 32)
        if not isinstance(callbacks, keras.callbacks.CallbackList):
            resumes = kwargs.get("initial_epoch", 0) > 0
            callbacks = ordered_callbacks(callbacks, verbose, resumes)
            warn_of_coarse_rates(callbacks, self.steps_per_execution)
        self.prepare_training()
        if isinstance(x, tf.data.Dataset):
            kwargs.setdefault("shuffle", False)  # Keras cannot shuffle it, and would warn
        with plain_sentences():
            return super().fit(x, y, batch_size, epochs, verbose, callbacks, **kwargs)

    def _check_validation_data(self, data: Any) -> None:
        """Check the validation data of `fit`, if there are any."""
        if data is not None:
            pair = data[:2] if isinstance(data, tuple | list) else (data,)
            self._retrace_if_needed("test_function", self.check_data(*pair))

    def _retrace_if_needed(self, function: str, batch: Batch | None) -> None:
        """Retrace a graph if the rank of labels changed.

        Keras keeps one graph for labels of rank 1 and 2, in which their rank would be unknown.
        """
        rank = None if batch is None else batch[1].ndim
        if self._traced_for.get(function, ...) != rank:
            setattr(self, function, None)
            self._traced_for[function] = rank

    def prepare_training(self) -> None:
        """Build the optimizer and allocate the stored perturbation, after the data check.

        Raises:
            ValueError: for a replayed objective without a first batch; for an optimizer that
                averages weights or accumulates gradients itself; for variables that were created
                outside the scope of the tf.distribute strategy.
        """
        self.prepare_perturbation(self._first_batch)
        if self.compiled:
            require_supported(self.optimizer)
            variables = [*self.net.variables, self._saved_phase, self.optimizer.iterations]
            require_scope(self.distribute_strategy, variables)
            # For all variables in every phase, so that the saved state has the same variables.
            with self.distribute_strategy.scope():
                self._optimizer_state.build(self.optimizer, self.trainable_variables)

    def reset_optimizer(self) -> None:
        """Reset the optimizer to the state of a new one, without momentum."""
        with self.distribute_strategy.scope():
            self._optimizer_state.reset()

    def evaluate(  # type: ignore[no-untyped-def]
        self, x=None, y=None, batch_size=None, verbose="auto", sample_weight=None, **kwargs
    ) -> Any:
        """Evaluate like `keras.Model.evaluate`, with robust accuracy, without sample weights.

        ``zero_gradient_share`` (with ``return_dict=True``, and in the logs of `fit`) is the share
        of the correct images for which the validation attack found no gradient. Above 1% there is
        a warning, because they may seem robust for that reason only.
        """
        # When fit calls this, it passes a CallbackList, and has checked its validation data.
        if not isinstance(kwargs.get("callbacks"), keras.callbacks.CallbackList):
            refuse_weights("evaluate", sample_weight=sample_weight)
            check_batch_size("evaluate", x, batch_size)
            self._retrace_if_needed("test_function", self.check_data(x, y))
            self.gradient_watch.warned = False
        with self.distribute_strategy.scope():
            self.gradient_watch.share.reset_state()
        with plain_sentences():
            results = super().evaluate(x, y, batch_size, verbose, sample_weight, **kwargs)
        share = float(self.gradient_watch.share.result())
        self.gradient_watch.warn_once(self.validation_measure, share)
        if isinstance(results, dict) and self.gradient_watch.known:
            results["zero_gradient_share"] = share
        return results

    def train_on_batch(  # type: ignore[no-untyped-def]
        self, x, y=None, sample_weight=None, class_weight=None, return_dict=False
    ) -> Any:
        """Train on one batch like `keras.Model.train_on_batch`, without weights."""
        refuse_weights("train_on_batch", sample_weight=sample_weight, class_weight=class_weight)
        self.check_training_data(x, y)
        self._retrace_if_needed("train_function", self._first_batch)
        self.prepare_training()
        with plain_sentences():
            return super().train_on_batch(x, y, return_dict=return_dict)

    def test_on_batch(  # type: ignore[no-untyped-def]
        self, x, y=None, sample_weight=None, return_dict=False
    ) -> Any:
        """Evaluate one batch like `keras.Model.test_on_batch`, without sample weights."""
        refuse_weights("test_on_batch", sample_weight=sample_weight)
        self._retrace_if_needed("test_function", self.check_data(x, y))
        return super().test_on_batch(x, y, return_dict=return_dict)

    def save(self, filepath: Any, *args: Any, **kwargs: Any) -> Any:
        """Save the model like `keras.Model.save`, in a ``.keras`` file.

        Raises:
            ValueError: for an HDF5 file, from which Keras could not load the model.
        """
        if str(filepath).endswith((".h5", ".hdf5")):
            raise ValueError(
                f'"{filepath}": a RobustModel cannot be loaded from an HDF5 file; save it as '
                '".keras", or its weights with save_weights("... .weights.h5").'
            )
        return super().save(filepath, *args, **kwargs)

    def load_own_variables(self, store: Any) -> None:
        """Load the phase and a stored perturbation; Keras calls this.

        Raises:
            ValueError: for weights of another model.
        """
        if not store.keys():
            raise ValueError(
                "The file does not contain the weights of a RobustModel; load those of a plain "
                "network into that, and wrap it: net.load_weights(...), then RobustModel(net)."
            )
        super().load_own_variables(store)

    def export(self, filepath: Any, *args: Any, **kwargs: Any) -> Any:
        """Export the network with plain layers like `keras.Model.export`."""
        plain = models.strip_masks(self.net)
        plain(plain.inputs[0] if len(plain.inputs) == 1 else plain.inputs)  # ONNX needs a call
        return plain.export(filepath, *args, **kwargs)

    def compile_from_config(self, config: dict[str, Any]) -> None:
        """Compile as saved; Keras calls this."""
        settings = keras.saving.deserialize_keras_object(config)
        if settings.get("jit_compile") is True:  # accepted by earlier versions, which ignored it
            settings["jit_compile"] = False
        self.compile(**settings)
        self.optimizer.build(self.trainable_variables)
        self.compiled_rate.attach(self.optimizer)
        self._optimizer_state.note_built(self.optimizer, self.trainable_variables)

    def check_training_data(self, x: Any, y: Any = None) -> None:
        """Check training data as :meth:`check_data` does, and remember the first batch."""
        self._first_batch = self.check_data(x, y)

    def check_data(self, x: Any, y: Any = None) -> Batch | None:
        """Check two whole arrays, or the first batch of a dataset, and return them.

        Raises:
            ValueError: images outside [0, 1] or of the wrong shape, labels out of range, a
                network whose outputs are probabilities.
        """
        return checked_first_batch(self.net, x, y)

    def get_config(self) -> dict[str, Any]:
        """Return the net and the objective's parameters; a plain callable cannot be saved."""
        attack = self._attack_spec
        if attack is not None and not isinstance(attack, str | dict):
            attack = attacks.ATTACKS.config(attack)
        return {
            "name": self.name,
            # Keras wraps the optimizer for loss scaling if this is mixed_float16.
            "dtype": keras.saving.serialize_keras_object(self.dtype_policy),
            "net": keras.saving.serialize_keras_object(self.net),
            "objective": objectives.OBJECTIVES.config(self.objective),
            "seed": self.seed,
            "validation_attack": attack,
            "train_batchnorm": self.train_batchnorm,
            "phase": self._phase.name,
            "compiled_rate": self.compiled_rate.rate,
            "learned": None if self._densities is None else self._densities.get_config(),
            "carried": None if self._perturbation is None else list(self._perturbation.shape),
        }

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: Any = None) -> RobustModel:
        """Return the model that :meth:`get_config` describes."""
        config = dict(config)
        net = keras.saving.deserialize_keras_object(config["net"], custom_objects=custom_objects)
        phase, rate = config.pop("phase"), config.pop("compiled_rate")
        stored, learned = config.pop("carried", None), config.pop("learned", None)
        model = cls(**{**config, "net": net})
        if stored is not None:
            model.add_perturbation(tuple(stored))
        if learned is not None:
            part: Any = ALLOCATIONS.build(learned["allocation"])
            model.train_densities(part, learned["density"])
        model._phase, model.compiled_rate = PHASES[phase], CompiledRate(rate)
        return model
