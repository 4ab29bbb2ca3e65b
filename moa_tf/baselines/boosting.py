"""What gradient-boosted trees have in common, whoever grows them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from moa_tf.baselines.base import BaselineConfig, Option
from moa_tf.config import require

SMALL_TABLE = 3000
"""Training rows below which a model of all targets has one thread, if it has no better way to use several."""


@dataclass(frozen=True)
class BoostingConfig(BaselineConfig):
    """Boosted trees, by the same settings in every library.

    Labels are rare and rows few: small trees that each move little, of a part of rows and features, and as many of
    them as inner folds say. They start from the column means.

    Attributes:
        rounds: numbers of rounds to choose from, the same for all targets. As many as the largest are grown.
        learning_rate: what a tree counts.
        depth: splits from root to leaf, at most.
        leaf_weight: least sum of p (1 − p) in a leaf, where the library has it: of rare labels many rows are little.
        l2: penalty of the leaves' values, in the same unit.
        row_share: of the training rows, drawn for each tree.
        feature_share: of the features, drawn for each tree.
        bins: most values of a feature that splits tell apart.
    """

    inner_folds: int = 3
    rounds: tuple[int, ...] = (5, 10, 20, 40, 80)
    learning_rate: float = 0.1
    depth: int = 3
    leaf_weight: float = 0.05
    l2: float = 1.0
    row_share: float = 0.8
    feature_share: float = 0.2
    bins: int = 32

    def __post_init__(self) -> None:
        super().__post_init__()
        require(
            len(self.rounds) > 0 and min(self.rounds) >= 1,
            "rounds",
            self.rounds,
            "one or more, all at least 1",
        )
        require(self.learning_rate > 0, "learning_rate", self.learning_rate, "above 0")
        require(1 <= self.depth <= 16, "depth", self.depth, "1 to 16")
        for name in ("leaf_weight", "l2"):
            require(getattr(self, name) >= 0, name, getattr(self, name), "at least 0")
        for name in ("row_share", "feature_share"):
            require(0 < getattr(self, name) <= 1, name, getattr(self, name), "in (0, 1]")
        require(2 <= self.bins <= 255, "bins", self.bins, "2 to 255")


def options(config: BoostingConfig) -> Sequence[Option]:
    """Every number of rounds, the fewest first."""
    return [{"rounds": rounds} for rounds in sorted(config.rounds)]


def logit(probabilities: np.ndarray) -> np.ndarray:
    """log(p / (1 − p))."""
    return np.log(probabilities / (1 - probabilities))


def sigmoid(logits: np.ndarray) -> np.ndarray:
    """1 / (1 + exp(−a)), without an overflow."""
    return 0.5 * (1 + np.tanh(0.5 * np.asarray(logits, np.float64)))
