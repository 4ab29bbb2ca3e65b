"""Figures of drugs: how far up a drug's true mechanisms are in its list, and a mechanism's drugs in theirs.

A drug's list is of the mean of its rows' probabilities. Controls are no drugs: give treated rows alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np

from moa_tf.data.storage import whole_groups
from moa_tf.evaluation.intervals import bootstrap_means, bootstrap_targets, interval
from moa_tf.evaluation.metrics import rank_metrics

FIGURES = MappingProxyType(
    {
        "top_1": "a true mechanism is first",
        "top_5": "a true mechanism is among the first 5",
        "precision_at_5": "precision at 5",
        "mean_average_precision": "mean average precision",
    }
)
"""Name -> title of what `judge` gives: means over the drugs that have a mechanism."""


class Drugs(NamedTuple):
    """Of D drugs.

    Attributes:
        names: [D].
        first: [D] the first row of each.
        targets: [D, T], 1 where any of a drug's rows is.
        probabilities: [D, T] means over its rows.
    """

    names: np.ndarray
    first: np.ndarray
    targets: np.ndarray
    probabilities: np.ndarray


def by_drug(
    drug: np.ndarray, targets: np.ndarray, probabilities: np.ndarray, rows: np.ndarray | None = None
) -> Drugs:
    """One row a drug.

    Args:
        drug: [N] names.
        targets: [N, T], 0 or 1.
        probabilities: [N, T].
        rows: [M] which rows count, among which `first` then is; None is all.
    """
    rows = np.arange(len(drug)) if rows is None else rows
    names, first, number, counts = np.unique(
        np.asarray(drug)[rows].astype(str), return_index=True, return_inverse=True, return_counts=True
    )
    order = rows[np.argsort(number, kind="stable")]
    starts = np.append(0, np.cumsum(counts)[:-1])
    labels = np.empty((len(names), targets.shape[1]), targets.dtype)
    means = np.empty(labels.shape)
    for group, part in whole_groups(starts, len(order)):
        begins = starts[group] - part.start
        labels[group] = np.maximum.reduceat(targets[order[part]], begins)
        sums = np.add.reduceat(np.asarray(probabilities[order[part]], np.float64), begins)
        means[group] = sums / counts[group, None]
    return Drugs(names, first, labels, means)


def precision_at(drugs: Drugs, k: int) -> np.ndarray:
    """[D] share of true mechanisms among the `k` that are most probable; NaN for a drug without any."""
    top = np.argsort(-drugs.probabilities, axis=1, kind="stable")[:, :k]
    hits = np.take_along_axis(drugs.targets, top, axis=1).sum(axis=1)
    return np.where(drugs.targets.any(axis=1), hits / k, np.nan)


def hit_at(drugs: Drugs, k: int) -> np.ndarray:
    """[D] 1 where a true mechanism is among the `k` that are most probable, else 0; NaN for a drug without any."""
    return np.where(drugs.targets.any(axis=1), precision_at(drugs, k) > 0, np.nan)


def average_precision(drugs: Drugs) -> np.ndarray:
    """[D] average precision of each drug's list of mechanisms; NaN for a drug without any.

    The mean over its true mechanisms of the precision among those that are as probable or more.
    """
    return _average_precision(drugs.targets, _ranks(drugs.probabilities), np.arange(len(drugs.names)))


def permutation_p_value(
    drugs: Drugs, strata: np.ndarray | None = None, *, permutations: int = 1000, seed: int = 0
) -> float:
    """How often another drug's list would do as well: the p-value of the mean average precision.

    Lists are permuted among the drugs that have a mechanism, within strata. What a list owes to common mechanisms
    being common, it keeps.

    Args:
        drugs: from `by_drug`.
        strata: [D] the fold of each drug. None is one stratum.
        permutations: how many.
        seed: of them.

    Returns:
        (1 + permutations that are as good) / (1 + permutations); NaN where no drug has a mechanism.

    Source: Phipson & Smyth 2010, Permutation P-values should never be zero.
    """
    labelled = np.flatnonzero(drugs.targets.any(axis=1))
    if not len(labelled):
        return float("nan")
    strata = np.zeros(len(drugs.names)) if strata is None else np.asarray(strata)
    groups = [labelled[strata[labelled] == stratum] for stratum in np.unique(strata[labelled])]
    ranks, rng = _ranks(drugs.probabilities), np.random.default_rng(seed)
    own = np.arange(len(drugs.names))
    found = np.nanmean(_average_precision(drugs.targets, ranks, own))
    as_good = 0
    for _ in range(permutations):
        other = own.copy()
        for group in groups:
            other[group] = rng.permutation(group)
        # Sums of the same numbers in another order are not the same to the last bit.
        as_good += np.nanmean(_average_precision(drugs.targets, ranks, other)) >= found - 1e-12
    return (1 + as_good) / (1 + permutations)


def enrichment(drugs: Drugs, fraction: float = 0.01) -> np.ndarray:
    """[T] enrichment factor of each mechanism: how much commoner its drugs are among its best than among all.

    Args:
        drugs: from `by_drug`.
        fraction: how many of all drugs are its best; at least one is.

    Returns:
        Share of positives among the best, over that among all; NaN for a mechanism without a drug.

    Source: Truchon & Bayly 2007, Evaluating Virtual Screening Methods.
    """
    best = max(1, round(fraction * len(drugs.names)))
    top = np.argsort(-drugs.probabilities, axis=0, kind="stable")[:best]
    hits = np.take_along_axis(drugs.targets, top, axis=0).mean(axis=0)
    share = drugs.targets.mean(axis=0)
    return np.divide(hits, share, out=np.full(len(share), np.nan), where=share > 0)


def judge(
    drugs: Drugs, names: Sequence[str], *, replicates: int = 200, permutations: int = 1000, seed: int = 0
) -> dict[str, Any]:
    """All figures of drugs.

    Args:
        drugs: from `by_drug`.
        names: T names of the mechanisms.
        replicates: of the bootstrap over drugs.
        permutations: of the lists of drugs, see `permutation_p_value`.
        seed: of both.

    Returns:
        `drugs`, `labelled` (those that have a mechanism), `FIGURES`, their `intervals` (95 %), the
        `permutation_p_value` of the mean average precision, and `mechanisms`: name -> number of `drugs`, `auroc` and
        `average_precision` over drugs, each with `_low` and `_high`, and `enrichment` at 1 % of the drugs. NaN where a
        figure is not defined.
    """
    of_drug = np.stack(
        [hit_at(drugs, 1), hit_at(drugs, 5), precision_at(drugs, 5), average_precision(drugs)], axis=1
    )
    labelled = int(drugs.targets.any(axis=1).sum())
    means = np.nanmean(of_drug, axis=0) if labelled else np.full(len(FIGURES), np.nan)
    draws = bootstrap_means(of_drug, None, replicates=replicates, seed=seed)
    ranks = rank_metrics(drugs.targets, drugs.probabilities)
    moved = bootstrap_targets(drugs.targets, drugs.probabilities, replicates=replicates, seed=seed)
    enriched, positives = enrichment(drugs), drugs.targets.sum(axis=0)
    mechanisms: dict[str, dict[str, float]] = {}
    for j, name in enumerate(names):
        mechanisms[name] = {"drugs": int(positives[j]), "enrichment": float(enriched[j])}
        for figure, values, several in zip(("auroc", "average_precision"), ranks, moved, strict=True):
            low, high = interval(several[:, j], values[j])
            mechanisms[name] |= {figure: float(values[j]), f"{figure}_low": low, f"{figure}_high": high}
    return {
        "drugs": len(drugs.names),
        "labelled": labelled,
        **dict(zip(FIGURES, map(float, means), strict=True)),
        "intervals": {name: list(interval(draws[:, i], means[i])) for i, name in enumerate(FIGURES)},
        "permutation_p_value": permutation_p_value(drugs, permutations=permutations, seed=seed),
        "mechanisms": mechanisms,
    }


def _ranks(probabilities: np.ndarray) -> np.ndarray:
    """[D, T] how many mechanisms of the same drug are as probable as this one, or more."""
    ordered = np.sort(probabilities, axis=1)
    below = [np.searchsorted(row, values) for row, values in zip(ordered, probabilities, strict=True)]
    return probabilities.shape[1] - np.array(below).reshape(probabilities.shape)


def _average_precision(targets: np.ndarray, ranks: np.ndarray, of: np.ndarray) -> np.ndarray:
    """[D] of each drug's labels in the list of drug `of` [D]."""
    drug, mechanism = np.nonzero(targets)
    rank = ranks[of[drug], mechanism]
    order = np.lexsort((rank, drug))
    drug, rank = drug[order], rank[order]
    labels = np.bincount(drug, minlength=len(targets))
    place = np.arange(len(drug)) - np.repeat(np.cumsum(labels) - labels, labels)[: len(drug)]
    # Of equal ranks the last has them all above the threshold.
    last = np.append((drug[1:] != drug[:-1]) | (rank[1:] != rank[:-1]), True)[: len(drug)]
    ends = np.flatnonzero(last)
    place = place[ends[np.searchsorted(ends, np.arange(len(drug)))]]
    sums = np.bincount(drug, (place + 1) / rank, minlength=len(targets))
    return np.divide(sums, labels, out=np.full(len(targets), np.nan), where=labels > 0)
