import dataclasses

import keras
import numpy as np
import pytest

from moa_tf.data.schema import Signatures, SignatureSpec
from moa_tf.data.simulate import simulate
from moa_tf.models.recurrent import GRU, LSTM, RecurrentConfig, steps_of

CONFIG = RecurrentConfig(step_size=2, embedding=3, units=4, layers=2)


@pytest.fixture(scope="module")
def signatures():
    """Five features: two that go with the first, one against it, one by itself."""
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(2, 50))
    noise = 0.1 * rng.normal(size=(50, 5))
    genes = (np.stack([a, b, -a], axis=1) + noise[:, :3]).astype(np.float32)
    cells = (np.stack([a, a], axis=1) + noise[:, 3:]).astype(np.float32)
    spec = SignatureSpec(("g-0", "g-1", "g-2"), ("c-0", "c-1"), ())
    return Signatures(spec, np.array([f"s{i}" for i in range(50)], object), genes, cells)


def evaluate(preprocessing, signatures):
    inputs = {name: signatures.inputs()[name] for name in preprocessing.input}
    return {name: np.asarray(tensor) for name, tensor in preprocessing(inputs).items()}


def test_features_that_go_together_are_side_by_side(signatures):
    preprocessing = GRU.fit_preprocessing(signatures, CONFIG, 0)
    columns = preprocessing.get_layer("order").columns
    assert sorted(columns) == [0, 1, 2, 3, 4]
    together = sorted(columns.index(column) for column in (0, 3, 4))
    assert together[2] - together[0] == 2
    # That of opposite sign is the farthest, as no more than the sign parts it from them.
    assert 2 in (columns[0], columns[-1])
    outputs = evaluate(preprocessing, signatures)
    assert list(outputs) == ["features"]
    ranks = np.argsort(
        np.argsort(np.concatenate([signatures.genes, signatures.cells], axis=1), axis=0), axis=0
    )
    found = np.argsort(np.argsort(outputs["features"], axis=0, kind="stable"), axis=0)
    assert np.abs(found - ranks[:, columns]).mean() < 1


def test_context_is_apart_from_the_sequence():
    signatures = simulate(100, seed=0, genes=6, cells=4).signatures
    config = dataclasses.replace(CONFIG, gene_components=2, row_statistics=True)
    outputs = evaluate(LSTM.fit_preprocessing(signatures, config, 0), signatures)
    assert outputs["features"].shape == (100, 10)
    assert outputs["context"].shape == (100, 2 + 4 + 4 + 3 + 2)


@pytest.mark.parametrize(
    ("features", "step_size", "expected"),
    [
        (872, 32, (28, 32)),
        (60, 32, (2, 30)),
        (60, 100, (1, 60)),
        (7, 3, (3, 3)),
        (1, 8, (1, 1)),
        (5, 1, (5, 1)),
    ],
)
def test_steps_are_even(features, step_size, expected):
    assert steps_of(features, step_size) == expected


@pytest.mark.parametrize("family", [GRU, LSTM], ids=["gru", "lstm"])
def test_steps_have_their_own_embeddings_and_are_read_from_both_ends(signatures, family):
    preprocessing = family.fit_preprocessing(signatures, CONFIG, 0)
    network = family.build(preprocessing, CONFIG, np.full(2, 0.1), 0)
    features = evaluate(preprocessing, signatures)["features"]
    embedding = network.get_layer("embedding")
    kernel = np.random.default_rng(1).normal(size=(3, 2, 3)).astype(np.float32)
    bias = np.random.default_rng(2).normal(size=(3, 3)).astype(np.float32)
    embedding.set_weights([kernel, bias])
    parts = keras.Model(network.input, [embedding.output, network.get_layer("recurrent_2").output])
    embedded, states = (np.asarray(tensor) for tensor in parts({"features": features}))
    filled = np.concatenate([features, np.zeros((50, 1), np.float32)], axis=1)
    for step in range(3):
        expected = filled[:, 2 * step : 2 * step + 2] @ kernel[step] + bias[step]
        np.testing.assert_allclose(embedded[:, step], expected, rtol=1e-4, atol=1e-5)

    # One cell after another, by Keras's cells.
    def read(layer, x):
        cell = layer.cell
        state = [keras.ops.zeros((50, 4)) for _ in range(2 if family is LSTM else 1)]
        outputs = []
        for step in range(3):
            output, state = cell(x[:, step], state if family is LSTM else state[:1])
            outputs.append(np.asarray(output))
        return np.stack(outputs, axis=1)

    x = embedded
    for name in ("recurrent_1", "recurrent_2"):
        both = network.get_layer(name)
        forward, backward = read(both.forward_layer, x), read(both.backward_layer, x[:, ::-1])[:, ::-1]
        x = np.concatenate([forward, backward], axis=2)
    # The last state of either direction has seen every step.
    np.testing.assert_allclose(
        states, np.concatenate([x[:, -1, :4], x[:, 0, 4:]], axis=1), rtol=1e-4, atol=1e-5
    )
