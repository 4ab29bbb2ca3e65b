import importlib.util
import os
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf

from moa_tf.layers import FastBatchNormalization, GhostBatchNormalization


def batch(rows=32, features=7, dtype="float32"):
    rng = np.random.default_rng(0)
    return tf.constant(rng.normal(1.0, np.linspace(0.1, 3, features), (rows, features)), dtype)


def step(layer, x, upstream):
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = layer(x, training=True)
        loss = tf.reduce_sum(tf.cast(y, "float32") * upstream)
    weights = [weight.value for weight in layer.trainable_weights]
    return [y, *tape.gradient(loss, [x, *weights]), *layer.non_trainable_weights]


def pair(shape, **options):
    layers = []
    for kind in (FastBatchNormalization, keras.layers.BatchNormalization):
        layer = kind(**options)
        layer.build(shape)
        rng = np.random.default_rng(1)
        layer.set_weights([rng.uniform(0.5, 1.5, weight.shape) for weight in layer.weights])
        layers.append(layer)
    return layers


@pytest.mark.parametrize("graph", [False, True])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"center": False},
        {"scale": False},
        {"center": False, "scale": False},
        {"momentum": 0.9, "epsilon": 1e-5},
    ],
    ids=str,
)
def test_values_gradients_and_moving_statistics_equal_keras(options, graph):
    x = batch()
    upstream = np.random.default_rng(2).normal(size=x.shape).astype("float32")
    results = []
    for layer in pair(x.shape, **options):
        run = tf.function(step) if graph else step
        results.append([np.asarray(value) for value in run(layer, x, upstream)])
    assert len(results[0]) == len(results[1]) > 3
    for ours, theirs in zip(*results, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-5)


def test_hand_computed():
    layer = FastBatchNormalization(momentum=0.5, epsilon=0.0)
    layer.build((None, 1))
    layer.set_weights([np.array([2.0]), np.array([5.0]), np.array([0.0]), np.array([1.0])])
    # mean 3, deviation 2
    np.testing.assert_allclose(layer(np.array([[1.0], [5.0]]), training=True), [[3], [7]], rtol=1e-6)
    np.testing.assert_allclose(layer.moving_mean, [1.5], rtol=1e-6)
    np.testing.assert_allclose(layer.moving_variance, [2.5], rtol=1e-6)
    # inference: 2 (x − 1.5)/√2.5 + 5
    np.testing.assert_allclose(layer(np.array([[1.5]]), training=False), [[5]], rtol=1e-6)


def test_a_feature_that_does_not_vary_gives_beta():
    x = np.full((64, 3), [0.1, -7.3, 0.0], "float32")
    layer = FastBatchNormalization()
    np.testing.assert_allclose(layer(x, training=True), np.zeros((64, 3)), atol=1e-3)
    assert (layer.moving_variance.numpy() >= 0).all()


