import keras
import numpy as np
import pytest

from moa_tf.config import override
from moa_tf.data.schema import Signatures, SignatureSpec
from moa_tf.models.base import Member
from moa_tf.models.deepinsight import FAMILY, PRESETS
from moa_tf.models.deepinsight.grad_cam import activations, explainer

numpy = keras.ops.convert_to_numpy
TARGETS = 5
CONFIG = override(PRESETS["small"], ["image_size=96", "embedding=pca"]).architecture


def build(preprocessing):
    return FAMILY.build(preprocessing, CONFIG, np.full(TARGETS, 0.2), 0)


@pytest.fixture(scope="module")
def parts():
    """A preprocessing, a network whose last maps and head vary well, and raw inputs."""
    rng = np.random.default_rng(0)
    spec = SignatureSpec(tuple(f"g-{i}" for i in range(30)), (), ())
    rows = Signatures(spec, np.arange(12).astype(object), rng.normal(size=(12, 30)).astype("float32"))
    preprocessing = FAMILY.fit_preprocessing(rows, CONFIG, 0)
    network = build(preprocessing)
    head = network.get_layer("logits")
    head.kernel.assign(rng.normal(size=head.kernel.shape))
    top = network.get_layer("backbone").get_layer("top_bn")
    top.gamma.assign(rng.uniform(0.5, 20, top.gamma.shape))
    return preprocessing, network, rows.inputs()


def test_it_equals_grad_cam_by_gradient(parts):
    tf = pytest.importorskip("tensorflow")
    if keras.backend.backend() != "tensorflow":
        pytest.skip("the gradient tape is TensorFlow's")
    preprocessing, network, inputs = parts
    features = preprocessing(inputs)
    maps = keras.Model(network.input, network.get_layer("pool").input)(features, training=False)
    head = keras.Model(network.get_layer("pool").input, network.output)
    activation, _ = activations(explainer([Member(preprocessing, [network])]), inputs, target=3)
    with tf.GradientTape() as tape:
        tape.watch(maps)
        score = tf.reduce_sum(head(maps, training=False)[:, 3])
    weights = tf.reduce_mean(tape.gradient(score, maps), axis=(1, 2))
    heat = tf.nn.relu(tf.einsum("bhwc,bc->bhw", maps, weights))
    picture = tf.image.resize(heat[..., None], (96, 96))[..., 0].numpy()
    rows, columns = preprocessing.get_layer("feature_map").pixels.T
    expected = picture[:, rows, columns]
    assert expected.max() > 10 * expected.mean(axis=1).min() > 0
    np.testing.assert_allclose(activation, expected, rtol=1e-3, atol=1e-5 * expected.max())


def test_without_a_target_the_most_probable_mechanism_is_explained(parts):
    preprocessing, network, inputs = parts
    explain = explainer([Member(preprocessing, [network])])
    activation, targets = activations(explain, inputs, batch_size=5)
    logits = network.predict(preprocessing.predict(inputs, verbose=0), verbose=0)
    np.testing.assert_array_equal(targets, logits.argmax(1))
    for target in np.unique(targets)[:2]:
        chosen = targets == target
        some = {name: value[chosen] for name, value in inputs.items()}
        alone, _ = activations(explain, some, int(target))
        np.testing.assert_allclose(alone, activation[chosen], rtol=1e-3, atol=1e-6)


def test_features_that_are_not_used_are_neither_drawn_nor_explained(parts):
    rng = np.random.default_rng(1)
    genes = rng.normal(size=(12, 30)).astype("float32")
    genes[2:, 4] = np.nan
    genes[:3, 7] = np.nan
    genes[:, 29] = 1.5
    spec = SignatureSpec(tuple(f"g-{i}" for i in range(30)), (), (), missing=True)
    rows = Signatures(spec, np.arange(12).astype(object), genes)
    preprocessing = FAMILY.fit_preprocessing(rows, CONFIG, 0)
    drawn = np.delete(np.arange(30), [4, 29])
    features = numpy(preprocessing(rows.inputs())["features"])
    assert features.shape == (12, 28)
    assert np.ptp(features, axis=0).min() > 0
    _, network, _ = parts
    gapped = build(preprocessing)
    for name in ("backbone", "logits"):
        gapped.get_layer(name).set_weights(network.get_layer(name).get_weights())
    result = explainer([Member(preprocessing, [gapped])])(rows.inputs())
    np.testing.assert_array_equal(result["columns"], drawn)
    assert result["pixels"].shape == (*result["features"].shape[1:], 2) == (28, 2)
    activation = numpy(result["activation"])
    assert activation.shape == (12, 30)
    assert (activation[:, [4, 29]] == 0).all()
    assert np.count_nonzero(activation.max(0)) > 20


def test_several_networks_are_averaged(parts):
    preprocessing, network, inputs = parts
    single, _ = activations(explainer([Member(preprocessing, [network])]), inputs, target=1)
    other = build(preprocessing)
    other.set_weights(network.get_weights())
    other.get_layer("logits").kernel.assign(2 * network.get_layer("logits").kernel)
    both, _ = activations(
        explainer([Member(preprocessing, [network]), Member(preprocessing, [other])]), inputs, target=1
    )
    np.testing.assert_allclose(both, 1.5 * single, rtol=1e-3, atol=1e-6)


@pytest.mark.slow
def test_the_explanation_is_a_signature_of_a_saved_model(parts, tmp_path):
    tf = pytest.importorskip("tensorflow")
    if keras.backend.backend() != "tensorflow":
        pytest.skip("SavedModel is TensorFlow's")
    preprocessing, network, inputs = parts
    explain = explainer([Member(preprocessing, [network])])
    signature = [tf.TensorSpec((None, 30), tf.float32, "genes"), tf.TensorSpec((None,), tf.int32, "target")]
    function = tf.function(lambda genes, target: explain({"genes": genes, "target": target}))
    module, traced = tf.Module(), function.get_concrete_function(*signature)
    # The variables alone: saving Keras's layers would trace each of them, for a minute.
    module.weights = list(traced.graph.variables)
    tf.saved_model.save(module, str(tmp_path), signatures={"explain": traced})
    loaded = tf.saved_model.load(str(tmp_path)).signatures["explain"]
    for rows in (2, 7):
        genes = inputs["genes"][:rows]
        target = np.arange(rows, dtype="int32") % TARGETS
        result = loaded(genes=tf.constant(genes), target=tf.constant(target))
        expected = explain({"genes": genes, "target": target})["activation"]
        np.testing.assert_allclose(result["activation"], expected, rtol=1e-3, atol=1e-5)
        np.testing.assert_array_equal(result["target"], target)
        shares = expected / np.sum(expected, axis=1, keepdims=True)
        np.testing.assert_allclose(result["importance"], shares, rtol=1e-3, atol=1e-6)
    np.testing.assert_array_equal(result["pixels"], preprocessing.get_layer("feature_map").pixels)
    assert int(result["image_size"]) == 96
