"""CatBoost, one model for all targets."""

from __future__ import annotations

from collections.abc import Callable

import catboost
import numpy as np

from moa_tf.baselines.base import Baseline, Fitted, Problem
from moa_tf.baselines.boosting import BoostingConfig, options, sigmoid


def fit(problem: Problem, config: BoostingConfig) -> Fitted:
    """Gradient-boosted symmetric trees of the mean of all targets' log losses (`MultiLogloss`).

    They start from probabilities of one half, as CatBoost has no other start for several targets, and need some ten
    rounds to come down to rare labels.

    Source: Prokhorenkova et al., CatBoost (2018).
    """
    model = catboost.CatBoost(
        {
            "loss_function": "MultiLogloss",
            "iterations": max(config.rounds),
            "learning_rate": config.learning_rate,
            "depth": config.depth,
            "l2_leaf_reg": config.l2,
            "bootstrap_type": "Bernoulli",
            "subsample": config.row_share,
            "rsm": config.feature_share,
            "border_count": config.bins,
            "random_seed": problem.seed,
            "allow_writing_files": False,
            "logging_level": "Silent",
        }
    )
    model.fit(problem.features, problem.targets)

    def fitted(features: np.ndarray) -> Callable[..., np.ndarray]:
        def predict(rounds: int) -> np.ndarray:
            logits = model.predict(features, prediction_type="RawFormulaVal", ntree_end=rounds)
            return sigmoid(logits.reshape(len(features), -1))

        return predict

    return fitted


BASELINE = Baseline(
    "catboost",
    BoostingConfig(rounds=(20, 30, 40, 60, 80), l2=3.0, bins=16),
    options,
    fit,
    library="catboost",
)
