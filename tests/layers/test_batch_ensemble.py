import importlib.util
import os
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf

from moa_tf.layers import BatchEnsembleBlocks, BatchEnsembleDense, EnsembleDense, MeanProbability


def test_hand_computed():
    layer = BatchEnsembleDense(2, k=2)
    layer.build((None, 2, 2))
    values = ([[1, 2], [3, 4]], [[1, -1], [2, 0]], [[1, 10], [0.5, 1]], [[0, 1], [0, -1]])
    layer.set_weights([np.array(value, "float32") for value in values])
    # x r = [1, -1] and [2, 0]; times W = [-2, -2] and [2, 4]; times s, plus b.
    np.testing.assert_allclose(layer(np.ones((1, 2, 2), "float32"))[0], [[-2, -19], [1, 3]])


@pytest.mark.parametrize("k", [3, 6])  # A group of members, and more than one.
@pytest.mark.parametrize("training", [False, True])
def test_one_input_for_all_members_equals_as_many_equal_ones(k, training):
    layer = BatchEnsembleDense(4, k=k)
    layer.build((None, 5))
    rng = np.random.default_rng(0)
    layer.set_weights([rng.normal(size=weight.shape) for weight in layer.weights])
    x = tf.constant(rng.normal(size=(7, 5)), "float32")
    upstream = rng.normal(size=(7, k, 4)).astype("float32")
    results = []
    for repeated in (False, True):
        with tf.GradientTape() as tape:
            tape.watch(x)
            outputs = layer(tf.repeat(x[:, None], k, axis=1) if repeated else x, training=training)
            loss = tf.reduce_sum(outputs * upstream)
        results.append([outputs, *tape.gradient(loss, [x, *(weight.value for weight in layer.weights)])])
    for one, repeated in zip(*results, strict=True):
        np.testing.assert_allclose(one, repeated, rtol=1e-5, atol=1e-5)


def test_members_start_apart_by_the_signs_of_the_first_layer_alone():
    keras.utils.set_random_seed(0)
    first, later = BatchEnsembleDense(50, k=32, random_signs=True), BatchEnsembleDense(50, k=32)
    first.build((None, 400))
    later.build((None, 32, 400))
    assert set(np.unique(first.r)) == {-1, 1}
    assert np.abs(np.mean(first.r)) < 0.05
    np.testing.assert_array_equal(later.r, 1)
    for layer in (first, later):
        np.testing.assert_array_equal(layer.s, 1)
        np.testing.assert_array_equal(layer.bias, np.broadcast_to(layer.bias[0], layer.bias.shape))
        assert np.ptp(layer.bias[0]) > 0.05
        # Uniform in ±1/√400.
        for values in (layer.kernel, layer.bias):
            assert 0.9 / 20 < np.abs(values).max() <= 1 / 20
        assert np.std(layer.kernel) == pytest.approx(1 / 20 / np.sqrt(3), rel=0.02)


@pytest.mark.parametrize("training", [False, True])
def test_blocks_equal_their_layers_one_by_one(training):
    keras.utils.set_random_seed(0)
    blocks = BatchEnsembleBlocks((6, 7, 4), k=3, dropout=0.4)
    x = np.random.default_rng(1).normal(size=(8, 5)).astype("float32")
    blocks(x)
    rng = np.random.default_rng(0)
    for weight in blocks.weights:
        weight.assign(rng.normal(size=weight.shape))  # Scalings of both signs.
    states = [np.array(dropout.seed_generator.state) for dropout in blocks.dropouts]
    upstream = rng.normal(size=(8, 3, 4)).astype("float32")

    def one_by_one(h):
        for dense, dropout in zip(blocks.blocks, blocks.dropouts, strict=True):
            h = dropout(keras.ops.relu(dense(h)), training=training)
        return h

    results = []
    for function in (lambda h: blocks(h, training=training), one_by_one):
        for dropout, state in zip(blocks.dropouts, states, strict=True):
            dropout.seed_generator.state.assign(state)
        with tf.GradientTape() as tape:
            outputs = function(x)
            loss = tf.reduce_sum(outputs * upstream)
        results.append([outputs, *tape.gradient(loss, [weight.value for weight in blocks.weights])])
    assert len(results[0]) == 1 + 3 * 4
    for ours, plain in zip(*results, strict=True):
        assert np.abs(plain).max() > 0
        np.testing.assert_allclose(ours, plain, rtol=1e-4, atol=1e-4)


