"""What holds for every layer: settings that come from NumPy, batches without rows, the backends."""

import json
import os
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf

from moa_tf import layers, preprocessing
from moa_tf.errors import InputError
from moa_tf.training.losses import SmoothedBinaryCrossentropy
from moa_tf.training.optimizers import OneCycle

i, f = np.int64, np.float32
LAYERS = {
    "FastBatchNormalization": lambda: layers.FastBatchNormalization(),
    "CELU": lambda: layers.CELU(f(0.5)),
    "CategoryEmbedding": lambda: layers.CategoryEmbedding(np.array([3, 2, 4, 5, 6]), i(2), seed=i(1)),
    "ByteDropout": lambda: layers.ByteDropout(f(0.5), seed=i(1)),
    "Sparsemax": lambda: layers.Sparsemax(i(-1)),
    "Entmax15": lambda: layers.Entmax15(i(1)),
    "GhostBatchNormalization": lambda: layers.GhostBatchNormalization(i(4), f(0.5), f(1e-3)),
    "whole GhostBatchNormalization": lambda: layers.GhostBatchNormalization(None),
    "GatedLinearUnit": lambda: layers.GatedLinearUnit(i(3), None, i(4), f(0.5), i(1)),
    "FeatureTransformer": lambda: layers.FeatureTransformer(i(3), i(2), (), i(4), f(0.5), i(1)),
    "AttentiveTransformer": lambda: layers.AttentiveTransformer(i(3), "entmax", i(4), f(0.5), i(1)),
    "TabNetEncoder": lambda: layers.TabNetEncoder(
        *(
            i(2),
            i(3),
            i(2),
            f(1.5),
            i(1),
            i(1),
            "sparsemax",
            f(0),
            i(4),
            f(0.5),
            np.array([[0, 1]]),
            f(1e-9),
            i(1),
        )
    ),
    "RandomGroupMask": lambda: layers.RandomGroupMask(i(3), f(0.5), i(1)),
    "WeightNormDense": lambda: layers.WeightNormDense(i(3)),
    "BatchEnsembleDense": lambda: layers.BatchEnsembleDense(i(3), i(2), random_signs=True),
    "BatchEnsembleBlocks": lambda: layers.BatchEnsembleBlocks(np.array([3, 4]), i(2), f(0.5)),
    "EnsembleDense": lambda: layers.EnsembleDense(i(3), i(2)),
    "MeanProbability": lambda: layers.MeanProbability(i(1)),
    "RowStatistics": lambda: preprocessing.RowStatistics(),
    "FeatureImage": lambda: preprocessing.FeatureImage(
        np.array([[0, 1], [1, 0], [1, 1], [0, 0], [2, 2]]), i(3)
    ),
    "SwapNoise": lambda: preprocessing.SwapNoise(f(0.5), f(0.5), i(1)),
    "QuantileToNormal": lambda: preprocessing.QuantileToNormal(i(10)),
    "PrincipalComponents": lambda: preprocessing.PrincipalComponents(i(2)),
    "VarianceThreshold": lambda: preprocessing.VarianceThreshold(f(0.5)),
    "MostVariable": lambda: preprocessing.MostVariable(i(2)),
    "CorrelationOrder": lambda: preprocessing.CorrelationOrder(),
    "Norm2Scaling": lambda: preprocessing.Norm2Scaling(),
    "MinMaxScaling": lambda: preprocessing.MinMaxScaling(),
    "FeatureMap": lambda: preprocessing.FeatureMap(i(8), "pca", perplexity=f(4), seed=i(1)),
    # [B] or [B, steps, width]
    "NearestIndex": lambda: layers.NearestIndex(np.array([24, 48, 72])),
    "TimeEncoding": lambda: preprocessing.TimeEncoding(np.array([24, 48, 72])),
    "DoseEncoding": lambda: preprocessing.DoseEncoding(),
    "TabNetDecoder": lambda: layers.TabNetDecoder(i(3), i(1), i(1), i(4), f(0.5), i(1)),
}
SHAPES = {
    "NearestIndex": (),
    "TimeEncoding": (),
    "DoseEncoding": (),
    "TabNetDecoder": (2, 4),
    "EnsembleDense": (2, 5),
    "MeanProbability": (2, 5),
}


