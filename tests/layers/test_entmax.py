import keras
import numpy as np
import pytest
import tensorflow as tf

from moa_tf.layers import Entmax15, Sparsemax, entmax15, sparsemax


def sorted_sparsemax(z):
    """Closed form by sorting, in float64: Martins & Astudillo, algorithm 1."""
    z = np.asarray(z, np.float64)
    z = z - z.max(axis=-1, keepdims=True)
    falling = -np.sort(-z, axis=-1)
    count = np.arange(1, z.shape[-1] + 1)
    excess = falling.cumsum(axis=-1) - 1
    size = (count * falling > excess).sum(axis=-1, keepdims=True)
    return np.maximum(z - np.take_along_axis(excess, size - 1, axis=-1) / size, 0)


def sorted_entmax15(z):
    """Closed form by sorting, in float64: Peters, Niculae & Martins, algorithm 2."""
    z = np.asarray(z, np.float64)
    z = (z - z.max(axis=-1, keepdims=True)) / 2
    falling = -np.sort(-z, axis=-1)
    count = np.arange(1, z.shape[-1] + 1)
    mean = falling.cumsum(axis=-1) / count
    spread = count * ((falling**2).cumsum(axis=-1) / count - mean**2)
    tau = mean - np.sqrt(np.maximum((1 - spread) / count, 0))
    size = (tau <= falling).sum(axis=-1, keepdims=True)
    return np.maximum(z - np.take_along_axis(tau, size - 1, axis=-1), 0) ** 2


PAIRS = [(sparsemax, sorted_sparsemax), (entmax15, sorted_entmax15)]


@pytest.mark.parametrize(("ours", "closed_form"), PAIRS)
@pytest.mark.parametrize("scale", [0.0, 1e-3, 0.1, 1.0, 10.0, 1e4])
@pytest.mark.parametrize("entries", [1, 2, 37, 876])
def test_equals_the_sorted_closed_form(ours, closed_form, scale, entries):
    z = (np.random.default_rng(0).normal(size=(256, entries)) * scale).astype("float32")
    p = np.array(ours(z))
    np.testing.assert_allclose(p, closed_form(z), atol=1e-6)
    np.testing.assert_allclose(p.astype("float64").sum(axis=-1), 1.0, atol=1e-6)
    assert (p >= 0).all()


def test_ties_and_hand_computed_values():
    np.testing.assert_allclose(sparsemax(np.array([[1.0, 1.0, 0.0]], "float32")), [[0.5, 0.5, 0.0]])
    np.testing.assert_allclose(sparsemax(np.array([[0.5, 0.0, -2.0]], "float32")), [[0.75, 0.25, 0.0]])
    # z/2 = [0, -x]: (0 - t)² + (-x - t)² = 1 with x = 0.2 has t = (-x - √(2 - x²)) / 2.
    t = (-0.2 - np.sqrt(2 - 0.04)) / 2
    expected = [[t**2, (0.2 + t) ** 2]]
    np.testing.assert_allclose(entmax15(np.array([[0.4, 0.0]], "float32")), expected, atol=1e-6)


@pytest.mark.parametrize(("ours", "closed_form"), PAIRS)
def test_gradient_equals_finite_differences_of_the_closed_form(ours, closed_form):
    generator = np.random.default_rng(1)
    z, upstream = generator.normal(size=(5, 6)), generator.normal(size=(5, 6))
    x = tf.constant(z, "float32")
    with tf.GradientTape() as tape:
        tape.watch(x)
        loss = tf.reduce_sum(ours(x) * tf.constant(upstream, "float32"))
    gradient = tape.gradient(loss, x).numpy()
    step = 1e-6
    for index in np.ndindex(*z.shape):
        up, down = z.copy(), z.copy()
        up[index] += step
        down[index] -= step
        slope = ((closed_form(up) - closed_form(down)) * upstream).sum() / (2 * step)
        assert gradient[index] == pytest.approx(slope, abs=2e-5)