def test_heads_share_nothing():
    layer = EnsembleDense(4, k=3, bias_initializer=keras.initializers.Constant(range(4)))
    x = np.random.default_rng(0).normal(size=(6, 3, 5)).astype("float32")
    outputs = layer(x)
    for member in range(3):
        expected = x[:, member] @ np.asarray(layer.kernel[member]) + np.arange(4)
        np.testing.assert_allclose(outputs[:, member], expected, rtol=1e-5, atol=1e-6)
    assert np.abs(layer.kernel).max() <= 1 / np.sqrt(5)


def test_mean_of_probabilities():
    z = np.array([[[0.0, 3.0], [np.log(3), -200.0], [9.0, -9.0]]], "float32")
    p = 1 / (1 + np.exp(-z.astype(float)))
    for members in (None, 2):
        mean = p[:, :members].mean(1)
        np.testing.assert_allclose(MeanProbability(members)(z), np.log(mean / (1 - mean)), rtol=1e-6)


def test_mean_probability_that_float32_rounds_to_0_or_1():
    z = np.array([[[-200.0, 200.0, 40.0], [-200.0, 200.0, 60.0]]], "float32")
    # The larger of two doubts that differ much counts half.
    np.testing.assert_allclose(MeanProbability()(z), [[-200, 200, 40 + np.log(2)]], rtol=1e-6)


def test_keras_file_round_trip(tmp_path):
    inputs = keras.Input((5,))
    heads = EnsembleDense(2, k=3)
    model = keras.Model(inputs, MeanProbability(2)(heads(BatchEnsembleBlocks((6, 4), 3, 0.1)(inputs))))
    model.save(tmp_path / "model.keras")
    x = np.random.default_rng(1).normal(size=(6, 5)).astype("float32")
    np.testing.assert_array_equal(keras.saving.load_model(tmp_path / "model.keras")(x), model(x))


JAX = """
import keras, jax, numpy as np
from moa_tf.layers import BatchEnsembleBlocks, EnsembleDense, MeanProbability
assert keras.backend.backend() == "jax"
inputs = keras.Input((5,))
blocks = BatchEnsembleBlocks((6, 4), 3, dropout=0.1)
model = keras.Model(inputs, MeanProbability()(EnsembleDense(2, k=3)(blocks(inputs))))
x = np.random.default_rng(0).normal(size=(6, 5)).astype("float32")
def loss(weights, state, training):
    return jax.numpy.sum(model.stateless_call(weights, state, x, training=training)[0] ** 2)
weights, state = [[v.value for v in vs] for vs in (model.trainable_variables, model.non_trainable_variables)]
value, gradients = jax.jit(jax.value_and_grad(loss), static_argnums=2)(weights, state, True)
assert all(np.abs(gradient).max() > 0 for gradient in gradients)
value = loss(weights, state, False)
h = x
for block in blocks.blocks:
    h = np.maximum(np.asarray(block(h)), 0)
z = np.einsum("bki,kio->bko", h, np.asarray(model.layers[2].kernel))
p = (1 / (1 + np.exp(-z))).mean(1)
np.testing.assert_allclose(value, (np.log(p / (1 - p)) ** 2).sum(), rtol=1e-4)
"""


@pytest.mark.skipif(importlib.util.find_spec("jax") is None, reason="JAX is not installed")
@pytest.mark.slow
def test_on_jax():
    subprocess.run([sys.executable, "-c", JAX], env=os.environ | {"KERAS_BACKEND": "jax"}, check=True)
