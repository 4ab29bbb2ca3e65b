"""What holds for the networks of one vector and a little more: resnet, cnn1d, gru and lstm."""

import os
import subprocess
import sys

import keras
import numpy as np
import pytest

from moa_tf.config import override
from moa_tf.data.simulate import simulate
from moa_tf.errors import InputError
from moa_tf.models.base import get_family
from moa_tf.training.fold import make_fold
from moa_tf.training.inference import Inference
from moa_tf.training.network import NetworkData, train_network
from moa_tf.training.strategy import make_placement

SETTINGS = {
    "resnet": ["selected=10", "wide=8", "narrow=4"],
    "cnn1d": ["hidden=16", "channels=4", "filters=4"],
    "gru": ["step_size=8", "embedding=4", "units=4", "layers=2"],
    "lstm": ["step_size=8", "embedding=4", "units=4"],
}
PRIOR = np.linspace(0.01, 0.4, 7)


@pytest.fixture(scope="module")
def dataset():
    return simulate(200, seed=0, genes=30, cells=8)


@pytest.fixture(scope="module", params=SETTINGS)
def case(request, dataset):
    family = get_family(request.param)
    hyperparameters = override(
        family.presets["small"],
        [
            *SETTINGS[request.param],
            "epochs=6",
            "batch_size=32",
            "schedule=constant",
            "learning_rate=0.01",
            "dropout=0",
        ],
    )
    preprocessing = family.fit_preprocessing(dataset.signatures, hyperparameters.architecture, 0)
    return family, hyperparameters, preprocessing, Inference(preprocessing)(dataset.signatures.inputs())


def test_the_untrained_network_is_the_prior_and_the_seed_decides_its_weights(case):
    family, hyperparameters, preprocessing, features = case
    one, same, other = (
        family.build(preprocessing, hyperparameters.architecture, PRIOR, seed) for seed in (1, 1, 2)
    )
    if family.name != "cnn1d":  # whose output layer is weight-normalised
        predicted = 1 / (1 + np.exp(-np.asarray(one(features))))
        np.testing.assert_allclose(predicted, np.broadcast_to(PRIOR, predicted.shape), rtol=1e-4)
    np.testing.assert_array_equal(
        np.asarray(one.get_layer("logits").bias), np.asarray(other.get_layer("logits").bias)
    )
    first, again, different = (
        [np.asarray(w) for w in network.trainable_weights] for network in (one, same, other)
    )
    for a, b in zip(first, again, strict=True):
        np.testing.assert_array_equal(a, b)
    assert any((a != b).any() for a, b in zip(first, different, strict=True))


def test_comes_back_from_its_files_as_it_was_in_mixed_precision_too(case, dataset, tmp_path):
    family, hyperparameters, preprocessing, features = case
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        network = family.build(preprocessing, hyperparameters.architecture, PRIOR, 0)
    finally:
        keras.config.set_dtype_policy("float32")
    rng = np.random.default_rng(0)
    network.set_weights([w + 0.1 * rng.random(w.shape, np.float32) for w in network.get_weights()])
    preprocessing.save(tmp_path / "p.keras")
    network.save(tmp_path / "n.keras")
    inputs = {name: dataset.signatures.inputs()[name][:20] for name in preprocessing.input}
    again = keras.saving.load_model(tmp_path / "p.keras")(inputs)
    for name, values in features.items():
        np.testing.assert_allclose(again[name], values[:20], rtol=1e-5, atol=1e-5)
    expected = np.asarray(network(again))
    assert expected.dtype == np.float32
    assert np.ptp(expected, axis=0).min() > 1e-4
    assert sum(layer.compute_dtype == "bfloat16" for layer in network.layers) > 3
    np.testing.assert_array_equal(keras.saving.load_model(tmp_path / "n.keras")(again), expected)


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["mixed_bfloat16", "mixed_float16"])
def test_trains_the_same_each_time_in_half_precision(case, dataset, precision):
    family, hyperparameters, preprocessing, features = case
    fold = make_fold(0, dataset, np.arange(200) >= 160, train_on_controls=False)
    data = NetworkData(preprocessing, features, dataset.targets, fold)
    networks = []
    for _ in range(2):
        network, history = train_network(
            family, data, hyperparameters, 5, make_placement("none"), precision=precision
        )
        losses = [epoch["loss"] for epoch in history["epochs"]]
        assert losses[-1] < losses[0]
        networks.append(network)
    for a, b in zip(*(network.weights for network in networks), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize(
    ("name", "assignment", "message"),
    [
        ("resnet", "selected=0", "selected=0: expected at least 1"),
        ("resnet", "dropout=0.1,0.2", "one rate or three"),
        ("cnn1d", "hidden=100", "hidden=100: expected a multiple of channels=64"),
        ("cnn1d", "filters=0", "filters=0: expected at least 1"),
        ("cnn1d", "skip_dropout=0.1,1", r"skip_dropout=1.0: expected in \[0, 1\)"),
        ("cnn1d", "celu_alpha=0", "celu_alpha=0.0: expected above 0"),
        ("gru", "step_size=0", "step_size=0: expected at least 1"),
        ("lstm", "units=0", "units=0: expected at least 1"),
        ("lstm", "keep_scaled=false", "keep_scaled=False: expected true"),
    ],
)
def test_bad_settings_are_one_line(name, assignment, message):
    more = ["gene_components=3"] if "keep_scaled" in assignment else []
    with pytest.raises(InputError, match=message) as error:
        override(get_family(name).presets["small"], [assignment, *more])
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", SETTINGS)
def test_both_presets_go_by_the_number_of_signatures(name):
    family = get_family(name)
    assert family.choose_preset(741) == "small"
    assert family.choose_preset(23814) in set(family.presets) - {"small"}


JAX = """
import sys
import numpy as np, keras
import moa_tf
assert keras.backend.backend() == "jax"
for name in sys.argv[2:]:
    network = keras.saving.load_model(f"{sys.argv[1]}/{name}.keras")
    x = dict(np.load(f"{sys.argv[1]}/{name}.npz"))
    expected = x.pop("expected")
    np.testing.assert_allclose(network.predict_on_batch(x), expected, rtol=1e-4, atol=1e-4, err_msg=name)
# The last one's: to compile a step takes longer than all else here.
network.compile("sgd", "mse")
before = [np.array(weight) for weight in network.trainable_weights]
assert np.isfinite(network.train_on_batch(x, expected + 1))
assert all((np.array(weight) != old).any() for weight, old in zip(network.trainable_weights, before))
"""


@pytest.mark.slow
def test_jax_gives_the_same_outputs_and_trains_one_of_them(dataset, tmp_path):
    pytest.importorskip("jax")
    for name, settings in SETTINGS.items():
        family = get_family(name)
        architecture = override(family.presets["small"], settings).architecture
        preprocessing = family.fit_preprocessing(dataset.signatures, architecture, 0)
        features = Inference(preprocessing)(dataset.signatures.inputs())
        network = family.build(preprocessing, architecture, PRIOR, 0)
        head = network.get_layer("logits")
        head.kernel.assign(np.random.default_rng(0).normal(size=head.kernel.shape))
        network.save(tmp_path / f"{name}.keras")
        np.savez(tmp_path / f"{name}.npz", expected=Inference(network)(features), **features)
    subprocess.run(
        [sys.executable, "-c", JAX, str(tmp_path), *SETTINGS],
        env=os.environ | {"KERAS_BACKEND": "jax"},
        check=True,
    )
