"""The user's environment and Keras: each case needs a process of its own, and starting Keras takes seconds."""

import json
import os
import subprocess
import sys

import pytest

from moa_tf.errors import InputError
from moa_tf.startup import import_tensorflow

CODE = """
import json
from moa_tf.startup import import_tensorflow
from moa_tf.errors import InputError
try:
    import_tensorflow()
except InputError as error:
    raise SystemExit(f"error: {error}")
import keras, numpy as np
layer = keras.layers.Dense(3)
layer.build((None, 2))
model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
model.compile("sgd", "mse")
history = model.fit(np.zeros((4, 2)), np.zeros((4, 1)), epochs=3, batch_size=1, verbose=0)
config = keras.config
print(json.dumps([layer.kernel.dtype, config.floatx(), config.dtype_policy().name, config.epsilon(),
                  config.image_data_format(), config.backend(), len(history.epoch), int(model.optimizer.iterations)]))
"""
AS_NEEDED = ["float32", "float32", "float32", 1e-7, "channels_last", "tensorflow", 3, 12]
OTHERWISE = {
    "floatx": "float16", "epsilon": 0.1, "image_data_format": "channels_first", "backend": "torch",
    "nnx_enabled": True, "max_epochs": 1,
}  # fmt: skip


def start(home, **environment):
    # Without what other tests' TensorFlow has left in this process.
    others = {name: value for name, value in os.environ.items() if not name.startswith(("KERAS_", "TF_"))}
    environment = {**others, "KERAS_HOME": str(home), **environment}
    return subprocess.run(
        [sys.executable, "-c", CODE], env=environment, capture_output=True, text=True, check=False
    )


def test_a_backend_that_is_not_installed_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "jax", None)
    with pytest.raises(
        InputError, match=r"--backend jax: is not installed, expected pip install 'moa-tf\[jax\]'"
    ):
        import_tensorflow("jax")


def test_what_the_environment_asks_for_is_ignored_and_said(tmp_path):
    (tmp_path / "keras.json").write_text(json.dumps(OTHERWISE))
    done = start(
        tmp_path, KERAS_BACKEND="nonsense", KERAS_MAX_EPOCHS="1", KERAS_MAX_STEPS_PER_EPOCH="x",
        KERAS_NNX_ENABLED="1", TF_USE_LEGACY_KERAS="1", TF_CPP_MIN_LOG_LEVEL="none",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == AS_NEEDED
    assert done.stderr == (
        "note: ignored settings of Keras: KERAS_MAX_EPOCHS=1, KERAS_MAX_STEPS_PER_EPOCH=x, TF_USE_LEGACY_KERAS=1, "
        "KERAS_BACKEND=nonsense, KERAS_NNX_ENABLED=1, floatx float16 in keras.json, epsilon 0.1 in keras.json, "
        "image_data_format channels_first in keras.json\n"
    )


@pytest.mark.parametrize("text", ['{"floatx": "bfloat16"}', "[1]", '{"epsilon": null}'])
def test_a_file_that_keras_cannot_start_with_is_named(tmp_path, text):
    (tmp_path / "keras.json").write_text(text)
    done = start(tmp_path)
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"error: {tmp_path / 'keras.json'}: Keras cannot start with it (")


def test_with_nothing_asked_for_nothing_is_said(tmp_path):
    (tmp_path / "keras.json").write_text("{")  # Keras passes over it
    done = start(tmp_path, KERAS_BACKEND="")
    assert json.loads(done.stdout) == AS_NEEDED
    assert done.stderr == ""
