import pytest

from moa_tf.data.simulate import simulate
from moa_tf.models.base import override
from moa_tf.models.mlp import PRESETS
from moa_tf.training.cross_validation import Settings
from moa_tf.training.strategy import make_placement


@pytest.fixture(scope="session")
def dataset():
    return simulate(300, seed=2, genes=30, cells=8)


@pytest.fixture(scope="session")
def settings():
    config = override(PRESETS["small"], ["hidden=16", "epochs=3", "batch_size=32"])
    return Settings("mlp", "small", config, folds=3, seeds=2, seed=7)


@pytest.fixture(scope="session")
def placement():
    return make_placement("none")
