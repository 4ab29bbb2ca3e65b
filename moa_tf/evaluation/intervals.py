"""How far figures would move with other drugs: the bootstrap over drugs.

Rows of one drug are no independent draws, so drugs are drawn and their rows come along.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from moa_tf.data.storage import blocks
from moa_tf.evaluation.metrics import check_probabilities, log_loss_per_row, rank_metrics

CELLS = 1 << 23
"""Weights held at once, in number: 64 MB of them."""


def bootstrap(
    targets: np.ndarray,
    probabilities: np.ndarray,
    drug: np.ndarray | None,
    strata: np.ndarray | None = None,
    *,
    rows: np.ndarray | None = None,
    replicates: int = 200,
    seed: int = 0,
) -> dict[str, np.ndarray]:
    """Figures of rows whose drugs are drawn anew, with replacement, as many in each stratum as it has.

    The models are not fitted again: this is the chance of which drugs they are judged by, not of training.
    Give treated rows alone, as all figures that judge a model do. The same drugs, strata, replicates and seed
    give the same draws whatever the predictions and the order of the rows, so that two models' values can be
    subtracted replicate by replicate.

    Args:
        targets: [N, T], 0 or 1.
        probabilities: [N, T] in [0, 1].
        drug: [N] names, or None where each row is a drug of its own (then the order of the rows counts).
        strata: [N], the fold of each row; ranks are taken within, see `rank_metrics`. None is one stratum. A
            drug whose rows lie in several is drawn with the lowest's; its rows stay where they are.
        rows: [M] which rows count; None is all.
        replicates: how many resamples, R.
        seed: of the draws.

    Returns:
        `log_loss`, `macro_auroc`, `macro_average_precision`: [R] float64 each, defined as in `evaluate`. The
        macro means are over the targets that can be ranked in that resample; NaN if none can.

    Raises:
        ValueError: shapes that do not fit, or a probability that is not in [0, 1].
    """
    check_probabilities(probabilities)
    rows = np.arange(len(targets)) if rows is None else rows
    losses = log_loss_per_row(targets, probabilities, rows)
    names, places = (
        None if values is None else values[rows] for values in _one_a_row(len(targets), drug, strata)
    )
    number, drawn = _drawn(len(losses), names, places, replicates, seed)
    unit = np.zeros(len(targets), np.int64)
    unit[rows] = number
    found = np.full((3, replicates), np.nan)
    for part, counts in drawn:
        found[0, part] = np.concatenate(
            [losses @ weights / weights.sum(0) for weights in _of_rows(counts, number)]
        )
        ranks = rank_metrics(targets, probabilities, strata, counts, unit, rows)
        found[1:, part] = [_mean_over_targets(values) for values in ranks]
    return dict(zip(("log_loss", "macro_auroc", "macro_average_precision"), found, strict=True))


def bootstrap_targets(
    targets: np.ndarray,
    probabilities: np.ndarray,
    *,
    replicates: int = 200,
    seed: int = 0,
) -> tuple[np.ndarray, np.ndarray]:
    """Each target's AUROC and average precision over rows that are one drug each, drawn anew as in `bootstrap`.

    Args:
        targets: [D, T], 0 or 1.
        probabilities: [D, T] in [0, 1].
        replicates: how many resamples, R.
        seed: of the draws.

    Returns:
        Two of [R, T]; NaN where a draw has one label alone.
    """
    found = np.full((2, replicates, targets.shape[1]), np.nan)
    for part, counts in _drawn(len(targets), None, None, replicates, seed)[1]:
        found[:, part] = rank_metrics(targets, probabilities, None, counts)
    return found[0], found[1]


def bootstrap_means(
    values: np.ndarray,
    drug: np.ndarray | None,
    strata: np.ndarray | None = None,
    *,
    replicates: int = 200,
    seed: int = 0,
) -> np.ndarray:
    """Means over rows, in the same draws as `bootstrap`'s.

    Args:
        values: [N, K]; a row that is NaN does not count. What is of a drug, not of its rows, stands in one of them.
        drug: [N] names, as there.
        strata: [N], as there.
        replicates: how many resamples, R.
        seed: of the draws.

    Returns:
        [R, K] float64; NaN where no row counts.
    """
    values = np.asarray(values, np.float64)
    known = ~np.isnan(values)
    filled = np.where(known, values, 0)
    found = np.full((replicates, values.shape[1]), np.nan)
    number, drawn = _drawn(len(values), drug, strata, replicates, seed)
    for part, counts in drawn:
        with np.errstate(invalid="ignore"):
            means = [(weights.T @ filled) / (weights.T @ known) for weights in _of_rows(counts, number)]
        found[part] = np.concatenate(means)
    return found


def interval(values: np.ndarray, estimate: float | None = None, level: float = 0.95) -> tuple[float, float]:
    """Percentile interval of a bootstrap's replicates.

    Args:
        values: [R]; NaN, a replicate in which the figure is undefined, is left out.
        estimate: the figure of the drugs themselves. The replicates' mean is off it by the bootstrap's bias, which is
            taken off the interval. A drug that is drawn twice is two positives side by side: on NCI-60 average
            precision is .66, its replicates are about .71, and none of 200 was as low.
        level: how much of them it holds, in (0, 1).

    Returns:
        (low, high); NaN if no replicate is defined.

    Source: Efron & Tibshirani, An Introduction to the Bootstrap (1993), chapters 10 and 13.
    """
    values = np.asarray(values, np.float64)
    values = values[~np.isnan(values)]
    if not len(values):
        return float("nan"), float("nan")
    low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2])
    if estimate is not None and not np.isnan(estimate):
        bias = values.mean() - estimate
        low, high = low - bias, high - bias
    return float(low), float(high)


def _drawn(
    rows: int, drug: np.ndarray | None, strata: np.ndarray | None, replicates: int, seed: int
) -> tuple[np.ndarray, Iterator[tuple[slice, np.ndarray]]]:
    """[N] the number of each row's drug; and which replicates, with [D, r] how often each drug is drawn in them."""
    names, strata = _one_a_row(rows, drug, strata)
    names = np.arange(rows) if names is None else names
    strata = np.zeros(rows, np.int8) if strata is None else strata
    drugs, number = np.unique(names, return_inverse=True)
    draws = _draws(number, strata, replicates, seed)
    # Whole blocks of rows' weights: sums in others would not be the same to the last bit.
    block = _block(rows)
    size = max(block, CELLS // max(1, len(drugs)) // block * block)
    return number, (
        (part, np.stack([next(draws) for _ in range(part.stop - part.start)], axis=1))
        for part in blocks(replicates, size)
    )


def _one_a_row(rows: int, *several: np.ndarray | None) -> list[np.ndarray | None]:
    found = [None if values is None else np.asarray(values) for values in several]
    shapes = [None if values is None else values.shape for values in found]
    if {None, (rows,), *shapes} != {None, (rows,)}:
        raise ValueError(f"drug and strata have shapes {shapes[0]} and {shapes[1]}, expected ({rows},)")
    return found


def _block(rows: int) -> int:
    return max(1, CELLS // max(1, rows))


def _of_rows(counts: np.ndarray, number: np.ndarray) -> Iterator[np.ndarray]:
    """[N, r] how often each row counts, some of the replicates at a time."""
    return (counts[:, part][number] for part in blocks(counts.shape[1], _block(len(number))))


def _draws(number: np.ndarray, strata: np.ndarray, replicates: int, seed: int) -> Iterator[np.ndarray]:
    """For each replicate, [D] float64: how often each drug is drawn."""
    names, stratum = np.unique(strata, return_inverse=True)
    home = np.full(number.max(initial=-1) + 1, len(names))
    np.minimum.at(home, number, stratum)
    groups = [np.flatnonzero(home == k) for k in range(len(names))]
    rng = np.random.default_rng(seed)
    for _ in range(replicates):
        counts = np.zeros(len(home))
        for group in groups:
            if len(group):
                counts[group] = np.bincount(rng.integers(0, len(group), len(group)), minlength=len(group))
        yield counts


def _mean_over_targets(values: np.ndarray) -> np.ndarray:
    """[R] means of [R, T] over the targets that are not NaN."""
    defined = ~np.isnan(values)
    with np.errstate(invalid="ignore"):
        return np.where(defined, values, 0).sum(1) / defined.sum(1)
