import keras
import numpy as np
import pytest
import tensorflow as tf

from moa_tf.config import override
from moa_tf.data.schema import Signatures, SignatureSpec
from moa_tf.errors import InputError
from moa_tf.layers import Connectivity
from moa_tf.models.base import Member, Task, get_family
from moa_tf.models.connectivity import FAMILY, PRESETS, ConnectivityConfig, Library, references
from moa_tf.models.integrated_gradients import fit_baseline

PRIOR = np.array([0.2, 0.6])


def held(ids=("a", "b", "c")):
    """Three references: along the first axis, along the second, and against the first."""
    layer = Connectivity(2)
    layer.build((None, 2))
    layer.prior.assign(PRIOR)
    layer.hold(
        ids,
        np.array([[3.0, 1.0], [1.0, 5.0], [-4.0, 1.0]]),
        np.array([[1, 0], [1, 1], [0, 1]]),
        mean=np.array([1.0, 1.0]),
        projection=np.eye(2),
        temperature=0.5,
        mixing=0.1,
        prior=PRIOR,
    )
    return layer


def test_three_references_by_hand():
    # (1, 1) + (3, 4): its cosines with the references are 0.6, 0.8 and −0.6.
    x = np.float32([[4, 5]])
    weights = np.exp(np.array([0.6, 0.8, -0.6]) / 0.5)
    weights /= weights.sum()
    mean = np.array([weights[0] + weights[1], weights[1] + weights[2]])
    p = 0.9 * mean + 0.1 * PRIOR
    layer = held()
    np.testing.assert_allclose(layer.similarity(x), [[0.6, 0.8, -0.6]], rtol=1e-5)
    np.testing.assert_allclose(layer(x), [np.log(p / (1 - p))], rtol=1e-4)


def test_without_references_it_is_the_prior_and_they_come_once():
    layer = Connectivity(2)
    layer.build((None, 3))
    layer.prior.assign(PRIOR)
    np.testing.assert_allclose(
        keras.ops.sigmoid(layer(np.ones((2, 3), "float32"))), [PRIOR, PRIOR], rtol=1e-5
    )
    with pytest.raises(InputError, match="expected one or more, once"):
        held().hold(["d"], np.ones((1, 2)), np.ones((1, 2)), mean=np.zeros(2), projection=np.eye(2),
                    temperature=1, mixing=1, prior=PRIOR)  # fmt: skip


def test_a_drug_is_the_mean_of_its_rows_and_whitening_evens_the_axes():
    x = np.array([[5.0, 0.0], [3.0, 0.0], [-4.0, 1.0], [-4.0, -1.0]])
    library = Library(x, np.array([[1, 0], [1, 0], [0, 1], [0, 0]]), np.array(["b", "b", "a", "c"]))
    assert library.ids.tolist() == ["a", "b", "c"]
    np.testing.assert_allclose(library.references, [[-4, 1], [4, 0], [-4, -1]])
    np.testing.assert_array_equal(library.labels, [[0, 1], [1, 0], [0, 0]])
    # Variances 16.5 and 0.5, their mean 8.5.
    np.testing.assert_allclose(library.scales(1.0, 2.0), [33.5**-0.5, 17.5**-0.5])
    np.testing.assert_allclose(library.scales(0.0, 2.0), [1, 1])


