import json
import os
import subprocess
import sys

import keras
import numpy as np
import pytest

from moa_tf.layers import FastBatchNormalization, WeightNormDense
from moa_tf.preprocessing import QuantileToNormal
from moa_tf.registration import MODULES
from moa_tf.training.losses import SmoothedBinaryCrossentropy
from moa_tf.training.optimizers import FusedAdam, OneCycle


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    path = tmp_path_factory.mktemp("registration") / "model.keras"
    inputs = keras.Input((3,))
    scale = QuantileToNormal()
    scale.adapt([[0, 1, 2], [3, 4, 5]])
    model = keras.Model(inputs, WeightNormDense(2)(FastBatchNormalization()(scale(inputs))))
    model.compile(FusedAdam(OneCycle(0.1, 5)), SmoothedBinaryCrossentropy())
    model.train_on_batch(np.ones((2, 3)), np.ones((2, 2)))
    model.save(path)
    return path


@pytest.mark.parametrize(
    ("first", "backend"),
    [
        ("import moa_tf, keras", "numpy"),
        ("import keras, moa_tf", "numpy"),
        # From within the modules that are to be registered, and after a mere look whether Keras is there.
        ("import moa_tf.preprocessing.quantile, keras", "numpy"),
        ("import moa_tf.training.optimizers, keras", "jax"),
        ("import moa_tf, importlib.util as u; assert u.find_spec('keras'); import keras", "numpy"),
        ("import moa_tf, tensorflow; tensorflow.keras.layers; import keras", "tensorflow"),
    ],
)
def test_a_file_loads_whatever_was_imported_first(saved, first, backend):
    code = f"{first}\nmodel = keras.saving.load_model({str(saved)!r}, compile={backend != 'numpy'})\n"
    code += "assert len(model.layers) == 4; keras.saving.get_registered_object('moa_tf>FusedAdam')(0.1)"
    environment = os.environ | {"KERAS_BACKEND": backend, "TF_CPP_MIN_LOG_LEVEL": "3"}
    subprocess.run([sys.executable, "-W", "error::UserWarning", "-c", code], env=environment, check=True)


def test_importing_moa_tf_imports_little():
    code = "import moa_tf, sys, json; print(json.dumps(list(sys.modules)))"
    modules = json.loads(subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout)
    assert not {"keras", "tensorflow", "numpy", *MODULES} & set(modules)
