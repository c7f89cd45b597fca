"""Square: its schedule, its windows, and what it finds with logits alone."""

import numpy as np
import pytest
import tensorflow as tf

from hydra_tf.attacks import square
from hydra_tf.attacks.apgd import APGD
from hydra_tf.attacks.square import Square
from hydra_tf.core.randomness import stateless_seed


def test_the_schedule_of_the_paper():
    # Halved after 10, 50, 200, 500, 1000, 2000, 4000, 6000 and 8000 of 10,000 queries.
    attack = Square(queries=10_000)
    at = [0, 10, 11, 50, 51, 201, 501, 1001, 2001, 4001, 6001, 8001, 9999]
    halvings = [0, 0, 1, 1, 2, 3, 4, 5, 6, 7, 8, 9, 9]
    assert [attack.share(i) for i in at] == [0.8 / 2**n for n in halvings]
    # Any other number of queries stretches it; query 6 of 5,000 is query 12 of 10,000.
    assert [Square(p_init=0.4).share(i) for i in (5, 6, 4999)] == [0.4, 0.2, 0.4 / 2**9]


@pytest.mark.parametrize(
    ("norm", "shape", "query", "window"),
    [
        ("linf", (28, 28), 0, (25, 25)),  # sqrt(0.8 * 784) = 25.04
        ("linf", (28, 28), 4999, (1, 1)),  # sqrt(0.0016 * 784) = 1.1
        ("l2", (28, 28), 6, (19, 19)),  # sqrt(0.4 * 784) = 17.7, made odd
        ("l2", (28, 28), 4999, (3, 3)),
        ("l2", (2, 7), 0, (2, 2)),
        ("linf", (10, 40), 0, (10, 10)),
        ("linf", (1, 20), 0, (1, 16)),
        ("l2", (1, 20), 4999, (1, 1)),
    ],
)
def test_windows(norm, shape, query, window):
    assert Square(norm=norm).window(query, *shape) == window


def test_stages_cover_every_query():
    sizes, ends = Square(queries=200)._stages(9, 9)
    windows = [Square(queries=200).window(i, 9, 9) for i in range(200)]
    starts = [0, *ends[:-1]]
    again = [size for size, a, b in zip(sizes, starts, ends, strict=True) for _ in range(b - a)]
    assert again == windows


def test_bumps_by_hand():
    # Halves of 2 x 4: peaks of height 2 and width 2 about (1, 1), of radius 0 with 1, of
    # radius up to 1 with 1/4.
    peak = np.array([[0.25, 0.25], [0.25, 1.25]])
    expected = np.hstack([peak, -peak])
    above, beside = square.eta_patterns(2, 4)
    np.testing.assert_allclose(beside, expected / np.linalg.norm(expected), rtol=1e-6)
    # The other form halves the height: a row of width 4 about column 2 lies above another.
    row = np.array([1 / 9, 1 / 4 + 1 / 9, 1 + 1 / 4 + 1 / 9, 1 / 4 + 1 / 9])
    np.testing.assert_allclose(above, [row, -row] / np.linalg.norm([row, row]), rtol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(square.eta_patterns(7, 7), axis=(1, 2)), 1, rtol=1e-6)
    five = square.eta_patterns(5, 5)
    np.testing.assert_allclose(five[0], five[1].T, rtol=1e-6)


@pytest.mark.parametrize("shape", [(6, 6, 3), (4, 9, 1)])
def test_windows_are_uniform_over_their_places(shape):
    x = tf.zeros([4000, *shape])
    uniform = tf.random.stateless_uniform([4000, 2], [1, 2])
    size = tf.constant([3, 3])
    inside = square._in_window(*square._window_coordinates(x, size, uniform), size).numpy()[..., 0]
    assert (inside.sum((1, 2)) == 9).all()
    tops, lefts = (inside.any(axis).argmax(1) for axis in (2, 1))
    for corner, places in ((tops, shape[0] - 2), (lefts, shape[1] - 2)):
        counts = np.bincount(corner, minlength=places)
        assert len(counts) == places
        assert (abs(counts - 4000 / places) < 5 * np.sqrt(4000 / places)).all()


def test_the_linf_move_sets_one_square_to_the_bounds():
    x = tf.fill([50, 6, 6, 2], 0.5)
    old = x + 0.02
    moved = square._linf_proposal(x, 0.1, [(4, 4), (2, 2)])(1, x, old, tf.constant([3, 4])).numpy()
    changed = ~np.isclose(moved, 0.52)
    assert (changed.sum((1, 2)) == 4).all()
    np.testing.assert_allclose(np.abs(moved[changed] - 0.5), 0.1, rtol=1e-5)
    signs = np.sign(np.where(changed, moved - 0.5, 0).sum((1, 2)))
    assert (np.abs(signs.sum(0)) < 30).all()  # each channel's sign is its own coin
    assert 10 < (signs[:, 0] == signs[:, 1]).sum() < 40


