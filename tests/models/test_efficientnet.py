import importlib.util
import pathlib

import h5py
import keras
import numpy as np
import pytest

from moa_tf.errors import InputError
from moa_tf.models.deepinsight.efficientnet import Unfreeze, build_backbone
from moa_tf.models.deepinsight.noisy_student import fetch_noisy_student, load_noisy_student

FIXTURES = pathlib.Path(__file__).parent / "fixtures"
EXPECTED = np.load(FIXTURES / "efficientnet_b0.npz")
_spec = importlib.util.spec_from_file_location("qubvel", FIXTURES / "qubvel.py")
qubvel = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(qubvel)


@pytest.fixture(scope="module")
def weights():
    return qubvel.random_weights(qubvel.load_layout())


@pytest.fixture(scope="module")
def file(weights, tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "efficientnet-b0.h5"
    qubvel.write_h5(path, weights)
    return path


@pytest.fixture(scope="module")
def backbone():
    return build_backbone("b0", 64)


@pytest.fixture(scope="module")
def image():
    return np.random.default_rng(1).uniform(size=(1, 64, 64, 3)).astype("float32") * 255


@pytest.mark.slow
def test_the_whole_network_computes_what_the_efficientnet_package_does(file, image, weights):
    model = keras.applications.EfficientNetB0(weights=None, input_shape=(64, 64, 3))
    before = {variable.path: np.array(variable) for variable in model.weights}
    load_noisy_student(model, file)
    np.testing.assert_allclose(
        model.predict(image, verbose=0)[0], EXPECTED["probabilities"], rtol=1e-4, atol=1e-9
    )
    unchanged = [
        variable.path for variable in model.weights if np.array_equal(before[variable.path], variable)
    ]
    # Keras numbers the layer's name by how many there were before.
    assert [path.rpartition("/")[2] for path in unchanged] == ["count"]
    stored = dict(weights)
    np.testing.assert_array_equal(
        model.get_layer("predictions").kernel, dict(stored["probs"])["probs/kernel:0"]
    )


@pytest.mark.slow
@pytest.mark.parametrize("skip", [(), ("probs",)])
def test_a_backbone_takes_a_file_with_and_without_head(weights, image, tmp_path, skip):
    path = tmp_path / "weights.h5"
    qubvel.write_h5(path, weights, skip)
    model = build_backbone("b0", 64, str(path))
    maps = model.predict(image, verbose=0)[0]
    np.testing.assert_allclose(maps, EXPECTED["maps"], rtol=1e-3, atol=1e-5)
    model.save(tmp_path / "backbone.keras")
    loaded = keras.saving.load_model(tmp_path / "backbone.keras")
    np.testing.assert_allclose(loaded.predict(image, verbose=0)[0], maps, rtol=1e-5, atol=1e-6)


def test_files_that_do_not_fit_are_refused_and_change_nothing(weights, file, backbone, tmp_path):
    before = backbone.get_weights()
    bad = tmp_path / "bad.h5"

    def refuse(message):
        with pytest.raises(InputError, match=message) as caught:
            load_noisy_student(backbone, bad)
        assert str(bad) in str(caught.value)
        assert "\n" not in str(caught.value)

    refuse("expected none, imagenet, noisy-student or the path")
    bad.write_text("no weights")
    refuse("cannot be read as .h5")
    bad.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    refuse("it may be cut off")
    with h5py.File(bad, "w") as empty:
        empty["something"] = 1
    refuse("has no layer_names")
    qubvel.write_h5(bad, weights, skip=("block3a_bn", "top_conv"))
    refuse(r"layers lacks block3a_bn, top_conv \(2 in all\)")
    qubvel.write_h5(bad, [*weights, ["block9a_conv", [["block9a_conv/kernel:0", np.ones(3)]]]])
    refuse("more than expected: block9a_conv")
    qubvel.write_h5(bad, [[n, v[:1] if n == "top_bn" else v] for n, v in weights])
    refuse("layer top_bn lacks beta, moving_mean, moving_variance")
    wider = [[n, [[k, np.ones((*a.shape[:-1], a.shape[-1] + 1))] for k, a in v]] for n, v in weights]
    qubvel.write_h5(bad, wider)
    refuse("another EfficientNet")
    broken = [[n, [[k, np.full_like(a, np.nan)] for k, a in v]] for n, v in weights]
    qubvel.write_h5(bad, broken)
    refuse("not finite")
    qubvel.write_h5(bad, [*weights, ["normalization", [["normalization/mean:0", np.ones(3)]]]])
    refuse("holds its own normalisation")
    for old, new in zip(before, backbone.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)


def test_a_model_with_head_needs_the_head(weights, tmp_path):
    path = tmp_path / "headless.h5"
    qubvel.write_h5(path, weights, skip=("probs",))
    model = keras.applications.EfficientNetB0(weights=None, input_shape=(64, 64, 3))
    with pytest.raises(InputError, match="layers lacks predictions"):
        load_noisy_student(model, path)


def test_drop_connect_rises_to_the_rate_asked_for():
    model = build_backbone("b0", 32, drop_connect=0.4)
    rates = [layer.rate for layer in model.layers if isinstance(layer, keras.layers.Dropout)]
    # B0 has 16 blocks; block i of 16 has 0.4 i / 16. The last with a residual branch is the fifteenth.
    np.testing.assert_allclose(rates[-1], 0.4 * 14 / 16)
    assert rates == sorted(rates)
    assert all(
        layer.rate == 0 for layer in build_backbone("b0", 32, drop_connect=0.0).layers
        if isinstance(layer, keras.layers.Dropout)
    )  # fmt: skip


def test_noisy_student_without_the_package_says_what_to_install(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "efficientnet.weights", None)
    with pytest.raises(InputError, match=r"pip install 'moa-tf\[noisy-student\]'"):
        fetch_noisy_student("b0")


def test_a_download_that_fails_is_one_line(monkeypatch):
    def fail(*args, **kwargs):
        raise Exception("URL fetch failure\non https://example.org: no route")

    monkeypatch.setattr(keras.applications.efficientnet, "EfficientNetB0", fail)
    monkeypatch.setattr("moa_tf.models.deepinsight.efficientnet.BACKBONES", {"b0": fail})
    with pytest.raises(InputError, match="weights=imagenet: cannot be fetched") as caught:
        build_backbone("b0", 64, "imagenet")
    assert "\n" not in str(caught.value)


def test_a_frozen_layer_stands_still_and_then_joins_in():
    keras.utils.set_random_seed(0)
    inputs = keras.Input((4,))
    frozen = keras.Sequential([keras.layers.Dense(3), keras.layers.BatchNormalization()], name="backbone")
    model = keras.Model(inputs, keras.layers.Dense(1)(frozen(inputs)))
    optimizer = keras.optimizers.Adam(0.01)
    model.compile(optimizer, "mse")
    optimizer.build(model.trainable_variables)
    snapshots = []

    class Record(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            snapshots.append([frozen.get_weights(), model.layers[-1].get_weights()])

    first = [frozen.get_weights(), model.layers[-1].get_weights()]
    rng = np.random.default_rng(0)
    model.fit(
        rng.normal(size=(32, 4)), rng.normal(size=(32, 1)), epochs=3, verbose=0,
        callbacks=[Unfreeze("backbone", 2), Record()],
    )  # fmt: skip

    def same(one, other):
        return [np.array_equal(a, b) for a, b in zip(one, other, strict=True)]

    assert all(same(first[0], snapshots[1][0]))
    assert not any(same(snapshots[0][1], snapshots[1][1]))
    # Weights, scale and statistics all move; the bias before a batch normalisation gets next to no gradient.
    moved = np.logical_not(same(snapshots[1][0], snapshots[2][0]))
    assert moved[0]
    assert moved[2:].all()
    assert frozen.trainable