@pytest.mark.parametrize("change", [{"synchronized": True}, {"axis": 1}, {"trainable": False}], ids=str)
def test_other_cases_are_those_of_keras(change):
    x = tf.reshape(batch(24, 8), (6, 4, 8))
    upstream = np.random.default_rng(2).normal(size=x.shape).astype("float32")
    results = [[np.asarray(value) for value in step(layer, x, upstream)] for layer in pair(x.shape, **change)]
    for ours, theirs in zip(*results, strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_masked_rows_do_not_count():
    x = batch()
    mask = np.arange(len(x)) % 3 > 0
    ours, theirs = (layer(x, training=True, mask=tf.constant(mask)) for layer in pair(x.shape))
    np.testing.assert_array_equal(ours, theirs)
    kept = x.numpy()[mask]
    np.testing.assert_allclose(
        FastBatchNormalization(epsilon=0.0)(x, training=True, mask=tf.constant(mask)),
        (x - kept.mean(0)) / kept.std(0),
        atol=1e-4,
    )


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16"])
def test_mixed_precision_takes_statistics_in_float32(policy):
    x = batch(dtype=policy.removeprefix("mixed_"))
    results = [
        [np.asarray(tf.cast(value, "float32")) for value in step(layer, x, np.ones(x.shape, "float32"))]
        for layer in pair(x.shape, dtype=policy)
    ]
    for ours, theirs in zip(*results, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-2, atol=1e-2)
    layer = FastBatchNormalization(dtype=policy)
    assert layer(x, training=True).dtype == x.dtype
    np.testing.assert_allclose(layer.moving_mean, 0.01 * np.asarray(x, "float64").mean(0), rtol=1e-4)


def test_save_load_and_export(tmp_path):
    x = batch().numpy()
    inputs = keras.Input((7,))
    model = keras.Model(inputs, keras.layers.Dense(2)(FastBatchNormalization(momentum=0.5)(inputs)))
    model.compile("sgd", "mse")
    model.fit(x, np.ones((32, 2)), epochs=3, verbose=0)
    expected = model(x)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert type(loaded.layers[1]) is FastBatchNormalization
    np.testing.assert_array_equal(loaded(x), expected)
    model.export(tmp_path / "saved_model", verbose=False)
    served = tf.saved_model.load(str(tmp_path / "saved_model"))
    np.testing.assert_allclose(served.serve(x), expected, rtol=1e-5, atol=1e-6)


JAX = """
import keras, jax, numpy as np
from moa_tf.layers import FastBatchNormalization
assert keras.backend.backend() == "jax"
rng = np.random.default_rng(0)
x, upstream = rng.normal(1, 2, (2, 16, 5)).astype("float32")
results = []
for kind in (FastBatchNormalization, keras.layers.BatchNormalization):
    layer = kind()
    layer.build(x.shape)
    def loss(weights, x):
        y, statistics = layer.stateless_call(
            weights, [w.value for w in layer.non_trainable_variables], x, training=True)
        return (y * upstream).sum(), (y, *statistics)
    weights = [w.value for w in layer.trainable_variables]
    (_, out), (gradients, dx) = jax.jit(jax.value_and_grad(loss, argnums=(0, 1), has_aux=True))(weights, x)
    results.append([*out, *gradients, dx])
for ours, theirs in zip(*results, strict=True):
    np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-5)
"""


@pytest.mark.skipif(importlib.util.find_spec("jax") is None, reason="JAX is not installed")
@pytest.mark.slow
def test_equals_keras_on_jax():
    subprocess.run([sys.executable, "-c", JAX], env=os.environ | {"KERAS_BACKEND": "jax"}, check=True)


@pytest.mark.parametrize(
    "layer", [FastBatchNormalization, lambda **options: GhostBatchNormalization(None, **options)]
)
@pytest.mark.parametrize("policy", ["float32", "mixed_bfloat16", "mixed_float16"])
@pytest.mark.parametrize("mean", [0.0, -100.0, 1e4])
def test_digits_are_kept_where_the_mean_is_far_from_0(layer, mean, policy):
    rng = np.random.default_rng(0)
    x = tf.constant(rng.normal(mean, 1, (256, 30)), policy.removeprefix("mixed_"))
    if policy != "float32" and mean:  # Neighbours are up to 64 apart there: rows that differ by that.
        x = tf.cast(np.round(rng.normal(0, 3, (256, 30))) * (64 if mean > 0 else 0.5) + mean, x.dtype)
    upstream = rng.normal(size=x.shape)
    built = layer(momentum=0.0, epsilon=1e-3, dtype=policy)
    built.build(x.shape)
    y, gradient, *_ = step(built, x, upstream.astype("float32"))
    exact = tf.cast(x, "float64").numpy()
    inverse = 1 / np.sqrt(exact.var(0) + 1e-3)
    expected = (exact - exact.mean(0)) * inverse
    # What half precision makes of the upstream gradient.
    upstream = tf.cast(tf.cast(upstream, x.dtype), "float64").numpy()
    slope = upstream - upstream.mean(0) - expected * (upstream * expected).mean(0)
    # Keras's own layer has an error of 2e-3 at a mean of 10,000, where float32's neighbours are 1e-3 apart.
    loose = 2e-5 if layer is FastBatchNormalization else 2e-5 + 4e-7 * abs(mean)
    half = {"float32": loose, "mixed_bfloat16": 1e-2, "mixed_float16": max(loose, 2e-3)}[policy]
    np.testing.assert_allclose(tf.cast(y, "float64"), expected, atol=half, rtol=half)
    np.testing.assert_allclose(tf.cast(gradient, "float64"), inverse * slope, atol=half, rtol=half)
    np.testing.assert_allclose(built.moving_mean, exact.mean(0), rtol=1e-6, atol=1e-6)
    bias = 1 if layer is FastBatchNormalization else 256 / 255
    np.testing.assert_allclose(built.moving_variance, exact.var(0) * bias, rtol=1e-5)


def test_an_outlying_first_row_costs_few_digits():
    x = np.random.default_rng(0).normal(1000, 1, (256, 8)).astype("float32")
    x[0] = 1200
    exact = x.astype("float64")
    expected = (exact - exact.mean(0)) / np.sqrt(exact.var(0) + 1e-3)
    np.testing.assert_allclose(FastBatchNormalization()(x, training=True), expected, rtol=3e-4, atol=1e-4)
