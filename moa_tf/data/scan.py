"""One table at a time, chunk by chunk, into checked arrays; what is wrong with it is collected."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass

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
from moa_tf.data.faults import COLUMNS, EXAMPLES, Faults
from moa_tf.data.names import find_near_misses, find_spellings, shorten
from moa_tf.data.schema import DOSES, TREATMENT, TYPES, Signatures, SignatureSpec
from moa_tf.data.tables import ROWS, Chunk, Table
from moa_tf.errors import InputError

RESERVED = ("fold",)
"""Columns that the out-of-fold table has beside `sig_id` and the targets."""

Tell = Callable[[str], None]
"""Gets one line for each file of which something is ignored, or which is read in an unusual way."""

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
        return rows_at(self.values, self.sig_id, sig_id)


def rows_at(values: np.ndarray, have: np.ndarray, want: np.ndarray) -> np.ndarray:
    """The rows of `values`, whose ids are `have`, in the order of the ids `want`."""
    if np.array_equal(have, want):
        return values
    rows = pd.Index(have).get_indexer(want)
    if (rows < 0).any():
        raise InputError(f"column sig_id: {np.sum(rows < 0)} ids missing, first {want[rows < 0][0]}")
    return values[rows]


def scan_features(
    table: Table | None, spec: SignatureSpec | None, faults: Faults, tell: Tell, rows: int = ROWS
) -> Iterator[Signatures]:
    """Streams a features table; None for `spec` takes the panel that the table has."""
    if table is None:
        return
    known = ("sig_id", *(TREATMENT if spec is None else spec.columns))
    panel = spec is None
    spec = spec or discover_spec(table.columns)
    missing = _check_columns(table, ("sig_id", *spec.columns), known, faults, panel)
    if not spec.genes and ("sig_id" not in missing or any(name in known for name in table.columns)):
        what = "no expression columns, expected columns named g-*"
        faults.add(table.path.name, what if "sig_id" in missing else f"{what}; {table.show_header()}")
    if "sig_id" in missing:
        return
    _remark(table, ("sig_id", *spec.columns), tell, faults)
    # What is there is checked all the same, to report every fault at once.
    have = [name for name in ("sig_id", *spec.columns) if name not in missing]
    genes, cells = ([name for name in names if name in have] for names in (spec.genes, spec.cells))
    treatment = tuple(name for name in spec.treatment if name in have)
    ids = UniqueIds()
    for chunk in table.chunks(have, [name for name in _TEXT if name in have], faults, rows):
        sig_id = ids.read(chunk, faults)
        values = read_numbers(chunk, genes + cells, faults, "a finite number")
        yield Signatures(
            SignatureSpec(tuple(genes), tuple(cells), treatment),
            sig_id,
            values[:, : len(genes)],
            values[:, len(genes) :] if cells else None,
            read_codes(chunk, "cp_type", TYPES, faults) if "cp_type" in have else None,
            read_time(chunk, faults) if "cp_time" in have else None,
            read_codes(chunk, "cp_dose", DOSES, faults) if "cp_dose" in have else None,
        )


def load_features(
    table: Table | None, spec: SignatureSpec | None, faults: Faults, tell: Tell
) -> Signatures | None:
    """The whole of a features table; None where there is nothing to return."""
    loaded: dict[str, _Growing] = {name: _Growing() for name in _FIELDS}
    chunk = None
    for chunk in scan_features(table, spec, faults, tell, _LOAD_ROWS):
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


def load_targets(table: Table | None, faults: Faults, tell: Tell, labels: bool) -> Targets | None:
    """A table of labels, or of probabilities; of the latter the columns of `RESERVED` are left out."""
    if table is None or _check_columns(table, ["sig_id"], ["sig_id"], faults):
        return None
    names = [name for name in table.columns if name != "sig_id"]
    reserved = [name for name in names if name in RESERVED]
    if reserved and labels:
        expected = "expected another name for a target"
        faults.add(table.path.name, f"column {', '.join(reserved)}: the name is reserved, {expected}")
    names = [name for name in names if name not in RESERVED]
    if not names:
        faults.add(table.path.name, "no target columns, expected at least one beside sig_id")
        return None
    _remark(table, table.columns if labels else ["sig_id", *names], tell, faults)
    unique, ids, values = UniqueIds(), [], []
    for chunk in table.chunks(["sig_id", *names], ["sig_id"], faults):
        ids.append(unique.read(chunk, faults))
        read = read_labels if labels else _read_probabilities
        values.append(read(chunk, names, faults))
    if not ids:
        return None
    return Targets(np.concatenate(ids), tuple(names), np.concatenate(values))


def _read_probabilities(chunk: Chunk, names: Sequence[str], faults: Faults) -> np.ndarray:
    values = read_numbers(chunk, names, faults, "a probability")
    wrong = ((values < 0) | (values > 1)) & np.isfinite(values)
    for j in np.flatnonzero(wrong.any(0)):
        at = np.flatnonzero(wrong[:, j])
        report(chunk, names[j], "outside [0, 1]", at, values[:, j], "a probability", faults)
    return values


def load_drugs(table: Table | None, faults: Faults, tell: Tell) -> tuple[np.ndarray, np.ndarray] | None:
    """The ids and, for each, the drug of a table of drugs."""
    columns = ("sig_id", "drug_id")
    if table is None or _check_columns(table, columns, columns, faults):
        return None
    _remark(table, columns, tell, faults)
    unique, ids, drugs = UniqueIds(), [], []
    for chunk in table.chunks(columns, columns, faults):
        ids.append(unique.read(chunk, faults))
        drugs.append(read_names(chunk, "drug_id", faults))
    if not ids:
        return None
    names = np.concatenate(drugs)
    if odd := find_spellings(names):
        shown = "; ".join(
            " and ".join(f"{name!r} in {rows} rows" for name, rows in group.items())
            for group in odd[:EXAMPLES]
        )
        more = "; …" if len(odd) > EXAMPLES else ""
        what = f"{len(odd)} drugs are spelled in several ways, as to case, blanks or .0 ({shown}{more})"
        faults.add(table.path.name, f"column drug_id: {what}, expected one spelling each")
    return np.concatenate(ids), names


def _check_columns(
    table: Table, needed: Sequence[str], known: Collection[str], faults: Faults, panel: bool = False
) -> list[str]:
    """Reports columns that are missing, and those that look like others; returns the former."""
    misses = find_near_misses(table.columns, known, panel)
    if misses:
        pairs = [f"{name!r} for {meant}" for name, meant in misses.items()]
        are = "1 column looks" if len(pairs) == 1 else f"{len(pairs)} columns look"
        what = f"{are} like what is expected under another name ({shorten(pairs, COLUMNS)})"
        faults.add(table.path.name, f"{what}, expected that very name")
    missing = [name for name in needed if name not in table.columns]
    unknown = [name for name in missing if name not in misses.values()]
    if unknown:
        shown = ", ".join(unknown[:COLUMNS])
        shown += f" and {len(unknown) - COLUMNS} more" if len(unknown) > COLUMNS else ""
        what = (
            f"{len(unknown)} columns missing: {shown}" if len(unknown) > 1 else f"column {shown} is missing"
        )
        whole = {"sig_id", "drug_id"}.isdisjoint(unknown)  # Else the header may not be one at all.
        faults.add(table.path.name, what if whole else f"{what}; {table.show_header()}")
    return missing


def _remark(table: Table, used: Collection[str], tell: Tell, faults: Faults) -> None:
    line = table.remark(used)
    if line and not faults:  # What looks like another column is not simply not used.
        tell(line)
