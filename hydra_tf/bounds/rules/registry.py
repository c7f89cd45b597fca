"""The tables of layer rules and activations.

A rule takes a layer and the shapes [batch, ...] that the layer is called on, and returns the
nodes that compute its output, one after the other: a convolution with a ReLU is an affine node
and a rectifier. Weights are read when the rule is called, so gradients flow to them. A layer
without a rule raises an error; it is never skipped.

Every module of this package is loaded at the first lookup, and only then are Keras classes
looked up by name, so that registering a rule does not load TensorFlow.
"""

from __future__ import annotations

import functools
import importlib
import pkgutil
from collections.abc import Callable
from typing import Any, TypeAlias, TypeVar

from hydra_tf.bounds.rules.nodes import Node
from hydra_tf.core.keras_classes import resolve
from hydra_tf.core.lazy import keras

Shapes: TypeAlias = tuple[tuple[int | None, ...], ...]
Rule: TypeAlias = Callable[["keras.layers.Layer", Shapes], list[Node]]
ActivationRule: TypeAlias = Callable[[], list[Node]]
AnyRule = TypeVar("AnyRule", Rule, ActivationRule)

RULES: dict[str | type, Rule] = {}
ACTIVATIONS: dict[str | Callable[..., Any], ActivationRule] = {}


def register_rule(*targets: str | type) -> Callable[[Rule], Rule]:
    """Return a decorator that registers a rule for layers or operations.

    Subclasses do not inherit a rule, because they may compute something else. Masked layers use
    the rule of the layer that they mask.

    Args:
        *targets: ``"layers.Dense"`` for a class of ``keras.layers``; ``"ops.add"`` or
            ``"activations.relu"`` for the operation that this Keras function adds to a
            functional model; or a layer class.

    Raises:
        ValueError: for a name of another form, or a target that has a rule already.

    Example:
        >>> from hydra_tf.bounds.rules.rearranging import identity
        >>> class Marker(keras.layers.Layer):
        ...     def call(self, x):
        ...         return x
        >>> register_rule(Marker)(identity) is identity
        True
        >>> del RULES[Marker]
    """
    for target in targets:
        if isinstance(target, str) and target.partition(".")[0] not in (
            "layers", "ops", "activations",
        ):  # fmt: skip
            raise ValueError(
                f'A bound rule is registered for a name such as "layers.Dense", "ops.add" or '
                f'"activations.relu", or for a layer class, not for "{target}".'
            )
    return _adder(RULES, targets, "bound rule")


def register_activation(
    *targets: str | Callable[..., Any],
) -> Callable[[ActivationRule], ActivationRule]:
    """Return a decorator that registers the nodes of an activation function.

    It is used for ``activation=`` of every layer and for ``keras.layers.Activation``.

    Args:
        *targets: name of a function of ``keras.activations``, or an activation function.

    Raises:
        ValueError: for an activation that has a rule already.

    Example:
        >>> def unchanged(x):
        ...     return x
        >>> rule = register_activation(unchanged)(lambda: [])
        >>> ACTIVATIONS.pop(unchanged) is rule
        True
    """
    return _adder(ACTIVATIONS, targets, "activation")


def _adder(
    table: dict[Any, AnyRule], targets: tuple[Any, ...], kind: str
) -> Callable[[AnyRule], AnyRule]:
    def add(rule: AnyRule) -> AnyRule:
        for target in targets:
            if target in table:
                raise ValueError(f"The {kind} {_name(target)} is already registered.")
        table.update(dict.fromkeys(targets, rule))
        return rule

    return add


def require_rule(layer: keras.layers.Layer) -> Rule:
    """Return the rule of a layer or operation.

    Raises:
        ValueError: for a layer without a rule, listing those supported; for a layer that is
            quantized or does not compute in float32.

    Example:
        >>> from hydra_tf.bounds.rules.merging import add
        >>> require_rule(keras.layers.Add()) is add
        True
    """
    kind = type(layer).__name__
    rule = _rule_of(type(layer))
    if rule is None:
        raise ValueError(
            f'There is no bound rule for layer "{layer.name}" ({kind}); supported are the layers '
            f"{_listed('layers')} and their masked versions, and the operations "
            f"{_listed('ops', 'activations')}."
        )
    if getattr(layer, "compute_dtype", "float32") != "float32":
        raise ValueError(
            f'Layer "{layer.name}" computes in {layer.compute_dtype}, but bounds hold for float32 '
            "networks; build the model under the float32 policy."
        )
    if getattr(layer, "quantization_mode", None):
        raise ValueError(
            f'Layer "{layer.name}" is quantized; bound the network before it is quantized.'
        )
    return rule


def activation_nodes(layer: keras.layers.Layer) -> list[Node]:
    """Return the nodes of the activation of a layer, none for a linear one.

    Raises:
        ValueError: for an activation without a rule, listing those supported.

    Example:
        >>> len(activation_nodes(keras.layers.Dense(2, activation="relu")))
        1
    """
    _load_rules()
    function = layer.activation
    if function is None:
        return []
    if isinstance(function, keras.layers.Layer):
        return require_rule(function)(function, ())
    for target, rule in ACTIVATIONS.items():
        if function is (getattr(keras.activations, target) if isinstance(target, str) else target):
            return rule()
    name = getattr(function, "__name__", type(function).__name__)
    *others, last = map(_name, ACTIVATIONS)
    raise ValueError(
        f'There is no bound rule for the activation "{name}" of layer "{layer.name}"; supported '
        f"are {', '.join(others)} and {last}."
    )


def _rule_of(layer_class: type) -> Rule | None:
    from hydra_tf.layers import MASKED

    _load_rules()
    unmasked = {masked: plain for plain, masked in MASKED.items()}
    for wanted in (layer_class, unmasked.get(layer_class)):
        for target, rule in RULES.items():
            if wanted is not None and wanted is resolve(target):
                return rule
    return None


@functools.cache
def _load_rules() -> None:
    """Import every module of this package, so that its rules are registered."""
    package = importlib.import_module(__package__ or "hydra_tf.bounds.rules")
    for module in pkgutil.iter_modules(package.__path__):
        importlib.import_module(f"{package.__name__}.{module.name}")


def _name(target: Any) -> str:
    """Return the name of a target without its Keras module."""
    if isinstance(target, str):
        return target.rpartition(".")[2]
    return getattr(target, "__name__", type(target).__name__)


def _listed(*namespaces: str) -> str:
    names = {
        _name(target)
        for target in RULES
        if (target.partition(".")[0] if isinstance(target, str) else "layers") in namespaces
    }
    return ", ".join(sorted(names))
