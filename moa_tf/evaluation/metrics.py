"""The competition's metric and two rank metrics, in float64 NumPy.

Rows are always named: `all` rows, with vehicle controls predicted 0, or `treated` rows, without controls.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from scipy.sparse import csr_array

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
    total = sum((losses.sum(0) for losses in _losses(targets, probabilities)), np.zeros(targets.shape[1]))
    return total / len(targets) if len(targets) else np.full_like(total, np.nan)


def log_loss_per_row(targets: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    """[N] mean over targets of each row's binary log loss, as `log_loss_per_target` is over rows."""
    targets, probabilities = _same_shape(targets, probabilities)
    return np.concatenate([np.empty(0), *(losses.mean(1) for losses in _losses(targets, probabilities))])


def _losses(targets: np.ndarray, probabilities: np.ndarray) -> Iterator[np.ndarray]:
    """[n, T] float64 of each cell, a block of rows at a time, as float64 copies are large."""
    for start in range(0, len(targets), BLOCK):
        y = targets[start : start + BLOCK].astype(np.float64)
        p = np.clip(probabilities[start : start + BLOCK].astype(np.float64), CLIP, 1 - CLIP)
        yield -(y * np.log(p) + (1 - y) * np.log(1 - p))


def mean_log_loss(targets: np.ndarray, probabilities: np.ndarray) -> float:
    """Mean column-wise log loss: the mean of `log_loss_per_target` over targets.

    Source: the metric of the Kaggle competition lish-moa. Nothing is done here about controls.
    """
    return float(log_loss_per_target(targets, probabilities).mean())


def check_probabilities(probabilities: np.ndarray) -> None:
    """Raises ValueError if one is not in [0, 1]."""
    # Written so that NaN fails as well.
    if not (np.min(probabilities, initial=1) >= 0 and np.max(probabilities, initial=0) <= 1):
        raise ValueError("probabilities: some are not in [0, 1]")


def zero_controls(probabilities: np.ndarray, control: np.ndarray | None) -> np.ndarray:
    """`probabilities` [N, T] with 0 in the rows where `control` [N] bool holds; a copy if there are any."""
    if control is None or not control.any():
        return probabilities
    return np.where(control[:, None], probabilities.dtype.type(0), probabilities)


