"""Each layer as a part of anybody's Keras model, on TensorFlow and on JAX: one table of layers × what is asked.

What they compute is tested beside each of them, and on settings from NumPy and batches without rows in
`test_settings.py`.
"""

import doctest
import importlib
import importlib.util
import inspect
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import keras
import numpy as np
import pytest
from keras.src.testing import TestCase

from moa_tf import layers

B, F = 6, 5
CASES = {
    "AttentiveTransformer": ({"units": 4, "virtual_batch_size": 3, "seed": 1}, (B, F)),
    "BatchEnsembleBlocks": ({"units": (4, 3), "k": 2, "dropout": 0.3}, (B, F)),
    "BatchEnsembleDense": ({"units": 4, "k": 2, "random_signs": True}, (B, F)),
    "ByteDropout": ({"rate": 0.4, "seed": 1}, (B, F)),
    "CELU": ({"alpha": 0.5}, (B, F)),
    "CategoryEmbedding": ({"sizes": (3, 3), "embedding_dim": 4, "seed": 1}, (B, 2)),
    "Connectivity": ({"targets": 3}, (B, F)),
    "EnsembleDense": ({"units": 4, "k": 2}, (B, 2, F)),
    "Entmax15": ({}, (B, F)),
    "FastBatchNormalization": ({}, (B, F)),
    "FeatureTransformer": ({"units": 4, "virtual_batch_size": 3, "seed": 1}, (B, F)),
    "GatedLinearUnit": ({"units": 4, "virtual_batch_size": 3, "seed": 1}, (B, F)),
    "GhostBatchNormalization": ({"virtual_batch_size": 3}, (B, F)),
    "MeanProbability": ({"members": 2}, (B, 3, F)),
    "NearestIndex": ({"values": (0.2, 0.8)}, (B,)),
    "RandomGroupMask": ({"units": 4, "seed": 1}, (B, F)),
    "ReconstructionError": (
        {},
        {"reconstruction_shape": (B, F), "features_shape": (B, F), "hidden_shape": (B, F)},
    ),
    "Sparsemax": ({}, (B, F)),
    "TabNetDecoder": ({"units": 4, "virtual_batch_size": 3, "seed": 1}, (B, 2, F)),
    "TabNetEncoder": ({"n_d": 2, "n_a": 3, "n_steps": 2, "virtual_batch_size": 3, "seed": 1}, (B, F)),
    "WeightNormDense": ({"units": 4, "activation": "relu"}, (B, F)),
}
UNTRAINED = ("NearestIndex", "ReconstructionError")
"""Not trained by Keras's test: gives whole numbers, of which there is no loss; takes several inputs by name."""
DTYPES = {"CategoryEmbedding": "int32"}
"""Of the input, where it is no float32; Keras's test then gives numbers below 3."""
DRAWS = ("RandomGroupMask",)
"""Draws in inference too: only the shape is the same each time."""
PUBLIC = [name for name in layers.__all__ if inspect.isclass(getattr(layers, name))]


def make(name):
    settings, shape = CASES[name]
    return getattr(layers, name)(**settings), shape


def keras_own_test(name):
    """Serialisation, symbolic and eager calls, training and half precision, as Keras tests its own layers."""
    settings, shape = CASES[name]
    TestCase().run_layer_test(
        getattr(layers, name),
        settings,
        input_shape=shape,
        input_dtype=DTYPES.get(name),
        run_training_check=name not in UNTRAINED,
    )


def own_model(name):
    """Within a functional model: saved, loaded in safe mode, cloned."""
    layer, shape = make(name)
    rng = np.random.default_rng(0)
    if isinstance(shape, dict):
        shape = {key.removesuffix("_shape"): size for key, size in shape.items()}
        inputs = {key: keras.Input(size[1:], name=key) for key, size in shape.items()}
        values = {key: rng.uniform(size=size).astype("float32") for key, size in shape.items()}
        outputs = layer(**inputs)
    else:
        inputs, values = keras.Input(shape[1:]), rng.uniform(size=shape).astype("float32")
        outputs = layer(inputs)
    model = keras.Model(inputs, outputs)
    if layer.trainable_weights:  # Then weights and statistics are not those of the start.
        model.compile("sgd", "mse", run_eagerly=True)
        model.fit(values, keras.tree.map_structure(keras.ops.zeros_like, model(values)), epochs=1, verbose=0)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "model.keras")
        model.save(path)
        again = keras.saving.load_model(path, safe_mode=True)
    clone = keras.models.clone_model(model)
    clone.set_weights(model.get_weights())
    expected = keras.tree.map_structure(np.asarray, model(values))
    for other in (again, clone):
        found = keras.tree.map_structure(np.asarray, other(values))
        if name in DRAWS:
            assert found.shape == expected.shape
        else:
            keras.tree.map_structure(
                lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), found, expected
            )


def docstring_examples(name):
    """What stands in the docstring is what comes out; every layer has an example."""
    kind = getattr(layers, name)
    module = importlib.import_module(kind.__module__)
    finder, runner = doctest.DocTestFinder(recurse=False), doctest.DocTestRunner()
    (test,) = finder.find(kind, name, globs={**vars(module), "keras": keras, "np": np})
    assert test.examples, f"{name}: no example"
    assert not runner.run(test).failed, name


ASKED = {"keras_own_test": keras_own_test, "own_model": own_model, "docstring_examples": docstring_examples}


def test_the_table_has_every_layer():
    assert sorted(CASES) == sorted(PUBLIC)
    defined = {
        name
        for module in {getattr(layers, name).__module__ for name in layers.__all__}
        for name, kind in vars(importlib.import_module(module)).items()
        if inspect.isclass(kind) and issubclass(kind, keras.layers.Layer)
        if kind.__module__ == module and not name.startswith("_")
    }
    assert defined == set(PUBLIC)


@pytest.mark.parametrize("what", ASKED)
@pytest.mark.parametrize("name", CASES)
def test_on_tensorflow(name, what):
    ASKED[what](name)


def all_on_jax():
    assert keras.backend.backend() == "jax"
    for name in CASES:
        for what, ask in ASKED.items():
            try:
                ask(name)
            except Exception as error:
                raise AssertionError(f"{name}: {what}") from error


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("jax") is None, reason="JAX is not installed")
def test_on_jax():
    code = "import runpy, sys; runpy.run_path(sys.argv[1])['all_on_jax']()"
    environment = {**os.environ, "KERAS_BACKEND": "jax", "TF_CPP_MIN_LOG_LEVEL": "3"}
    subprocess.run([sys.executable, "-c", code, __file__], env=environment, check=True)
