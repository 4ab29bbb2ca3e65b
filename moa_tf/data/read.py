"""Reads tables of signatures, labels and drugs, and reports everything that is wrong with them at once."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from moa_tf.data.faults import COLUMNS, EXAMPLES, Faults
from moa_tf.data.fingerprint import fingerprint_dataset
from moa_tf.data.names import shorten
from moa_tf.data.opening import find_table, open_table
from moa_tf.data.prior import label_sums
from moa_tf.data.scan import (
    Drugs,
    Targets,
    Tell,
    load_drugs,
    load_features,
    load_targets,
    rows_at,
    scan_features,
)
from moa_tf.data.schema import Dataset, Signatures, SignatureSpec
from moa_tf.data.storage import Memory, Storage, blocks
from moa_tf.data.tables import ROWS, Table
from moa_tf.errors import InputError

__all__ = [
    "MARKER",
    "Targets",
    "complete",
    "iter_features",
    "label_warnings",
    "read_dataset",
    "read_drugs",
    "read_features",
    "read_predictions",
    "read_targets",
]

MARKER = "SIMULATED.json"
"""A directory with this file in it holds simulated data."""


def _ignore(line: str) -> None:
    """Tells nobody."""


def read_features(
    path: str | Path, spec: SignatureSpec | None = None, tell: Tell = _ignore, missing: bool = False
) -> Signatures:
    """Reads a features table.

    Args:
        path: a `.csv`, `.csv.gz` or `.parquet` file, or a directory `.parquet` of such files.
        spec: the panel to read; its columns are found by name and others are ignored. None takes the panel
            that the table has: `g-*`, `c-*`, and `cp_type`, `cp_time`, `cp_dose`, `cp_cell`.
        tell: gets one line, if there is something to say: which columns are not used, and how the file is
            read if not as plain CSV.
        missing: where no panel says it, whether features may have missing values.

    Returns:
        The signatures, in the file's order.

    Raises:
        InputError: one line for each fault of the file.
    """
    faults = Faults()
    table = open_table(Path(path), faults)
    signatures = load_features(table, spec, faults, tell, missing)
    faults.raise_if_any()
    assert signatures is not None
    return signatures


def iter_features(
    path: str | Path,
    spec: SignatureSpec | None = None,
    rows: int = ROWS,
    tell: Tell = _ignore,
    missing: bool = False,
) -> Iterator[Signatures]:
    """Reads a features table in chunks of at most `rows` signatures, in memory that does not grow with it.

    What the chunks so far have shown to be faultless is yielded. After a fault the rest of the file is
    checked too, but yielded no more, and then the InputError comes; so write results to a temporary file.

    Args:
        path: as for `read_features`.
        spec: as for `read_features`.
        rows: the most signatures a chunk has.
        tell: as for `read_features`; called before the first chunk.
        missing: as for `read_features`.

    Raises:
        InputError: one line for each fault of the file.
    """
    faults = Faults()
    table = open_table(Path(path), faults)
    for chunk in scan_features(table, spec, faults, tell, rows, missing):
        if not faults:
            yield chunk
    faults.raise_if_any()


def read_targets(path: str | Path, tell: Tell = _ignore) -> Targets:
    """Reads a table of labels: `sig_id`, then a column of 0 and 1 per target.

    Args:
        path: a `.csv`, `.csv.gz` or `.parquet` file, or a directory `.parquet` of such files.
        tell: as for `read_features`.

    Raises:
        InputError: one line for each fault of the file.
    """
    faults = Faults()
    targets = load_targets(open_table(Path(path), faults), faults, tell, labels=True)
    faults.raise_if_any()
    assert targets is not None
    return targets


def read_predictions(path: str | Path, tell: Tell = _ignore) -> Targets:
    """Reads a table of probabilities: `sig_id`, then a column of numbers within [0, 1] per target.

    The column `fold` of a run's out-of-fold table is left out.

    Args:
        path: a `.csv`, `.csv.gz` or `.parquet` file, or a directory `.parquet` of such files.
        tell: as for `read_features`.

    Raises:
        InputError: one line for each fault of the file.
    """
    faults = Faults()
    predictions = load_targets(open_table(Path(path), faults), faults, tell, labels=False)
    faults.raise_if_any()
    assert predictions is not None
    return predictions


def read_drugs(path: str | Path, tell: Tell = _ignore, groups: bool = True) -> Drugs:
    """Reads a table of drugs: `sig_id`, `drug_id`, and further columns.

    Args:
        path: a `.csv`, `.csv.gz` or `.parquet` file, or a directory `.parquet` of such files.
        tell: as for `read_features`.
        groups: whether to read the further columns.

    Raises:
        InputError: one line for each fault of the file.
    """
    faults = Faults()
    drugs = load_drugs(open_table(Path(path), faults), None, faults, tell, groups)
    faults.raise_if_any()
    assert drugs is not None
    return drugs


def read_dataset(directory: str | Path, missing: bool = False, storage: Storage | None = None) -> Dataset:
    """Reads the training tables of a directory in the competition's layout.

    `train_features` and `train_targets_scored` must be there, `train_targets_nonscored` and `train_drug` may
    be; each as `.csv`, `.csv.gz` or `.parquet`, the last a file or a directory of such files. Rows belong together
    by `sig_id`, columns by name; the order of `train_features` is kept. Signatures that `train_drug` has beside these
    are ignored.

    Args:
        directory: where the tables are.
        missing: whether features may have missing values.
        storage: where the matrices go; by default memory. What is read is the same.

    Returns:
        The dataset. `notes["ignored_columns"]` lists columns of the features that are no part of the panel,
        `notes["warnings"]` what is to be said: what is not used of each file, how it is read if not as plain
        CSV, and what is odd but no fault (see `label_warnings`).

    Raises:
        InputError: one line for each fault of the files.
    """
    directory = Path(directory)
    if not directory.is_dir():
        raise InputError(f"{directory}: no such directory")
    faults, told = Faults(), []

    def table(stem: str, required: bool) -> Table | None:
        path = find_table(directory, stem, faults, required)
        return open_table(path, faults) if path else None

    source = table("train_features", True)
    storage = storage or Memory()
    signatures = load_features(source, None, faults, told.append, missing, storage)
    scored, nonscored = (
        load_targets(table(stem, required), faults, told.append, labels=True, storage=storage)
        for stem, required in (("train_targets_scored", True), ("train_targets_nonscored", False))
    )
    drugs = load_drugs(table("train_drug", False), signatures, faults, told.append)

    if signatures is not None:
        for stem, ids in (
            ("train_targets_scored", scored and scored.sig_id),
            ("train_targets_nonscored", nonscored and nonscored.sig_id),
            ("train_drug", drugs and drugs.sig_id),
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
        targets=scored.at(ids, storage),
        target_names=scored.names,
        drug_id=rows_at(drugs.drug_id, drugs.sig_id, ids) if drugs else None,
        nonscored=nonscored.at(ids, storage) if nonscored else None,
        nonscored_names=nonscored.names if nonscored else (),
        groups={name: rows_at(values, drugs.sig_id, ids) for name, values in drugs.groups.items()}
        if drugs
        else {},
        source=str(directory),
        simulated=(directory / MARKER).is_file(),
        storage=storage,
    )
    unused = source.unused(("sig_id", *signatures.spec.columns))
    return complete(dataset, told, ignored_columns=unused)


def complete(dataset: Dataset, told: Sequence[str] = (), **notes: Any) -> Dataset:
    """The dataset with its fingerprint and its notes, among them `told` and the warnings."""
    notes = {**dataset.notes, **notes, "warnings": [*told, *label_warnings(dataset)]}
    values = {**vars(dataset), "fingerprint": fingerprint_dataset(dataset), "notes": notes}
    return Dataset(**values)


def label_warnings(dataset: Dataset) -> list[str]:
    """One line for each thing that is odd, but no fault.

    These are: drugs whose rows have different labels, controls that have a label, no row that is treated, scored
    targets without a positive in a treated row, of which nothing can be learnt.
    """
    warnings = []
    labels = [values for values in (dataset.targets, dataset.nonscored) if values is not None]
    control = dataset.signatures.control
    if dataset.drug_id is not None:
        drugs, first, drug = np.unique(dataset.drug_id, return_index=True, return_inverse=True)
        differs = _any_label(labels, lambda values, part: values[part] != values[first[drug[part]]])
        odd = np.unique(drug[differs])
        if len(odd):
            shown = shorten(drugs[odd], EXAMPLES)
            warnings.append(
                f"{len(odd)} drugs have rows with different labels ({shown}), expected the same in all"
            )
    labelled = np.flatnonzero(control & _any_label(labels, lambda values, part: values[part]))
    if len(labelled):
        shown = shorten(dataset.signatures.sig_id[labelled], EXAMPLES)
        warnings.append(f"{len(labelled)} controls have a label ({shown}), expected none")
    if control.all():
        warnings.append(f"all {len(dataset)} signatures are controls, expected treated ones to learn from")
        return warnings
    none = np.flatnonzero(label_sums(dataset.targets, np.flatnonzero(~control)) == 0)
    if len(none) == len(dataset.target_names):
        warnings.append(
            f"none of the {len(none)} targets has a positive in a treated row: nothing can be learnt, and a model "
            "of them is the prior"
        )
    elif len(none):
        shown = shorten((dataset.target_names[j] for j in none), EXAMPLES)
        warnings.append(
            f"{len(none)} of {len(dataset.target_names)} targets have no positive in a treated row ({shown}): "
            "nothing can be learnt of them"
        )
    return warnings


def _any_label(labels: Sequence[np.ndarray], look: Callable[[np.ndarray, slice], np.ndarray]) -> np.ndarray:
    """[N] bool: the rows where what `look` makes of a table of labels has a value that is not 0."""
    found = np.zeros(len(labels[0]), bool)
    for part in blocks(len(found)):
        for values in labels:
            found[part] |= look(values, part).any(axis=1)
    return found


def _compare_ids(stem: str, ids: np.ndarray, expected: np.ndarray, faults: Faults) -> None:
    if np.array_equal(ids, expected):
        return
    have, want = set(ids), set(expected)
    lost = [value for value in expected if value not in have]
    if lost:
        faults.add_ids(stem, "ids of train_features are missing", lost, "the ids of train_features")
    extra = [value for value in ids if value not in want]
    if extra:
        faults.add_ids(stem, "ids are not in train_features", extra, "the ids of train_features")
