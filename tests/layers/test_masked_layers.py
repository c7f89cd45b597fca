"""Each masked layer against the Keras layer that it replaces."""

import contextvars
import threading

import keras
import numpy as np
import pytest
import tensorflow as tf

from hydra_tf.layers import MASKED, kernels_computed_once

L = keras.layers

CASES = [
    (L.Dense, (7,), {"units": 5}),
    (L.Dense, (3, 7), {"units": 5, "use_bias": False, "activation": "tanh"}),
    (L.Conv1D, (9, 4), {"filters": 6, "kernel_size": 3, "padding": "causal", "dilation_rate": 2}),
    (L.Conv1D, (9, 4), {"filters": 6, "kernel_size": 2, "padding": "causal", "strides": 2}),
    (L.Conv1D, (9, 4), {"filters": 6, "kernel_size": 3, "strides": 2, "padding": "same"}),
    (L.Conv1D, (9, 4), {"filters": 6, "kernel_size": 3, "groups": 2, "activation": "relu"}),
    (L.Conv1D, (9, 4), {"filters": 6, "kernel_size": 3, "use_bias": False}),
    (L.Conv2D, (7, 8, 4), {"filters": 6, "kernel_size": (3, 2), "strides": (2, 1)}),
    (L.Conv2D, (7, 8, 4), {"filters": 6, "kernel_size": 3, "padding": "same", "dilation_rate": 2}),
    (L.Conv2D, (7, 8, 4), {"filters": 6, "kernel_size": 3, "groups": 2, "activation": "gelu"}),
    (L.Conv2D, (7, 8, 4), {"filters": 6, "kernel_size": 1, "use_bias": False}),
    (L.Conv3D, (4, 5, 6, 2), {"filters": 3, "kernel_size": 2, "strides": 2, "padding": "same"}),
    (L.Conv3D, (4, 5, 6, 2), {"filters": 3, "kernel_size": 2, "use_bias": False}),
    (L.DepthwiseConv1D, (9, 4), {"kernel_size": 3, "depth_multiplier": 2, "activation": "relu"}),
    (L.DepthwiseConv1D, (9, 4), {"kernel_size": 3, "padding": "same", "use_bias": False}),
    (L.DepthwiseConv2D, (7, 8, 4), {"kernel_size": 3, "depth_multiplier": 2, "strides": 2}),
    (L.DepthwiseConv2D, (7, 8, 4), {"kernel_size": 3, "dilation_rate": 2, "padding": "same"}),
    (L.DepthwiseConv2D, (7, 8, 4), {"kernel_size": (2, 3), "use_bias": False}),
]
IDS = [f"{kind.__name__}-{i}" for i, (kind, _, _) in enumerate(CASES)]


def pair(kind, shape, options, density=1.0, **more):
    """Return a plain and a masked layer with the same random kernel and bias, and inputs."""
    rng = np.random.default_rng(0)
    plain, masked = kind(**options, **more), MASKED[kind](**options, **more, density=density)
    plain.build((None, *shape))
    masked.build((None, *shape))
    kernel = rng.normal(size=plain.kernel.shape).astype("float32")
    masked.kernel.assign(kernel)
    masked.scores.assign(rng.normal(size=kernel.shape))
    masked.refresh_mask()
    plain.kernel.assign(kernel * np.asarray(masked.mask))
    if plain.bias is not None:
        bias = rng.normal(size=plain.bias.shape)
        plain.bias.assign(bias)
        masked.bias.assign(bias)
    return plain, masked, rng.normal(size=(3, *shape)).astype("float32")


@pytest.mark.parametrize("density", [1.0, 0.4])
@pytest.mark.parametrize(("kind", "shape", "options"), CASES, ids=IDS)
def test_outputs_equal_those_of_the_keras_layer(kind, shape, options, density):
    plain, masked, x = pair(kind, shape, options, density)
    kept = int(np.asarray(masked.mask).sum())
    assert kept == max(1, round(density * np.size(masked.kernel)))
    np.testing.assert_array_equal(masked(x), plain(x))
    assert masked.compute_output_shape((3, *shape)) == tuple(plain(x).shape)


@pytest.mark.parametrize(("kind", "shape", "options"), CASES, ids=IDS)
def test_gradients_against_the_keras_layer(kind, shape, options):
    plain, masked, x = pair(kind, shape, options, 0.4)
    with tf.GradientTape(persistent=True) as tape:
        losses = [tf.reduce_sum(layer(x) ** 2) for layer in (plain, masked)]
    through_plain = tape.gradient(losses[0], plain.kernel.value)
    through_kernel, through_scores = tape.gradient(
        losses[1], [masked.kernel.value, masked.scores.value]
    )
    mask, scores = np.asarray(masked.mask), np.asarray(masked.scores)
    np.testing.assert_array_equal(through_kernel, through_plain * mask)
    np.testing.assert_array_equal(through_scores, through_plain * masked.kernel * np.sign(scores))
    assert np.count_nonzero(np.asarray(through_scores)[mask == 0]) > 0


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16", "float64"])
@pytest.mark.parametrize("case", [0, 4, 7, 13, 15], ids=lambda i: CASES[i][0].__name__)
def test_precision_policies(policy, case):
    plain, masked, x = pair(*CASES[case], 0.4, dtype=policy)
    assert masked.scores.dtype == "float32" and masked.mask.dtype == "bool"
    assert masked(x).dtype == plain(x).dtype == keras.DTypePolicy(policy).compute_dtype
    np.testing.assert_array_equal(masked(x), plain(x))
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(tf.cast(masked(x), tf.float32))
    gradients = tape.gradient(loss, [masked.kernel.value, masked.scores.value])
    assert [g.dtype.name for g in gradients] == [masked.kernel.dtype, "float32"]


