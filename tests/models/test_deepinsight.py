import keras
import numpy as np
import pytest

from moa_tf.config import override
from moa_tf.data.schema import Signatures, SignatureSpec
from moa_tf.errors import InputError
from moa_tf.models.base import get_family
from moa_tf.models.deepinsight.family import FAMILY, PRESETS, callbacks, fit_preprocessing
from moa_tf.preprocessing.feature_map import align_to_rectangle, embed_features, to_pixels

numpy = keras.ops.convert_to_numpy
CONFIG = override(PRESETS["small"], ["image_size=32", "epochs=2", "swap_rate=0.5"])
PRIOR = np.array([0.1, 0.01, 0.3])


def make_signatures(rows=60, genes=20, cells=6, treatment=True):
    rng = np.random.default_rng(0)
    names = tuple(f"g-{i}" for i in range(genes)), tuple(f"c-{i}" for i in range(cells))
    spec = SignatureSpec(*names) if treatment else SignatureSpec(*names, treatment=())
    return Signatures(
        spec,
        np.array([f"id_{i}" for i in range(rows)], object),
        rng.normal(size=(rows, genes)).astype("float32"),
        rng.normal(size=(rows, cells)).astype("float32") if cells else None,
        *(
            (np.zeros(rows, "int32"), np.full(rows, 24, "float32"), np.zeros(rows, "int32"))
            if treatment
            else (None,) * 3
        ),
    )


def scale(preprocessing, signatures):
    inputs = signatures.inputs()
    return preprocessing.predict({name: inputs[name] for name in preprocessing.input}, verbose=0)


@pytest.fixture(scope="module")
def signatures():
    return make_signatures()


@pytest.fixture(scope="module")
def preprocessing(signatures):
    return fit_preprocessing(signatures, CONFIG.architecture, seed=3)


@pytest.fixture(scope="module")
def network(preprocessing):
    return FAMILY.build(preprocessing, CONFIG.architecture, PRIOR, seed=0)


def test_it_is_registered():
    assert get_family("deepinsight") is FAMILY


def test_preprocessing_scales_genes_then_cells_and_fits_the_map_on_them(signatures, preprocessing):
    features = scale(preprocessing, signatures)["features"]
    raw = np.concatenate([signatures.genes, signatures.cells], axis=1)
    shifted = np.log(raw + np.abs(raw.min(0)) + 1)
    np.testing.assert_allclose(features, shifted / shifted.max(), atol=1e-6)
    expected = to_pixels(align_to_rectangle(embed_features(features, seed=3)), 32)
    # t-SNE amplifies rounding, so all that can be asked is the same map for most.
    assert preprocessing.get_layer("feature_map").pixels.shape == expected.shape == (26, 2)
    assert list(preprocessing.input) == ["genes", "cells"]


@pytest.mark.parametrize(("cells", "treatment"), [(0, True), (6, False)])
def test_panels_without_cells_or_treatment(cells, treatment):
    signatures = make_signatures(cells=cells, treatment=treatment)
    config = override(CONFIG, ["embedding=pca", "scaling=min-max"])
    model = fit_preprocessing(signatures, config.architecture, seed=0)
    features = scale(model, signatures)["features"]
    np.testing.assert_allclose(features.min(0), np.zeros(20 + cells), atol=1e-6)
    np.testing.assert_allclose(features.max(0), np.ones(20 + cells), atol=1e-6)


def test_logits_start_near_the_prior(network, preprocessing, signatures):
    logits = network.predict(scale(preprocessing, signatures), verbose=0)
    assert logits.shape == (60, 3)
    assert logits.dtype == np.float32
    chances = 1 / (1 + np.exp(-logits))
    np.testing.assert_allclose(chances.mean(0), PRIOR, rtol=0.5)


def test_the_same_seed_builds_the_same_network(network, preprocessing):
    again, other = (FAMILY.build(preprocessing, CONFIG.architecture, PRIOR, seed=seed) for seed in (0, 1))
    kernels = [numpy(n.get_layer("backbone").get_layer("stem_conv").kernel) for n in (network, again, other)]
    np.testing.assert_array_equal(kernels[0], kernels[1])
    assert (kernels[0] != kernels[2]).any()


@pytest.mark.slow
def test_both_models_survive_saving(network, preprocessing, signatures, tmp_path):
    expected = network.predict(scale(preprocessing, signatures), verbose=0)
    preprocessing.save(tmp_path / "preprocessing.keras")
    network.save(tmp_path / "network.keras")
    loaded = keras.saving.load_model(tmp_path / "preprocessing.keras")
    features = scale(loaded, signatures)
    logits = keras.saving.load_model(tmp_path / "network.keras").predict(features, verbose=0)
    np.testing.assert_allclose(logits, expected, atol=1e-5)
    pixels = loaded.get_layer("feature_map").pixels
    np.testing.assert_array_equal(pixels, network.get_layer("image").pixels)


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ("image_size=31", "image_size=31: expected at least 32"),
        ("backbone=b1", "expected one of b0, b3, b4"),
        ("dropout=1", "dropout"),
        ("swap_rate=2", "swap_rate"),
        ("freeze_epochs=2", "freeze_epochs=2: expected below epochs=2"),
        ("perplexity=0", "perplexity"),
    ],
)
def test_settings_out_of_range_are_refused(assignment, message):
    with pytest.raises(InputError, match=message):
        override(CONFIG, [assignment])


def test_a_weight_file_that_is_not_there_is_refused(preprocessing):
    with pytest.raises(InputError, match="expected none, imagenet, noisy-student or the path"):
        FAMILY.build(preprocessing, override(CONFIG, ["weights=/nowhere.h5"]).architecture, PRIOR, seed=0)


@pytest.mark.slow
def test_it_learns_with_a_frozen_start(preprocessing, signatures):
    config = override(PRESETS["small"], ["image_size=32", "epochs=4", "freeze_epochs=1", "drop_connect=0"])
    network = FAMILY.build(preprocessing, config.architecture, PRIOR, seed=0)
    features = scale(preprocessing, signatures)
    labels = (features["features"][:, :3] > np.median(features["features"][:, :3], axis=0)).astype("float32")
    optimizer = keras.optimizers.Adam(3e-3)
    network.compile(optimizer, keras.losses.BinaryCrossentropy(from_logits=True), jit_compile=False)
    optimizer.build(network.trainable_variables)
    history = network.fit(
        features, labels, batch_size=20, epochs=12, verbose=0, callbacks=callbacks(config.architecture)
    ).history["loss"]
    assert history[-1] < 0.7 * history[0]
