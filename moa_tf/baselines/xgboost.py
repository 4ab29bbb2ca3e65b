"""XGBoost, one model a target, or one whose trees have a value for every target in each leaf."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import xgboost

from moa_tf.baselines.base import Baseline, Fitted, Problem
from moa_tf.baselines.boosting import SMALL_TABLE, BoostingConfig, logit, options, sigmoid
from moa_tf.baselines.each_target import for_each_target


def fit(problem: Problem, config: BoostingConfig) -> Fitted:
    """Gradient-boosted trees of the log loss for each target by itself.

    Source: Chen & Guestrin, XGBoost (2016).
    """
    settings = {**_settings(problem, config), "nthread": 1}

    def grow(labels: np.ndarray) -> xgboost.Booster:
        rows = xgboost.QuantileDMatrix(problem.features, labels, nthread=1, max_bin=config.bins)
        return xgboost.train({**settings, "base_score": labels.mean()}, rows, max(config.rounds))

    boosters = for_each_target(grow, problem.targets)

    def fitted(features: np.ndarray) -> Callable[..., np.ndarray]:
        rows = xgboost.DMatrix(features)

        def predict(rounds: int) -> np.ndarray:
            return np.column_stack(
                [booster.predict(rows, iteration_range=(0, rounds)) for booster in boosters]
            )

        return predict

    return fitted


def fit_multi(problem: Problem, config: BoostingConfig) -> Fitted:
    """Gradient-boosted trees of the sum of all targets' log losses, each split for all of them."""
    # Threads that wait for one another take several times as long as a small table does.
    threads = 1 if len(problem.features) < SMALL_TABLE else 0
    settings = {**_settings(problem, config), "multi_strategy": "multi_output_tree", "nthread": threads}
    # Versions differ in where several targets start.
    start = logit(problem.prior)
    rows = xgboost.QuantileDMatrix(
        problem.features,
        problem.targets,
        base_margin=np.tile(start, (len(problem.features), 1)),
        max_bin=config.bins,
        nthread=threads or None,
    )
    booster = xgboost.train({**settings, "base_score": 0.5}, rows, max(config.rounds))

    def fitted(features: np.ndarray) -> Callable[..., np.ndarray]:
        start_of_rows = np.tile(start, (len(features), 1))
        rows = xgboost.DMatrix(features, base_margin=start_of_rows)

        def predict(rounds: int) -> np.ndarray:
            margin = booster.predict(rows, output_margin=True, iteration_range=(0, rounds))
            return sigmoid(margin.reshape(start_of_rows.shape))

        return predict

    return fitted


def _settings(problem: Problem, config: BoostingConfig) -> dict[str, Any]:
    return {
        "objective": "binary:logistic",
        "tree_method": "hist",
        "eta": config.learning_rate,
        "max_depth": config.depth,
        "min_child_weight": config.leaf_weight,
        "lambda": config.l2,
        "subsample": config.row_share,
        "colsample_bytree": config.feature_share,
        "max_bin": config.bins,
        "seed": problem.seed,
        "verbosity": 0,
    }


BASELINE = Baseline("xgboost", BoostingConfig(), options, fit, library="xgboost")
MULTI = Baseline(
    "xgboost-multi",
    BoostingConfig(rounds=(3, 5, 10, 20, 40), learning_rate=0.3, bins=16),
    options,
    fit_multi,
    library="xgboost",
)
