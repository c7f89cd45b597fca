"""Bounds on logits and on their differences over Linf balls."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from hydra_tf.bounds.base import Bound, build
from hydra_tf.bounds.engine import Network
from hydra_tf.bounds.layer_calls import functional_of, walk
from hydra_tf.bounds.rounding import TINY, U
from hydra_tf.core.graphs import Graphs
from hydra_tf.core.lazy import tf
from hydra_tf.core.types import Interval, require_linf_radius

Clip = tuple[float, float] | None


def bound(
    model: Any,
    x: Any,
    epsilon: Any,
    method: Any = "ibp",
    clip: Clip = (0, 1),
    *,
    rounding: bool | None = None,
    chunk: int | None = None,
) -> Interval:
    """Bound the logits of a network over all images within `epsilon` of each image.

    The network is taken in inference mode (BatchNorm with its moving statistics). Everything
    is differentiable for the weights, for masked layers' scores, for `x` and `epsilon`.

    Args:
        model: functional or Sequential Keras model that outputs logits, or a
            :class:`hydra_tf.RobustModel`.
        x: [batch, ...] images.
        epsilon: Linf radius in the units of the images; a number or scalar tensor.
        method: ``"ibp"``, ``"crown_ibp"``, ``"crown"``, ``"symbolic"``, ``"tightest"``, each
            with parameters (``"crown:chunk=512"``), or a :class:`hydra_tf.bounds.Bound`.
        clip: least and largest value of a pixel, to which the balls are cut; None for none.
        rounding: whether the bounds hold for the float32 outputs of the network; see
            :mod:`hydra_tf.bounds.rounding`. False for training. What the method says, which
            is True by itself, when left out.
        chunk: samples times linear functions that are worked on at once; see
            :class:`hydra_tf.bounds.Bound`. What the method says when left out.

    Returns:
        Interval of float32 tensors [batch, classes].

    Raises:
        TypeError: for a subclassed model, a radius that is no number, options given to a
            callable that is no :class:`hydra_tf.bounds.Bound`.
        ValueError: for a layer without a rule, a network that ends in a softmax, a radius that
            is negative or larger than the pixel range, images outside that range.

    Example:
        >>> import keras, hydra_tf, numpy as np
        >>> net = keras.Sequential([keras.Input([1]), keras.layers.Dense(2)])
        >>> net.set_weights([np.array([[1.0, -2.0]]), np.zeros(2)])
        >>> found = hydra_tf.bounds.bound(net, [[0.5]], 0.25, rounding=False)
        >>> found.lower.numpy().tolist(), found.upper.numpy().tolist()
        ([[0.25, -1.5]], [[0.75, -0.5]])
    """
    net, x = functional_of(model), tf.cast(x, tf.float32)
    how, clip = _method(method, rounding, chunk), _range(clip)
    epsilon = _checked(net, x, epsilon, clip)
    both = _run(net, how, clip, _logit_specs, x, epsilon)
    classes = both.shape[1] // 2
    return Interval(both[:, :classes], -both[:, classes:])


def margin_lower_bound(
    model: Any,
    x: Any,
    y: Any,
    epsilon: Any,
    method: Any = "ibp",
    clip: Clip = (0, 1),
    *,
    rounding: bool | None = None,
    chunk: int | None = None,
) -> Any:
    """Bound from below by how much the right logit exceeds each other one, over the ball.

    The differences are merged into the last layer, which is tighter than the difference of
    bounds on logits. A sample is verified when all its bounds but the one at `y` are positive.

    Args:
        model: as for :func:`bound`.
        x: [batch, ...] images.
        y: [batch] integer labels, or [batch, classes] one-hot.
        epsilon: as for :func:`bound`.
        method: as for :func:`bound`.
        clip: as for :func:`bound`.
        rounding: as for :func:`bound`.
        chunk: as for :func:`bound`.

    Returns:
        [batch, classes] float32: lower bounds of ``f_y - f_j``, 0 at j = y.

    Raises:
        TypeError: as :func:`bound`, and for labels [batch] that are not whole numbers.
        ValueError: as :func:`bound`, and for labels out of range.

    Example:
        >>> import keras, hydra_tf, numpy as np
        >>> net = keras.Sequential([keras.Input([1]), keras.layers.Dense(2)])
        >>> net.set_weights([np.array([[1.0, -2.0]]), np.zeros(2)])
        >>> how = {"epsilon": 0.25, "rounding": False}
        >>> hydra_tf.bounds.margin_lower_bound(net, [[0.5]], [0], **how).numpy().tolist()
        [[0.0, 0.75]]
    """
    net, x = functional_of(model), tf.cast(x, tf.float32)
    how, clip = _method(method, rounding, chunk), _range(clip)
    epsilon = _checked(net, x, epsilon, clip)
    y = _labels(y, x, net.outputs[0].shape[-1])
    others = _run(net, how, clip, _margin_specs, x, epsilon, y)
    # Column k of `others` is class y + 1 + k, counted round.
    rolled = tf.concat([tf.zeros_like(others[:, :1]), others], 1)
    classes = net.outputs[0].shape[-1]
    return tf.gather(rolled, (tf.range(classes) - y[:, None]) % classes, batch_dims=1)


def _method(method: Any, rounding: bool | None, chunk: int | None) -> Any:
    """The bound with the options that were given; those in its name win."""
    options = {"rounding": rounding, "chunk": chunk}
    given: dict[str, Any] = {name: each for name, each in options.items() if each is not None}
    how = build(method, **given)
    if how is not method or not given:
        return how
    if not isinstance(how, Bound):
        raise TypeError(
            f"{' and '.join(given)} cannot be given to a callable that is no bounds.Bound; leave "
            "them out, or build them into the callable."
        )
    return replace(how, **given)


def _logit_specs(classes: int) -> Any:
    """Each logit and its negative, [1, 2 * classes, classes]."""
    return tf.concat([tf.eye(classes), -tf.eye(classes)], 0)[None]


def _margin_specs(classes: int, y: Any) -> Any:
    """The right logit less each other one, [batch, classes - 1, classes]."""
    others = (y[:, None] + tf.range(1, classes)) % classes
    return tf.one_hot(y, classes)[:, None] - tf.one_hot(others, classes)


def _lower(
    net: Any, how: Bound, clip: Clip, make: Callable[..., Any], x: Any, epsilon: Any, *y: Any
) -> Any:
    specs = make(net.outputs[0].shape[-1], *y)
    if x.shape[0] == 0:  # for which TensorFlow's convolutions have no gradient
        return tf.zeros([0, specs.shape[1]])
    box = _ball(x, epsilon, clip, getattr(how, "rounding", True))
    found = how(Network.of(walk(net)), box, specs)
    found.set_shape([x.shape[0], None])
    return found


def _ball(x: Any, epsilon: Any, clip: Clip, rounding: bool) -> Interval:
    """The ends of the inputs, which hold what an attack's own rounding may reach."""
    if rounding:
        epsilon += 4 * U * (tf.abs(x) + epsilon) + TINY
    lower, upper = x - epsilon, x + epsilon
    if clip is None:
        return Interval(lower, upper)
    # An image outside of the range, which eager calls refuse, has itself as its ball.
    lower = tf.minimum(tf.maximum(lower, clip[0]), x)
    return Interval(lower, tf.maximum(tf.minimum(upper, clip[1]), x))


