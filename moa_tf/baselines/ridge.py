"""Ridge regression of the labels, all targets at once."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from sklearn import linear_model

from moa_tf.baselines.base import Baseline, BaselineConfig, Fitted, Option, Problem
from moa_tf.config import require


@dataclass(frozen=True)
class RidgeConfig(BaselineConfig):
    """Ridge regression.

    Attributes:
        strengths: factors of the coefficients' squares to choose from.
        floors: smallest predictions to choose from, as shares of the column mean. A line goes below 0 for many rows,
            and the log loss of a rare label at 0 is large.
    """

    strengths: tuple[float, ...] = (30.0, 100.0, 300.0, 1e3, 3e3, 1e4)
    floors: tuple[float, ...] = (0.5, 0.2, 0.1, 0.05)

    def __post_init__(self) -> None:
        super().__post_init__()
        require(
            len(self.strengths) > 0 and min(self.strengths) > 0,
            "strengths",
            self.strengths,
            "one or more, all above 0",
        )
        require(
            len(self.floors) > 0 and min(self.floors) >= 0 and max(self.floors) <= 1,
            "floors",
            self.floors,
            "one or more, in [0, 1]",
        )


def options(config: RidgeConfig) -> Sequence[Option]:
    """Every strength with every floor, the strongest first."""
    strengths = sorted(config.strengths, reverse=True)
    return [{"strength": a, "floor": b} for a, b in itertools.product(strengths, config.floors)]


def fit(problem: Problem, config: RidgeConfig) -> Fitted:
    """Min over W, b of Σ_i ‖x_i W + b − y_i‖² + `strength` ‖W‖², by scikit-learn; predictions are cut off.

    Source: Hoerl & Kennard, Ridge Regression (1970).
    """

    @cache
    def regression(strength: float) -> linear_model.Ridge:
        return linear_model.Ridge(alpha=strength).fit(problem.features.astype(np.float64), problem.targets)

    def fitted(features: np.ndarray) -> Callable[..., np.ndarray]:
        def predict(strength: float, floor: float) -> np.ndarray:
            predicted = regression(strength).predict(features).reshape(len(features), -1)
            return np.clip(predicted, floor * problem.prior, 1)

        return predict

    return fitted


BASELINE = Baseline(
    "ridge",
    RidgeConfig(),
    options,
    fit,
    library="scikit-learn",
    parameters=lambda features, targets: (features + 1) * targets,
)
