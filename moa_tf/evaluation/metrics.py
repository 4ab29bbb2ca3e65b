"""The competition's metric and two rank metrics, in float64 NumPy.

Rows are always named: `all` rows, with vehicle controls predicted 0, or `treated` rows, without controls.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from scipy.sparse import csr_array

from moa_tf.data.prior import label_sums
from moa_tf.data.storage import blocks

CLIP = 1e-15
"""Probabilities are clipped to [CLIP, 1 - CLIP]. In float32, 1 - CLIP would be 1 and the loss NaN."""

COLUMNS = 32
"""Targets that are ranked at once."""


def log_loss_per_target(
    targets: np.ndarray, probabilities: np.ndarray, rows: np.ndarray | None = None
) -> np.ndarray:
    """Binary log loss of each target, −mean over rows of y ln p + (1 − y) ln(1 − p).

    Args:
        targets: [N, T], 0 or 1.
        probabilities: [N, T]; clipped to [CLIP, 1 − CLIP] in float64, whatever their dtype.
        rows: [M] which of them count; None is all.

    Returns:
        [T] float64; NaN for no rows.

    Raises:
        ValueError: shapes differ or are not [N, T].
    """
    return _per_target(targets, probabilities, rows)


def _per_target(
    targets: np.ndarray,
    probabilities: np.ndarray,
    rows: np.ndarray | None,
    zeros: np.ndarray | None = None,
) -> np.ndarray:
    """`log_loss_per_target`, with probability 0 where `zeros` [N] bool holds."""
    targets, probabilities = _same_shape(targets, probabilities)
    rows = _all_or(rows, targets)
    losses = _losses(targets, probabilities, rows, zeros)
    total = sum((block.sum(0) for block in losses), np.zeros(targets.shape[1]))
    return total / len(rows) if len(rows) else np.full_like(total, np.nan)


def log_loss_per_row(
    targets: np.ndarray, probabilities: np.ndarray, rows: np.ndarray | None = None
) -> np.ndarray:
    """[M] mean over targets of each row's binary log loss, as `log_loss_per_target` is over rows."""
    targets, probabilities = _same_shape(targets, probabilities)
    losses = _losses(targets, probabilities, _all_or(rows, targets))
    return np.concatenate([np.empty(0), *(block.mean(1) for block in losses)])


def _losses(
    targets: np.ndarray, probabilities: np.ndarray, rows: np.ndarray, zeros: np.ndarray | None = None
) -> Iterator[np.ndarray]:
    """[n, T] float64 of each cell, a block of rows at a time, as float64 copies are large."""
    for part in blocks(len(rows)):
        some = rows[part]
        y, p = targets[some].astype(np.float64), probabilities[some].astype(np.float64)
        if zeros is not None:
            p[zeros[some]] = 0
        p = np.clip(p, CLIP, 1 - CLIP)
        yield -(y * np.log(p) + (1 - y) * np.log(1 - p))


def _all_or(rows: np.ndarray | None, targets: np.ndarray) -> np.ndarray:
    return np.arange(len(targets)) if rows is None else rows


def mean_log_loss(targets: np.ndarray, probabilities: np.ndarray, rows: np.ndarray | None = None) -> float:
    """Mean column-wise log loss: the mean of `log_loss_per_target` over targets.

    Source: the metric of the Kaggle competition lish-moa. Nothing is done here about controls.
    """
    return float(log_loss_per_target(targets, probabilities, rows).mean())


def check_probabilities(probabilities: np.ndarray) -> None:
    """Raises ValueError if one is not in [0, 1]."""
    # Written so that NaN fails as well.
    if not (np.min(probabilities, initial=1) >= 0 and np.max(probabilities, initial=0) <= 1):
        raise ValueError("probabilities: some are not in [0, 1]")


def zero_controls(probabilities: np.ndarray, control: np.ndarray | None) -> np.ndarray:
    """`probabilities` [N, T] with 0 in the rows where `control` [N] bool holds; a copy unless they are 0 already."""
    if control is None:
        return probabilities
    rows = np.flatnonzero(control)
    if not any(probabilities[rows[part]].any() for part in blocks(len(rows))):
        return probabilities
    return np.where(control[:, None], probabilities.dtype.type(0), probabilities)


