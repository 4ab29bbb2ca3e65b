"""The nearest training signatures, by cosine."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.sparse import csr_array
from sklearn.neighbors import NearestNeighbors

from moa_tf.baselines.base import Baseline, BaselineConfig, Fitted, Option, Problem
from moa_tf.config import require


@dataclass(frozen=True)
class NeighbourConfig(BaselineConfig):
    """k nearest neighbours.

    Attributes:
        neighbours: numbers k to choose from.
        smoothing: to choose from: as if so many more neighbours had the column means for labels.
    """

    neighbours: tuple[int, ...] = (50, 20, 10, 5, 2)
    smoothing: tuple[float, ...] = (30.0, 10.0, 3.0, 1.0)

    def __post_init__(self) -> None:
        super().__post_init__()
        require(
            len(self.neighbours) > 0 and min(self.neighbours) >= 1,
            "neighbours",
            self.neighbours,
            "one or more, all at least 1",
        )
        require(
            len(self.smoothing) > 0 and min(self.smoothing) >= 0,
            "smoothing",
            self.smoothing,
            "one or more, all at least 0",
        )


def options(config: NeighbourConfig) -> Sequence[Option]:
    """Every k with every smoothing."""
    pairs = itertools.product(config.neighbours, config.smoothing)
    return [{"k": k, "smoothing": smoothing} for k, smoothing in pairs]


def fit(problem: Problem, config: NeighbourConfig) -> Fitted:
    """P = (Σ_{k nearest} y + s p₀) / (k + s), with the column means p₀ and smoothing s.

    The cosine of signatures that are standardised by row is their correlation, but for the treatment's columns. All
    rows of a drug are neighbours, each by itself. k is at most the number of training rows.
    """
    rows = len(problem.features)
    most = min(max(config.neighbours), rows)
    search = NearestNeighbors(n_neighbors=most, metric="cosine", algorithm="brute").fit(problem.features)

    def fitted(features: np.ndarray) -> Callable[..., np.ndarray]:
        nearest = search.kneighbors(features, return_distance=False)

        def predict(k: int, smoothing: float) -> np.ndarray:
            k = min(k, rows)
            places, starts = nearest[:, :k].ravel(), np.arange(len(nearest) + 1) * k
            chosen = csr_array((np.ones(len(places)), places, starts), shape=(len(nearest), rows))
            return (chosen @ problem.targets + smoothing * problem.prior) / (k + smoothing)

        return predict

    return fitted


BASELINE = Baseline("knn", NeighbourConfig(), options, fit, library="scikit-learn")