def rank_metrics(
    targets: np.ndarray,
    probabilities: np.ndarray,
    strata: np.ndarray | None = None,
    weights: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Area under the ROC curve and average precision of each target, ranked within strata.

    Each fold's model has been fitted on other rows, and a fold that holds more positives of a target out has
    fewer to learn from. Pooled over folds, predictions that know nothing (each fold's own label means) so rank
    positives low: an AUROC of .46 on the simulated sample, .23 with labels as rare as lish-moa's. Within a
    fold they are constant, and at .5 exactly.

    Args:
        targets: [N, T], 0 or 1.
        probabilities: [N, T], or any scores that grow with them.
        strata: [N], the fold of each row: only rows of the same fold are compared. None is one stratum.
        weights: [N, R], non-negative: how often each row counts, for R weightings at once. None is once.

    Returns:
        auroc, average precision: [T] float64, or [R, T] with `weights`; NaN for a target without a stratum
        with a positive and a negative. A stratum without both adds nothing to either. With one stratum both
        are scikit-learn's with `sample_weight`. With several, AUROC is

            Σ_s (pairs of a positive and a negative of s that are in order, ties by half) / Σ_s (pairs of s),

        the mean over strata weighted by their pairs, and average precision is the mean over positives of the
        precision among the rows of their stratum that score as high or higher: weighted by positives.

    Raises:
        ValueError: shapes that do not fit.

    Source: van Elteren, On the combination of independent two sample tests of Wilcoxon (1960): Mann-Whitney
    counts of strata are added with weights, here 1 a pair. Forman & Scholz, Apples-to-apples in
    cross-validation studies (2010): why scores of different folds' models are not ranked together.
    """
    targets, probabilities = _same_shape(targets, probabilities)
    rows, columns = targets.shape
    strata = _one_a_row("strata", strata, rows) if strata is not None else np.zeros(rows, np.int8)
    several = np.ones((rows, 1)) if weights is None else _one_a_row("weights", weights, rows, axes=2)
    won, pairs, precision, positives = np.zeros((4, several.shape[1], columns))
    for stratum in np.unique(strata):
        members = np.flatnonzero(strata == stratum)
        y, scores, counted = targets[members] > 0, probabilities[members], several[members].astype(np.float64)
        for column in np.flatnonzero(y.any(0)):
            sums = _rank(y[:, column], scores[:, column], counted)
            both = sums[1] > 0  # rows of weight 0 are not there
            for total, value in zip((won, pairs, precision, positives), sums, strict=True):
                total[both, column] += value[both]
    with np.errstate(invalid="ignore"):
        auroc, average_precision = won / pairs, precision / positives
    return (auroc[0], average_precision[0]) if weights is None else (auroc, average_precision)


def _rank(
    positive: np.ndarray, scores: np.ndarray, weights: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Pairs in order, pairs, sum over positives of their precision, positives: [R] each.

    One sort serves all weightings. Between two thresholds with positives no other matters, so that rows are
    summed up in as many groups as there are: positives are few.
    """
    order = np.argsort(scores, kind="stable")[::-1]
    scores, positive = scores[order], positive[order]
    starts = np.flatnonzero(np.append(True, scores[1:] != scores[:-1]))  # tied scores are one threshold
    hit = np.logical_or.reduceat(positive, starts)
    starts = starts[hit | np.append(True, hit[:-1])]
    total = _group_sums(order, starts, weights)
    true = _group_sums(order[positive], np.searchsorted(np.flatnonzero(positive), starts), weights)
    false = total - true
    true_sum, false_sum = true.sum(0), false.sum(0)
    lower = false_sum - np.cumsum(false, axis=0)
    flagged = np.cumsum(total, axis=0)
    precision = np.divide(np.cumsum(true, axis=0), flagged, out=np.zeros_like(flagged), where=flagged > 0)
    return (true * (lower + false / 2)).sum(0), true_sum * false_sum, (true * precision).sum(0), true_sum


def _group_sums(order: np.ndarray, starts: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """[S, R] sums of the `weights` of rows order[starts[s] : starts[s + 1]]; a group may be empty."""
    groups = (np.ones(len(order)), order, np.append(starts, len(order)))
    return csr_array(groups, shape=(len(starts), len(weights))) @ weights


def evaluate(
    targets: np.ndarray,
    probabilities: np.ndarray,
    control: np.ndarray | None,
    *,
    prior: np.ndarray | None = None,
    strata: np.ndarray | None = None,
    per_target: bool = False,
) -> dict[str, Any]:
    """Every figure by which models are compared.

    Args:
        targets: [N, T], 0 or 1.
        probabilities: [N, T] in [0, 1]. Those of controls are set to 0 first, as the exported model does.
        control: [N] bool, true for vehicle controls; or None if that is not known, which leaves the figures
            of treated rows out and takes the rank metrics on all rows.
        prior: the label means of the rows that the model was fitted on, [T], or [N, T] where each row has
            its own fold's; set to 0 for controls likewise. See `moa_tf.data.prior`.
        strata: [N] the fold of each row, where several models have predicted: rows are then ranked within
            folds, see `rank_metrics`. Log losses are of probabilities, which need no other row, and are pooled.
        per_target: also give arrays over targets.

    Returns:
        `rows`, `targets` (numbers of them), `log_loss_all`; `macro_auroc` and `macro_average_precision`,
        the means over those `targets_ranked` targets with at least one positive and one negative **among
        treated rows** (among all rows if `control` is None) of one stratum, with only these rows ranked;
        NaN if there is no such target. With `control`: `treated_rows`, `log_loss_treated`. With `prior`:
        `prior_log_loss_all`, and with `control` `prior_log_loss_treated`. With `per_target`: `per_target`,
        a dict of [T] arrays `positives`, `log_loss`, `auroc`, `average_precision` over the same rows as the
        rank metrics, NaN where undefined.

    Raises:
        ValueError: shapes that do not fit, or a probability that is not in [0, 1].
    """
    targets, probabilities = _same_shape(targets, probabilities)
    check_probabilities(probabilities)
    if control is not None:
        control = _one_a_row("control", np.asarray(control, bool), len(targets))
    if strata is not None:
        strata = _one_a_row("strata", strata, len(targets))
    figures: dict[str, Any] = {"rows": len(targets), "targets": targets.shape[1]}
    if control is not None:
        figures["treated_rows"] = int((~control).sum())
    ranked = slice(None) if control is None else ~control
    ranked_targets, ranked_probabilities = targets[ranked], probabilities[ranked]
    losses = log_loss_per_target(ranked_targets, ranked_probabilities)
    figures |= _log_losses("log_loss", targets, probabilities, control)
    auroc, precision = rank_metrics(
        ranked_targets, ranked_probabilities, None if strata is None else strata[ranked]
    )
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


def _one_a_row(name: str, values: np.ndarray, rows: int, axes: int = 1) -> np.ndarray:
    values = np.asarray(values)
    if values.ndim != axes or len(values) != rows:
        raise ValueError(f"{name} has shape {values.shape}, expected {axes} axes, the first of {rows}")
    return values
