"""Bounds on logits and on their differences over Linf balls."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, TypeAlias

from hydra_tf.bounds.base import Bound, build
from hydra_tf.bounds.inputs import (
    Clip,
    Radius,
    checked_inputs,
    class_indices,
    input_box,
    pixel_range,
)
from hydra_tf.bounds.layer_calls import list_calls
from hydra_tf.bounds.layer_graph import LayerGraph
from hydra_tf.core.graphs import Graphs
from hydra_tf.core.layer_calls import functional_model
from hydra_tf.core.lazy import keras, tf
from hydra_tf.core.types import Images, Interval, Labels, Logits

Method: TypeAlias = str | Mapping[str, Any] | Bound | Callable[..., "tf.Tensor"]


def bound(
    model: keras.Model,
    x: Images,
    epsilon: Radius,
    method: Method = "ibp",
    clip: Clip = (0, 1),
    *,
    rounding: bool | None = None,
    chunk: int | None = None,
) -> Interval:
    """Bound the logits of a network over all images within `epsilon` of each image.

    The network is bounded in inference mode (BatchNorm with its moving statistics). The bounds
    are differentiable with respect to the weights, the scores of masked layers, `x` and `epsilon`.

    Args:
        model: functional or Sequential Keras model that outputs logits, or a
            :class:`hydra_tf.RobustModel`.
        x: [batch, ...] images.
        epsilon: Linf radius in the units of the images; a number or scalar tensor.
        method: ``"ibp"``, ``"crown_ibp"``, ``"crown"``, ``"symbolic"`` or ``"tightest"``, also
            with parameters (``"crown:chunk=512"``), or a :class:`hydra_tf.bounds.Bound`.
        clip: smallest and largest pixel value, to which the balls are clipped, and images whose
            pixels lie outside by rounding; None to not clip.
        rounding: whether the bounds hold for the float32 outputs of the network (see
            :mod:`hydra_tf.bounds.rounding`), or for real arithmetic, as in training. The
            method's parameter, True by default, if left out.
        chunk: samples times linear functions that are computed at once; see
            :class:`hydra_tf.bounds.Bound`. The method's parameter if left out.

    Returns:
        Interval of float32 tensors [batch, classes].

    Raises:
        TypeError: for a subclassed model, a radius that is not a number, or options given to a
            callable that is not a :class:`hydra_tf.bounds.Bound`.
        ValueError: for a layer without a rule, a network that ends in a softmax, a radius that
            is negative or larger than the pixel range, or images with pixels that are NaN or
            outside that range.

    Example:
        >>> import keras, hydra_tf, numpy as np
        >>> net = keras.Sequential([keras.Input([1]), keras.layers.Dense(2)])
        >>> net.set_weights([np.array([[1.0, -2.0]]), np.zeros(2)])
        >>> logits = hydra_tf.bounds.bound(net, [[0.5]], 0.25, rounding=False)
        >>> logits.lower.numpy().tolist(), logits.upper.numpy().tolist()
        ([[0.25, -1.5]], [[0.75, -0.5]])
    """
    net, x = functional_model(model), tf.cast(x, tf.float32)
    built, clip = _with_options(method, rounding, chunk), pixel_range(clip)
    x, epsilon = checked_inputs(net, x, epsilon, clip)
    stacked = _lower_bounds(net, built, clip, _logit_specifications, x, epsilon)
    classes = stacked.shape[1] // 2
    lower, upper = stacked[:, :classes], -stacked[:, classes:]
    # Without an allowance for rounding, ends that are nearly equal may cross.
    return Interval(tf.minimum(lower, upper), tf.maximum(upper, lower))


def margin_lower_bound(
    model: keras.Model,
    x: Images,
    y: Labels,
    epsilon: Radius,
    method: Method = "ibp",
    clip: Clip = (0, 1),
    *,
    rounding: bool | None = None,
    chunk: int | None = None,
) -> Logits:
    """Return lower bounds of the margins between the label's logit and the others, over the ball.

    The differences are merged into the last layer, which is tighter than the difference of
    bounds on logits. A sample is verified when all its bounds except that at `y` are positive.

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
        >>> options = {"epsilon": 0.25, "rounding": False}
        >>> hydra_tf.bounds.margin_lower_bound(net, [[0.5]], [0], **options).numpy().tolist()
        [[0.0, 0.75]]
    """
    net, x = functional_model(model), tf.cast(x, tf.float32)
    built, clip = _with_options(method, rounding, chunk), pixel_range(clip)
    x, epsilon = checked_inputs(net, x, epsilon, clip)
    y = class_indices(y, x, net.outputs[0].shape[-1])
    others = _lower_bounds(net, built, clip, margin_specifications, x, epsilon, y)
    return in_class_order(others, y)


def _with_options(method: Method, rounding: bool | None, chunk: int | None) -> Bound:
    """Return the bound with these options; parameters in a spec take precedence."""
    options: dict[str, Any] = {"rounding": rounding, "chunk": chunk}
    options = {name: value for name, value in options.items() if value is not None}
    built = build(method, **options)
    if built is not method or not options:
        return built
    if not isinstance(built, Bound):
        raise TypeError(
            f"{' and '.join(options)} cannot be given to a callable that is not a bounds.Bound; "
            "leave them out, or build them into the callable."
        )
    return replace(built, **options)


def _logit_specifications(classes: int) -> tf.Tensor:
    """Return the rows of each logit and its negation, [1, 2 * classes, classes]."""
    return tf.concat([tf.eye(classes), -tf.eye(classes)], 0)[None]


def margin_specifications(classes: int, y: Labels) -> tf.Tensor:
    """Return the rows of the label's logit minus each other, [batch, classes - 1, classes].

    Example:
        >>> margin_specifications(3, tf.constant([1])).numpy().tolist()
        [[[0.0, 1.0, -1.0], [-1.0, 1.0, 0.0]]]
    """
    others = (y[:, None] + tf.range(1, classes)) % classes
    return tf.one_hot(y, classes)[:, None] - tf.one_hot(others, classes)


def in_class_order(others: tf.Tensor, y: Labels) -> Logits:
    """Return values of the rows of :func:`margin_specifications` by class, with 0 at the label.

    Args:
        others: [batch, classes - 1].
        y: [batch] labels.

    Example:
        >>> in_class_order(tf.constant([[5.0, 7.0]]), tf.constant([1])).numpy().tolist()
        [[7.0, 0.0, 5.0]]
    """
    # Column k of `others` is class (y + 1 + k) % classes.
    rolled = tf.concat([tf.zeros_like(others[:, :1]), others], 1)
    classes = tf.shape(rolled)[1]
    return tf.gather(rolled, (tf.range(classes) - y[:, None]) % classes, batch_dims=1)


def _traceable_lower_bounds(
    net: keras.Model,
    method: Bound,
    clip: Clip,
    specify: Callable[..., tf.Tensor],
    x: Images,
    epsilon: tf.Tensor,
    *y: Labels,
) -> tf.Tensor:
    specifications = specify(net.outputs[0].shape[-1], *y)
    if x.shape[0] == 0:  # TensorFlow's convolutions have no gradient for an empty batch
        return tf.zeros([0, specifications.shape[1]])
    box = input_box(x, epsilon, clip, getattr(method, "rounding", True))
    lower = method(LayerGraph.from_calls(list_calls(net)), box, specifications)
    lower.set_shape([x.shape[0], None])
    return lower


_graphs = Graphs()


def _lower_bounds(
    net: keras.Model,
    method: Bound,
    clip: Clip,
    specify: Callable[..., tf.Tensor],
    *tensors: tf.Tensor,
) -> tf.Tensor:
    """Return the bounds, computed in the current graph or in one that is cached for the network."""
    if not tf.executing_eagerly() or tensors[0].shape[0] == 0:
        # Without AutoGraph, which is slow here and not needed.
        compute = tf.autograph.experimental.do_not_convert(_traceable_lower_bounds)
        return compute(net, method, clip, specify, *tensors)

    def trace(network: Callable[[], keras.Model]) -> Callable[..., tf.Tensor]:
        @tf.function(reduce_retracing=True, autograph=False)
        def run(*tensors: tf.Tensor) -> tf.Tensor:
            return _traceable_lower_bounds(network(), method, clip, specify, *tensors)

        return run

    return _graphs.get(net, (method, clip, specify), trace)(*tensors)
