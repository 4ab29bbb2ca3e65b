"""How several models' probabilities become one: the same function for scores, export and explanation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from keras import ops

from moa_tf.config import Config
from moa_tf.ensemble.calibration import (
    Calibration,
    Method,
    fit_calibration,
    logit_tensor,
    read_calibration,
)
from moa_tf.ensemble.weights import Space, fit_target_weights, fit_weights, shrink
from moa_tf.evaluation.metrics import mean_log_loss

STRENGTHS = (None, 300.0, 100.0, 30.0, 10.0)
"""In positives, with which the common weights stand against a target's own; None for the common ones alone."""


@dataclass(frozen=True)
class BlendOptions(Config):
    """How a blend is made.

    Attributes:
        space: `logit` takes the weighted mean of logits, `probability` that of probabilities.
        per_target: weights for each target, shrunk towards the common ones as far as inner folds say.
        calibrate: what is fitted to the blend's probabilities afterwards, see `fit_calibration`.
    """

    space: Space = "logit"
    per_target: bool = False
    calibrate: Method = "none"


@dataclass(frozen=True)
class Combination:
    """q = c(Σ_m w_m p_m), or c(sigmoid(Σ_m w_m logit p_m)), with the calibration c.

    Attributes:
        weights: [M], or [M, T] for each target; each column is not negative and sums to 1.
        space: in which the mean is taken.
        calibration: c, or None.
        strength: where each target has its own weights, how strongly they are held to common ones, in positives.
    """

    weights: np.ndarray
    space: Space = "probability"
    calibration: Calibration | None = None
    strength: float | None = None

    def __call__(self, probabilities: Sequence[Any]) -> Any:
        """The blend's probabilities.

        Args:
            probabilities: M tensors or arrays [N, T].

        Returns:
            [N, T] float64 tensor.
        """
        total = 0.0
        for weights, each in zip(self.weights, probabilities, strict=True):
            values = ops.cast(each, "float64")
            total += (logit_tensor(values) if self.space == "logit" else values) * weights
        mean = ops.sigmoid(total) if self.space == "logit" else total
        return mean if self.calibration is None else self.calibration(mean)

    def apply(self, predictions: np.ndarray) -> np.ndarray:
        """The same of [M, N, T] in memory, as [N, T] float64 in [0, 1]."""
        return np.clip(ops.convert_to_numpy(self(list(predictions))), 0, 1)

    def of(self, components: Sequence[int]) -> Combination:
        """That of some components alone, whose weights are brought to sum to 1."""
        weights = self.weights[list(components)]
        return Combination(weights / weights.sum(axis=0), self.space, self.calibration, self.strength)

    def to_dict(self) -> dict[str, Any]:
        return {
            "weights": self.weights.tolist(),
            "space": self.space,
            "calibration": None if self.calibration is None else self.calibration.to_dict(),
            "strength": self.strength,
        }


def read_combination(values: dict[str, Any]) -> Combination:
    """What `to_dict` gave, after a way through JSON."""
    return Combination(
        np.asarray(values["weights"], np.float64),
        values["space"],
        read_calibration(values["calibration"]),
        values["strength"],
    )


def fit_combination(
    targets: np.ndarray, predictions: np.ndarray, fold: np.ndarray, options: BlendOptions
) -> Combination:
    """Chooses weights and calibration; everything that is chosen is chosen on these rows.

    Args:
        targets: [N, T], 0 or 1, of treated rows.
        predictions: [M, N, T] out-of-fold probabilities for these rows.
        fold: [N] the fold of each, by which `per_target` chooses how much a target's own weights count.
        options: how.
    """
    weights, strength = fit_weights(targets, predictions, options.space), None
    if options.per_target and np.count_nonzero(weights) > 1:
        strength = _choose_strength(targets, predictions, fold, options.space)
        weights = _target_weights(targets, predictions, options.space, weights, [strength])[0]
    mean = Combination(weights, options.space).apply(predictions)
    return Combination(weights, options.space, fit_calibration(targets, mean, options.calibrate), strength)


def _choose_strength(
    targets: np.ndarray, predictions: np.ndarray, fold: np.ndarray, space: Space
) -> float | None:
    """That of `STRENGTHS` by which each fold is predicted best, with weights fitted on the others."""
    folds = np.unique(fold)
    losses = np.zeros(len(STRENGTHS))
    for held_out in folds if len(folds) > 1 else ():
        rows, judged = fold != held_out, fold == held_out
        common = fit_weights(targets[rows], predictions[:, rows], space)
        several = _target_weights(targets[rows], predictions[:, rows], space, common, STRENGTHS)
        for place, weights in enumerate(several):
            predicted = Combination(weights, space).apply(predictions[:, judged])
            losses[place] += judged.sum() * mean_log_loss(targets[judged], predicted)
    return STRENGTHS[losses.argmin()]


def _target_weights(
    targets: np.ndarray,
    predictions: np.ndarray,
    space: Space,
    common: np.ndarray,
    strengths: Sequence[float | None],
) -> list[np.ndarray]:
    """For each strength the weights [M, T], or the common ones [M] where it is None."""
    own, positives = None, targets.sum(axis=0)
    several = []
    for strength in strengths:
        if strength is not None and own is None:
            own = fit_target_weights(targets, predictions, space, np.flatnonzero(common))
        several.append(common if strength is None else shrink(common, own, positives, strength))
    return several
