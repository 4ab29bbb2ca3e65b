"""LightGBM, one model a target."""

from __future__ import annotations

from collections.abc import Callable

import lightgbm
import numpy as np

from moa_tf.baselines.base import Baseline, Fitted, Problem
from moa_tf.baselines.boosting import BoostingConfig, options
from moa_tf.baselines.each_target import for_each_target


def fit(problem: Problem, config: BoostingConfig) -> Fitted:
    """Gradient-boosted trees of the log loss for each target by itself.

    Source: Ke et al., LightGBM (2017).
    """
    settings = {
        "objective": "binary",
        "learning_rate": config.learning_rate,
        "max_depth": config.depth,
        "num_leaves": 2**config.depth,
        "min_sum_hessian_in_leaf": config.leaf_weight,
        "min_data_in_leaf": 1,
        "lambda_l2": config.l2,
        "bagging_fraction": config.row_share,
        "bagging_freq": 1,
        "feature_fraction": config.feature_share,
        "max_bin": config.bins,
        "seed": problem.seed,
        "num_threads": 1,
        # Which of the two is quicker it would measure, and so add in another order from time to time.
        "force_col_wise": True,
        "deterministic": True,
        "verbosity": -1,
    }

    def grow(labels: np.ndarray) -> lightgbm.Booster:
        rows = lightgbm.Dataset(problem.features, labels, params=settings)
        return lightgbm.train(settings, rows, max(config.rounds))

    boosters = for_each_target(grow, problem.targets)

    def fitted(features: np.ndarray) -> Callable[..., np.ndarray]:
        def predict(rounds: int) -> np.ndarray:
            return np.column_stack(
                [booster.predict(features, num_iteration=rounds, num_threads=1) for booster in boosters]
            )

        return predict

    return fitted


BASELINE = Baseline("lightgbm", BoostingConfig(), options, fit, library="lightgbm")
