"""How much alike rows are: replicates of a drug, drugs of one mechanism, and rows that are nearly the same."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

BLOCK = 1024
"""Rows whose correlations with all others are held at a time."""

PAIRS = 100_000
"""Pairs of rows that a distribution is drawn from."""

MOST_ROWS = 40_000
"""Rows that are compared each with each: the work grows with the square."""

REPLICATES = 50
"""Rows of one drug that are compared each with each: a reference drug with hundreds would else outweigh all others."""

NEAR = 0.99
"""Above this correlation two rows are nearly the same."""

LISTED = 1000
"""Pairs of nearly equal rows that are kept, the most alike ones."""


def replicate_correlations(
    unit: np.ndarray, drug: np.ndarray, seed: int = 0
) -> tuple[np.ndarray, dict[int, float]]:
    """Pearson's correlation between the rows of each drug.

    Args:
        unit: [N, F] from `unit_rows`.
        drug: [N] int, the drug of each row.
        seed: which `REPLICATES` rows stand for a drug that has more.

    Returns:
        [P] the correlation of each pair of two rows of one drug, and drug -> the median of its pairs.
    """
    rng = np.random.default_rng(seed)
    order = np.argsort(drug, kind="stable")
    starts = np.flatnonzero(np.diff(drug[order], prepend=-1))
    found, medians = [np.empty(0, np.float32)], {}
    for members in np.split(order, starts[1:]):
        if len(members) < 2:
            continue
        if len(members) > REPLICATES:
            members = rng.choice(members, REPLICATES, replace=False)
        rows = unit[members]
        pairs = (rows @ rows.T)[np.triu_indices(len(rows), 1)]
        found.append(pairs)
        medians[int(drug[members[0]])] = float(np.median(pairs))
    return np.concatenate(found), medians


def correlations_between(
    unit: np.ndarray, drug: np.ndarray, labels: np.ndarray | None = None, pairs: int = PAIRS, seed: int = 0
) -> np.ndarray:
    """Pearson's correlation between random rows of different drugs.

    Args:
        unit: [N, F] from `unit_rows`.
        drug: [N] int, the drug of each row.
        labels: [N, T], 0 or 1: only pairs that share one. Each label of each row is as likely to be the first, and each
            row that has this label to be the second. None takes any two rows.
        pairs: how many are drawn; those of one drug are then left out.
        seed: of the draw.

    Returns:
        [P] with P at most `pairs`; none where there are none.
    """
    rng = np.random.default_rng(seed)
    if len(unit) < 2:
        return np.empty(0, np.float32)
    if labels is None:
        first, second = rng.integers(0, len(unit), (2, pairs))
    else:
        target, row = np.nonzero(labels.T)
        if not len(row):
            return np.empty(0, np.float32)
        chosen = rng.integers(0, len(row), pairs)
        begin, end = (np.searchsorted(target, target[chosen], side) for side in ("left", "right"))
        first, second = row[chosen], row[begin + (rng.random(pairs) * (end - begin)).astype(int)]
    different = drug[first] != drug[second]
    first, second = first[different], second[different]
    return np.concatenate(
        [np.empty(0, np.float32)]
        + [
            np.einsum("ij,ij->i", unit[first[at : at + BLOCK]], unit[second[at : at + BLOCK]])
            for at in range(0, len(first), BLOCK)
        ]
    )


def near_duplicates(
    unit: np.ndarray,
    drug: np.ndarray,
    above: float = NEAR,
    listed: int = LISTED,
    progress: Callable[[int], None] = lambda rows: None,
) -> tuple[int, np.ndarray, np.ndarray, np.ndarray]:
    """Pairs of rows of different drugs that are nearly the same, in memory that grows with N alone.

    Args:
        unit: [N, F] from `unit_rows`.
        drug: [N] int, the drug of each row.
        above: the least correlation.
        listed: the most pairs that are given.
        progress: is called with the number of rows just done.

    Returns:
        How many pairs there are; first row, second row and correlation of the `listed` most alike, [P] each, the most
        alike first.
    """
    total = 0
    kept = (np.empty(0, np.intp), np.empty(0, np.intp), np.empty(0, np.float32))
    for start in range(0, len(unit), BLOCK):
        rows = unit[start : start + BLOCK]
        correlation = rows @ unit[start:].T
        first, second = np.nonzero(correlation > above)
        real = (second > first) & (drug[start + first] != drug[start + second])
        first, second = first[real], second[real]
        total += len(first)
        found = (start + first, start + second, correlation[first, second])
        kept = tuple(np.concatenate(both) for both in zip(kept, found, strict=True))
        best = np.argsort(-kept[2], kind="stable")[:listed]
        kept = tuple(values[best] for values in kept)
        progress(len(rows))
    return total, *kept


def row_codes(*matrices: np.ndarray | None) -> np.ndarray:
    """[N] int, the same for rows that hold the same values in all [N, F] matrices; NaN is like NaN, and −0 like 0."""
    codes: dict[bytes, int] = {}
    values = np.concatenate([matrix for matrix in matrices if matrix is not None], axis=1) + np.float32(0)
    values[np.isnan(values)] = np.nan
    return np.array([codes.setdefault(row.tobytes(), len(codes)) for row in values], int)


def share_replicating(
    medians: dict[int, float], null: np.ndarray, level: float = 0.95
) -> tuple[float, float]:
    """How many drugs' replicates are more alike than rows of different drugs.

    Args:
        medians: drug -> median correlation of its replicates, from `replicate_correlations`.
        null: correlations between rows of different drugs.
        level: the quantile of `null` that has to be exceeded.

    Returns:
        The share of drugs (NaN if none has replicates), and that quantile.

    Source: Way et al., Morphology and gene expression profiling provide complementary information for mapping cell
    state, Cell Systems (2022): percent replicating, there with a null for each number of replicates.
    """
    if not medians or not len(null):
        return float("nan"), float("nan")
    bound = float(np.quantile(null, level))
    return float(np.mean([median > bound for median in medians.values()])), bound
