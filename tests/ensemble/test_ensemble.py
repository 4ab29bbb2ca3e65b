import keras
import numpy as np
import pytest

from moa_tf.data.schema import SignatureSpec
from moa_tf.ensemble.calibration import Isotonic
from moa_tf.ensemble.combination import Combination
from moa_tf.ensemble.ensemble import Ensemble, content_digest
from moa_tf.models.base import Member
from moa_tf.serving.export import export

SPEC = SignatureSpec(("g-0", "g-1"), (), ("cp_type",))
TARGETS = ("a", "b", "c")


def preprocessing(name, kernel):
    genes = keras.Input((2,), name="genes")
    layer = keras.layers.Dense(2, name=name)
    model = keras.Model({"genes": genes}, {"x": keras.ops.tanh(layer(genes))})
    layer.set_weights([np.asarray(kernel, np.float32), np.zeros(2)])
    return model


def network(seed):
    x = keras.Input((2,), name="x")
    layer = keras.layers.Dense(3)
    model = keras.Model({"x": x}, layer(x))
    rng = np.random.default_rng(seed)
    layer.set_weights([rng.normal(size=(2, 3)), rng.normal(size=3)])
    return model


@pytest.fixture(scope="module")
def members():
    """Three of them, of which the first and the last read the same."""
    same, other = np.eye(2), [[1.0, 2.0], [0.0, 1.0]]
    return [
        Member(preprocessing("one", same), [network(0), network(1)]),
        Member(preprocessing("two", other), [network(2)]),
        Member(preprocessing("three", same), [network(3)]),
    ]


def mean(members, genes):
    every = [
        1 / (1 + np.exp(-np.asarray(one(member.preprocessing({"genes": genes})), np.float64)))
        for member in members
        for one in member.networks
    ]
    return np.mean(every, axis=0)


def test_equal_content_whatever_it_is_called(members):
    contents = [content_digest(member.preprocessing) for member in members]
    assert contents[0] == contents[2] != contents[1]
    # The same weights under another function.
    genes = keras.Input((2,), name="genes")
    layer = keras.layers.Dense(2, name="one")
    relu = keras.Model({"genes": genes}, {"x": keras.ops.relu(layer(genes))})
    layer.set_weights([np.eye(2), np.zeros(2)])
    assert content_digest(relu) != contents[0]


def test_weights_for_each_target_and_knots_are_exported(members, tmp_path):
    import tensorflow as tf

    weights = np.array([[0.9, 0.5, 0.0], [0.1, 0.5, 1.0]])
    knots = (((0.2, 0.4, 0.8), (0.1, 0.5, 0.6)), ((0.0, 1.0), (0.0, 1.0)))
    isotonic = Isotonic((0, 1, 0), knots)
    ensemble = Ensemble([members[:2], members[2:]], Combination(weights, "logit", isotonic))
    version = export(ensemble, tmp_path / "models", spec=SPEC, target_names=TARGETS, metadata={})
    loaded = tf.saved_model.load(str(version))
    served = loaded.signatures["serving_default"]
    genes = np.random.default_rng(0).normal(size=(50, 2)).astype(np.float32)
    kind = np.where(np.arange(50) % 5 == 0, "ctl_vehicle", "trt_cp")
    given = served(genes=tf.constant(genes), cp_type=tf.constant(kind.tolist()))["probabilities"].numpy()
    parts = np.stack([mean(members[:2], genes), mean(members[2:], genes)])
    z = np.sum(weights[:, None] * np.log(parts / (1 - parts)), axis=0)
    expected = 1 / (1 + np.exp(-z))
    for column, group in enumerate(isotonic.groups):
        expected[:, column] = np.interp(expected[:, column], *knots[group])
    expected[kind == "ctl_vehicle"] = 0
    np.testing.assert_allclose(given, expected, atol=1e-6)
    assert len(np.unique(given)) > 50
    # Two kernels and biases of the preprocessing, four of networks: what is the same is there once.
    assert len(served.graph.variables) == 2 * (2 + 4)


def test_explanations_are_weighted_for_the_mechanism_that_the_whole_finds(members):
    weights = np.array([[1.0, 0.25, 0.25], [0.0, 0.75, 0.75]])
    ensemble = Ensemble([members[:2], members[2:]], Combination(weights, "probability"))
    asked = []

    def explainer(shares):
        def explain(inputs):
            asked.append(np.array(inputs["target"]))
            return {"importance": keras.ops.convert_to_tensor(np.repeat([shares], 20, axis=0))}

        return explain

    explain = ensemble.explain([explainer(np.float32([3, 1])), explainer(np.float32([0, 2, 2]))], 3)
    genes = np.random.default_rng(1).normal(size=(20, 2)).astype(np.float32)
    explained = explain({"genes": genes})
    parts = np.stack([mean(members[:2], genes), mean(members[2:], genes)])
    target = np.sum(weights[:, None] * parts, axis=0).argmax(axis=1)
    assert len(np.unique(target)) > 1
    for given in (*asked, np.array(explained["target"])):
        np.testing.assert_array_equal(given, target)
    by_hand = np.where((target == 0)[:, None], [0.75, 0.25, 0.0], [0.1875, 0.4375, 0.375])
    np.testing.assert_allclose(np.array(explained["importance"]), by_hand, rtol=1e-6)
