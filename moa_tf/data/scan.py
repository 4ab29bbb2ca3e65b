"""One table at a time, chunk by chunk, into checked arrays; what is wrong with it is collected."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from moa_tf.data.columns import (
    FEATURE,
    UniqueIds,
    Words,
    discover_spec,
    encode_words,
    read_labels,
    read_micromolar,
    read_names,
    read_numbers,
    read_time,
    read_types,
    read_words,
    report,
)
from moa_tf.data.faults import COLUMNS, EXAMPLES, Faults, one_line
from moa_tf.data.names import find_near_misses, find_spellings, shorten
from moa_tf.data.schema import CONTROL, DOSES, TREATMENT, Signatures, SignatureSpec
from moa_tf.data.storage import Memory, Storage
from moa_tf.data.tables import ROWS, Chunk, Table
from moa_tf.errors import InputError

RESERVED = ("fold",)
"""Columns that the out-of-fold table has beside `sig_id` and the targets."""

Tell = Callable[[str], None]
"""Gets one line for each file of which something is ignored, or which is read in an unusual way."""

_FIELDS = ("sig_id", "genes", "cells", *TREATMENT)
_LOAD_ROWS = 8192  # Fewer chunks than in streaming, as pandas takes 60 ms for each, whatever its size.


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

    def at(self, sig_id: np.ndarray, storage: Storage | None = None) -> np.ndarray:
        """[len(sig_id), T] float32, the rows of these ids, each of which must be there."""
        return rows_at(self.values, self.sig_id, sig_id, storage)


@dataclass(frozen=True)
class Drugs:
    """A table of `sig_id`, `drug_id`, and further columns by which rows can be grouped.

    Attributes:
        sig_id: [N] str objects.
        drug_id: [N] str objects.
        groups: name of a further column -> [N] str objects, '' where a value is missing.
    """

    sig_id: np.ndarray
    drug_id: np.ndarray
    groups: dict[str, np.ndarray]


def rows_at(
    values: np.ndarray, have: np.ndarray, want: np.ndarray, storage: Storage | None = None
) -> np.ndarray:
    """The rows of `values`, whose ids are `have`, in the order of the ids `want`; if that is another, in `storage`."""
    if np.array_equal(have, want):
        return values
    rows = pd.Index(have).get_indexer(want)
    if (rows < 0).any():
        raise InputError(f"column sig_id: {np.sum(rows < 0)} ids missing, first {want[rows < 0][0]}")
    return values[rows] if storage is None else storage.take(values, rows)


def scan_features(
    table: Table | None,
    spec: SignatureSpec | None,
    faults: Faults,
    tell: Tell,
    rows: int = ROWS,
    missing: bool = False,
) -> Iterator[Signatures]:
    """Streams a features table; None for `spec` takes the panel that the table has.

    Without `spec` the levels of dose and the cell lines are known only when all is read: each chunk's panel has those
    so far, in the order in which they appeared, and the last one's are put in order by `load_features`.
    """
    if table is None:
        return
    known = ("sig_id", *(TREATMENT if spec is None else spec.columns))
    given = spec
    spec = discover_spec(table.columns, missing) if spec is None else spec
    lost = _check_columns(table, ("sig_id", *spec.columns), known, faults, panel=given is None)
    if not spec.features and ("sig_id" not in lost or any(name in known for name in table.columns)):
        what = "no expression and no viability, expected columns named g-* or c-*"
        faults.add(table.path.name, what if "sig_id" in lost else f"{what}; {table.show_header()}")
    if "sig_id" in lost:
        return
    _remark(table, ("sig_id", *spec.columns), tell, faults)
    # What is there is checked all the same, to report every fault at once.
    have = [name for name in ("sig_id", *spec.columns) if name not in lost]
    genes, cells = ([name for name in names if name in have] for names in (spec.genes, spec.cells))
    spec = replace(
        spec,
        genes=tuple(genes),
        cells=tuple(cells),
        treatment=tuple(name for name in spec.treatment if name in have),
    )
    ids, treatment = UniqueIds(), _Treatment(spec, given is not None)
    text = ["sig_id", *(name for name in ("cp_type", "cp_dose", "cp_cell") if name in have)]
    if given is not None and not spec.doses:
        text = [name for name in text if name != "cp_dose"]
    for chunk in table.chunks(have, text, faults, rows):
        sig_id = ids.read(chunk, faults)
        values = read_numbers(chunk, genes + cells, faults, FEATURE, missing=spec.missing)
        read = treatment.read(chunk, faults)
        yield Signatures(
            treatment.spec,
            sig_id,
            values[:, : len(genes)] if genes else None,
            values[:, len(genes) :] if cells else None,
            **read,
        )
    treatment.check_spellings(table.name, faults)


class _Treatment:
    """Reads the treatment columns: by a panel's words, or by what the table turns out to have."""

    def __init__(self, spec: SignatureSpec, known: bool) -> None:
        self.spec, self.known = spec, known
        self.words = {
            name: Words() for name in ("cp_dose", "cp_cell") if name in spec.treatment and not known
        }

    def read(self, chunk: Chunk, faults: Faults) -> dict[str, np.ndarray]:
        have, read = self.spec.treatment, {}
        if "cp_type" in have:
            read["cp_type"] = read_types(chunk, faults)
        control = read["cp_type"] == CONTROL if "cp_type" in have else np.zeros(len(chunk.frame), bool)
        if "cp_time" in have:
            read["cp_time"] = read_time(chunk, faults)
        for name in ("cp_dose", "cp_cell"):
            if name not in have:
                continue
            if not self.known:
                read[name] = self.words[name].read(chunk, name)
                if name == "cp_dose" and (wrong := np.flatnonzero((read[name] < 0) & ~control)).size:
                    report(chunk, name, "missing", wrong, chunk.frame[name].tolist(), "a dose", faults)
            elif name == "cp_cell":
                # A model has a place for cell lines that it has never seen.
                read[name] = encode_words(chunk, name, self.spec.cell_lines, np.ones_like(control), faults)
            elif self.spec.doses:
                read[name] = encode_words(chunk, name, self.spec.doses, control, faults)
            else:
                read[name] = read_micromolar(chunk, control, faults)
        if self.words:
            found = {{"cp_dose": "doses", "cp_cell": "cell_lines"}[name]: tuple(words.words)
                     for name, words in self.words.items()}  # fmt: skip
            self.spec = replace(self.spec, **found)
        return read

    def check_spellings(self, name: str, faults: Faults) -> None:
        """Levels and cell lines that differ in case or blanks alone are one, and which one nobody knows."""
        for column, words in self.words.items():
            if words.numbers() is None and (odd := find_spellings(np.array(words.words, object))):
                shown = "; ".join(" and ".join(map(repr, group)) for group in odd[:EXAMPLES])
                what = f"{len(odd)} words are spelled in several ways ({shown})"
                faults.add(name, f"column {column}: {what}, expected one spelling each")