def test_the_l2_move_spends_what_it_takes_and_what_is_left():
    rng = np.random.default_rng(0)
    x = tf.fill([40, 9, 9, 2], 0.5)
    change = rng.normal(size=(40, 9, 9, 2)).astype("float32")
    change *= 0.2 / np.sqrt((change**2).sum((1, 2, 3), keepdims=True))
    move = square._l2_proposal(x, 0.3, [(3, 3)])
    moved = move(0, x, x + change, tf.constant([1, 1])).numpy() - 0.5
    # All of epsilon is in use, though the change before had 0.2 of 0.3 only.
    np.testing.assert_allclose(np.sqrt((moved**2).sum((1, 2, 3))), 0.3, rtol=1e-4)
    touched = (~np.isclose(moved, change, atol=1e-6)).any(-1).sum((1, 2))
    assert ((touched > 9) & (touched <= 18)).sum() > 30  # two windows, which may overlap
    assert (touched <= 18).all()


@pytest.mark.parametrize(("norm", "epsilon"), [("linf", 0.1), ("l2", 0.5)])
def test_starts_fill_the_ball(norm, epsilon):
    x = tf.fill([20, 10, 11, 2], 0.5)
    start = square.INITIAL_IMAGES[norm](x, epsilon, tf.constant([5, 0])).numpy() - 0.5
    if norm == "l2":
        np.testing.assert_allclose(np.sqrt((start**2).sum((1, 2, 3))), epsilon, rtol=1e-5)
        # A peak and its trough sum to all but nothing on each of the 5 x 5 tiles of 2 x 2.
        assert (np.abs(start) > 1e-3).all()
    else:
        np.testing.assert_allclose(np.abs(start), epsilon, rtol=1e-5)
        assert (start == start[:, :1]).all()  # columns
        assert 0.3 < (start[:, 0] > 0).mean() < 0.7


def test_l2_search_comes_near_the_optimum_of_a_linear_model():
    # Nothing breaks; the best rise of the margin is epsilon times the length of the weights.
    rng = np.random.default_rng(2)
    weights = rng.normal(size=(8, 1)).astype("float32")
    x = rng.uniform(0.4, 0.6, (40, 8)).astype("float32")

    def model(z, training=False):
        score = tf.matmul(z, weights)
        return tf.concat([tf.zeros_like(score), score - 50.0], 1)

    gains = []
    for queries in (20, 1500):
        found = Square("l2", 0.2, queries=queries)(model, x, np.zeros(40, "int32")).numpy()
        gains.append(((found - x) @ weights)[:, 0] / (0.2 * np.linalg.norm(weights)))
    assert (gains[1] > gains[0]).mean() > 0.9
    assert np.median(gains[1]) > 0.9
    assert gains[1].max() <= 1 + 1e-5


def test_logits_are_all_it_asks_for(trained):
    # Pixels of 8 bits have no gradient at all; what they hide is the network behind them.
    net, x, y = trained

    def stepped(z, training=False):
        return net(tf.round(z * 255) / 255, training=training)

    still_correct = lambda found: (np.argmax(stepped(found), -1) == y).mean()  # noqa: E731
    blind = still_correct(APGD(epsilon=0.1, steps=20)(stepped, x, y))
    seeing = still_correct(Square(epsilon=0.1, queries=500)(stepped, x, y))
    true = still_correct(APGD(epsilon=0.1, steps=50, loss="dlr", targets=3)(net, x, y))
    assert blind > true + 0.2
    assert seeing <= true + 0.05


def test_what_is_broken_is_left_out_of_the_next_stage():
    sizes = []

    def predict(x):
        if tf.executing_eagerly():
            sizes.append(len(x))
        flat = tf.reshape(x, [-1, 16])
        return tf.concat([tf.fill([len(x), 1], 0.57), tf.reduce_mean(flat, 1)[:, None]], 1)

    x = np.full((30, 4, 4, 1), 0.5, "float32")
    x[:10] = 0.6  # wrong from the first
    y = tf.zeros(30, tf.int32)
    attack = Square(epsilon=0.1, queries=200)
    found = attack.perturb(predict, tf.constant(x), y, stateless_seed(0)).numpy()
    assert np.array_equal(found[:10], x[:10])
    assert sizes[:2] == [30, 30]  # the image and the start
    assert sizes[2] <= 20
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[-1] < sizes[2]
    # The mean passes 0.57 when all pixels but two stand at 0.6.
    broken = found.mean((1, 2, 3)) > 0.57
    assert broken[10:].mean() > 0.5


def test_images_without_a_known_size_are_refused():
    @tf.function(input_signature=[tf.TensorSpec([None, None, 4, 1])])
    def run(x):
        return Square().perturb(lambda z: z, x, tf.zeros(2, tf.int32), stateless_seed(0))

    with pytest.raises(ValueError, match=r"known size, not of shape \(None, None, 4, 1\)"):
        run(tf.zeros([2, 4, 4, 1]))


@pytest.mark.parametrize(
    ("kwargs", "sentence"),
    [
        ({"queries": 0}, "queries must be at least 1, not 0"),
        ({"p_init": 0.0}, r"p_init is a share of the pixels in \(0, 1\], not 0.0"),
        ({"p_init": 1.5}, "p_init is a share"),
        ({"p_init": float("nan")}, "p_init is a share"),
    ],
)
def test_bad_parameters_are_refused(kwargs, sentence):
    with pytest.raises(ValueError, match=sentence):
        Square(**kwargs)