_graphs = Graphs()


def _run(net: Any, how: Bound, clip: Clip, specs: Callable[..., Any], *tensors: Any) -> Any:
    """Bound in the present graph, or in one that is traced once and kept with the network."""
    if not tf.executing_eagerly() or tensors[0].shape[0] == 0:
        # Not by AutoGraph, which would rewrite what takes no decision on tensors, slowly.
        plainly = tf.autograph.experimental.do_not_convert(_lower)
        return plainly(net, how, clip, specs, *tensors)

    def trace(net: Callable[[], Any]) -> Any:
        @tf.function(reduce_retracing=True, autograph=False)
        def run(*tensors: Any) -> Any:
            return _lower(net(), how, clip, specs, *tensors)

        return run

    return _graphs.get(net, (how, clip, specs), trace)(*tensors)


def _checked(net: Any, x: Any, epsilon: Any, clip: Clip) -> Any:
    """Refuse what can be seen to be wrong before the graph is run; return the radius."""
    shape = net.outputs[0].shape
    if len(shape) != 2 or shape[-1] is None or shape[-1] < 2:
        raise ValueError(
            "Bounds need a model that outputs logits of shape [batch, classes] with at least 2 "
            f"classes, not {tuple(shape)}."
        )
    wanted = net.inputs[0].shape[1:]
    fits = len(x.shape) == len(wanted) + 1 and all(
        want in (None, have) or have is None for have, want in zip(x.shape[1:], wanted, strict=True)
    )
    if not fits:
        raise ValueError(
            f"The model takes images of shape {tuple(wanted)}, but these are {tuple(x.shape[1:])}."
        )
    _check_radius(epsilon, clip)
    if tf.executing_eagerly() and clip is not None and x.shape[0]:
        low, high = float(tf.reduce_min(x)), float(tf.reduce_max(x))
        if not (low >= clip[0] and high <= clip[1]):
            raise ValueError(
                f"Images must hold pixel values in [{clip[0]:g}, {clip[1]:g}], but they span "
                f"[{low:g}, {high:g}]; scale them, or say which values are possible with clip."
            )
    return tf.cast(epsilon, tf.float32)


