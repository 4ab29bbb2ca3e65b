"""From the columns of a chunk to checked arrays: numbers, labels, treatment codes, names."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence

import numpy as np
import pandas as pd

from moa_tf.data.faults import Faults
from moa_tf.data.names import is_missing
from moa_tf.data.schema import TREATMENT, SignatureSpec
from moa_tf.data.tables import Chunk

_NUMBERED = re.compile(r"[gc]-(\d+)")
_TRUTH = {"true": "1", "false": "0"}


def discover_spec(columns: Sequence[str]) -> SignatureSpec:
    """The panel of a features table: its `g-*`, `c-*` and `cp_*` columns, whatever their order.

    Numbered columns come in the order of their numbers, others after them in the order of their names.
    """

    def place(name: str) -> tuple[int, int, str]:
        number = _NUMBERED.fullmatch(name)
        return (0, int(number[1]), name) if number else (1, 0, name)

    genes = sorted((name for name in columns if name.startswith("g-")), key=place)
    cells = sorted((name for name in columns if name.startswith("c-")), key=place)
    return SignatureSpec(tuple(genes), tuple(cells), tuple(name for name in TREATMENT if name in columns))


def report(
    chunk: Chunk,
    column: str,
    what: str,
    at: np.ndarray,
    values: Sequence | None,
    expected: str,
    faults: Faults,
) -> None:
    """Adds the cells `at` (indices into the chunk) of one column to the faults.

    Args:
        chunk: the rows.
        column: name of the column.
        what: what is wrong with them.
        at: indices of the faulty rows in the chunk.
        values: [n] what the column holds, to be shown, or None to show none.
        expected: what was expected.
        faults: where to add.
    """
    has_id = column != "sig_id" and "sig_id" in chunk.frame

    def cell(i: int) -> tuple[int, str]:
        parts = [f"sig_id {chunk.frame['sig_id'].iat[i]}"] if has_id else []
        parts += [repr(str(values[i])[:40])] if values is not None else []
        return int(chunk.row[i]), " ".join(parts)

    faults.add_cells(chunk.file, column, what, map(cell, at), expected)


def read_numbers(
    chunk: Chunk, names: Sequence[str], faults: Faults, expected: str, bools: bool = False
) -> np.ndarray:
    """Columns as one matrix, every cell checked.

    Args:
        chunk: the rows.
        names: which columns, in the order of the result.
        faults: gets the cells that are missing, infinite or no number.
        expected: what was expected, for the message.
        bools: take a column of truth values for 0 and 1.

    Returns:
        [n, len(names)] float32; NaN or infinite where a fault was reported.
    """
    frame, texts = chunk.frame, {}
    kinds = dict(zip(frame.columns, (dtype.kind for dtype in frame.dtypes), strict=True))
    odd = [name for name in names if kinds[name] not in ("iufb" if bools else "iuf")]
    if odd:
        texts = {name: frame[name].astype(str).fillna("").to_numpy(object) for name in odd}
        converted = {name: _parse(texts[name], chunk.decimal, bools) for name in odd}
        frame = frame.assign(**converted)
    with np.errstate(over="ignore"):
        values = frame[list(names)].to_numpy(np.float32)
        finite = np.isfinite(values.sum())  # One pass; a sum that overflows only costs the exact look below.
    if not finite:
        wrong = ~np.isfinite(values)
        for j in np.flatnonzero(wrong.any(0)):
            at = np.flatnonzero(wrong[:, j])
            _report_not_finite(chunk, names[j], at, values[:, j], texts.get(names[j]), expected, faults)
    return values


def _parse(texts: np.ndarray, decimal: str, bools: bool) -> pd.Series:
    """[n] numbers, NaN for what is none. A column comes here as text because of as little as one cell."""
    values = pd.Series(texts, dtype=object)
    if bools:
        values = values.map(lambda text: _TRUTH.get(text.strip().lower(), text))
    if decimal != ".":  # A point would stand for thousands then, or for nothing certain.
        values = values.map(lambda text: "" if "." in text else text.replace(decimal, "."))
    return pd.to_numeric(values, errors="coerce")


def _report_not_finite(
    chunk: Chunk,
    name: str,
    at: np.ndarray,
    values: np.ndarray,
    text: np.ndarray | None,
    expected: str,
    faults: Faults,
) -> None:
    infinite = at[np.isinf(values[at])]
    rest = at[np.isnan(values[at])]
    # Without a text the column came as numbers, so what is no number is a missing value.
    missing = rest if text is None else np.array([i for i in rest if is_missing(text[i])], int)
    words = np.setdiff1d(rest, missing)
    for what, rows, shown in (
        ("missing or NaN", missing, text),
        ("infinite", infinite, text),
        ("not a number", words, text),
    ):
        if len(rows):
            report(chunk, name, what, rows, shown, expected, faults)


def read_labels(chunk: Chunk, names: Sequence[str], faults: Faults) -> np.ndarray:
    """[n, len(names)] float32 labels; anything but 0 and 1 is a fault."""
    values = read_numbers(chunk, names, faults, "0 or 1", bools=True)
    wrong = values * (values - 1) != 0
    if wrong.any():
        wrong &= np.isfinite(values)
        for j in np.flatnonzero(wrong.any(0)):
            at = np.flatnonzero(wrong[:, j])
            report(chunk, names[j], "neither 0 nor 1", at, values[:, j], "0 or 1", faults)
    return values


def read_codes(chunk: Chunk, name: str, choices: tuple[str, ...], faults: Faults) -> np.ndarray:
    """[n] int32 index into `choices` of a text column; -1 where a fault was reported."""
    text = chunk.frame[name]
    codes = pd.Categorical(text, categories=list(choices)).codes.astype(np.int32)
    if (codes < 0).any():
        report(chunk, name, "unknown", np.flatnonzero(codes < 0), text.tolist(), " or ".join(choices), faults)
    return codes


def read_time(chunk: Chunk, faults: Faults) -> np.ndarray:
    """[n] float32 hours; a time that is not above 0 is a fault."""
    hours = read_numbers(chunk, ["cp_time"], faults, "hours above 0")[:, 0]
    if (hours <= 0).any():
        report(chunk, "cp_time", "not above 0", np.flatnonzero(hours <= 0), hours, "hours above 0", faults)
    return hours


def read_names(chunk: Chunk, name: str, faults: Faults) -> np.ndarray:
    """[n] str objects of a text column; a missing or undecodable one is a fault.

    `NA` and the like are no names: all rows that have it would be one drug.
    """
    text = chunk.frame[name].to_numpy(object)
    missing = np.flatnonzero([is_missing(value) for value in text])
    empty = missing[text[missing] == ""]
    words = np.setdiff1d(missing, empty)
    if len(empty):
        report(chunk, name, "empty", empty, None, "a name", faults)
    if len(words):
        report(chunk, name, "missing", words, text, "a name", faults)
    broken = np.array([i for i, value in enumerate(text) if "\ufffd" in value], int)
    if len(broken):
        report(chunk, name, "not UTF-8 text", broken, text, "UTF-8", faults)
    return text


class UniqueIds:
    """Finds a `sig_id` that occurs twice, over all chunks of a file.

    Of each id 16 bytes of BLAKE2b are kept, a fifth of what the string takes: that two of a billion ids have the
    same is less likely than 1 in 10^20. They stand in sorted runs, of which the last ones are merged while they
    are as long as the one before, so there are few.
    """

    def __init__(self) -> None:
        self._runs: list[np.ndarray] = []

    def read(self, chunk: Chunk, faults: Faults) -> np.ndarray:
        """[n] the chunk's sig_ids; a repeated one is a fault."""
        ids = read_names(chunk, "sig_id", faults)
        keys = np.array([hashlib.blake2b(value.encode(), digest_size=16).digest() for value in ids], "S16")
        known, first = np.unique(keys, return_index=True)
        again = self._has(keys)
        again |= ~np.isin(np.arange(len(ids)), first)
        again &= ids != ""
        if again.any():
            report(chunk, "sig_id", "repeated", np.flatnonzero(again), ids, "each id once", faults)
        self._add(known)
        return ids

    def _has(self, keys: np.ndarray) -> np.ndarray:
        has = np.zeros(len(keys), bool)
        for run in self._runs:
            at = np.minimum(np.searchsorted(run, keys), len(run) - 1)
            has |= run[at] == keys
        return has

    def _add(self, run: np.ndarray) -> None:
        self._runs.append(run)
        while len(self._runs) > 1 and len(self._runs[-1]) >= len(self._runs[-2]):
            self._runs[-2:] = [np.sort(np.concatenate(self._runs[-2:]))]
