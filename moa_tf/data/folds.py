"""Cross-validation folds, balanced by label."""

from __future__ import annotations

import numpy as np
from iterstrat.ml_stratifiers import MultilabelStratifiedKFold

from moa_tf.data.schema import SPLITS
from moa_tf.errors import InputError

FREQUENT = 18
"""A drug of at most this many rows stays in one fold under `kaggle`: 3 times x 2 doses x 3 replicates."""


def assign_folds(
    targets: np.ndarray,
    group: np.ndarray | None,
    scheme: str = "drug",
    folds: int = 5,
    seed: int = 0,
    control: np.ndarray | None = None,
) -> np.ndarray:
    """The validation fold of every row.

    `drug` keeps all rows of a drug in one fold, the control drug's rows too: a model is scored on drugs that
    it has never seen. Drugs are dealt out by iterative stratification of their label sets, so each target's
    drugs are spread evenly. The few drugs that are too large for that (more than a fiftieth of a fold's
    rows) are placed afterwards, each into the fold that then has the fewest treated rows, larger ones first,
    and at the end the control drugs, each into the fold that has the fewest rows. So the controls, if they share
    one drug, all sit in one fold; that costs nothing, for they are known from `cp_type` and predicted 0, and
    folds are level in the treated rows. Where `control` is not given, drugs without any label come at the end.

    `row` stratifies single rows: rows of a drug are in several folds, which flatters the score.

    `kaggle` keeps drugs of at most 18 rows together and spreads the rows of the others.

    Any other scheme is the name of what groups rows, and does with its groups as `drug` does with drugs, except that
    groups of controls alone come at the end whatever their size: there may be as few others as folds.

    Without drugs every row counts as a drug of its own.

    Args:
        targets: [N, T] labels, 0 or 1.
        group: [N] names of drugs, or of other groups, or None; see `moa_tf.data.groups`.
        scheme: how to split.
        folds: how many folds, at least 2.
        seed: of the stratification's ties and of the order of the drugs.
        control: [N] bool, which rows are controls; None where that is not known, and no row is taken for one.

    Returns:
        [N] int64 in 0 … folds - 1; no fold is empty, and the same arguments give the same folds.

    Raises:
        InputError: fewer than 2 folds, or more folds than drugs, other groups with a treated row, or rows to deal out.

    Source: Sechidis, Tsoumakas & Vlahavas, On the Stratification of Multi-Label Data (2011); `kaggle` is the
    scheme that C. Deotte published in the MoA competition ("Drug and multilabel stratification").
    """
    if folds < 2:
        raise InputError(f"--folds {folds}: expected at least 2")
    labels = np.asarray(targets) > 0
    if group is None or scheme == "row":
        units, group = "rows", np.arange(len(labels))
    else:
        units = "drugs" if scheme in SPLITS else f"{scheme} groups"
        _, group = np.unique(group, return_inverse=True)
    sizes = np.bincount(group)
    treated = sizes
    if control is not None:
        treated = np.bincount(group, ~np.asarray(control, bool), len(sizes)).astype(int)
    column = scheme not in SPLITS
    most = np.count_nonzero(treated) if column else len(sizes)
    if folds > most:
        raise InputError(f"--folds {folds}: expected at most {most}, as there are {most} {units}")
    if scheme == "kaggle":
        fold = _spread_frequent(labels, group, sizes, folds, seed)
        if len(np.unique(fold)) < folds:
            raise InputError(f"--folds {folds}: expected fewer, as a fold is left without rows")
        return fold
    drug_labels = np.zeros((len(sizes), labels.shape[1]), bool)
    np.logical_or.at(drug_labels, group, labels)
    late = ~drug_labels.any(1) if control is None else treated == 0
    # Earlier runs' folds by drug stay what they were: a small control drug is dealt as the others are.
    large = (sizes > max(sizes.sum() / folds / 50, FREQUENT)) | (column & late)
    return _hold_out(drug_labels, sizes, treated, large, late, folds, seed)[group]


def _hold_out(
    labels: np.ndarray,
    sizes: np.ndarray,
    treated: np.ndarray,
    large: np.ndarray,
    late: np.ndarray,
    folds: int,
    seed: int,
) -> np.ndarray:
    """[drugs] the fold of each drug: `large` ones are placed by their size, of these the `late` ones at the end."""
    if np.sum(~large) < folds:  # Too few for stratification: size alone decides.
        large = np.ones(len(sizes), bool)
    fold = np.full(len(sizes), -1)
    if not large.all():
        fold[~large] = _stratify(labels[~large], folds, seed)
    rows, treated_rows = (np.bincount(fold[~large], of[~large], folds) for of in (sizes, treated))
    for drug in np.lexsort((-treated, late)):
        if large[drug]:
            fold[drug] = np.argmin(treated_rows if treated[drug] else rows)
            rows[fold[drug]] += sizes[drug]
            treated_rows[fold[drug]] += treated[drug]
    return fold


def _spread_frequent(
    labels: np.ndarray, group: np.ndarray, sizes: np.ndarray, folds: int, seed: int
) -> np.ndarray:
    """[N] the fold of each row: rare drugs whole, frequent ones row by row."""
    frequent = sizes > FREQUENT
    fold = np.zeros(len(labels), int)
    rare = np.flatnonzero(~frequent)
    if len(rare):
        first = np.zeros(len(sizes), int)
        first[group[::-1]] = np.arange(len(group))[::-1]
        of_drug = np.zeros(len(sizes), int)
        of_drug[rare] = _stratify(labels[first[rare]], folds, seed)
        fold = of_drug[group]
    rows = np.flatnonzero(frequent[group])
    if len(rows):
        fold[rows] = _stratify(labels[rows], folds, seed)
    return fold


def _stratify(labels: np.ndarray, folds: int, seed: int) -> np.ndarray:
    """[n] the fold of each item, from iterative stratification; items fewer than folds get a fold each."""
    n = len(labels)
    if n < folds:
        return np.random.default_rng(seed).permutation(folds)[:n]
    # A column without a label says nothing; one that all have keeps the matrix two-dimensional.
    used = np.column_stack([labels[:, labels.any(0)], np.ones(n, bool), np.zeros(n, bool)]).astype(int)
    splitter = MultilabelStratifiedKFold(n_splits=folds, shuffle=True, random_state=seed)
    fold = np.empty(n, int)
    for k, (_, test) in enumerate(splitter.split(np.zeros((n, 1)), used)):
        fold[test] = k
    return _fill(fold, folds)


def _fill(fold: np.ndarray, folds: int) -> np.ndarray:
    """Moves items from the fullest fold until no fold is empty."""
    counts = np.bincount(fold, minlength=folds)
    for empty in np.flatnonzero(counts == 0):
        fullest = int(np.argmax(counts))
        fold[np.flatnonzero(fold == fullest)[-1]] = empty
        counts[fullest] -= 1
        counts[empty] += 1
    return fold
