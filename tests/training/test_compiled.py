"""CompiledModel takes the step that keras.Model takes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest

from moa_tf.models.tabnet.network import TabNet
from moa_tf.training.compiled import CompiledModel
from moa_tf.training.losses import SmoothedBinaryCrossentropy
from moa_tf.training.optimizers import FusedAdam


def _rows(rows=96):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(rows, 10)).astype("float32")
    return x, (x[:, :3] > 0.5).astype("float32")


def _network():
    return TabNet(
        10, 3, n_d=4, n_a=4, n_shared=1, n_independent=1, lambda_sparse=0.1, virtual_batch_size=16, seed=1
    )


def _train(kind, dtype="float32", weights=None, rows=None):
    keras.utils.set_random_seed(0)
    keras.config.set_dtype_policy(dtype)
    try:
        network = _network()
    finally:
        keras.config.set_dtype_policy("float32")
    model = kind(network.input, network.output)
    optimizer = FusedAdam(0.01, l2=1e-3, global_clipnorm=1.0)
    if dtype == "mixed_float16":
        # Adam's steps are as long for rounding errors as for gradients.
        optimizer = keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(0.05), initial_scale=1024.0)
    metrics = [keras.metrics.MeanAbsoluteError(name="error")]
    model.compile(optimizer, SmoothedBinaryCrossentropy(0.01), metrics=metrics, jit_compile=False)
    x, y = rows or _rows()
    history = model.fit(
        {"features": x}, y, sample_weight=weights, batch_size=32, epochs=2, shuffle=False, verbose=0
    )
    return model, [*history.history["loss"], *history.history["error"]]


def test_weights_moving_statistics_and_losses_are_those_of_keras():
    (plain, losses), (compiled, same) = _train(keras.Model), _train(CompiledModel)
    np.testing.assert_allclose(same, losses, rtol=1e-5)
    for one, other in zip(compiled.get_weights(), plain.get_weights(), strict=True):
        np.testing.assert_allclose(one, other, atol=2e-5)


@pytest.mark.slow
def test_loss_scaling_and_sample_weights():
    weights = np.linspace(0.5, 1.5, 96).astype("float32")
    (plain, losses), (compiled, same) = (
        _train(kind, "mixed_float16", weights) for kind in (keras.Model, CompiledModel)
    )
    np.testing.assert_allclose(same, losses, rtol=5e-3)
    for one, other in zip(compiled.get_weights(), plain.get_weights(), strict=True):
        np.testing.assert_allclose(one, other, atol=2e-2)


def test_random_states_advance():
    """A layer's seeds live in the model's variables: a step that dropped them would repeat its dropout."""
    inputs = keras.Input((4,))
    dropout = keras.layers.Dropout(0.5, seed=3)
    model = CompiledModel(inputs, keras.layers.Dense(1)(dropout(inputs)))
    model.compile(keras.optimizers.SGD(0.1), "mse")
    before = np.array(dropout.seed_generator.state)
    model.fit(np.ones((8, 4)), np.ones((8, 1)), batch_size=4, verbose=0)
    assert not np.array_equal(before, np.array(dropout.seed_generator.state))


REPLICAS = """
import dataclasses
import keras, pytest
import numpy as np
from moa_tf.errors import InputError
from moa_tf.config import Recipe
from moa_tf.models.base import Hyperparameters, ModelConfig, get_family
from moa_tf.training.fold import Fold
from moa_tf.training.network import NetworkData, train_network
from moa_tf.training.compiled import CompiledModel
from moa_tf.training.strategy import make_placement
from test_compiled import _rows, _train
# Each replica gets the same 16 rows, and with them the statistics of the whole batch.
x, y = (np.concatenate([np.tile(part, (2, 1)) for part in np.split(values, 6)]) for values in _rows())
placement = make_placement("mirrored", 2)
alone, losses = _train(CompiledModel, rows=(x, y))
with placement.strategy.scope():
    mirrored, same = _train(CompiledModel, rows=(x, y))
np.testing.assert_allclose(same, losses, rtol=1e-5)
# The moving variance is unbiased for 16 rows here and for 32 there.
for one, other in zip(mirrored.trainable_weights, alone.trainable_weights, strict=True):
    np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-4)
def build(*_):
    inputs = keras.Input((10,), name="features")
    return keras.Model({"features": inputs}, keras.layers.BatchNormalization()(inputs))
family = dataclasses.replace(get_family("mlp"), build=build)
none, rows = np.arange(0), np.arange(96)
data = NetworkData(None, {"features": x}, y, Fold("all", rows, none, none, np.full(y.shape[1], 0.1), rows))
compiled = Hyperparameters(ModelConfig(), Recipe(jit_compile=True, batch_size=32))
with pytest.raises(InputError, match="jit_compile=true: expected false with 2 replicas"):
    train_network(family, data, compiled, 0, placement)
print("agreed")
"""


@pytest.mark.slow
def test_two_replicas_and_their_sparsity_loss_but_no_joint_statistics():
    """keras.Model counts the first replica's `add_loss` twice here: the second finds it in the layer."""
    process = subprocess.run(
        [sys.executable, "-c", REPLICAS],
        cwd=Path(__file__).parent,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert "agreed" in process.stdout, process.stderr[-3000:]