def _settle(signatures: Signatures) -> Signatures:
    """With the levels in their order, or the doses as numbers, once all of them are known."""
    spec, changes = signatures.spec, {}
    for name, field in (("cp_dose", "doses"), ("cp_cell", "cell_lines")):
        codes = getattr(signatures, name)
        if codes is None:
            continue
        words = Words(getattr(spec, field))
        numbers = words.numbers() if name == "cp_dose" else None
        if numbers is not None:
            spec = replace(spec, doses=())
            changes[name] = np.append(numbers, np.nan).astype(np.float32)[codes]
            continue
        levels, place = words.levels()
        if name == "cp_dose" and set(levels) <= set(DOSES):
            place = np.array([DOSES.index(word) for word in words.words], np.int32)
            levels = DOSES
        spec = replace(spec, **{field: levels})
        changes[name] = np.append(place, np.int32(-1))[codes]
    return replace(signatures, spec=spec, **changes)


def load_features(
    table: Table | None,
    spec: SignatureSpec | None,
    faults: Faults,
    tell: Tell,
    missing: bool = False,
    storage: Storage | None = None,
) -> Signatures | None:
    """The whole of a features table, its matrices in `storage`; None where there is nothing to return."""
    large, memory = storage or Memory(), Memory()
    loaded = {name: (large if name in ("genes", "cells") else memory).growing() for name in _FIELDS}
    chunk = None
    for chunk in scan_features(table, spec, faults, tell, _LOAD_ROWS, missing):
        for name, values in loaded.items():
            if (rows := getattr(chunk, name)) is not None:
                values.append(rows)
    if chunk is None:
        return None
    signatures = Signatures(chunk.spec, **{name: values.finish() for name, values in loaded.items()})
    return signatures if spec is not None else _settle(signatures)


