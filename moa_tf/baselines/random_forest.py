"""One random forest for all targets."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from sklearn.ensemble import RandomForestRegressor

from moa_tf.baselines.base import Baseline, BaselineConfig, Fitted, Option, Problem, mixed
from moa_tf.config import require


@dataclass(frozen=True)
class RandomForestConfig(BaselineConfig):
    """A random forest.

    Attributes:
        trees: how many.
        leaf_rows: least training rows in a leaf.
        leaves: most leaves of a tree: each holds a number for every target.
        feature_share: of the features, drawn anew at each split; 0 is their square root's share.
        mixing: shares of the column means in the prediction to choose from.
    """

    inner_folds: int = 3
    trees: int = 100
    leaf_rows: int = 2
    leaves: int = 512
    feature_share: float = 0.0
    mixing: tuple[float, ...] = (0.9, 0.7, 0.5, 0.3, 0.1, 0.03)

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.trees >= 1, "trees", self.trees, "at least 1")
        require(self.leaf_rows >= 1, "leaf_rows", self.leaf_rows, "at least 1")
        require(self.leaves >= 2, "leaves", self.leaves, "at least 2")
        require(0 <= self.feature_share <= 1, "feature_share", self.feature_share, "in [0, 1]")
        require(
            len(self.mixing) > 0 and min(self.mixing) >= 0 and max(self.mixing) <= 1,
            "mixing",
            self.mixing,
            "one or more, in [0, 1]",
        )


def options(config: RandomForestConfig) -> Sequence[Option]:
    """Every share of the column means."""
    return [{"mixing": mixing} for mixing in config.mixing]


def fit(problem: Problem, config: RandomForestConfig) -> Fitted:
    """The mean over trees of the label means of the leaves, mixed with the column means.

    The trees are a regression's: for labels 0 and 1 the variance is half of Gini's impurity, so that splits are those
    of a classification, with half of the memory.

    Source: Breiman, Random Forests (2001).
    """
    forest = RandomForestRegressor(
        config.trees,
        min_samples_leaf=config.leaf_rows,
        max_leaf_nodes=config.leaves,
        max_features=config.feature_share or "sqrt",
        n_jobs=-1,
        random_state=problem.seed,
    )
    # Of one target it wants a vector.
    forest.fit(problem.features, problem.targets if problem.targets.shape[1] > 1 else problem.targets[:, 0])
    forest.n_jobs = 1  # Threads would add the trees up in whatever order they end.

    def fitted(features: np.ndarray) -> Callable[..., np.ndarray]:
        shares = forest.predict(features).reshape(len(features), -1)
        return lambda mixing: mixed(shares, problem.prior, mixing)

    return fitted


BASELINE = Baseline("random-forest", RandomForestConfig(), options, fit, library="scikit-learn")
