import importlib.util
import os
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf

from moa_tf.config import override
from moa_tf.data.schema import Signatures, SignatureSpec
from moa_tf.errors import InputError
from moa_tf.layers import (
    AttentiveTransformer,
    CategoryEmbedding,
    FeatureTransformer,
    NearestIndex,
    TabNetEncoder,
    glu,
)
from moa_tf.layers.tabnet_attention import group_matrix
from moa_tf.models.tabnet import FAMILY, TabNetConfig, build, fit_preprocessing
from moa_tf.models.tabnet.network import TabNet, build_explainer

SMALL = {"n_d": 4, "n_a": 4, "virtual_batch_size": 16}


def make_data(rows=64, features=10, targets=3):
    generator = np.random.default_rng(0)
    x = generator.normal(size=(rows, features)).astype("float32")
    return {"features": x}, (x[:, :targets] > 0).astype("float32")


@pytest.mark.slow
def test_save_load_and_export(tmp_path):
    x, y = make_data()
    network = TabNet(
        10, 3, n_steps=2, lambda_sparse=1e-3, groups=[(0, 1)], category_sizes=(3, 2), embedding_dim=2, **SMALL
    )
    x["categories"] = np.stack([np.arange(64) % 3, np.arange(64) % 2], axis=1).astype("int32")
    network.compile("adam", keras.losses.BinaryCrossentropy(from_logits=True))
    network.fit(x, y, batch_size=24, epochs=1, verbose=0)
    network.save(tmp_path / "network.keras")
    loaded = keras.saving.load_model(tmp_path / "network.keras")
    expected = network.predict(x, verbose=0)
    np.testing.assert_allclose(loaded.predict(x, verbose=0), expected, atol=1e-6)
    for name, value in build_explainer(network)(x).items():
        np.testing.assert_allclose(build_explainer(loaded)(x)[name], value, atol=1e-6)
    # The kernels that steps share are one variable after loading too.
    assert len(loaded.weights) == len(network.weights)
    encoder = loaded.get_layer("encoder")
    kernels = {id(transformer.blocks[0].kernel.kernel) for transformer in encoder.transformers}
    assert len(kernels) == 1
    loaded.export(tmp_path / "exported", verbose=False)
    exported = tf.saved_model.load(str(tmp_path / "exported"))
    np.testing.assert_allclose(exported.serve(x), expected, atol=1e-5)


def test_sparsity_loss_joins_the_loss_and_sharpens_masks():
    x, y = make_data(256)
    network = TabNet(10, 3, mask_type="sparsemax", lambda_sparse=1.0, seed=0, **SMALL)

    def entropy():
        masks = np.array(build_explainer(network)(x)["masks"], "float64")
        return -(masks * np.log(masks + 1e-15)).sum(axis=-1).mean()

    before = entropy()
    assert float(network.losses[0]) == pytest.approx(before, rel=1e-4)
    network.compile(keras.optimizers.Adam(0.02), keras.losses.BinaryCrossentropy(from_logits=True))
    network.fit(x, y, batch_size=64, epochs=15, verbose=0, shuffle=False)
    assert entropy() < 0.7 * before


def test_group_matrix_by_hand():
    expected = [[0, 0.5, 0, 0.5], [1, 0, 0, 0], [0, 0, 1, 0]]
    np.testing.assert_array_equal(group_matrix([(3, 1)], 4), np.array(expected, "float32"))


def test_scale_and_shift_inside_the_kernel_are_those_of_its_inputs():
    generator = np.random.default_rng(0)
    x, scale, shift = (
        tf.constant(generator.normal(size=shape).astype("float32")) for shape in ((12, 5), (5,), (5,))
    )
    scale = tf.concat([[0.0], scale[1:]], axis=0)
    upstream = generator.normal(size=(12, 4)).astype("float32")
    layer = FeatureTransformer(4, n_independent=2, virtual_batch_size=6, seed=0)
    found = []
    layer.build((None, 5))
    for inside in (True, False):
        with tf.GradientTape() as tape:
            tape.watch([scale, shift])
            y = layer(x, affine=(scale, shift)) if inside else layer(x * scale + shift)
            loss = tf.reduce_sum(y * upstream)
        found.append([y, *tape.gradient(loss, [scale, shift, *layer.trainable_variables])])
    for ours, plain in zip(*found, strict=True):
        np.testing.assert_allclose(ours, plain, rtol=1e-5, atol=1e-5)