def load_targets(
    table: Table | None, faults: Faults, tell: Tell, labels: bool, storage: Storage | None = None
) -> Targets | None:
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
    unique, ids, values = UniqueIds(), [], (storage or Memory()).growing()
    for chunk in table.chunks(["sig_id", *names], ["sig_id"], faults):
        ids.append(unique.read(chunk, faults))
        read = read_labels if labels else _read_probabilities
        values.append(read(chunk, names, faults))
    if not ids:
        return None
    return Targets(np.concatenate(ids), tuple(names), values.finish())


def _read_probabilities(chunk: Chunk, names: Sequence[str], faults: Faults) -> np.ndarray:
    values = read_numbers(chunk, names, faults, "a probability")
    wrong = ((values < 0) | (values > 1)) & np.isfinite(values)
    for j in np.flatnonzero(wrong.any(0)):
        at = np.flatnonzero(wrong[:, j])
        report(chunk, names[j], "outside [0, 1]", at, values[:, j], "a probability", faults)
    return values


def load_drugs(
    table: Table | None, signatures: Signatures | None, faults: Faults, tell: Tell, groups: bool = True
) -> Drugs | None:
    """A table of drugs; of rows that belong to none of `signatures` the ids alone are looked at.

    Without `groups` its further columns are not.
    """
    needed = ("sig_id", "drug_id")
    if table is None or _check_columns(table, needed, needed, faults):
        return None
    further = [name for name in table.texts() if name not in needed] if groups else []
    columns = [*needed, *further]
    _remark(table, columns, tell, faults)
    known = None if signatures is None else set(signatures.sig_id)
    unique, extra = UniqueIds(), []
    read: dict[str, list[np.ndarray]] = {name: [] for name in columns}
    for chunk in table.chunks(columns, columns, faults):
        ids = unique.read(chunk, faults)
        if known is not None:
            wanted = np.fromiter((name in known for name in ids), bool, len(ids))
            extra += ids[~wanted].tolist()
            chunk = Chunk(
                chunk.file, chunk.frame[wanted].reset_index(drop=True), chunk.row[wanted], chunk.decimal
            )
        read["sig_id"].append(chunk.frame["sig_id"].to_numpy(object))
        read["drug_id"].append(read_names(chunk, "drug_id", faults))
        for name in further:
            read[name].append(read_words(chunk, name))
    if not read["sig_id"]:
        return None
    values = {name: np.concatenate(parts) for name, parts in read.items()}
    if odd := find_spellings(values["drug_id"]):
        shown = "; ".join(
            " and ".join(f"{name!r} in {rows} rows" for name, rows in group.items())
            for group in odd[:EXAMPLES]
        )
        more = "; …" if len(odd) > EXAMPLES else ""
        what = f"{len(odd)} drugs are spelled in several ways, as to case, blanks or .0 ({shown}{more})"
        faults.add(table.path.name, f"column drug_id: {what}, expected one spelling each")
    if extra:
        are = "1 id is" if len(extra) == 1 else f"{len(extra)} ids are"
        tell(one_line(f"{table.name}: {are} not in train_features ({shorten(extra, EXAMPLES)}), ignored"))
    return Drugs(values.pop("sig_id"), values.pop("drug_id"), values)


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
