"""What a directory of signature tables holds, in figures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from moa_tf.data.faults import Faults
from moa_tf.data.groups import count_splits
from moa_tf.data.opening import find_table
from moa_tf.data.read import read_dataset, read_features
from moa_tf.data.scan import Tell
from moa_tf.data.schema import Dataset, Signatures
from moa_tf.errors import InputError


def check(directory: str | Path, missing: bool = False) -> dict[str, Any]:
    """Reads and checks every table of a directory in the competition's layout.

    Args:
        directory: as for `read_dataset`; `test_features` is checked too, if there, against the panel of
            `train_features`.
        missing: whether features may have missing values.

    Returns:
        Plain values, for a table or a JSON file: `source`, `simulated`, `fingerprint`, `warnings`,
        `ignored_columns`, `panel` (numbers of inputs), `train` and `test` (see `count_signatures`; `test` is
        None where there is none), `drugs` (None, or number and rows of a drug), `splits` (columns of `train_drug`
        by which rows can be held out, see `count_groups`), `targets` and `nonscored` (see `count_labels`; the
        latter may be None).

    Raises:
        InputError: one line for each fault of all the files.
    """
    directory = Path(directory)
    dataset, test = None, None
    faults: list[str] = []
    told: list[str] = []
    try:
        dataset = read_dataset(directory, missing)
    except InputError as error:
        faults.append(str(error))
    try:
        test = _read_test(directory, dataset, missing, told.append)
    except InputError as error:
        faults.append(str(error))
    if faults:
        raise InputError("\n".join(faults))
    assert dataset is not None
    figures = describe(dataset)
    figures["warnings"] = [*figures["warnings"], *told]
    return figures | {"test": None if test is None else count_signatures(test)}


def _read_test(directory: Path, dataset: Dataset | None, missing: bool, tell: Tell) -> Signatures | None:
    if not directory.is_dir():
        return None
    faults = Faults()
    path = find_table(directory, "test_features", faults, required=False)
    faults.raise_if_any()
    if path is None:
        return None
    # Where the training table is at fault, its panel is not known; the test table is checked by itself.
    return read_features(path, dataset.signatures.spec if dataset else None, tell, missing)


def describe(dataset: Dataset) -> dict[str, Any]:
    """The figures of `check` for a dataset in memory."""
    spec = dataset.signatures.spec
    return {
        "source": dataset.source,
        "simulated": dataset.simulated,
        "fingerprint": dataset.fingerprint,
        "warnings": dataset.notes.get("warnings", []),
        "ignored_columns": dataset.notes.get("ignored_columns", []),
        "panel": {
            "genes": len(spec.genes),
            "cells": len(spec.cells),
            "treatment": list(spec.treatment),
        },
        "train": count_signatures(dataset.signatures),
        "drugs": _count_drugs(dataset.drug_id),
        "splits": count_splits(dataset),
        "targets": count_labels(dataset.targets, dataset.target_names),
        "nonscored": None
        if dataset.nonscored is None
        else count_labels(dataset.nonscored, dataset.nonscored_names),
    }


def count_signatures(signatures: Signatures) -> dict[str, Any]:
    """`rows`, `controls`, how many rows each type, time, dose and cell line has, where known, and values `missing`."""
    figures: dict[str, Any] = {"rows": len(signatures), "controls": int(signatures.control.sum())}
    spec = signatures.spec
    for name, words in spec.codes.items():
        codes = getattr(signatures, name)
        figures[name] = dict(
            zip(words, np.bincount(codes[codes >= 0], minlength=len(words)).tolist(), strict=True)
        )
    for name in ("cp_time", "cp_dose"):
        if name in spec.treatment and name not in spec.codes:
            values = getattr(signatures, name)
            values, rows = np.unique(values[np.isfinite(values)], return_counts=True)
            figures[name] = {f"{value:g}": int(count) for value, count in zip(values, rows, strict=True)}
    if spec.missing:
        kinds = [values for values in (signatures.genes, signatures.cells) if values is not None]
        figures["missing"] = int(sum(np.isnan(values).sum() for values in kinds))
    return figures


def count_labels(labels: np.ndarray, names: tuple[str, ...]) -> dict[str, Any]:
    """Statistics of [N, T] labels.

    Returns:
        `targets`, `positives` (ones in all), `rows_with_labels` (number of labels -> rows),
        `all_zero` (names of targets without a positive) and `positives_per_target` (name -> ones).
    """
    positives = labels.sum(0, dtype=np.int64)
    counts, rows = np.unique(labels.sum(1, dtype=np.int64), return_counts=True)
    return {
        "targets": len(names),
        "positives": int(positives.sum()),
        "rows_with_labels": {str(k): int(n) for k, n in zip(counts, rows, strict=True)},
        "all_zero": [name for name, n in zip(names, positives, strict=True) if n == 0],
        "positives_per_target": dict(zip(names, positives.tolist(), strict=True)),
    }


def _count_drugs(drug_id: np.ndarray | None) -> dict[str, Any] | None:
    if drug_id is None:
        return None
    _, rows = np.unique(drug_id, return_counts=True)
    return {"drugs": len(rows), "median_rows": float(np.median(rows)), "most_rows": int(rows.max())}