def test_seeds_and_prior():
    first, again, other = (TabNet(10, 3, seed=seed, **SMALL) for seed in (1, 1, 2))
    for a, b in zip(first.get_weights(), again.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)
    kernels = [layer.get_layer("encoder").shared[0].kernel for layer in (first, other)]
    assert np.abs(kernels[0] - kernels[1]).max() > 0.1
    spec = SignatureSpec(("g-0", "g-1", "g-2"), (), ("cp_time",))
    values = np.random.default_rng(0).normal(size=(30, 3)).astype("float32")
    signatures = Signatures(spec, np.arange(30).astype(object), values, cp_time=np.full(30, 24, "float32"))
    for embed in (False, True):
        config = TabNetConfig(embed_treatment=embed, **SMALL)
        preprocessing = fit_preprocessing(signatures, config, 0)
        network = build(preprocessing, config, np.array([0.5, 0.1]), 0)
        assert set(network.input) == set(preprocessing.output)
        np.testing.assert_allclose(network.get_layer("logits").bias, [0.0, np.log(1 / 9)], atol=1e-6)
        assert network(preprocessing(signatures.inputs())).shape == (30, 2)


@pytest.mark.parametrize("policy", ["mixed_bfloat16", pytest.param("mixed_float16", marks=pytest.mark.slow)])
def test_mixed_precision_keeps_logits_and_statistics_in_float32(policy):
    x, y = make_data()
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(policy)
    try:
        network = TabNet(10, 3, n_steps=2, lambda_sparse=1e-3, groups=[(1, 2)], seed=0, **SMALL)
    finally:
        keras.config.set_dtype_policy(before)
    exact = TabNet(10, 3, n_steps=2, lambda_sparse=1e-3, groups=[(1, 2)], seed=0, **SMALL)
    assert network(x).dtype == tf.float32
    assert network.get_layer("encoder").compute_dtype == policy.removeprefix("mixed_")
    np.testing.assert_allclose(network(x), exact(x), atol=0.3)
    assert {keras.backend.standardize_dtype(weight.dtype) for weight in network.weights} == {"float32"}
    network.compile(keras.optimizers.Adam(0.01), keras.losses.BinaryCrossentropy(from_logits=True))
    losses = network.fit(x, y, batch_size=32, epochs=8, verbose=0).history["loss"]
    assert losses[-1] < losses[0]


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        (["n_steps=0"], "n_steps=0: expected at least 1"),
        (["virtual_batch_size=2048"], "virtual_batch_size=2048: expected 1 to batch_size=1024"),
        (["gamma=0.9"], "gamma=0.9: expected at least 1"),
        (["gamma=nan"], "gamma=nan: expected at least 1"),
        (["mask_type=softmax"], "mask_type=softmax: expected one of sparsemax, entmax"),
        (["lambda_sparse=-1"], "lambda_sparse=-1.0: expected at least 0"),
        (["n_shared=0", "n_independent=0"], "expected at least one GLU layer"),
        (["groups=0+1,1+2"], "expected groups that share no feature"),
        (["groups=0+a"], "expected positions joined by"),
    ],
)
def test_bad_settings_get_one_line(settings, line):
    with pytest.raises(InputError, match=line) as caught:
        override(FAMILY.presets["winners"], settings)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("make", "line"),
    [
        (lambda: TabNetEncoder(n_steps=0), "n_steps=0"),
        (lambda: TabNetEncoder(gamma=0.5), "gamma=0.5"),
        (lambda: TabNet(4, 1, groups=[(0, 1), (1, 2)]), "feature 1 is in groups 0 and 1"),
        (lambda: TabNet(4, 1, groups=[(0, 4)]), "holds feature 4, expected 0 to 3"),
        (lambda: TabNet(4, 1, groups=[()]), "group 0 is empty"),
        (lambda: TabNet(0, 1), "features=0"),
        (lambda: AttentiveTransformer(3, "softmax"), "mask_type=softmax"),
        (lambda: FeatureTransformer(4, 0), "expected at least one layer"),
        (lambda: CategoryEmbedding(()), "expected at least one column"),
        (lambda: NearestIndex(()), "expected at least one"),
    ],
)
def test_bad_layers_get_one_line(make, line):
    with pytest.raises(InputError, match=line) as caught:
        make()
    assert "\n" not in str(caught.value)


