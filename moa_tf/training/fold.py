"""Which rows of a fold are for what."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from moa_tf.data.folds import assign_folds
from moa_tf.data.prior import prior
from moa_tf.data.schema import Dataset
from moa_tf.data.storage import blocks
from moa_tf.errors import InputError

ADAPTING = 100_000
"""Rows that preprocessing is fitted on at most: quantiles and components of so many are known well enough."""

ALL = "all"
"""Name of the fold that trains on all rows and holds none out (`--refit`)."""


@dataclass(frozen=True)
class Fold:
    """A fold's rows, as indices into the dataset, and the yardstick for them.

    Attributes:
        name: number of the fold, or `ALL`.
        train: [M] rows that models are fitted on.
        held_out: [V] rows that are predicted; none for `ALL`.
        judged: [J] those of `held_out` that figures are taken on, the steering ones too: the treated rows.
        prior: [T] float64 label means of the treated training rows, with their floor.
        unit: [M] int64, which training rows are held out together wherever something is chosen on them: those of a
            drug, or of a group, as the folds themselves are made.
    """

    name: int | str
    train: np.ndarray
    held_out: np.ndarray
    judged: np.ndarray
    prior: np.ndarray
    unit: np.ndarray


def make_fold(
    name: int | str,
    dataset: Dataset,
    held_out: np.ndarray,
    train_on_controls: bool,
    unit: np.ndarray | None = None,
) -> Fold:
    """The fold that holds out the rows where `held_out` [N] bool is true.

    Args:
        name: number of the fold, or `ALL`.
        dataset: all rows.
        held_out: which of them.
        train_on_controls: whether vehicle controls are among the training rows.
        unit: [N] names of what is held out together; by default the drugs, or where they are not known the rows.
    """
    control = dataset.signatures.control
    if unit is None:
        unit = dataset.signatures.sig_id if dataset.drug_id is None else dataset.drug_id
    train = np.flatnonzero(~held_out & (train_on_controls | ~control))
    return Fold(
        name,
        train,
        np.flatnonzero(held_out),
        np.flatnonzero(held_out & ~control),
        prior(dataset.targets, np.flatnonzero(~held_out & ~control)),
        np.unique(unit[train].astype(str), return_inverse=True)[1],
    )


def adapting_rows(fold: Fold, seed: int) -> np.ndarray:
    """The training rows that preprocessing is fitted on: all, or of more than `ADAPTING` as many, drawn by `seed`."""
    if len(fold.train) <= ADAPTING:
        return fold.train
    return np.sort(np.random.default_rng(seed).choice(fold.train, ADAPTING, replace=False))


def inner_folds(fold: Fold, dataset: Dataset, folds: int, seed: int) -> list[Fold]:
    """Splits a fold's training rows again, as the folds were made: what is chosen on these sees no held-out row.

    Args:
        fold: whose training rows.
        dataset: all rows.
        folds: into how many; fewer where there are not as many treated units.
        seed: of the split.

    Returns:
        Folds that have treated rows on both sides; none where there is but one treated unit.
    """
    control = dataset.signatures.control[fold.train]
    folds = min(folds, len(np.unique(fold.unit[~control])))
    if folds < 2:
        return []
    labels = np.empty((len(fold.train), dataset.targets.shape[1]), bool)
    for part in blocks(len(labels)):
        labels[part] = dataset.targets[fold.train[part]] > 0
    number = assign_folds(labels, fold.unit, "drug", folds, seed, control=control)
    inner = []
    for k in range(folds):
        train, held_out = fold.train[number != k], fold.train[number == k]
        treated = train[~dataset.signatures.control[train]]
        judged = held_out[~dataset.signatures.control[held_out]]
        if len(treated) and len(judged):
            means = prior(dataset.targets, treated)
            inner.append(Fold(f"{fold.name}.{k}", train, held_out, judged, means, fold.unit[number != k]))
    return inner


def check_fold(fold: Fold, dataset: Dataset) -> None:
    """Refuses rows that nothing can be learnt from, or judged by.

    Raises:
        InputError: no treated row is trained on, or none is held out where some should be; or no feature varies over
            the training rows.
    """
    control = dataset.signatures.control
    if control.all():
        raise InputError(
            f"{dataset.source}: all {len(dataset)} signatures are controls, expected treated ones"
        )
    where = "" if fold.name == ALL else f"fold {fold.name}: "
    treated = fold.train[~control[fold.train]]
    if not len(treated):
        raise InputError(
            f"{where}no treated signature is left to train on; expected more drugs or groups, or fewer folds"
        )
    if fold.name != ALL and not len(fold.judged):
        raise InputError(
            f"{where}no treated signature is held out; expected more drugs or groups, or fewer folds"
        )
    matrices = (dataset.signatures.genes, dataset.signatures.cells)
    if not any(_varies(values, fold.train) for values in matrices if values is not None):
        raise InputError(
            f"{where}no gene and no cell line varies over the {len(fold.train)} training signatures; expected "
            "features that do"
        )


def _varies(values: np.ndarray, rows: np.ndarray) -> bool:
    """Whether any column of values [N, F] varies over `rows`; mostly the first rows say so. NaN says nothing."""
    low, high = np.full(values.shape[1], np.inf), np.full(values.shape[1], -np.inf)
    for part in blocks(len(rows)):
        some = values[rows[part]]
        low, high = np.fmin(low, np.fmin.reduce(some)), np.fmax(high, np.fmax.reduce(some))
        if (high > low).any():
            return True
    return False
