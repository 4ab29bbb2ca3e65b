import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

from moa_tf.errors import InputError
from moa_tf.layers.weight_norm import WeightNormDense

FIXTURES = Path(__file__).parent / "fixtures"


def layer_with(values, **kwargs):
    layer = WeightNormDense(values["kernel"].shape[1], **kwargs)
    layer.build((None, values["kernel"].shape[0]))
    layer.set_weights([values["kernel"], values["g"], values["bias"]])
    return layer


@pytest.mark.parametrize("peer", ["addons", "torch"])
@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("graph", [False, True])
def test_values_and_gradients_equal_peers(peer, training, graph):
    values = np.load(FIXTURES / f"weight_norm_{peer}.npz")
    layer = layer_with(values)
    x = tf.constant(values["x"])

    def run():
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = layer(x, training=training)
            loss = tf.reduce_sum(y * values["upstream"])
        return [y, *tape.gradient(loss, [x, *(weight.value for weight in layer.weights)])]

    results = (tf.function(run) if graph else run)()
    for name, result in zip(("y", "dx", "dkernel", "dg", "dbias"), results, strict=True):
        scale = np.abs(values[name]).max()
        np.testing.assert_allclose(result, values[name], rtol=2e-6, atol=2e-6 * scale, err_msg=name)


def test_hand_computed():
    layer = WeightNormDense(2, activation="relu")
    layer.build((None, 2))
    # ‖(3, 4)‖ = 5, ‖(0, 2)‖ = 2
    layer.set_weights([np.array([[3.0, 0.0], [4.0, 2.0]]), np.array([10.0, -3.0]), np.array([1.0, 2.0])])
    np.testing.assert_allclose(layer(np.array([[1.0, 1.0], [-1.0, 0.0]])), [[15, 0], [0, 2]], rtol=1e-6)


def test_starts_as_the_plain_dense_layer():
    layer = WeightNormDense(7, kernel_initializer=keras.initializers.GlorotUniform(seed=3))
    dense = keras.layers.Dense(7, kernel_initializer=keras.initializers.GlorotUniform(seed=3))
    x = np.random.default_rng(0).normal(size=(4, 11)).astype("float32")
    np.testing.assert_allclose(layer(x), dense(x), rtol=1e-5, atol=1e-6)


