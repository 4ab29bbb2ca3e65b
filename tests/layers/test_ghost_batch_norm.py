import keras
import numpy as np
import pytest
import tensorflow as tf

from moa_tf.errors import InputError
from moa_tf.layers import GhostBatchNormalization


def chunks(x, virtual_batch_size):
    """As torch.chunk cuts: k = ⌈n / size⌉ parts of ⌈n / k⌉ rows, the last shorter."""
    rows = -(-len(x) // -(-len(x) // virtual_batch_size))
    return [x[start : start + rows] for start in range(0, len(x), rows)]


def reference(x, size, momentum, epsilon, gamma, beta):
    outputs, mean, variance = [], np.zeros(x.shape[1]), np.ones(x.shape[1])
    for part in chunks(x, size):
        outputs.append(gamma * (part - part.mean(0)) / np.sqrt(part.var(0) + epsilon) + beta)
        mean = momentum * mean + (1 - momentum) * part.mean(0)
        variance = momentum * variance + (1 - momentum) * (part.var(0, ddof=1) if len(part) > 1 else 0)
    return np.concatenate(outputs), mean, variance


@pytest.mark.parametrize("rows", [12, 13, 3, 21])
@pytest.mark.parametrize("known_batch_size", [True, False])
def test_each_virtual_batch_and_the_moving_statistics(rows, known_batch_size):
    x = np.random.default_rng(0).normal(3.0, 2.0, size=(rows, 5)).astype("float32")
    gamma, beta = np.linspace(0.5, 1.5, 5), np.linspace(-1, 1, 5)
    layer = GhostBatchNormalization(virtual_batch_size=4, momentum=0.9)
    layer.build((None, 5))
    layer.gamma.assign(gamma)
    layer.beta.assign(beta)
    spec = tf.TensorSpec([rows if known_batch_size else None, 5], tf.float32)
    y = tf.function(lambda x: layer(x, training=True), input_signature=[spec])(x)
    expected, mean, variance = reference(x.astype("float64"), 4, 0.9, 1e-5, gamma, beta)
    np.testing.assert_allclose(y, expected, atol=1e-5)
    np.testing.assert_allclose(layer.moving_mean, mean, rtol=1e-5)
    np.testing.assert_allclose(layer.moving_variance, variance, rtol=1e-5)


def test_inference_uses_the_moving_statistics():
    layer = GhostBatchNormalization(virtual_batch_size=2, epsilon=1e-12)
    layer.build((None, 1))
    layer.moving_mean.assign([3.0])
    layer.moving_variance.assign([4.0])
    np.testing.assert_allclose(layer(np.array([[7.0], [3.0]], "float32")), [[2.0], [0.0]], rtol=1e-6)


@pytest.mark.parametrize("rows", [8, 7])
def test_gradient_equals_automatic_differentiation(rows):
    generator = np.random.default_rng(0)
    x = tf.constant(generator.normal(5.0, 1.0, size=(rows, 3)), tf.float32)
    upstream = tf.constant(generator.normal(size=(rows, 3)), tf.float32)
    layer = GhostBatchNormalization(virtual_batch_size=4)
    layer.build((None, 3))
    layer.gamma.assign([0.5, 1.0, 2.0])
    gamma, beta = layer.gamma.value, layer.beta.value
    with tf.GradientTape(persistent=True) as tape:
        tape.watch(x)
        ours = tf.reduce_sum(layer(x, training=True) * upstream)
        parts = []
        for part in chunks(x, 4):
            mean, variance = tf.nn.moments(part, axes=[0])
            parts.append(gamma * (part - mean) / tf.sqrt(variance + 1e-5) + beta)
        plain = tf.reduce_sum(tf.concat(parts, axis=0) * upstream)
    for variable in (x, gamma, beta):
        np.testing.assert_allclose(tape.gradient(ours, variable), tape.gradient(plain, variable), atol=1e-5)


def test_a_single_row_becomes_beta_and_harms_nothing():
    layer = GhostBatchNormalization(virtual_batch_size=4)
    y = layer(np.array([[5.0, -1.0]], "float32"), training=True)
    np.testing.assert_allclose(y, [[0.0, 0.0]], atol=1e-6)
    np.testing.assert_allclose(layer.moving_mean, [0.1, -0.02], rtol=1e-5)
    assert np.isfinite(np.array(layer.moving_variance)).all()


def test_half_precision_keeps_float32_statistics():
    x = np.random.default_rng(0).normal(100.0, 1.0, size=(64, 3)).astype("float32")
    layer = GhostBatchNormalization(virtual_batch_size=32, momentum=0.0, dtype="mixed_bfloat16")
    y = layer(x, training=True)
    assert y.dtype == tf.bfloat16
    assert {keras.backend.standardize_dtype(weight.dtype) for weight in layer.weights} == {"float32"}


def test_save_and_load(tmp_path):
    inputs = keras.Input((3,))
    model = keras.Model(inputs, GhostBatchNormalization(None, 0.9, 1e-3)(inputs))
    x = np.random.default_rng(0).normal(2.0, 3.0, size=(10, 3)).astype("float32")
    model(x, training=True)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(loaded(x), model(x))
    assert loaded.layers[1].virtual_batch_size is None


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        ({"virtual_batch_size": 0}, "virtual_batch_size=0: expected at least 1"),
        ({"momentum": 1.0}, "momentum=1.0: expected in"),
        ({"epsilon": 0.0}, "epsilon=0.0: expected above 0"),
    ],
)
def test_bad_settings_get_one_line(settings, line):
    with pytest.raises(InputError, match=line) as caught:
        GhostBatchNormalization(**settings)
    assert "\n" not in str(caught.value)


def test_an_input_of_the_wrong_rank_gets_one_line():
    with pytest.raises(InputError, match="expected \\[batch, features\\]"):
        GhostBatchNormalization().build((None, 3, 4))


def test_replicas_average_their_moving_statistics():
    layer = GhostBatchNormalization()
    layer.build((None, 3))
    assert layer.moving_mean.aggregation == layer.moving_variance.aggregation == "mean"