@pytest.mark.parametrize(("kind", "shape", "options"), CASES, ids=IDS)
def test_configs_rebuild_the_layer(kind, shape, options):
    layer = MASKED[kind](**options, density=0.25, granularity="element", name="me")
    twin = type(layer).from_config(layer.get_config())
    assert twin.get_config() == layer.get_config()
    assert (twin.density, twin.granularity, twin.name) == (0.25, "element", "me")


def test_bad_options_are_refused_at_once():
    for density in (0, 1.1, -1):
        with pytest.raises(ValueError, match=r"must lie in \(0, 1\]"):
            MASKED[L.Dense](3, density=density)
    with pytest.raises(ValueError, match='"elemnt"; did you mean "element"'):
        MASKED[L.Dense](3, granularity="elemnt")


def test_mask_is_not_trainable():
    _, masked, _ = pair(*CASES[0])
    assert [v.name for v in masked.trainable_variables] == ["kernel", "bias", "scores"]
    assert [v.name for v in masked.non_trainable_variables] == ["mask"]
    masked.trainable = False
    assert masked.trainable_variables == []


def gradients_of(masked, x, once, wrap):
    @wrap
    def run(x):
        with tf.GradientTape() as tape, kernels_computed_once([masked] if once else []):
            first = masked(x)
            loss = tf.reduce_sum(masked(first) * first)
        return first, *tape.gradient(loss, [masked.kernel.value, masked.scores.value])

    return [np.asarray(tensor) for tensor in run(x)]


@pytest.mark.parametrize("wrap", [lambda f: f, tf.function], ids=["eager", "graph"])
def test_kernels_computed_once_give_the_same_outputs_and_gradients(wrap):
    _, masked, x = pair(L.Dense, (7,), {"units": 7}, 0.4)
    once, every_call = (gradients_of(masked, x, once, wrap) for once in (True, False))
    np.testing.assert_array_equal(once[0], every_call[0])
    # Gradients of the two calls are added before masking instead of after it.
    np.testing.assert_allclose(once[1], every_call[1], rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(once[2], every_call[2], rtol=1e-5, atol=1e-5)
    assert np.count_nonzero(once[1]) == np.asarray(masked.mask).sum()


def test_masked_kernel_is_cached_within_the_context():
    _, masked, _ = pair(*CASES[0])
    with kernels_computed_once([masked]):
        first = masked.masked_kernel()
        masked.kernel.assign(masked.kernel * 2)
        assert masked.masked_kernel() is first
    np.testing.assert_array_equal(masked.masked_kernel(), 2 * first)


def test_cache_is_cleared_after_an_exception():
    _, masked, x = pair(*CASES[0])
    before = np.asarray(masked(x))
    with pytest.raises(RuntimeError, match="stop"), kernels_computed_once([masked]):
        raise RuntimeError("stop")
    masked.kernel.assign(masked.kernel * 0)
    assert not np.array_equal(masked(x), before)
    assert not np.any(masked.masked_kernel())


def test_cache_is_not_visible_in_other_threads():
    _, masked, _ = pair(*CASES[0])
    seen = []
    with kernels_computed_once([masked]):
        cached = masked.masked_kernel()
        masked.kernel.assign(masked.kernel * 2)
        thread = threading.Thread(
            target=contextvars.Context().run, args=(lambda: seen.append(masked.masked_kernel()),)
        )
        thread.start()
        thread.join()
        assert masked.masked_kernel() is cached
    np.testing.assert_array_equal(seen[0], 2 * cached)


def test_graphs_do_not_capture_cached_kernels():
    _, masked, x = pair(L.Dense, (7,), {"units": 5, "use_bias": False})
    call = tf.function(lambda x: masked(x))
    with kernels_computed_once([masked]):
        first = call(x)
    masked.kernel.assign(masked.kernel * 2)
    with kernels_computed_once([masked]):
        np.testing.assert_array_equal(call(x), 2 * first)
    masked.kernel.assign(masked.kernel * 2)
    np.testing.assert_array_equal(call(x), 4 * first)


def test_build_sets_scores_and_mask_from_the_kernel():
    layer = MASKED[L.Dense](10, density=0.1)
    layer.build((None, 20))
    kernel = np.asarray(layer.kernel)
    expected = np.sqrt(6 / 20) * kernel / np.abs(kernel).max()
    np.testing.assert_allclose(layer.scores, expected, rtol=1e-6)
    kept = np.sort(np.argsort(-np.abs(kernel).ravel(), kind="stable")[:20])
    np.testing.assert_array_equal(np.flatnonzero(np.asarray(layer.mask)), kept)


@pytest.mark.parametrize("kind", [L.Dense, L.Conv2D])
def test_lora_and_quantization_are_refused(kind):
    sizes = {L.Dense: (3,), L.Conv2D: (3, 2)}[kind]
    with pytest.raises(ValueError, match=r"does not support LoRA, .* mask_model\(exclude=\.\.\.\)"):
        MASKED[kind](*sizes, lora_rank=2)
    layer = MASKED[kind](*sizes)
    layer.build((None, *[4] * (len(sizes) * 2 - 1)))
    with pytest.raises(ValueError, match="does not support LoRA"):
        layer.enable_lora(2)
    with pytest.raises(ValueError, match="does not support quantized weights"):
        MASKED[L.Dense](3, dtype=keras.dtype_policies.QuantizedDTypePolicy("int8"))