def rank_metrics(
    targets: np.ndarray,
    probabilities: np.ndarray,
    strata: np.ndarray | None = None,
    weights: np.ndarray | None = None,
    unit: np.ndarray | None = None,
    rows: np.ndarray | None = None,
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
        unit: [N] ints, which row of `weights`, then of any number of rows, is that of each row: those of one drug
            count alike. None: each has its own.
        rows: [M] which rows count; None is all.

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
    count, columns = targets.shape
    strata = _one_a_row("strata", strata, count) if strata is not None else np.zeros(count, np.int8)
    if weights is None:
        several, unit = np.ones((1, 1)), np.zeros(count, np.int8)
    elif unit is None:
        several, unit = _one_a_row("weights", weights, count, axes=2), np.arange(count)
    else:
        several, unit = np.asarray(weights), _one_a_row("unit", unit, count)
    several, rows = several.astype(np.float64, copy=False), _all_or(rows, targets)
    won, pairs, precision, positives = np.zeros((4, several.shape[1], columns))
    for stratum in np.unique(strata[rows]):
        members = rows[strata[rows] == stratum]
        for part in blocks(columns, COLUMNS):
            y, scores = targets[members, part] > 0, probabilities[members, part]
            for place in np.flatnonzero(y.any(0)):
                sums, column = (
                    _rank(y[:, place], scores[:, place], unit[members], several),
                    part.start + place,
                )
                both = sums[1] > 0  # rows of weight 0 are not there
                for total, value in zip((won, pairs, precision, positives), sums, strict=True):
                    total[both, column] += value[both]
    with np.errstate(invalid="ignore"):
        auroc, average_precision = won / pairs, precision / positives
    return (auroc[0], average_precision[0]) if weights is None else (auroc, average_precision)


def _rank(
    positive: np.ndarray, scores: np.ndarray, unit: np.ndarray, weights: np.ndarray
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
    unit = unit[order]
    total = _group_sums(unit, starts, weights)
    true = _group_sums(unit[positive], np.searchsorted(np.flatnonzero(positive), starts), weights)
    false = total - true
    true_sum, false_sum = true.sum(0), false.sum(0)
    lower = false_sum - np.cumsum(false, axis=0)
    flagged = np.cumsum(total, axis=0)
    precision = np.divide(np.cumsum(true, axis=0), flagged, out=np.zeros_like(flagged), where=flagged > 0)
    return (true * (lower + false / 2)).sum(0), true_sum * false_sum, (true * precision).sum(0), true_sum


def _group_sums(unit: np.ndarray, starts: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """[S, R] sums of `weights` at unit[starts[s] : starts[s + 1]]; a group may be empty."""
    groups = (np.ones(len(unit)), unit, np.append(starts, len(unit)))
    return csr_array(groups, shape=(len(starts), len(weights))) @ weights


def evaluate(
    targets: np.ndarray,
    probabilities: np.ndarray,
    control: np.ndarray | None,
    *,
    prior: np.ndarray | None = None,
    strata: np.ndarray | None = None,
    rows: np.ndarray | None = None,
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
        rows: [M] which rows count; None is all. No copy of these is made.
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
    rows = _all_or(rows, targets)
    figures: dict[str, Any] = {"rows": len(rows), "targets": targets.shape[1]}
    ranked = rows
    if control is not None:
        ranked = rows[~control[rows]]
        figures["treated_rows"] = len(ranked)
    losses = log_loss_per_target(targets, probabilities, ranked)
    figures |= _log_losses("log_loss", targets, probabilities, control, rows, ranked, losses)
    auroc, precision = rank_metrics(targets, probabilities, strata, rows=ranked)
    defined = ~np.isnan(auroc)
    figures["macro_auroc"] = float(auroc[defined].mean()) if defined.any() else float("nan")
    figures["macro_average_precision"] = float(precision[defined].mean()) if defined.any() else float("nan")
    figures["targets_ranked"] = int(defined.sum())
    if prior is not None:
        prior = np.broadcast_to(prior, targets.shape)
        means = log_loss_per_target(targets, prior, ranked)
        figures |= _log_losses("prior_log_loss", targets, prior, control, rows, ranked, means)
    if per_target:
        positives = label_sums(targets, ranked).astype(np.int64)
        figures["per_target"] = {
            "positives": positives,
            "log_loss": losses,
            "auroc": auroc,
            "average_precision": precision,
        }
    return figures


def _log_losses(
    name: str,
    targets: np.ndarray,
    probabilities: np.ndarray,
    control: np.ndarray | None,
    rows: np.ndarray,
    treated: np.ndarray,
    of_treated: np.ndarray,
) -> dict[str, float]:
    if control is None:
        return {f"{name}_all": float(of_treated.mean())}
    everything = (
        of_treated if len(treated) == len(rows) else _per_target(targets, probabilities, rows, control)
    )
    return {f"{name}_all": float(everything.mean()), f"{name}_treated": float(of_treated.mean())}


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