@pytest.fixture(scope="module")
def solved():
    """Forty drugs of two signatures, of four mechanisms, each of a direction of its own; two folds of members."""
    rng = np.random.default_rng(0)
    spec = SignatureSpec(tuple(f"g-{i}" for i in range(12)), (), ())
    mechanism = np.repeat(np.arange(40) % 4, 2)
    genes = np.eye(4)[mechanism] @ rng.normal(size=(4, 12)) * 2 + rng.normal(size=(80, 12))
    signatures = Signatures(
        spec, np.array([f"s{i}" for i in range(80)], object), genes.astype("float32"), None
    )
    drug = np.repeat([f"d{i:02}" for i in range(40)], 2)
    targets = np.eye(4, dtype=np.float32)[mechanism]
    config = ConnectivityConfig(temperatures=(0.05, 0.2, 3.0), mixing=(0.05, 0.85))
    members, chosen = [], []
    for out in (0, 1):
        rows = np.flatnonzero(np.arange(80) // 2 % 5 != out)
        part = signatures.take(rows)
        preprocessing = FAMILY.fit_preprocessing(part, config, 0)
        network = FAMILY.build(preprocessing, config, targets[rows].mean(0), 0)
        features = preprocessing.predict_on_batch({"genes": part.genes})
        half = np.arange(len(rows)) // 2 % 2
        inner = [(np.flatnonzero(half != k), np.flatnonzero(half == k)) for k in (0, 1)]
        task = Task(features, targets[rows], drug[rows], np.ones(len(rows), bool), inner)
        chosen.append(FAMILY.solve(network, task, config))
        members.append(Member(preprocessing, [network], fit_baseline(part)))
    return signatures, targets, drug, members, chosen


def test_what_is_chosen_beats_the_prior(solved):
    *_, chosen = solved
    for each in chosen:
        # The prior's: −(¼ log ¼ + ¾ log ¾) = 0.56.
        assert each["inner_log_loss"] < 0.3
        assert each["temperature"] < 3
        assert each["mixing"] == 0.05


def test_it_names_the_drugs_that_a_prediction_comes_from(solved):
    signatures, targets, drug, members, _ = solved
    named = references(members)
    # Each fold's members hold 32 drugs; none is held out by both.
    assert len(members[0].networks[0].get_layer("connectivity").ids) == 32
    assert named.ids == tuple(f"d{i:02}" for i in range(40))
    np.testing.assert_array_equal(named.labels, targets[::2] == 1)
    explain = tf.function(FAMILY.explain(members))
    outputs = explain({"genes": tf.constant(signatures.genes)})
    nearest = np.asarray(outputs["neighbours"])
    assert nearest.shape == outputs["similarity"].shape == (80, 5)
    # A training signature is nearest to its own drug, and a similarity to any is a cosine.
    assert (np.asarray(named.ids)[nearest[:, 0]] == drug).mean() > 0.5
    assert np.abs(outputs["similarity"]).max() <= 1 + 1e-5
    logits = [m.networks[0](m.preprocessing({"genes": signatures.genes})) for m in members]
    expected = np.mean([1 / (1 + np.exp(-np.asarray(z))) for z in logits], axis=0).argmax(1)
    np.testing.assert_array_equal(outputs["target"], expected)


def test_the_file_keeps_references_and_ids(solved, tmp_path):
    _, _, _, members, _ = solved
    network, x = members[0].networks[0], np.random.default_rng(1).normal(size=(5, 12)).astype("float32")
    network.save(tmp_path / "n.keras")
    again = keras.saving.load_model(tmp_path / "n.keras", compile=False)
    np.testing.assert_array_equal(again({"features": x}), network({"features": x}))
    assert again.get_layer("connectivity").ids == network.get_layer("connectivity").ids


def test_nothing_to_choose_by_takes_the_middling_settings():
    inputs = {"features": keras.Input((2,), name="features")}
    model = FAMILY.build(keras.Model(inputs, inputs), ConnectivityConfig(), PRIOR, 0)
    features = {"features": np.float32([[1, 0], [0, 1]])}
    task = Task(features, np.float32([[1, 0], [0, 1]]), np.array(["a", "b"]), np.ones(2, bool), [])
    assert FAMILY.solve(model, task, ConnectivityConfig())["inner_log_loss"] is None
    assert np.isfinite(model(features)).all()


def test_settings():
    assert get_family("connectivity") is FAMILY
    with pytest.raises(InputError, match=r"temperatures=.*: expected one or more, at least 0.001"):
        override(PRESETS["small"], ["temperatures=0"])