def test_layers_keep_their_weights_by_themselves(tmp_path):
    inputs = keras.Input((5,))
    shared = glu.glu_kernel(4, 5, seed=0)
    model = keras.Model(inputs, FeatureTransformer(4, 1, [shared], seed=0)(inputs))
    x = np.random.default_rng(0).normal(size=(6, 5)).astype("float32")
    model.save(tmp_path / "model.keras")
    np.testing.assert_allclose(keras.saving.load_model(tmp_path / "model.keras")(x), model(x), atol=1e-6)


MIRRORED = """
import sys
import numpy as np, keras, tensorflow as tf
from moa_tf.models.tabnet.network import TabNet
tf.config.set_logical_device_configuration(
    tf.config.list_physical_devices("CPU")[0], [tf.config.LogicalDeviceConfiguration()] * 2
)
x = np.random.default_rng(0).normal(size=(64, 6)).astype("float32")
y = (x[:, :2] > 0).astype("float32")
def weights(strategy):
    with strategy.scope():
        model = TabNet(6, 2, n_d=4, n_a=4, virtual_batch_size=8, lambda_sparse=0.01, seed=0)
        model.compile(keras.optimizers.SGD(0.01), keras.losses.BinaryCrossentropy(from_logits=True))
    model.fit({"features": x}, y, batch_size=32, epochs=2, shuffle=False, verbose=0)
    return model.get_layer("encoder")
mirrored = weights(tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"]))
single = weights(tf.distribute.get_strategy())
layer, alone = mirrored.normalization, single.normalization
local = [tensor.numpy() for tensor in layer.moving_mean.value.values]
np.testing.assert_array_equal(local[0], local[1])
# The mean over replicas of the means of half a batch is the mean over the batch.
np.testing.assert_allclose(local[0], alone.moving_mean, rtol=1e-4, atol=1e-6)
# Virtual batches divide the replicas' rows evenly, so only the initial normalisation differs.
np.testing.assert_allclose(mirrored.shared[0].kernel, single.shared[0].kernel, atol=0.02)
print("agreed")
"""


def run_python(code, *arguments, **environment):
    process = subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert process.returncode == 0, process.stderr[-3000:]
    return process.stdout


@pytest.mark.slow
def test_replicas_average_the_moving_statistics():
    assert "agreed" in run_python(MIRRORED)


JAX = """
import sys
import numpy as np, keras
from moa_tf.models.tabnet.network import build_explainer
import moa_tf.layers
assert keras.backend.backend() == "jax"
directory = sys.argv[1]
network = keras.saving.load_model(directory + "/network.keras")
x = dict(np.load(directory + "/inputs.npz"))
y = x.pop("y")
outputs = build_explainer(network).predict(x, verbose=0)
np.savez(directory + "/jax.npz", **outputs)
network.compile(keras.optimizers.SGD(0.01), keras.losses.BinaryCrossentropy(from_logits=True))
network.fit(x, y, batch_size=24, epochs=1, shuffle=False, verbose=0)
np.savez(directory + "/trained.npz", *network.get_weights())
"""


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("jax") is None, reason="JAX is not installed")
@pytest.mark.parametrize("mask_type", ["sparsemax", "entmax"])
def test_jax_gives_the_same_outputs_and_the_same_training(tmp_path, mask_type):
    x, y = make_data()
    settings = {"mask_type": mask_type, "n_steps": 2, "lambda_sparse": 0.01, "groups": [(0, 2)]}
    network = TabNet(10, 3, seed=0, **settings, **SMALL)
    network.save(tmp_path / "network.keras")
    np.savez(tmp_path / "inputs.npz", y=y, **x)
    run_python(JAX, tmp_path, KERAS_BACKEND="jax")
    expected = build_explainer(network).predict(x, verbose=0)
    with np.load(tmp_path / "jax.npz") as outputs:
        for name, value in expected.items():
            np.testing.assert_allclose(outputs[name], value, rtol=1e-5, atol=1e-5, err_msg=name)
    # The last batch of 16 rows is uneven to virtual batches of 16 in batches of 24.
    network.compile(keras.optimizers.SGD(0.01), keras.losses.BinaryCrossentropy(from_logits=True))
    network.fit(x, y, batch_size=24, epochs=1, shuffle=False, verbose=0)
    with np.load(tmp_path / "trained.npz") as trained:
        for index, weight in enumerate(network.get_weights()):
            np.testing.assert_allclose(trained[f"arr_{index}"], weight, rtol=1e-3, atol=1e-4)
