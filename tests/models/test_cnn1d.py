import numpy as np
import pytest
from keras import Input, Model

from moa_tf.models.cnn1d import FAMILY, CNN1DConfig

CONFIG = CNN1DConfig(hidden=16, channels=2, filters=3)


def preprocessing(features):
    x = Input((features,), name="cells")
    return Model({"cells": x}, {"features": x})


def network(config, features=5):
    model = FAMILY.build(preprocessing(features), config, np.full(2, 0.1), 0)
    rng = np.random.default_rng(1)
    for layer in model.layers:
        if "norm" in layer.name:  # Statistics as after some training.
            layer.set_weights([rng.uniform(0.5, 1.5, w.shape) for w in layer.get_weights()])
    return model


def convolve(x, kernel):
    """x [P, in], kernel [width, in, out]: the same positions, zeros beyond the ends."""
    width = len(kernel)
    padded = np.pad(x, ((width // 2, width // 2), (0, 0)))
    return np.stack([np.einsum("wi,wio->o", padded[p : p + width], kernel) for p in range(len(x))])


def test_the_network_is_the_equation():
    model = network(CONFIG)
    features = np.random.default_rng(0).normal(size=(4, 5)).astype(np.float32)

    def weights(name):
        return [np.asarray(w, np.float64) for w in model.get_layer(name).weights]

    def normalised(x, name):
        gamma, beta, mean, variance = weights(f"{name}_norm")
        return gamma * (x - mean) / np.sqrt(variance + 1e-5) + beta

    def dense(x, name):
        kernel, g, bias = weights(name)
        return normalised(x, name) @ (g * kernel / np.linalg.norm(kernel, axis=0)) + bias

    def conv(x, name):
        kernel, bias = weights(name)
        return np.maximum(convolve(normalised(x, name), kernel) + bias, 0)

    for row, logits in zip(
        features.astype(np.float64), np.asarray(model({"features": features})), strict=True
    ):
        x = dense(row, "dense")
        x = np.where(x > 0, x, 0.06 * (np.exp(x / 0.06) - 1))
        x = conv(x.reshape(8, 2), "conv_1")
        a = conv(x.reshape(4, 2, 3).mean(axis=1), "conv_2")
        y = a * conv(conv(a, "conv_3"), "conv_4")
        # Positions −1 to 2 and 1 to 4, of which 0 to 3 are there.
        y = np.stack([y[:3].max(axis=0), y[1:].max(axis=0)])
        np.testing.assert_allclose(logits, dense(y.reshape(-1), "logits"), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(("hidden", "channels", "flat"), [(4096, 256, 4), (12, 4, 1), (4, 4, 1), (20, 4, 2)])
def test_any_number_of_positions_will_do(hidden, channels, flat):
    model = network(CNN1DConfig(hidden=hidden, channels=channels, filters=3))
    assert model.get_layer("flat").output.shape == (None, flat * 3)


def test_dropout_before_each_layer():
    rates = [layer.rate for layer in network(CONFIG).layers if layer.name.endswith("dropout")]
    assert rates == [0.1, 0.1, 0.1, 0.3, 0.2, 0.2]