def test_no_bias_and_more_axes():
    layer = WeightNormDense(3, use_bias=False)
    x = np.random.default_rng(0).normal(size=(2, 5, 4)).astype("float32")
    flat = tf.constant(x.reshape(10, 4))
    gradients = []
    for inputs in (tf.constant(x), flat):
        with tf.GradientTape() as tape:
            y = layer(inputs, training=True)
            loss = tf.reduce_sum(y**2)
        gradients.append(tape.gradient(loss, [weight.value for weight in layer.weights]))
    assert layer(x).shape == (2, 5, 3) == layer.compute_output_shape((2, 5, 4))
    assert len(layer.weights) == 2
    for of_three_axes, of_two in zip(*gradients, strict=True):
        np.testing.assert_allclose(of_three_axes, of_two, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16"])
@pytest.mark.parametrize("training", [False, True])
def test_mixed_precision(policy, training):
    x = np.random.default_rng(0).normal(size=(8, 300)).astype("float32")
    full, half = WeightNormDense(5), WeightNormDense(5, dtype=policy)
    expected = full(x)
    half.build(x.shape)
    half.set_weights(full.get_weights())
    with tf.GradientTape() as tape:
        y = half(x, training=training)
        loss = tf.reduce_sum(tf.cast(y, "float32"))
    gradients = tape.gradient(loss, [weight.value for weight in half.weights])
    assert y.dtype == half.compute_dtype
    assert all(weight.dtype == "float32" for weight in half.weights)
    assert all(gradient.dtype == tf.float32 for gradient in gradients)
    np.testing.assert_allclose(tf.cast(y, "float32"), expected, atol=0.05)


def test_initialise_from_gives_unit_statistics_layer_by_layer():
    rng = np.random.default_rng(1)
    batch = (rng.normal(size=(64, 6)) * 5 + 3).astype("float32")
    layers = [WeightNormDense(8, activation="relu"), WeightNormDense(4)]
    outputs = batch
    for layer in layers:
        outputs = layer.initialise_from(outputs)
    np.testing.assert_allclose(np.mean(outputs, axis=0), 0, atol=1e-5)
    np.testing.assert_allclose(np.std(outputs, axis=0), 1, rtol=1e-4)
    np.testing.assert_allclose(layers[1](layers[0](batch)), outputs, rtol=1e-6, atol=1e-6)


def test_initialise_from_keeps_g_where_nothing_varies():
    layer = WeightNormDense(2)
    layer.build((None, 3))
    before = layer.g.numpy()
    layer.initialise_from(np.ones((5, 3), "float32"))
    np.testing.assert_array_equal(layer.g.numpy(), before)
    np.testing.assert_allclose(layer(np.ones((1, 3), "float32")), [[0, 0]], atol=1e-6)


def test_bad_calls():
    with pytest.raises(InputError, match="units=0: expected"):
        WeightNormDense(0)
    with pytest.raises(InputError, match="use_bias=False"):
        WeightNormDense(2, use_bias=False).initialise_from(np.ones((5, 3), "float32"))
    with pytest.raises(InputError, match="batch of 1 rows"):
        WeightNormDense(2).initialise_from(np.ones((1, 3), "float32"))


def test_save_load_and_export(tmp_path):
    x = np.random.default_rng(0).normal(size=(4, 6)).astype("float32")
    inputs = keras.Input((6,))
    hidden = WeightNormDense(5, activation="leaky_relu", kernel_initializer="he_normal")(inputs)
    model = keras.Model(inputs, WeightNormDense(3)(hidden))
    model.compile("sgd", "mse")
    model.fit(x, np.ones((4, 3), "float32"), epochs=2, verbose=0)
    expected = model(x)

    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(loaded(x), expected)
    assert loaded.layers[1].get_config() == model.layers[1].get_config()

    model.export(tmp_path / "saved_model", verbose=False)
    served = tf.saved_model.load(str(tmp_path / "saved_model"))
    with tf.GradientTape() as tape:  # gradients of an exported model are what explanations need
        features = tf.constant(x)
        tape.watch(features)
        outputs = served.serve(features)
    np.testing.assert_allclose(outputs, expected, rtol=1e-6, atol=1e-6)
    assert np.abs(tape.gradient(outputs, features)).max() > 0


JAX = """
import keras, jax, numpy as np, sys
from moa_tf.layers.weight_norm import WeightNormDense
values = np.load(sys.argv[1])
layer = WeightNormDense(values["kernel"].shape[1])
layer.build((None, values["kernel"].shape[0]))
for training in (False, True):
    def loss(weights, x):
        y, _ = layer.stateless_call(weights, [], x, training=training)
        return (y * values["upstream"]).sum(), y
    weights = [values["kernel"], values["g"], values["bias"]]
    (_, y), (gradients, dx) = jax.jit(jax.value_and_grad(loss, argnums=(0, 1), has_aux=True))(
        weights, values["x"])
    for name, result in zip(("y", "dx", "dkernel", "dg", "dbias"), (y, dx, *gradients)):
        scale = np.abs(values[name]).max()
        np.testing.assert_allclose(result, values[name], rtol=2e-6, atol=2e-6 * scale, err_msg=name)
"""


@pytest.mark.skipif(importlib.util.find_spec("jax") is None, reason="JAX is not installed")
def test_values_and_gradients_on_jax():
    subprocess.run(
        [sys.executable, "-c", JAX, str(FIXTURES / "weight_norm_torch.npz")],
        env=os.environ | {"KERAS_BACKEND": "jax"},
        check=True,
    )


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("graph", [False, True])
def test_a_column_of_length_0_gives_the_bias_and_harms_no_other(training, graph):
    # ‖(3, 4)‖ = 5; the second column has no direction; the third's square is 0 in float32.
    kernel = np.array([[3.0, 0.0, 1e-30], [4.0, 0.0, 0.0]], "float32")
    layer = WeightNormDense(3)
    layer.build((None, 2))
    layer.set_weights([kernel, np.array([10.0, 7.0, 7.0]), np.array([1.0, 2.0, 3.0])])
    x = tf.constant([[1.0, 1.0], [2.0, 0.0]])

    def run():
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = layer(x, training=training)
            loss = tf.reduce_sum(y * [[1.0, 1.0, 1.0], [2.0, 2.0, 2.0]])
        return [y, *tape.gradient(loss, [x, *(weight.value for weight in layer.weights)])]

    y, dx, dv, dg, db = (tf.function(run) if graph else run)()
    np.testing.assert_allclose(y, [[15, 2, 3], [13, 2, 3]], rtol=1e-6)
    np.testing.assert_allclose(dx, [[6, 8], [12, 16]], rtol=1e-6)
    # dW = (5, 1); dg = dW · v/5 = 19/5; dv = g/5 (dW − (19/25) v) = 2 (5 − 57/25, 1 − 76/25)
    np.testing.assert_allclose(dg, [3.8, 0, 0], rtol=1e-6, atol=1e-20)
    np.testing.assert_allclose(dv, [[5.44, 0, 0], [-4.08, 0, 0]], rtol=1e-5, atol=1e-20)
    np.testing.assert_allclose(db, [3, 3, 3], rtol=1e-6)


def test_zeros_as_initial_kernel_train_the_bias_alone():
    model = keras.Sequential([keras.Input((4,)), WeightNormDense(2, kernel_initializer="zeros")])
    x = np.random.default_rng(0).normal(size=(16, 4)).astype("float32")
    np.testing.assert_array_equal(model(x), np.zeros((16, 2)))
    model.compile("sgd", "mse")
    model.fit(x, np.ones((16, 2)), epochs=3, verbose=0)
    kernel, g, bias = model.get_weights()
    assert not kernel.any()
    assert not g.any()
    assert (bias > 0.01).all()
    model.layers[0].initialise_from(x)
    assert all(np.isfinite(weight).all() for weight in model.get_weights())
