"""The competition's metric and two rank metrics, in float64 NumPy.

Rows are always named: `all` rows, with vehicle controls predicted 0, or `treated` rows, without controls.
"""

from __future__ import annotations

from typing import Any

import numpy as np

CLIP = 1e-15
"""Probabilities are clipped to [CLIP, 1 - CLIP]. In float32, 1 - CLIP would be 1 and the loss NaN."""

BLOCK = 8192


def log_loss_per_target(targets: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    """Binary log loss of each target, −mean over rows of y ln p + (1 − y) ln(1 − p).

    Args:
        targets: [N, T], 0 or 1.
        probabilities: [N, T]; clipped to [CLIP, 1 − CLIP] in float64, whatever their dtype.

    Returns:
        [T] float64; NaN for no rows.

    Raises:
        ValueError: shapes differ or are not [N, T].
    """
    targets, probabilities = _same_shape(targets, probabilities)
    total = np.zeros(targets.shape[1])
    for start in range(0, len(targets), BLOCK):  # float64 copies of a block only
        y = targets[start : start + BLOCK].astype(np.float64)
        p = np.clip(probabilities[start : start + BLOCK].astype(np.float64), CLIP, 1 - CLIP)
        total -= (y * np.log(p) + (1 - y) * np.log(1 - p)).sum(0)
    return total / len(targets) if len(targets) else np.full_like(total, np.nan)


def mean_log_loss(targets: np.ndarray, probabilities: np.ndarray) -> float:
    """Mean column-wise log loss: the mean of `log_loss_per_target` over targets.

    Source: the metric of the Kaggle competition lish-moa. Nothing is done here about controls.
    """
    return float(log_loss_per_target(targets, probabilities).mean())


def zero_controls(probabilities: np.ndarray, control: np.ndarray | None) -> np.ndarray:
    """`probabilities` [N, T] with 0 in the rows where `control` [N] bool holds; a copy if there are any."""
    if control is None or not control.any():
        return probabilities
    return np.where(control[:, None], probabilities.dtype.type(0), probabilities)


def rank_metrics(targets: np.ndarray, probabilities: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Area under the ROC curve and average precision of each target.

    Args:
        targets: [N, T], 0 or 1.
        probabilities: [N, T], or any scores that grow with them.

    Returns:
        auroc, average precision: [T] float64, NaN for a target without a positive or without a negative.
        Both are scikit-learn's (trapezoids; Σ (R_n − R_{n−1}) P_n over thresholds n), from one sort of a
        target instead of two with checks: 206 targets of 20,000 rows are ranked for every fold.
    """
    targets, probabilities = _same_shape(targets, probabilities)
    auroc, precision = (np.full(targets.shape[1], np.nan) for _ in range(2))
    positives = targets.sum(0)
    for column in np.flatnonzero((positives > 0) & (positives < len(targets))):
        order = np.argsort(-probabilities[:, column], kind="stable")
        scores = probabilities[order, column]
        ends = np.append(np.flatnonzero(np.diff(scores)), len(scores) - 1)  # tied scores are one threshold
        true = np.cumsum(targets[order, column], dtype=np.float64)[ends]
        flagged = ends + 1.0
        recall = np.insert(true / true[-1], 0, 0)
        fall_out = np.insert((flagged - true) / (flagged[-1] - true[-1]), 0, 0)
        auroc[column] = np.sum(np.diff(fall_out) * (recall[1:] + recall[:-1]) / 2)
        precision[column] = np.sum(np.diff(recall) * true / flagged)
    return auroc, precision


def evaluate(
    targets: np.ndarray,
    probabilities: np.ndarray,
    control: np.ndarray | None,
    *,
    prior: np.ndarray | None = None,
    per_target: bool = False,
) -> dict[str, Any]:
    """Every figure by which models are compared.

    Args:
        targets: [N, T], 0 or 1.
        probabilities: [N, T] in [0, 1]. Those of controls are set to 0 first, as the exported model does.
        control: [N] bool, true for vehicle controls; or None if that is not known, which leaves the figures
            of treated rows out and takes the rank metrics on all rows.
        prior: the label means of the rows that the model was fitted on, [T], or [N, T] where each row has
            its own fold's; set to 0 for controls likewise.
        per_target: also give arrays over targets.

    Returns:
        `rows`, `targets` (numbers of them), `log_loss_all`; `macro_auroc` and `macro_average_precision`,
        the means over those `targets_ranked` targets with at least one positive and one negative **among
        treated rows** (among all rows if `control` is None), with only these rows ranked; NaN if there is
        no such target. With `control`: `treated_rows`, `log_loss_treated`. With `prior`:
        `prior_log_loss_all`, and with `control` `prior_log_loss_treated`. With `per_target`: `per_target`,
        a dict of [T] arrays `positives`, `log_loss`, `auroc`, `average_precision` over the same rows as the
        rank metrics, NaN where undefined.

    Raises:
        ValueError: shapes that do not fit, or a probability that is not in [0, 1].
    """
    targets, probabilities = _same_shape(targets, probabilities)
    # Written so that NaN fails as well.
    if not (np.min(probabilities, initial=1) >= 0 and np.max(probabilities, initial=0) <= 1):
        raise ValueError("probabilities: some are not in [0, 1]")
    if control is not None:
        control = np.asarray(control, bool)
        if control.shape != targets.shape[:1]:
            raise ValueError(f"control has shape {control.shape}, expected {targets.shape[:1]}")
    figures: dict[str, Any] = {"rows": len(targets), "targets": targets.shape[1]}
    if control is not None:
        figures["treated_rows"] = int((~control).sum())
    ranked = slice(None) if control is None else ~control
    ranked_targets, ranked_probabilities = targets[ranked], probabilities[ranked]
    losses = log_loss_per_target(ranked_targets, ranked_probabilities)
    figures |= _log_losses("log_loss", targets, probabilities, control)
    auroc, precision = rank_metrics(ranked_targets, ranked_probabilities)
    defined = ~np.isnan(auroc)
    figures["macro_auroc"] = float(auroc[defined].mean()) if defined.any() else float("nan")
    figures["macro_average_precision"] = float(precision[defined].mean()) if defined.any() else float("nan")
    figures["targets_ranked"] = int(defined.sum())
    if prior is not None:
        prior = np.broadcast_to(np.asarray(prior, np.float64), targets.shape)
        figures |= _log_losses("prior_log_loss", targets, prior, control)
    if per_target:
        positives = ranked_targets.sum(0).astype(np.int64)
        figures["per_target"] = {
            "positives": positives,
            "log_loss": losses,
            "auroc": auroc,
            "average_precision": precision,
        }
    return figures


def _log_losses(
    name: str, targets: np.ndarray, probabilities: np.ndarray, control: np.ndarray | None
) -> dict[str, float]:
    figures = {f"{name}_all": mean_log_loss(targets, zero_controls(probabilities, control))}
    if control is not None:
        figures[f"{name}_treated"] = mean_log_loss(targets[~control], probabilities[~control])
    return figures


def _same_shape(targets: np.ndarray, probabilities: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    targets, probabilities = np.asarray(targets), np.asarray(probabilities)
    if targets.ndim != 2 or targets.shape != probabilities.shape:
        raise ValueError(
            f"targets have shape {targets.shape}, probabilities {probabilities.shape}; expected one [N, T]"
        )
    return targets, probabilities