@pytest.mark.parametrize("layer", [Sparsemax, Entmax15])
def test_axis_dtype_and_config(layer):
    z = np.random.default_rng(0).normal(size=(3, 4, 5)).astype("float32")
    built = layer(axis=1)
    again = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(built))
    p = np.array(again(z))
    np.testing.assert_allclose(p.sum(axis=1), 1.0, atol=1e-6)
    np.testing.assert_allclose(p[:, :, 2], layer()(z[:, :, 2]), atol=1e-7)
    half = layer(dtype="mixed_bfloat16")(z)
    assert half.dtype == tf.bfloat16
    np.testing.assert_allclose(np.array(half, "float32"), layer()(z), atol=2e-2)


def test_works_in_a_compiled_graph():
    z = tf.constant(np.random.default_rng(0).normal(size=(8, 20)), tf.float32)

    @tf.function(jit_compile=True)
    def both(z):
        with tf.GradientTape() as tape:
            tape.watch(z)
            p = entmax15(z)
            first = p[:, 0]
        return p, tape.gradient(first, z)

    p, gradient = both(z)
    np.testing.assert_allclose(p, sorted_entmax15(z), atol=1e-6)
    np.testing.assert_allclose(tf.reduce_sum(gradient, axis=1), 0.0, atol=1e-6)


def value_and_gradient(function, z, upstream):
    with tf.GradientTape() as tape:
        tape.watch(z)
        p = function(z)
        loss = tf.reduce_sum(p * upstream)
    return p, tape.gradient(loss, z)


@pytest.mark.parametrize(("ours", "closed_form"), PAIRS)
@pytest.mark.parametrize("compile", [None, False, True])
def test_rows_do_not_feel_a_row_that_is_nan(ours, closed_form, compile):
    generator = np.random.default_rng(0)
    good = (3 * generator.normal(size=(50, 37))).astype("float32")
    upstream = tf.constant(generator.normal(size=good.shape), tf.float32)
    bad, broken = good.copy(), np.zeros(50, bool)
    for row in range(0, 37):  # A NaN in each place, so in each lane of a vector too.
        bad[row, row] = np.nan
    bad[40, 3], bad[41], bad[42] = np.inf, -np.inf, np.nan
    broken[[*range(37), 40, 41, 42]] = True
    run = lambda z: value_and_gradient(ours, z, upstream)  # noqa: E731
    run = run if compile is None else tf.function(run, jit_compile=compile)
    p, gradient = (np.array(part) for part in run(tf.constant(bad)))
    expected, expected_gradient = (np.array(part) for part in run(tf.constant(good)))
    np.testing.assert_allclose(expected, closed_form(good), atol=1e-6)
    np.testing.assert_allclose(p[~broken], expected[~broken], atol=1e-6)
    np.testing.assert_allclose(gradient[~broken], expected_gradient[~broken], atol=1e-5)
    assert np.isnan(p[broken]).all()
    assert np.isnan(gradient[broken]).all()


@pytest.mark.parametrize(("ours", "closed_form"), PAIRS)
def test_a_logit_of_minus_infinity_gets_probability_0_and_no_gradient(ours, closed_form):
    generator = np.random.default_rng(0)
    z, upstream = (generator.normal(size=(20, 9)).astype("float32") for _ in range(2))
    hidden = generator.random(z.shape) < 0.5
    hidden[:, 0] = False
    p, gradient = value_and_gradient(ours, tf.constant(np.where(hidden, -np.inf, z), tf.float32), upstream)
    far, far_gradient = value_and_gradient(ours, tf.constant(np.where(hidden, -1e9, z), tf.float32), upstream)
    assert (p.numpy()[hidden] == 0).all()
    assert (gradient.numpy()[hidden] == 0).all()
    np.testing.assert_array_equal(p, far)
    np.testing.assert_array_equal(gradient, far_gradient)
    np.testing.assert_allclose(tf.reduce_sum(p, axis=1), 1, atol=1e-6)
