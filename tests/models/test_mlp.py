import dataclasses

import keras
import numpy as np
import pytest

from moa_tf.config import override
from moa_tf.data.simulate import simulate
from moa_tf.errors import InputError
from moa_tf.models.base import get_family, output_bias
from moa_tf.models.mlp import FAMILY, PRESETS, MLPConfig
from moa_tf.training.inference import Inference


@pytest.fixture(scope="module")
def dataset():
    return simulate(200, seed=0, genes=30, cells=8)


SMALL = MLPConfig(hidden=(16, 8), dropout=(0.1,), gene_components=5, cell_components=3, row_statistics=True)


def test_features_are_in_the_documented_order(dataset):
    preprocessing = FAMILY.fit_preprocessing(dataset.signatures, SMALL, 0)
    features = Inference(preprocessing)(dataset.signatures.inputs())["features"]
    # genes, cells, components, statistics, three times, two doses
    assert features.shape == (200, 30 + 8 + 5 + 3 + 4 + 4 + 3 + 2)
    np.testing.assert_allclose(np.asarray(features)[:, 46], np.asarray(features)[:, :30].mean(1), atol=1e-5)
    np.testing.assert_array_equal(np.asarray(features)[:, -1], dataset.signatures.cp_dose == 1)


def test_untrained_network_predicts_near_the_prior(dataset):
    preprocessing = FAMILY.fit_preprocessing(dataset.signatures, SMALL, 0)
    prior = np.linspace(0.01, 0.4, 7)
    network = FAMILY.build(preprocessing, SMALL, prior, 0)
    bias = network.get_layer("logits").bias
    np.testing.assert_allclose(1 / (1 + np.exp(-np.asarray(bias))), prior, rtol=1e-4)


def test_the_seed_decides_the_weights(dataset):
    preprocessing = FAMILY.fit_preprocessing(dataset.signatures, SMALL, 0)
    one, same, other = (FAMILY.build(preprocessing, SMALL, np.full(3, 0.1), seed) for seed in (1, 1, 2))
    kernels = [np.asarray(network.get_layer("dense_1").kernel) for network in (one, same, other)]
    np.testing.assert_array_equal(kernels[0], kernels[1])
    assert not np.array_equal(kernels[0], kernels[2])


def test_keras_file_round_trip(dataset, tmp_path):
    preprocessing = FAMILY.fit_preprocessing(dataset.signatures, SMALL, 0)
    network = FAMILY.build(preprocessing, SMALL, np.full(3, 0.1), 0)
    preprocessing.save(tmp_path / "p.keras")
    network.save(tmp_path / "n.keras")
    inputs = dataset.signatures.inputs()
    expected = Inference(network)(Inference(preprocessing)(inputs))
    features = Inference(keras.saving.load_model(tmp_path / "p.keras"))(inputs)
    again = Inference(keras.saving.load_model(tmp_path / "n.keras"))(features)
    np.testing.assert_array_equal(expected, again)


def test_a_panel_of_genes_alone(dataset):
    spec = dataclasses.replace(dataset.signatures.spec, cells=(), treatment=())
    signatures = dataclasses.replace(
        dataset.signatures, spec=spec, cells=None, cp_type=None, cp_time=None, cp_dose=None
    )
    preprocessing = FAMILY.fit_preprocessing(signatures, SMALL, 0)
    assert list(preprocessing.input) == ["genes"]
    assert Inference(preprocessing)(signatures.inputs())["features"].shape == (200, 30 + 5 + 4)


def test_mixed_precision_gives_float32_logits(dataset):
    preprocessing = FAMILY.fit_preprocessing(dataset.signatures, SMALL, 0)
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        network = FAMILY.build(preprocessing, SMALL, np.full(3, 0.1), 0)
    finally:
        keras.config.set_dtype_policy("float32")
    assert network.get_layer("dense_1").compute_dtype == "bfloat16"
    assert network.output.dtype == "float32"


def test_set_parses_by_type():
    config = override(
        PRESETS["one-cycle"], ["hidden=64,32", "dropout=0.1", "row_statistics=false", "epochs=3"]
    )
    architecture = config.architecture
    assert (architecture.hidden, architecture.dropout, architecture.row_statistics) == (
        (64, 32),
        (0.1,),
        False,
    )
    assert config.recipe.epochs == 3


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ("hiden=3", "expected key=value"),
        ("epochs", "expected key=value"),
        ("epochs=many", "a whole number"),
        ("epochs=0", "at least 1"),
        ("dropout=0.1,0.2", "one rate"),
        ("dropout=1.0", r"\[0, 1\)"),
        ("schedule=linear", "one of constant"),
        ("row_statistics=maybe", "true or false"),
        ("learning_rate=-1", "above 0"),
    ],
)
def test_bad_settings_are_one_line(assignment, message):
    with pytest.raises(InputError, match=message) as error:
        override(PRESETS["one-cycle"], [assignment])
    assert "\n" not in str(error.value)


def test_unknown_model():
    with pytest.raises(InputError, match="expected one of mlp"):
        get_family("forest")


def test_without_weight_norm_the_untrained_network_predicts_the_prior_and_keeps_its_skip(dataset):
    config = dataclasses.replace(SMALL, weight_norm=False, skip=True, batch_norm=False)
    preprocessing = FAMILY.fit_preprocessing(dataset.signatures, config, 0)
    prior = np.linspace(0.01, 0.4, 7)
    network = FAMILY.build(preprocessing, config, prior, 0)
    features = Inference(preprocessing)(dataset.signatures.inputs())
    logits = Inference(network)(features)
    np.testing.assert_allclose(1 / (1 + np.exp(-logits)), np.broadcast_to(prior, logits.shape), rtol=1e-4)
    network.get_layer("skip").kernel.assign(np.ones(network.get_layer("skip").kernel.shape, "float32"))
    np.testing.assert_allclose(
        Inference(network)(features) - logits,
        np.repeat(features["features"].sum(1, keepdims=True), 7, axis=1),
        rtol=1e-3,
        atol=1e-3,
    )


def test_the_output_bias_of_a_target_that_is_never_or_always_positive_has_a_floor():
    np.testing.assert_allclose(output_bias(np.array([0.0, 0.5, 1.0])), [-11.512915, 0, 11.512915], rtol=1e-6)


def test_small_tables_get_the_small_preset():
    assert FAMILY.choose_preset(741) == "small"
    assert FAMILY.choose_preset(23814) == "one-cycle"
