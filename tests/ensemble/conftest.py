import numpy as np
import pytest

from moa_tf.data.simulate import simulate
from moa_tf.training.cross_validation import Validation, cross_validate
from moa_tf.training.learner import Learner
from moa_tf.training.run import Run

FOLDS = 3


class Ridge(Learner):
    """A ridge regression a target on some genes, that keeps nothing but its predictions."""

    def __init__(self, name, genes):
        self.name, self.genes = name, genes

    def settings(self):
        return {"genes": [self.genes.start, self.genes.stop]}

    def fit(self, dataset, prepared, fold, seed, directory, label, reporter):
        x = dataset.signatures.genes[:, self.genes]
        x = (x - x[fold.train].mean(0)) / x[fold.train].std(0)
        y = dataset.targets[fold.train] - fold.prior
        some = x[fold.train]
        weights = np.linalg.solve(some.T @ some + 30 * np.eye(some.shape[1]), some.T @ y)
        predicted = np.clip(x[fold.held_out] @ weights + fold.prior, 1e-3, 1 - 1e-3)
        return predicted.astype(np.float32), {}


@pytest.fixture(scope="session")
def dataset():
    return simulate(400, seed=2, genes=40, cells=4)


@pytest.fixture(scope="session")
def train(dataset):
    """Cross-validates a Ridge into a directory."""

    def run(directory, genes=slice(0, 20), data=dataset, only_fold=None, **changes):
        validation = Validation(**{"folds": FOLDS, **changes})
        name = f"ridge-{genes.start}"
        cross_validate(data, Ridge(name, genes), validation, Run(directory), only_fold=only_fold)
        return directory

    return run


@pytest.fixture(scope="session")
def runs(train, tmp_path_factory):
    """Two finished runs, each of half of the genes."""
    home = tmp_path_factory.mktemp("runs")
    return [train(home / name, genes) for name, genes in (("a", slice(0, 20)), ("b", slice(20, 40)))]
