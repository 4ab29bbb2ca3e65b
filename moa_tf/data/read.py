"""Reads tables of signatures, labels and drugs, and reports everything that is wrong with them at once."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from moa_tf.data.columns import (
    UniqueIds,
    discover_spec,
    read_codes,
    read_labels,
    read_names,
    read_numbers,
    read_time,
    report,
)
from moa_tf.data.faults import COLUMNS, Faults
from moa_tf.data.schema import DOSES, TYPES, Dataset, Signatures, SignatureSpec
from moa_tf.data.tables import ROWS, Table, find_table, open_table
from moa_tf.errors import InputError

MARKER = "SIMULATED.json"
"""A directory with this file in it holds simulated data."""

_FIELDS = ("sig_id", "genes", "cells", "cp_type", "cp_time", "cp_dose")
_LOAD_ROWS = 8192  # Fewer chunks than in streaming, as pandas takes 60 ms for each, whatever its size.
_TEXT = ("sig_id", "cp_type", "cp_dose")


@dataclass(frozen=True)
class Targets:
    """A table of `sig_id` and one number per target.

    Attributes:
        sig_id: [N] str objects.
        names: T column names in the file's order.
        values: [N, T] float32.
    """

    sig_id: np.ndarray
    names: tuple[str, ...]
    values: np.ndarray

    def __len__(self) -> int:
        return len(self.sig_id)

    def at(self, sig_id: np.ndarray) -> np.ndarray:
        """[len(sig_id), T] float32, the rows of these ids, each of which must be there."""
        return _at(self.values, self.sig_id, sig_id)


def read_features(path: str | Path, spec: SignatureSpec | None = None) -> Signatures:
    """Reads a features table.

    Args:
        path: a `.csv`, `.csv.gz` or `.parquet` file.
        spec: the panel to read; its columns are found by name and others are ignored. None takes the panel
            that the table has: `g-*`, `c-*`, and `cp_type`, `cp_time`, `cp_dose`.

    Returns:
        The signatures, in the file's order.

    Raises:
        InputError: one line for each fault of the file.
    """
    faults = Faults()
    table = open_table(Path(path), faults)
    signatures = _load_features(table, spec, faults)
    faults.raise_if_any()
    assert signatures is not None
    return signatures


def iter_features(
    path: str | Path, spec: SignatureSpec | None = None, rows: int = ROWS
) -> Iterator[Signatures]:
    """Reads a features table in chunks of at most `rows` signatures, in memory that does not grow with it.

    What the chunks so far have shown to be faultless is yielded. After a fault the rest of the file is
    checked too, but yielded no more, and then the InputError comes; so write results to a temporary file.

    Args:
        path: as for `read_features`.
        spec: as for `read_features`.
        rows: the most signatures a chunk has.

    Raises:
        InputError: one line for each fault of the file.
    """
    faults = Faults()
    table = open_table(Path(path), faults)
    for chunk in _scan_features(table, spec, faults, rows):
        if not faults:
            yield chunk
    faults.raise_if_any()


def read_targets(path: str | Path) -> Targets:
    """Reads a table of labels: `sig_id`, then a column of 0 and 1 per target.

    Raises:
        InputError: one line for each fault of the file.
    """
    faults = Faults()
    targets = _load_targets(open_table(Path(path), faults), faults, labels=True)
    faults.raise_if_any()
    assert targets is not None
    return targets


def read_predictions(path: str | Path) -> Targets:
    """Reads a table of probabilities: `sig_id`, then a column of numbers within [0, 1] per target.

    Raises:
        InputError: one line for each fault of the file.
    """
    faults = Faults()
    predictions = _load_targets(open_table(Path(path), faults), faults, labels=False)
    faults.raise_if_any()
    assert predictions is not None
    return predictions


def read_dataset(directory: str | Path) -> Dataset:
    """Reads the training tables of a directory in the competition's layout.

    `train_features` and `train_targets_scored` must be there, `train_targets_nonscored` and `train_drug` may
    be; each as `.csv`, `.csv.gz` or `.parquet`. Rows belong together by `sig_id`, columns by name; the order
    of `train_features` is kept.

    Returns:
        The dataset. `notes["ignored_columns"]` lists columns of the features that are no part of the panel,
        `notes["warnings"]` what is odd but no fault: drugs with inconsistent labels, controls with a label.

    Raises:
        InputError: one line for each fault of the files.
    """
    directory = Path(directory)
    if not directory.is_dir():
        raise InputError(f"{directory}: no such directory")
    faults = Faults()

    def table(stem: str, required: bool) -> Table | None:
        path = find_table(directory, stem, faults, required)
        return open_table(path, faults) if path else None

    source = table("train_features", True)
    signatures = _load_features(source, None, faults)
    scored = _load_targets(table("train_targets_scored", True), faults, labels=True)
    nonscored = _load_targets(table("train_targets_nonscored", False), faults, labels=True)
    drugs = _load_drugs(table("train_drug", False), faults)

    if signatures is not None:
        for stem, ids in (
            ("train_targets_scored", scored and scored.sig_id),
            ("train_targets_nonscored", nonscored and nonscored.sig_id),
            ("train_drug", drugs and drugs[0]),
        ):
            if ids is not None:
                _compare_ids(stem, ids, signatures.sig_id, faults)
    if scored and nonscored:
        both = sorted(set(scored.names) & set(nonscored.names))
        if both:
            faults.add(
                "train_targets_nonscored",
                f"{len(both)} columns are scored targets too ({', '.join(both[:COLUMNS])}), expected others",
            )
    faults.raise_if_any()
    assert source is not None
    assert signatures is not None
    assert scored is not None

    ids = signatures.sig_id
    dataset = Dataset(
        signatures=signatures,
        targets=scored.at(ids),
        target_names=scored.names,
        drug_id=_at(drugs[1], drugs[0], ids) if drugs else None,
        nonscored=nonscored.at(ids) if nonscored else None,
        nonscored_names=nonscored.names if nonscored else (),
        source=str(directory),
        simulated=(directory / MARKER).is_file(),
    )
    return complete(dataset, ignored_columns=_ignored(source, signatures.spec))


def complete(dataset: Dataset, **notes: Any) -> Dataset:
    """The dataset with its fingerprint and its notes, among them the warnings."""
    notes = {**dataset.notes, **notes, "warnings": label_warnings(dataset)}
    values = {**vars(dataset), "fingerprint": fingerprint(dataset), "notes": notes}
    return Dataset(**values)


def fingerprint(dataset: Dataset) -> str:
    """Sha256 over names and values, in order; the same for every file format and column order."""
    signatures = dataset.signatures
    names = {
        "spec": signatures.spec.to_dict(),
        "targets": dataset.target_names,
        "nonscored": dataset.nonscored_names,
        "sig_id": signatures.sig_id.tolist(),
        "drug_id": None if dataset.drug_id is None else dataset.drug_id.tolist(),
    }
    digest = hashlib.sha256(json.dumps(names).encode())
    for values in signatures.inputs().values():
        digest.update(np.ascontiguousarray(values))
    for labels in (dataset.targets, dataset.nonscored):
        if labels is not None:
            digest.update(np.ascontiguousarray(np.packbits(labels != 0, axis=1)))
    return digest.hexdigest()


def label_warnings(dataset: Dataset) -> list[str]:
    """One line each for drugs whose rows have different labels, and for controls that have a label."""
    warnings = []
    labels = dataset.targets if dataset.nonscored is None else np.hstack([dataset.targets, dataset.nonscored])
    if dataset.drug_id is not None:
        drugs, first, drug = np.unique(dataset.drug_id, return_index=True, return_inverse=True)
        odd = np.unique(drug[(labels != labels[first[drug]]).any(1)])
        if len(odd):
            shown = ", ".join(drugs[odd[:3]]) + (", …" if len(odd) > 3 else "")
            warnings.append(
                f"{len(odd)} drugs have rows with different labels ({shown}), expected the same in all"
            )
    control = np.flatnonzero(dataset.signatures.control & labels.any(1))
    if len(control):
        shown = ", ".join(dataset.signatures.sig_id[control[:3]]) + (", …" if len(control) > 3 else "")
        warnings.append(f"{len(control)} controls have a label ({shown}), expected none")
    return warnings


def _ignored(table: Table, spec: SignatureSpec) -> list[str]:
    known = {"sig_id", *spec.columns}
    return [name for name in table.columns if name not in known]


def _scan_features(
    table: Table | None, spec: SignatureSpec | None, faults: Faults, rows: int = ROWS
) -> Iterator[Signatures]:
    if table is None:
        return
    file = table.path.name
    spec = spec or discover_spec(table.columns)
    missing = [name for name in ("sig_id", *spec.columns) if name not in table.columns]
    if missing:
        faults.add(file, _missing_columns(missing))
    if not spec.genes:
        faults.add(file, "no expression columns, expected columns named g-*")
    if "sig_id" in missing:
        return
    # What is there is checked all the same, to report every fault at once.
    have = [name for name in ("sig_id", *spec.columns) if name not in missing]
    genes, cells = ([name for name in names if name in have] for names in (spec.genes, spec.cells))
    ids = UniqueIds()
    for chunk in table.chunks(have, [name for name in _TEXT if name in have], faults, rows):
        sig_id = ids.read(chunk, faults)
        values = read_numbers(chunk, genes + cells, faults, "a finite number")
        yield Signatures(
            SignatureSpec(tuple(genes), tuple(cells), tuple(name for name in spec.treatment if name in have)),
            sig_id,
            values[:, : len(genes)],
            values[:, len(genes) :] if cells else None,
            read_codes(chunk, "cp_type", TYPES, faults) if "cp_type" in have else None,
            read_time(chunk, faults) if "cp_time" in have else None,
            read_codes(chunk, "cp_dose", DOSES, faults) if "cp_dose" in have else None,
        )


def _load_features(table: Table | None, spec: SignatureSpec | None, faults: Faults) -> Signatures | None:
    loaded: dict[str, _Growing] = {name: _Growing() for name in _FIELDS}
    chunk = None
    for chunk in _scan_features(table, spec, faults, _LOAD_ROWS):
        for name, values in loaded.items():
            values.append(getattr(chunk, name))
    if chunk is None:
        return None
    return Signatures(chunk.spec, **{name: values.array for name, values in loaded.items()})


class _Growing:
    """An array that grows in place at its end: joining chunks would hold the matrix twice."""

    def __init__(self) -> None:
        self.array: np.ndarray | None = None

    def append(self, rows: np.ndarray | None) -> None:
        if rows is None:
            return
        if self.array is None:
            self.array = np.array(rows, order="C")
            return
        done = len(self.array)
        self.array.resize((done + len(rows), *rows.shape[1:]), refcheck=False)
        self.array[done:] = rows


def _load_targets(table: Table | None, faults: Faults, labels: bool) -> Targets | None:
    if table is None:
        return None
    names = [name for name in table.columns if name != "sig_id"]
    if len(names) == len(table.columns):
        faults.add(table.path.name, _missing_columns(["sig_id"]))
        return None
    if not names:
        faults.add(table.path.name, "no target columns, expected at least one beside sig_id")
        return None
    unique, ids, values = UniqueIds(), [], []
    for chunk in table.chunks(table.columns, ["sig_id"], faults):
        ids.append(unique.read(chunk, faults))
        values.append(
            read_labels(chunk, names, faults) if labels else _read_probabilities(chunk, names, faults)
        )
    if not ids:
        return None
    return Targets(np.concatenate(ids), tuple(names), np.concatenate(values))


def _read_probabilities(chunk: Any, names: Sequence[str], faults: Faults) -> np.ndarray:
    values = read_numbers(chunk, names, faults, "a probability")
    wrong = (values < 0) | (values > 1)
    for j in np.flatnonzero((wrong & np.isfinite(values)).any(0)):
        report(
            chunk,
            names[j],
            "outside [0, 1]",
            np.flatnonzero(wrong[:, j]),
            values[:, j],
            "a probability",
            faults,
        )
    return values


def _load_drugs(table: Table | None, faults: Faults) -> tuple[np.ndarray, np.ndarray] | None:
    if table is None:
        return None
    missing = [name for name in ("sig_id", "drug_id") if name not in table.columns]
    if missing:
        faults.add(table.path.name, _missing_columns(missing))
        return None
    unique, ids, drugs = UniqueIds(), [], []
    for chunk in table.chunks(["sig_id", "drug_id"], ["sig_id", "drug_id"], faults):
        ids.append(unique.read(chunk, faults))
        drugs.append(read_names(chunk, "drug_id", faults))
    return (np.concatenate(ids), np.concatenate(drugs)) if ids else None


def _missing_columns(names: Sequence[str]) -> str:
    shown = ", ".join(names[:COLUMNS]) + (f" and {len(names) - COLUMNS} more" if len(names) > COLUMNS else "")
    return f"{len(names)} columns missing: {shown}" if len(names) > 1 else f"column {shown} is missing"


def _compare_ids(stem: str, ids: np.ndarray, expected: np.ndarray, faults: Faults) -> None:
    have, want = set(ids), set(expected)
    lost = [value for value in expected if value not in have]
    if lost:
        faults.add_ids(stem, "ids of train_features are missing", lost, "the ids of train_features")
    extra = [value for value in ids if value not in want]
    if extra:
        faults.add_ids(stem, "ids are not in train_features", extra, "the ids of train_features")


def _at(values: np.ndarray, have: np.ndarray, want: np.ndarray) -> np.ndarray:
    if np.array_equal(have, want):
        return values
    rows = pd.Index(have).get_indexer(want)
    if (rows < 0).any():
        raise InputError(f"column sig_id: {np.sum(rows < 0)} ids missing, first {want[rows < 0][0]}")
    return values[rows]
