import importlib.util
import os
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf

from moa_tf.layers import ByteDropout


@pytest.mark.parametrize(("rate", "dropped"), [(0.25, 64), (0.3, 77), (0.15, 38), (0.001, 1), (0.999, 255)])
def test_scale_and_share(rate, dropped):
    # 256/(256 − d) where kept; d/256 of a million elements dropped, to five standard deviations.
    y = ByteDropout(rate, seed=1)(np.ones((1000, 1003), "float32"), training=True).numpy()
    share = dropped / 256
    np.testing.assert_allclose(np.unique(y), [0, 1 / (1 - share)], rtol=1e-6)
    assert abs((y == 0).mean() - share) < 5 * np.sqrt(share * (1 - share) / y.size)


def test_elements_are_independent():
    dropped = ByteDropout(0.5, seed=2)(np.ones((4000, 64), "float32"), training=True).numpy() == 0
    correlations = np.corrcoef(dropped, rowvar=False) - np.eye(64)
    # 2,016 pairs, each with a standard deviation of 1/√4000 = 0.016
    assert np.abs(correlations).max() < 5 / np.sqrt(4000)
    rows = np.corrcoef(dropped[:64]) - np.eye(64)
    assert np.abs(rows).max() < 5.5 / np.sqrt(64)


def test_steps_differ_and_a_seed_repeats_them():
    x = np.ones((8, 40), "float32")
    runs = []
    for _ in range(2):
        layer = ByteDropout(0.5, seed=3)
        call = tf.function(lambda x, layer=layer: layer(x, training=True))
        runs.append([call(x).numpy() for _ in range(2)])
    np.testing.assert_array_equal(runs[0], runs[1])
    assert (runs[0][0] != runs[0][1]).any()


@pytest.mark.parametrize("features", [1, 3, 4, 9])
def test_gradient_is_the_mask_for_any_width(features):
    layer = ByteDropout(0.4, seed=4)
    x = tf.random.stateless_normal((2, 5, features), (1, 2))
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = layer(x, training=True)
    gradient = tape.gradient(y, x)
    assert y.shape == x.shape
    np.testing.assert_allclose(y, x * gradient, rtol=1e-6)


def test_no_change_in_inference_or_without_rate():
    x = np.ones((3, 5), "float32")
    np.testing.assert_array_equal(ByteDropout(0.5)(x, training=False), x)
    np.testing.assert_array_equal(ByteDropout(0.0)(x, training=True), x)
    np.testing.assert_array_equal(ByteDropout(1.0)(x, training=True), 0 * x)
    whole_rows = ByteDropout(0.5, noise_shape=(None, 1), seed=1)(np.ones((50, 5), "float32"), training=True)
    assert (np.ptp(whole_rows, axis=1) == 0).all()


def test_mixed_precision():
    y = ByteDropout(0.5, seed=1, dtype="mixed_float16")(np.ones((4, 8), "float32"), training=True)
    assert y.dtype == tf.float16
    np.testing.assert_array_equal(np.unique(y), [0, 2])


def test_trains_with_batches_of_any_size_and_saves(tmp_path):
    inputs = keras.Input((6,))
    model = keras.Model(inputs, keras.layers.Dense(2)(ByteDropout(0.3, seed=5)(inputs)))
    model.compile("sgd", "mse")
    x = np.random.default_rng(0).normal(size=(10, 6)).astype("float32")
    model.fit(x, np.ones((10, 2)), batch_size=4, verbose=0)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert loaded.layers[1].get_config() == model.layers[1].get_config()
    np.testing.assert_array_equal(loaded(x), model(x))


JAX = """
import keras, jax, numpy as np
from moa_tf.layers import ByteDropout
assert keras.backend.backend() == "jax"
layer = ByteDropout(0.25, seed=1)
def call(state, x):
    return layer.stateless_call([], state, x, training=True)
y, _ = jax.jit(call)([v.value for v in layer.non_trainable_variables], np.ones((500, 41), "float32"))
np.testing.assert_allclose(np.unique(y), [0, 4 / 3], rtol=1e-6)
assert abs((np.asarray(y) == 0).mean() - 0.25) < 0.02
"""


@pytest.mark.skipif(importlib.util.find_spec("jax") is None, reason="JAX is not installed")
def test_on_jax():
    subprocess.run([sys.executable, "-c", JAX], env=os.environ | {"KERAS_BACKEND": "jax"}, check=True)