def _range(clip: Any) -> Clip:
    """The range of pixel values as two numbers."""
    if clip is None:
        return None
    ends = np.asarray(clip)
    if ends.shape != (2,) or ends.dtype.kind not in "iuf" or not ends[0] < ends[1]:
        raise ValueError(f"clip must be (least, largest) pixel value or None, not {clip}.")
    return float(ends[0]), float(ends[1])


def _check_radius(epsilon: Any, clip: Clip) -> None:
    """Refuse a radius that is none, as far as it is known before the graph is run."""
    if tf.is_tensor(epsilon) or isinstance(epsilon, np.ndarray):
        if tuple(epsilon.shape) != ():
            raise ValueError(
                "epsilon must be a number or a scalar tensor, not of shape "
                f"{tuple(epsilon.shape)}; images of other radii are bounded in another call."
            )
        if not tf.executing_eagerly():
            return
        epsilon = float(epsilon)
    require_linf_radius(epsilon, clip)


def _labels(y: Any, x: Any, classes: int) -> Any:
    """Return labels as int32 [batch]."""
    y = tf.convert_to_tensor(y)
    if len(y.shape) == 2 and y.shape[1] in (1, classes):
        y = y[:, 0] if y.shape[1] == 1 else tf.argmax(y, axis=1)
    if not y.dtype.is_integer:
        raise TypeError(f"Labels must be whole numbers, not of type {y.dtype.name}.")
    if len(y.shape) != 1:
        raise ValueError(
            f"Labels must be integers of shape [batch] or one-hot of shape [batch, {classes}], "
            f"not of shape {tuple(y.shape)}."
        )
    if None not in (y.shape[0], x.shape[0]) and y.shape[0] != x.shape[0]:
        raise ValueError(f"There are {x.shape[0]} images but {y.shape[0]} labels.")
    if tf.executing_eagerly() and y.shape[0]:
        low, high = int(tf.reduce_min(y)), int(tf.reduce_max(y))
        if low < 0 or high >= classes:
            raise ValueError(
                f"Labels must be whole numbers from 0 to {classes - 1}, one for each logit, but "
                f"they span [{low}, {high}]."
            )
    return tf.cast(y, tf.int32)
