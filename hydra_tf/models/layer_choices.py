"""Choices of layers: name patterns, lists of them, or predicates."""

from __future__ import annotations

import fnmatch
from collections.abc import Callable, Iterator, Sequence

import keras

from hydra_tf.core.keras_models import all_layers, inner_layers, is_graph
from hydra_tf.sparsity.kernel_weights import KernelWeight

Choice = str | Sequence[str] | Callable[[keras.layers.Layer], bool]


def check_choice(
    choice: Choice | None, model: keras.Model, argument: str, kernels: Sequence[str]
) -> None:
    """Check the type of a choice, and that each of its patterns matches a layer or a kernel.

    Args:
        choice: the choice, None for none.
        model: the model whose layers are chosen.
        argument: name of the argument, for errors.
        kernels: names of kernels that patterns may match, too.

    Raises:
        TypeError: for another type.
        ValueError: for a pattern that matches nothing.
    """
    if choice is None or callable(choice):
        return
    patterns = [choice] if isinstance(choice, str) else choice
    if not (
        isinstance(patterns, Sequence) and all(isinstance(pattern, str) for pattern in patterns)
    ):
        raise TypeError(
            f"{argument} must be a name pattern, a list of them or a predicate on layers, not "
            f"{choice!r}."
        )
    names = [layer.name for layer in all_layers(model)]
    for pattern in patterns:
        if not fnmatch.filter([*names, *kernels], pattern):
            raise ValueError(
                f"{argument}={pattern!r} matches no layer; the layers are {', '.join(names)}."
            )


def matches(choice: Choice, layer: keras.layers.Layer) -> bool:
    """Return whether a layer matches a name pattern, one of a list of them, or a predicate.

    Args:
        choice: the choice.
        layer: a layer.

    Example:
        >>> matches("conv*", keras.layers.Conv2D(1, 1, name="conv_1"))
        True
    """
    if callable(choice):
        return bool(choice(layer))
    return _matches_name(choice, layer.name)


def _matches_name(choice: str | Sequence[str], name: str) -> bool:
    patterns = [choice] if isinstance(choice, str) else choice
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)


def selected_ids(choice: Choice, model: keras.Model) -> set[int]:
    """Return the ids of the layers that a choice selects, and of all layers inside them.

    Args:
        choice: the choice.
        model: the model; layers inside its layers can be chosen, too.

    Example:
        >>> net = keras.Sequential([keras.Input([2]), keras.layers.Dense(2, name="logits")])
        >>> selected_ids("logits", net) == {id(net.layers[0])}
        True
    """
    selected: set[int] = set()
    for layer in _children(model):
        if matches(choice, layer):
            selected |= {id(layer), *map(id, all_layers(layer))}
        else:
            selected |= selected_ids(choice, layer)
    return selected


def _children(layer: keras.layers.Layer) -> Iterator[keras.layers.Layer]:
    """Yield the layers of a model, or those inside a layer."""
    if is_graph(layer):
        yield from layer.layers
    else:
        yield from (inner for _, inner in inner_layers(layer))


def chosen_kernels(
    kernels: Sequence[KernelWeight], name: str, choice: Choice, selected: set[int]
) -> set[str]:
    """Return the paths of the kernels of a layer that a choice selects.

    Args:
        kernels: kernels of the layer.
        name: name of the layer.
        choice: the choice; a pattern may also match ``name/path`` of a kernel.
        selected: what :func:`selected_ids` returns for the choice.

    Example:
        >>> layer = keras.layers.SimpleRNN(2)
        >>> layer.build((None, 3, 2))
        >>> from hydra_tf.sparsity.kernel_weights import kernel_weights
        >>> chosen_kernels(kernel_weights(layer), "rnn", "rnn/*/recurrent_kernel", set())
        {'cell/recurrent_kernel'}
    """
    return {
        kernel.path
        for kernel in kernels
        if id(kernel.owner) in selected
        or (not callable(choice) and _matches_name(choice, f"{name}/{kernel.path}"))
    }
