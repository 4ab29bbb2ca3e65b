"""How large a directory of tables is in memory, known before it is read; and where it is to be kept."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from moa_tf.data.columns import discover_spec
from moa_tf.data.faults import Faults
from moa_tf.data.opening import find_table, open_table
from moa_tf.data.storage import Disk, Memory, Storage, available_memory, gigabytes

DERIVED = 200
"""Columns that preprocessing adds to the features, about: principal components, statistics, dose and time."""


@dataclass(frozen=True)
class Size:
    """Of a directory's tables.

    Attributes:
        rows: signatures, an estimate where the table is CSV.
        features: genes and cell lines.
        labels: columns of both kinds of targets.
        predictions: columns of the scored ones.
    """

    rows: int
    features: int
    labels: int
    predictions: int

    def bytes(self, of_feature: int = 4) -> int:
        """The tables and the predictions in float32, and one fold's features, each of so many bytes."""
        tables = 4 * (self.features + self.labels + self.predictions)
        return self.rows * (tables + of_feature * (self.features + DERIVED))


def measure(directory: Path) -> Size | None:
    """The size of the training tables, by their headers; None where one is at fault, which reading will say."""
    faults = Faults()
    if not directory.is_dir():
        return None
    stems = {"train_features": True, "train_targets_scored": True, "train_targets_nonscored": False}
    paths = [find_table(directory, stem, faults, required) for stem, required in stems.items()]
    tables = [open_table(path, faults) if path else None for path in paths]
    if faults or tables[0] is None or tables[1] is None:
        return None
    scored, nonscored = (0 if table is None else len(table.columns) - 1 for table in tables[1:])
    try:
        rows = tables[0].count_rows()
    except (pa.ArrowException, OSError, EOFError, zlib.error):
        return None
    return Size(rows, len(discover_spec(tables[0].columns).features), scored + nonscored, scored)


def choose_storage(choice: str, directory: Path, scratch: Path, tell: Callable[[str], None]) -> Storage:
    """Where a directory's tables, and what is computed from each row, are to be kept.

    Args:
        choice: one of `CHOICES`; `auto` takes the disk where more than half of the memory that is free would be needed,
            `disk-bfloat16` keeps there each fold's features in half of the bytes.
        directory: of the tables.
        scratch: a directory on the disk that is to be used, there or still to be made.
        tell: gets a line, where it is the disk.

    Raises:
        InputError: the disk has too little room.
    """
    size = None if choice == "memory" else measure(directory)
    if size is None:
        return Memory()
    free = available_memory()
    if choice == "auto" and (free is None or size.bytes() <= free / 2):
        return Memory()
    scratch = next(folder for folder in (scratch, *scratch.absolute().parents) if folder.is_dir())
    kept = " (in bfloat16)" if choice == "disk-bfloat16" else ""
    what = f"about {size.rows:,} signatures, their features{kept} and predictions"
    why = ""
    if choice == "auto":
        why = f": {gigabytes(free or 0)} of memory are free (else give --storage memory)"
    disk = Disk(scratch, bfloat16=choice == "disk-bfloat16")
    needed = size.bytes(disk.features.itemsize)
    disk.require(needed, what)
    tell(f"{directory}: {gigabytes(needed)} of {what} are kept on disk, in {scratch}{why}")
    return disk
