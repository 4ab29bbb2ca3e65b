"""Several learners on the same folds, a run each, and the controls that show what their figures are worth."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq

from moa_tf.data.fingerprint import fingerprint_dataset
from moa_tf.data.schema import Dataset
from moa_tf.data.storage import BLOCK, blocks
from moa_tf.errors import InputError
from moa_tf.evaluation.leaderboard import Entry, Rows
from moa_tf.training.cross_validation import Validation, cross_validate, make_folds
from moa_tf.training.learner import Learner
from moa_tf.training.reporter import Reporter
from moa_tf.training.run import DESCRIPTION, Run


@dataclasses.dataclass(frozen=True)
class Control:
    """The same comparison with something taken away, or let in.

    Attributes:
        name: of its folder.
        title: what it is, in words.
        dataset: what is trained on.
        validation: how it is held out.
    """

    name: str
    title: str
    dataset: Dataset
    validation: Validation


def controls(dataset: Dataset, validation: Validation) -> list[Control]:
    """Those that the data allow.

    Shuffled labels: what is above chance there is a leak. Genes alone and viability alone, where there are both: what
    the other adds. Rows held out, not drugs: what a leak of replicates would have bought.
    """
    found = [
        Control(
            "shuffled", "labels shuffled over drugs", dataset, validation.changed({"shuffle_labels": True})
        )
    ]
    for kind, title in (("genes", "genes alone"), ("cells", "viability alone")):
        one = only(dataset, kind)
        if one is not None:
            found.append(Control(kind, title, one, validation))
    several = dataset.drug_id is not None and len(np.unique(dataset.drug_id)) < len(dataset)
    if several and validation.split != "row":
        found.append(
            Control("rows", "rows held out, not drugs", dataset, validation.changed({"split": "row"}))
        )
    return found


def only(dataset: Dataset, kind: str) -> Dataset | None:
    """The dataset with `genes` or `cells` alone; None where it has not both."""
    signatures, other = dataset.signatures, {"genes": "cells", "cells": "genes"}[kind]
    if signatures.genes is None or signatures.cells is None:
        return None
    spec = dataclasses.replace(signatures.spec, **{other: ()})
    one = dataclasses.replace(dataset, signatures=dataclasses.replace(signatures, spec=spec, **{other: None}))
    return dataclasses.replace(one, fingerprint=fingerprint_dataset(one))


def train_all(
    dataset: Dataset,
    learners: Sequence[Learner],
    validation: Validation,
    directory: Path,
    *,
    only_fold: int | None = None,
    reporter: Reporter,
) -> Iterator[tuple[Learner, dict[str, Any]]]:
    """Trains what is missing in `directory/<name>`, and gives each learner with its metrics as soon as it is done."""
    for learner in learners:
        reporter.run(learner.name)
        run = Run(directory / learner.name)
        resume = (run.directory / DESCRIPTION).exists()
        yield (
            learner,
            cross_validate(
                dataset, learner, validation, run, only_fold=only_fold, resume=resume, reporter=reporter
            ),
        )


def read_rows(
    dataset: Dataset, validation: Validation, directories: Sequence[Path]
) -> tuple[Rows, list[np.ndarray]]:
    """What several runs have predicted of a dataset.

    Args:
        dataset: what they were trained on.
        validation: as there.
        directories: of the runs.

    Returns:
        The rows that all of them have predicted, and each one's probabilities [N, T] of these.

    Raises:
        InputError: a table is missing or damaged, has other columns, or was made on other folds; no row is in all.
    """
    folds = make_folds(dataset, validation, False)
    fold_of_row = np.full(len(dataset), -1, np.int32)
    priors = np.zeros((len(folds), dataset.targets.shape[1]))
    for number, fold in folds.items():
        fold_of_row[fold.held_out], priors[number] = number, fold.prior
    position = pd.Index(dataset.signatures.sig_id)
    there = np.ones(len(dataset), bool)
    predicted = []
    for directory in directories:
        values = dataset.storage.empty(dataset.targets.shape, np.float32)
        own = np.zeros(len(dataset), bool)
        for table in _read(directory / "oof.parquet", dataset.target_names):
            place = position.get_indexer(table["sig_id"])
            if (place < 0).any() or (fold_of_row[place] != table["fold"]).any():
                raise InputError(
                    f"{directory / 'oof.parquet'}: of other rows or folds, expected those of {dataset.source}"
                )
            values[place] = table[list(dataset.target_names)].to_numpy(np.float32)
            own[place] = True
        there &= own
        predicted.append(values)
    if not there.any():
        raise InputError("the runs have predicted no row in common, expected the same folds of all")
    drug = dataset.signatures.sig_id if dataset.drug_id is None else dataset.drug_id
    found = np.flatnonzero(there)

    def at(values: np.ndarray) -> np.ndarray:
        return values if there.all() else dataset.storage.take(values, found)

    prior = dataset.storage.empty((len(found), priors.shape[1]), np.float64)
    for part in blocks(len(found)):
        prior[part] = priors[fold_of_row[found[part]]]
    rows = Rows(
        at(dataset.targets),
        dataset.target_names,
        dataset.signatures.control[found],
        drug[found].astype(str),
        fold_of_row[found],
        prior,
    )
    return rows, [at(values) for values in predicted]


def entry(learner: Learner, metrics: dict[str, Any], probabilities: np.ndarray) -> Entry:
    """A learner in the leaderboard."""
    return Entry(learner.name, learner.kind, probabilities, metrics["cost"], learner.caveat)


def _read(path: Path, names: Sequence[str]) -> Iterator[pd.DataFrame]:
    """The out-of-fold table, some rows at a time."""
    try:
        with pq.ParquetFile(path) as file:
            if file.schema_arrow.names != ["sig_id", "fold", *names]:
                raise InputError(f"{path}: other columns than sig_id, fold and the {len(names)} targets")
            for batch in file.iter_batches(BLOCK):
                yield batch.to_pandas()
    except InputError:
        raise
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be read ({error})") from None
