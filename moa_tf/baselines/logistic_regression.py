"""scikit-learn's logistic regression, one a target."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from sklearn import linear_model

from moa_tf.baselines.base import Baseline, BaselineConfig, Fitted, Option, Problem
from moa_tf.baselines.each_target import for_each_target
from moa_tf.config import require


@dataclass(frozen=True)
class LogisticRegressionConfig(BaselineConfig):
    """Logistic regressions that share their strength of regularisation.

    Attributes:
        strengths: inverse strengths C to choose from: the coefficients' squares count ½, the log losses of the
            signatures C.
        iterations: L-BFGS's, at most.
    """

    inner_folds: int = 3
    strengths: tuple[float, ...] = (1e-3, 0.01, 0.03, 0.1, 0.3, 1.0)
    iterations: int = 200

    def __post_init__(self) -> None:
        super().__post_init__()
        require(
            len(self.strengths) > 0 and min(self.strengths) > 0,
            "strengths",
            self.strengths,
            "one or more, all above 0",
        )
        require(self.iterations >= 1, "iterations", self.iterations, "at least 1")


def options(config: LogisticRegressionConfig) -> Sequence[Option]:
    """Every strength, the strongest regularisation first."""
    return [{"strength": strength} for strength in sorted(config.strengths)]


def fit(problem: Problem, config: LogisticRegressionConfig) -> Fitted:
    """Min over w, b of ½ ‖w‖² + C Σ_i log(1 + exp(a_i)) − y_i a_i, a = X w + b, for each target by itself.

    `--model linear` is the same, solved for all targets at once.
    """
    features = problem.features.astype(np.float64)

    @cache
    def regressions(strength: float) -> list[linear_model.LogisticRegression]:
        def regression(labels: np.ndarray) -> linear_model.LogisticRegression:
            model = linear_model.LogisticRegression(C=strength, max_iter=config.iterations)
            return model.fit(features, labels)

        return for_each_target(regression, problem.targets)

    def fitted(features: np.ndarray) -> Callable[..., np.ndarray]:
        def predict(strength: float) -> np.ndarray:
            models = regressions(strength)
            return np.column_stack([model.predict_proba(features)[:, 1] for model in models])

        return predict

    return fitted


BASELINE = Baseline(
    "logistic-regression",
    LogisticRegressionConfig(),
    options,
    fit,
    library="scikit-learn",
    parameters=lambda features, targets: (features + 1) * targets,
)
