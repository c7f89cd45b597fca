"""Upper bounds of the cross-entropy over Linf balls, for training."""

from __future__ import annotations

from hydra_tf.bounds.inputs import Clip, checked_inputs, class_indices, input_box, pixel_range
from hydra_tf.bounds.layer_calls import list_calls
from hydra_tf.bounds.layer_graph import LayerGraph
from hydra_tf.bounds.margins import in_class_order, margin_specifications
from hydra_tf.bounds.propagation import BoundedGraph, propagate
from hydra_tf.bounds.rules.nodes import BoundOptions
from hydra_tf.core.layer_calls import functional_model
from hydra_tf.core.lazy import keras, tf
from hydra_tf.core.types import Images, Labels, Logits


def cross_entropy_upper_bound(
    model: keras.Model,
    x: Images,
    y: Labels,
    epsilon: tf.Tensor,
    beta: float | tf.Tensor,
    fusion: bool = True,
    clip: Clip = (0, 1),
) -> tuple[tf.Tensor, Logits]:
    """Bound the cross-entropy of a network over balls by a mean of CROWN-IBP and IBP.

    The bounds are those of real arithmetic and differentiable, as for :func:`bound` with
    ``rounding=False``. Both methods share the intervals of the hidden layers. If beta is the
    number 0, not a tensor, nothing is passed backwards.

    Without fusion, CROWN-IBP bounds each margin, and the loss is the cross-entropy of the weighted
    mean of the margins. With fusion, it bounds the exponential sum of the cross-entropy as a whole:
    one linear function is passed backwards instead of one for each wrong class, and the loss is the
    weighted mean of the two bounds of the cross-entropy (Xu et al., NeurIPS 2020, section 3.3).

    Args:
        model: as for :func:`bound`.
        x: [batch, ...] images.
        y: [batch] integer labels.
        epsilon: scalar Linf radius in the units of the images.
        beta: scalar weight of CROWN-IBP in [0, 1].
        fusion: whether to bound the exponential sum as a whole.
        clip: as for :func:`bound`.

    Returns:
        Upper bounds of the cross-entropy, [batch], and upper bounds of ``f_j - f_y``,
        [batch, classes]: the weighted mean, or those of IBP with fusion.

    Raises:
        TypeError: as :func:`margin_lower_bound`.
        ValueError: as :func:`margin_lower_bound`.

    Example:
        >>> import keras, numpy as np
        >>> net = keras.Sequential([keras.Input([1]), keras.layers.Dense(2)])
        >>> net.set_weights([np.array([[1.0, -2.0]]), np.zeros(2)])
        >>> options = {"epsilon": tf.constant(0.25), "beta": 0.0}
        >>> losses, worst = cross_entropy_upper_bound(net, [[0.5]], [0], **options)
        >>> worst.numpy().tolist(), losses.numpy().round(4).tolist()
        ([[0.0, -0.75]], [0.3869])
    """
    net, x, clip = functional_model(model), tf.cast(x, tf.float32), pixel_range(clip)
    x, epsilon = checked_inputs(net, x, epsilon, clip)
    classes = net.outputs[0].shape[-1]
    y = class_indices(y, x, classes)
    if x.shape[0] == 0:  # TensorFlow's convolutions have no gradient for an empty batch
        return tf.zeros([0]), tf.zeros([0, classes])
    # Without AutoGraph, which is slow here and not needed.
    compute = tf.autograph.experimental.do_not_convert(_losses_and_differences)
    losses, worst = compute(net, x, y, epsilon, beta, fusion, clip)
    return losses, in_class_order(worst, y)


def _losses_and_differences(
    net: keras.Model,
    x: Images,
    y: Labels,
    epsilon: tf.Tensor,
    beta: float | tf.Tensor,
    fusion: bool,
    clip: Clip,
) -> tuple[tf.Tensor, tf.Tensor]:
    """Return the losses and the upper bounds of ``f_j - f_y``, [batch, classes - 1]."""
    graph = LayerGraph.from_calls(list_calls(net))
    bounded = propagate(graph, input_box(x, epsilon, clip, False), BoundOptions(False))
    rows = -margin_specifications(net.outputs[0].shape[-1], y)
    high = upper_bounds(bounded, rows, to_input=False)
    loss = _cross_entropy(high)

    if isinstance(beta, float) and beta == 0:
        return loss, high
    if fusion:
        return beta * fused_cross_entropy(bounded, rows, high) + (1 - beta) * loss, high
    mean = beta * upper_bounds(bounded, rows, to_input=True) + (1 - beta) * high
    return _cross_entropy(mean), mean


def upper_bounds(bounded: BoundedGraph, rows: tf.Tensor, to_input: bool) -> tf.Tensor:
    """Return upper bounds of linear functions of the logits, [batch, rows]; see `lower_bounds`."""
    return -bounded.lower_bounds(-rows, len(bounded.graph.nodes), to_input)


def fused_cross_entropy(bounded: BoundedGraph, rows: tf.Tensor, high: tf.Tensor) -> tf.Tensor:
    """Bound the cross-entropy, the logarithm of ``1 + sum of exp(d)``, by one backward pass.

    Each exponential is at most its chord over the interval of d, so that their sum is at most one
    linear function of the logits (Xu et al., NeurIPS 2020, section 3.3). The result is not above
    the bound by intervals alone.

    Args:
        bounded: intervals of a network.
        rows: [batch, classes - 1, classes] coefficients of the differences d, ``f_j - f_y``.
        high: [batch, classes - 1] upper bounds of d by intervals.

    Returns:
        [batch].
    """
    low = -upper_bounds(bounded, -rows, to_input=False)
    # All exponentials are divided by the largest, so that none overflows.
    largest = tf.stop_gradient(tf.maximum(tf.reduce_max(high, 1), 0.0))
    top = tf.exp(high - largest[:, None])
    # The chord has the slope exp(high) * (1 - exp(-width)) / width. For narrow intervals this is
    # the slope at a width that rounding does not affect, whose line is above the chord.
    width = tf.maximum(high - low, 1e-6)
    slopes = top * -tf.math.expm1(-width) / width
    row = tf.reduce_sum(slopes[:, :, None] * rows, 1, keepdims=True)
    total = upper_bounds(bounded, row, to_input=True)[:, 0]
    total += tf.reduce_sum(top - slopes * high, 1)
    # The floor keeps the logarithm finite where the sum is only rounding errors.
    loss = largest + tf.math.log(tf.maximum(tf.exp(-largest) + total, 1e-30))
    return tf.clip_by_value(loss, _cross_entropy(low), _cross_entropy(high))


def _cross_entropy(differences: tf.Tensor) -> tf.Tensor:
    """Return the cross-entropy for differences ``f_j - f_y`` of all wrong classes, [batch]."""
    return tf.nn.softplus(tf.reduce_logsumexp(differences, 1))
