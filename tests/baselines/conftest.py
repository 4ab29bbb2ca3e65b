import dataclasses

import numpy as np
import pytest

from moa_tf.baselines.base import BASELINES, get_baseline
from moa_tf.data.schema import Dataset, Signatures, SignatureSpec
from moa_tf.training.baseline_learner import BaselineLearner
from moa_tf.training.reporter import Reporter

# Settings by which every baseline is quick on a small table.
QUICK = {
    "ridge": {"strengths": (10.0, 100.0)},
    "logistic-regression": {"strengths": (0.01, 0.1)},
    "knn": {"neighbours": (10, 5), "smoothing": (3.0, 1.0)},
    "random-forest": {"trees": 20, "mixing": (0.5, 0.2)},
    **{name: {"rounds": (5, 10), "feature_share": 0.8} for name in ("lightgbm", "xgboost")},
    "xgboost-multi": {"rounds": (5, 10), "feature_share": 0.8},
    "catboost": {"rounds": (30, 40), "feature_share": 0.8},
}


@pytest.fixture(scope="session")
def quick():
    """Name -> learner with quick settings."""

    def make(name):
        baseline = get_baseline(name)
        changes = {} if name == "prior" else {"inner_folds": 2, **QUICK[name]}
        return BaselineLearner(baseline, dataclasses.replace(baseline.config, **changes))

    return make


@pytest.fixture(scope="session", params=list(BASELINES))
def name(request):
    return request.param


@pytest.fixture(scope="session")
def dataset():
    """60 drugs of 3 signatures and 20 controls; a mechanism moves its own genes. The last one has a single drug row."""
    rng = np.random.default_rng(0)
    rows, genes = 200, 20
    control = np.arange(rows) >= 180
    drug = np.where(control, 60, np.arange(rows) // 3)
    labels = np.zeros((61, 5), np.float32)
    labels[np.arange(60), np.arange(60) % 4] = 1
    targets = np.where(control[:, None], 0, labels[drug]).astype(np.float32)
    targets[7, 4] = 1
    values = rng.normal(size=(rows, genes)) + 2 * targets[:, :4] @ rng.normal(size=(4, genes))
    signatures = Signatures(
        SignatureSpec(tuple(f"g-{i}" for i in range(genes)), (), ("cp_type", "cp_time")),
        np.array([f"s{i}" for i in range(rows)], object),
        values.astype(np.float32),
        cp_type=control.astype(np.int32),
        cp_time=rng.choice([24, 48], rows).astype(np.float32),
    )
    names = ("a", "b", "c", "d", "rare")
    ids = np.array([f"drug{i}" for i in drug], object)
    return Dataset(signatures, targets, names, ids, fingerprint="f", simulated=True)


class Messages(Reporter):
    """Keeps what it is told."""

    def __init__(self):
        self.members, self.batches = [], 0

    def member(self, label, epochs, steps):
        self.members.append((label, epochs, steps))

    def batch(self):
        self.batches += 1


@pytest.fixture
def messages():
    return Messages()