def adapted(name: str) -> keras.layers.Layer:
    layer = LAYERS[name]()
    if isinstance(layer, preprocessing.TimeEncoding):
        layer.adapt([24, 48])
    elif hasattr(layer, "adapt"):
        layer.adapt(np.random.default_rng(0).normal(size=(30, 5)))
    return layer


@pytest.mark.parametrize("name", LAYERS)
def test_numpys_numbers_are_plain_ones_in_the_config(name):
    layer = adapted(name)
    config = layer.get_config()
    again = type(layer).from_config(json.loads(json.dumps(config)))
    assert json.dumps(again.get_config()) == json.dumps(config)


def test_numpys_numbers_are_plain_ones_in_schedule_and_loss():
    for thing in (
        OneCycle(f(1), i(9), f(0.5), f(2), f(3)),
        SmoothedBinaryCrossentropy(f(0), np.array([1, 2])),
    ):
        again = type(thing).from_config(json.loads(json.dumps(thing.get_config())))
        assert again.get_config() == thing.get_config()


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("name", LAYERS)
def test_a_batch_without_rows(name, training):
    layer = adapted(name)
    shape = SHAPES.get(name, (5,))
    full, empty = (tf.zeros((rows, *shape), "float32") for rows in (3, 0))

    def call(x):
        return layer(x, training=training) if layer._call_has_training_arg else layer(x)

    def step(x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = call(x)
            loss = sum(tf.reduce_sum(tf.cast(part, "float32")) for part in tf.nest.flatten(y))
        return y, tape.gradient(loss, [x, *(weight.value for weight in layer.trainable_weights)])

    expected = [(0, *part.shape[1:]) for part in tf.nest.flatten(call(full))]
    before = [np.array(weight) for weight in layer.weights if "seed" not in weight.path]
    traced = tf.function(step, input_signature=[tf.TensorSpec((None, *shape))])
    for run in (step, traced):
        y, gradients = run(empty)
        assert [tuple(part.shape) for part in tf.nest.flatten(y)] == expected
        found = [tf.convert_to_tensor(gradient) for gradient in gradients if gradient is not None]
        assert all(np.isfinite(gradient).all() for gradient in found)
    after = [np.array(weight) for weight in layer.weights if "seed" not in weight.path]
    for old, new in zip(before, after, strict=True):
        np.testing.assert_array_equal(old, new)


def test_reconstruction_error_of_no_rows():
    empty = np.zeros((0, 4), "float32")
    assert layers.ReconstructionError()(empty, empty, empty).shape == (0,)


@pytest.mark.parametrize("value", [0, -1, 1.0, 2.5, True, "3", None])
def test_sizes_that_are_no_whole_numbers_above_0_are_refused(value):
    for make in (
        lambda: layers.WeightNormDense(value),
        lambda: layers.BatchEnsembleDense(value, 2),
        lambda: layers.EnsembleDense(2, value),
        lambda: layers.GatedLinearUnit(value),
        lambda: layers.AttentiveTransformer(value),
        lambda: layers.TabNetEncoder(n_d=value),
        lambda: layers.TabNetDecoder(value),
        lambda: layers.RandomGroupMask(value),
        lambda: layers.CategoryEmbedding([2], value),
        lambda: layers.CategoryEmbedding([value]),
        lambda: preprocessing.FeatureMap(value),
        lambda: preprocessing.QuantileToNormal(value),
        lambda: preprocessing.PrincipalComponents(value),
        lambda: preprocessing.MostVariable(value),
        lambda: preprocessing.FeatureImage([[0, 0]], value),
        lambda: OneCycle(1.0, value),
    ):
        with pytest.raises(InputError, match=rf"={value}: expected (a whole number, )?at least [12]$"):
            make()


def test_settings_out_of_range_are_refused():
    for make, line in (
        (lambda: layers.TabNetEncoder(gamma=0.9), "gamma=0.9: expected at least 1"),
        (lambda: layers.TabNetEncoder(lambda_sparse=-1), "lambda_sparse=-1: expected at least 0"),
        (lambda: layers.TabNetEncoder(n_shared=0, n_independent=0), "expected at least one GLU layer"),
        (lambda: layers.TabNetDecoder(3, 0, 0), "expected at least one GLU layer"),
        (lambda: layers.FeatureTransformer(3, n_independent=0), "expected at least one layer"),
        (lambda: layers.GatedLinearUnit(3, keras.layers.Dense(5)), "kernel of 5 units: expected 6"),
        (
            lambda: layers.AttentiveTransformer(3, "softmax"),
            "mask_type=softmax: expected one of sparsemax, entmax",
        ),
        (lambda: layers.BatchEnsembleDense(3, 4)(np.ones((2, 5, 6))), "expected k=4 members"),
        (lambda: layers.BatchEnsembleBlocks([], 4), "units: expected at least one block"),
        (lambda: layers.BatchEnsembleBlocks([3], 4, 1.0), "dropout=1.0: expected in"),
        (lambda: layers.EnsembleDense(3, 4)(np.ones((2, 6))), "expected k=4 members"),
        (lambda: layers.MeanProbability(6)(np.ones((2, 5, 3))), "members=6: expected at most the 5"),
        (lambda: layers.RandomGroupMask(3, 1.0), "ratio=1.0: expected between 0 and 1"),
        (lambda: layers.CategoryEmbedding([]), "sizes: expected at least one column"),
        (lambda: layers.NearestIndex([]), "values: expected at least one"),
        (lambda: layers.NearestIndex([1, np.nan]), "expected finite numbers"),
        (lambda: layers.ByteDropout(0.5, seed=-1), "seed=-1: expected at least 0, or None"),
        (lambda: layers.ByteDropout(0.5, seed=1.5), "seed=1.5: expected a whole number, at least 0, or None"),
        (
            lambda: layers.BatchEnsembleDense(3, 4)(keras.Input((None,))),
            r"inputs of shape \(None, None\): expected a known size of axis -1",
        ),
        (lambda: layers.CELU(0), "alpha=0: expected above 0"),
        (lambda: preprocessing.TimeEncoding([]), "expected at least one, finite and ascending"),
        (lambda: preprocessing.TimeEncoding([24, 24]), "expected at least one, finite and ascending"),
        (
            lambda: preprocessing.FeatureMap(8, "mds"),
            "embedding=mds: expected one of tsne, umap, pca, kernel-pca",
        ),
        (
            lambda: preprocessing.FeatureMap(8, rectangle="x"),
            "rectangle=x: expected one of minimum, pydeepinsight",
        ),
        (
            lambda: preprocessing.FeatureMap(8, discretization="x"),
            "discretization=x: expected one of round, quant",
        ),
        (lambda: preprocessing.FeatureImage([], 4), "expected pixels as"),
        (
            lambda: preprocessing.FeatureImage([[0, 0]], 4, "rgb"),
            "channels=rgb, expected grey or mean-min-max",
        ),
        (lambda: SmoothedBinaryCrossentropy(1.0), "label_smoothing=1.0: expected in"),
        (lambda: SmoothedBinaryCrossentropy(0.0, [1, 0]), "expected one finite weight above 0"),
    ):
        with pytest.raises(InputError, match=line):
            make()


OTHER_BACKEND = """
import numpy as np, moa_tf, keras
from moa_tf import layers, preprocessing
from moa_tf.errors import InputError
x = np.random.default_rng(0).normal(size=(4, 6)).astype("float32")
assert layers.WeightNormDense(3)(x).shape == (4, 3)
assert layers.GhostBatchNormalization()(x).shape == layers.FastBatchNormalization()(x).shape == x.shape
for call in (
    lambda: layers.WeightNormDense(3)(x, training=True),
    lambda: layers.FastBatchNormalization()(x, training=True),
    lambda: layers.GhostBatchNormalization()(x, training=True),
    lambda: layers.sparsemax(x),
    lambda: layers.Entmax15()(x),
):
    try:
        call()
    except InputError as error:
        line = str(error)
        assert "\\n" not in line and "backend numpy" in line and "KERAS_BACKEND=tensorflow or jax" in line, line
    else:
        raise AssertionError("not refused")
"""


def test_a_backend_without_these_gradients_is_refused_in_one_line():
    subprocess.run(
        [sys.executable, "-c", OTHER_BACKEND], env=os.environ | {"KERAS_BACKEND": "numpy"}, check=True
    )
