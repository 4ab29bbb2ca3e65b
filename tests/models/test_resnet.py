import dataclasses

import numpy as np
import pytest

from moa_tf.data.schema import Signatures, SignatureSpec
from moa_tf.data.simulate import simulate
from moa_tf.models.resnet import FAMILY, ResNetConfig

ROWS = 20
CELLS = np.random.default_rng(0).normal(size=(ROWS, 5)).astype(np.float32) * np.float32([1, 9, 2, 0, 5])


def viability(values):
    """A panel of viability alone, and no treatment."""
    spec = SignatureSpec((), tuple(f"c-{i}" for i in range(values.shape[1])), ())
    return Signatures(spec, np.array([f"s{i}" for i in range(len(values))], object), None, values)


def evaluate(preprocessing, inputs):
    inputs = {name: inputs[name] for name in preprocessing.input}
    return {name: np.asarray(tensor) for name, tensor in preprocessing(inputs).items()}


def test_the_second_head_gets_the_scaled_features_of_the_largest_raw_variance():
    signatures = viability(CELLS)
    preprocessing = FAMILY.fit_preprocessing(signatures, ResNetConfig(selected=2), 0)
    outputs = evaluate(preprocessing, signatures.inputs())
    # The fourth cell line does not vary; scaled, all variances are the same.
    assert outputs["features"].shape == (ROWS, 4)
    np.testing.assert_array_equal(outputs["selected"], outputs["features"][:, [1, 3]])


def test_genes_and_cells_are_selected_from_together_and_no_more_than_there_are():
    signatures = simulate(100, seed=0, genes=6, cells=4).signatures
    signatures = dataclasses.replace(signatures, cells=signatures.cells * 100)
    for selected, columns in ((4, [6, 7, 8, 9]), (450, list(range(10)))):
        preprocessing = FAMILY.fit_preprocessing(signatures, ResNetConfig(selected=selected), 0)
        outputs = evaluate(preprocessing, signatures.inputs())
        assert outputs["features"].shape == (100, 6 + 4 + 3 + 2)
        np.testing.assert_array_equal(outputs["selected"], outputs["features"][:, columns])


def test_the_network_is_the_equation():
    signatures = viability(CELLS)
    config = ResNetConfig(selected=2, wide=6, narrow=3)
    preprocessing = FAMILY.fit_preprocessing(signatures, config, 0)
    network = FAMILY.build(preprocessing, config, np.full(2, 0.1), 0)
    rng = np.random.default_rng(1)
    network.set_weights(
        [np.abs(w) + rng.uniform(0, 0.1, w.shape).astype(w.dtype) for w in network.get_weights()]
    )
    features = evaluate(preprocessing, signatures.inputs())

    def norm_dense(x, name, activation):
        norm, dense = network.get_layer(f"{name}_norm"), network.get_layer(name)
        gamma, beta, mean, variance = (np.asarray(w, np.float64) for w in norm.weights)
        x = gamma * (x - mean) / np.sqrt(variance + 1e-5) + beta
        return activation(x @ np.asarray(dense.kernel) + np.asarray(dense.bias))

    def relu(x):
        return np.maximum(x, 0)

    def elu(x):
        return np.where(x > 0, x, np.exp(x) - 1)

    def selu(x):
        return 1.05070098 * np.where(x > 0, x, 1.67326324 * (np.exp(x) - 1))

    first = norm_dense(features["features"].astype(np.float64), "head_1_dense_1", elu)
    first = norm_dense(first, "head_1_dense_2", elu)
    x = np.concatenate([features["selected"], first], axis=1)
    for layer, activation in enumerate([relu, elu, relu, elu], start=1):
        x = norm_dense(x, f"head_2_dense_{layer}", activation)
    x = norm_dense((first + x) / 2, "output_dense", selu)
    x = norm_dense(x, "output_targets", selu)
    logits = norm_dense(x, "logits", lambda x: x)
    assert first.shape == (ROWS, 3)
    np.testing.assert_allclose(network(features), logits, rtol=1e-4)


@pytest.mark.parametrize(("dropout", "rates"), [((0.4,), [0.4, 0.4, 0.4]), ((0.2, 0.3, 0.0), [0.2, 0.3])])
def test_one_rate_serves_all(dropout, rates):
    signatures = viability(CELLS)
    config = ResNetConfig(dropout=dropout, wide=2, narrow=2)
    network = FAMILY.build(FAMILY.fit_preprocessing(signatures, config, 0), config, np.full(2, 0.1), 0)
    assert [layer.rate for layer in network.layers if layer.name.endswith("dropout")] == rates
