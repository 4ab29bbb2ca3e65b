import numpy as np
import pytest

from moa_tf.config import override
from moa_tf.data.simulate import simulate
from moa_tf.models.base import get_family
from moa_tf.training.cross_validation import Validation
from moa_tf.training.learner import Learner
from moa_tf.training.network_learner import NetworkLearner
from moa_tf.training.reporter import Reporter
from moa_tf.training.run import save
from moa_tf.training.strategy import make_placement


class Messages(Reporter):
    """Keeps what it is told."""

    def __init__(self):
        self.lines, self.trained = [], []

    def message(self, line):
        self.lines.append(line)

    def member(self, label, epochs, steps):
        self.trained.append(label)


class Ridge(Learner):
    """One ridge regression a target on standardised genes, in NumPy: a learner that is no Keras model, and quick."""

    name, shared, files = "ridge", ("scaling.npz",), ("weights.npy",)

    def __init__(self, strength=30.0, course=None):
        self.strength, self.course = strength, course
        self.fitted = []

    def settings(self):
        return {"strength": self.strength}

    def prepare(self, dataset, fold, seed, directory, saved, reporter):
        path = directory / "scaling.npz"
        genes = dataset.signatures.genes
        if not saved:
            values = genes[fold.train]
            scaling = {"mean": values.mean(0), "deviation": values.std(0)}
            save(path, lambda name: np.savez(name, **scaling))
        with np.load(path) as file:
            mean, deviation = file["mean"], file["deviation"]
        return (genes - mean) / deviation, mean.tobytes().hex()

    def fit(self, dataset, prepared, fold, seed, directory, label, reporter):
        x, y = prepared[fold.train], dataset.targets[fold.train] - fold.prior
        # A different half of the rows for each seed.
        some = np.random.default_rng(seed).permutation(len(x))[: len(x) // 2]
        x, y = x[some], y[some]
        weights = np.linalg.solve(x.T @ x + self.strength * np.eye(x.shape[1]), x.T @ y)
        save(directory / "weights.npy", lambda name: np.save(name, weights))
        self.fitted.append(label)
        predicted = np.clip(prepared[fold.held_out] @ weights + fold.prior, 1e-4, 1 - 1e-4)
        return predicted.astype(np.float32), {"rows": len(some), "course": self.course}

    def refit(self, histories):
        again = Ridge(self.strength, course=len(histories))
        again.fitted = self.fitted
        return again


@pytest.fixture
def ridge():
    return Ridge()


@pytest.fixture
def messages():
    return Messages()


@pytest.fixture(scope="session")
def dataset():
    return simulate(300, seed=2, genes=30, cells=8)


@pytest.fixture(scope="session")
def hyperparameters():
    return override(
        get_family("mlp").presets["small"],
        ["hidden=16", "epochs=3", "batch_size=32", "decays=", "early_stopping=0"],
    )


@pytest.fixture(scope="session")
def validation():
    return Validation(folds=3, seeds=2, seed=7)


@pytest.fixture(scope="session")
def placement():
    return make_placement("none")


@pytest.fixture(scope="session")
def learner(hyperparameters, placement):
    return NetworkLearner(get_family("mlp"), hyperparameters, placement, "small")
