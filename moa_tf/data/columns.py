"""From the columns of a chunk to checked arrays: numbers, labels, treatment codes, names."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np
import pandas as pd

from moa_tf.data.faults import Faults
from moa_tf.data.names import is_missing
from moa_tf.data.schema import HOURS_ABOVE, MICROMOLAR_ABOVE, TREATMENT, TYPE_PREFIXES, TYPES, SignatureSpec
from moa_tf.data.tables import Chunk

_NUMBERED = re.compile(r"[gc]-(\d+)")

_HOURS = re.compile(r"(.*?)\s*(?:h|hr|hrs|hour|hours)", re.IGNORECASE)
FEATURE = "a finite number"
"""What is expected of a gene or a cell line."""

_HASH_KEYS = ("moa-tf first key", "moa-tf other key")

_TRUTH = {"true": "1", "false": "0"}


def discover_spec(columns: Sequence[str], missing: bool = False) -> SignatureSpec:
    """The panel of a features table: its `g-*`, `c-*` and `cp_*` columns, whatever their order.

    Numbered columns come in the order of their numbers, others after them in the order of their names. The levels of
    dose and the cell lines are not known from the columns.
    """

    def place(name: str) -> tuple[int, int, str]:
        number = _NUMBERED.fullmatch(name)
        return (0, int(number[1]), name) if number else (1, 0, name)

    genes = sorted((name for name in columns if name.startswith("g-")), key=place)
    cells = sorted((name for name in columns if name.startswith("c-")), key=place)
    treatment = tuple(name for name in TREATMENT if name in columns)
    return SignatureSpec(tuple(genes), tuple(cells), treatment, missing=missing)


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
    chunk: Chunk,
    names: Sequence[str],
    faults: Faults,
    expected: str,
    bools: bool = False,
    missing: bool = False,
) -> np.ndarray:
    """Columns as one matrix, every cell checked.

    Args:
        chunk: the rows.
        names: which columns, in the order of the result.
        faults: gets the cells that are missing, infinite or no number.
        expected: what was expected, for the message.
        bools: take a column of truth values for 0 and 1.
        missing: whether a value may be missing.

    Returns:
        [n, len(names)] float32; NaN where a value is missing; NaN or infinite where a fault was reported.
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
            text = texts.get(names[j])
            _report_not_finite(chunk, names[j], at, values[:, j], text, expected, faults, missing)
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
    may_miss: bool,
) -> None:
    infinite = at[np.isinf(values[at])]
    rest = at[np.isnan(values[at])]
    # Without a text the column came as numbers, so what is no number is a missing value.
    missing = rest if text is None else np.array([i for i in rest if is_missing(text[i])], int)
    words = np.setdiff1d(rest, missing)
    if not may_miss and len(missing):
        hint = (
            f"{expected}; a model trained with --missing median takes gaps" * (expected == FEATURE)
            or expected
        )
        report(chunk, name, "missing or NaN", missing, text, hint, faults)
    for what, rows in (("infinite", infinite), ("not a number", words)):
        if len(rows):
            report(chunk, name, what, rows, text, expected, faults)


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


def read_types(chunk: Chunk, faults: Faults) -> np.ndarray:
    """[n] int32 index into `TYPES` of `cp_type`, by what it begins with; −1 where a fault was reported."""
    text = chunk.frame["cp_type"]
    codes = np.full(len(text), -1, np.int32)
    for code, prefix in enumerate(TYPE_PREFIXES):
        codes[text.str.startswith(prefix).to_numpy(bool) & (text.str.len() > len(prefix)).to_numpy(bool)] = (
            code
        )
    if (codes < 0).any():
        expected = f"{' or '.join(TYPES)} (or another type of the Connectivity Map, trt_… or ctl_…)"
        report(chunk, "cp_type", "unknown", np.flatnonzero(codes < 0), text.tolist(), expected, faults)
    return codes


def read_time(chunk: Chunk, faults: Faults) -> np.ndarray:
    """[n] float32 hours, written as `24` or `24 h`; a time that is not above 0 is a fault."""
    column = chunk.frame["cp_time"]
    if column.dtype.kind not in "iuf":
        number = [_HOURS.fullmatch(str(value).strip()) for value in column]
        shown = [
            str(value) if match is None else match[1] for value, match in zip(column, number, strict=True)
        ]
        chunk = Chunk(
            chunk.file, chunk.frame.assign(cp_time=np.array(shown, object)), chunk.row, chunk.decimal
        )
    hours = read_numbers(chunk, ["cp_time"], faults, "hours above 0")[:, 0]
    if (hours <= HOURS_ABOVE).any():
        at = np.flatnonzero(hours <= HOURS_ABOVE)
        report(chunk, "cp_time", f"not above {HOURS_ABOVE}", at, hours, "hours above 0", faults)
    return hours


class Words:
    """The words of a treatment column over all chunks, and what they turn out to be: levels, or numbers."""

    def __init__(self, words: Sequence[str] = ()) -> None:
        self._place = {word: place for place, word in enumerate(words)}

    def read(self, chunk: Chunk, name: str) -> np.ndarray:
        """[n] int32 places of the chunk's words in the order of their first appearance; −1 for a missing one."""
        text = chunk.frame[name]
        codes = np.array(
            [-1 if is_missing(word) else self._place.setdefault(word, len(self._place)) for word in text],
            np.int32,
        )
        return codes

    @property
    def words(self) -> list[str]:
        return list(self._place)

    def numbers(self) -> np.ndarray | None:
        """[words] float64 where each word is a finite number above 0; else None."""
        values = pd.to_numeric(pd.Series(self.words, dtype=object), errors="coerce").to_numpy(np.float64)
        return values if len(values) and (np.isfinite(values) & (values > MICROMOLAR_ABOVE)).all() else None

    def levels(self) -> tuple[tuple[str, ...], np.ndarray]:
        """The words in order, numbers within them by their size, and the place of each of `words` in there."""

        def key(word: str) -> list[tuple[int, float, str]]:
            parts = re.split(r"(\d+(?:\.\d+)?)", word)
            return [(0, float(part), "") if i % 2 else (1, 0.0, part) for i, part in enumerate(parts)]

        ordered = sorted(self.words, key=key)
        place = {word: i for i, word in enumerate(ordered)}
        return tuple(ordered), np.array([place[word] for word in self.words], np.int32)


def encode_words(
    chunk: Chunk, name: str, known: Sequence[str], control: np.ndarray, faults: Faults
) -> np.ndarray:
    """[n] int32 places in `known` of a column's words, −1 for others: a fault, unless the row is a control."""
    text = chunk.frame[name]
    codes = pd.Categorical(text, categories=list(known)).codes.astype(np.int32)
    wrong = np.flatnonzero((codes < 0) & ~control)
    if len(wrong):
        report(chunk, name, "unknown", wrong, text.tolist(), " or ".join(known), faults)
    return codes


def read_micromolar(chunk: Chunk, control: np.ndarray, faults: Faults) -> np.ndarray:
    """[n] float32 µM of `cp_dose`; NaN for a control that has none. Else a fault, as is a dose not above 0."""
    dose = read_numbers(chunk, ["cp_dose"], faults, "a dose in µM above 0", missing=True)[:, 0]
    wrong = ~(dose > MICROMOLAR_ABOVE) & ~control
    if wrong.any():
        what, expected = f"missing or not above {MICROMOLAR_ABOVE}", "a dose in µM above 0"
        report(
            chunk, "cp_dose", what, np.flatnonzero(wrong), chunk.frame["cp_dose"].tolist(), expected, faults
        )
    return np.where(dose > MICROMOLAR_ABOVE, dose, np.float32(np.nan))


def read_names(chunk: Chunk, name: str, faults: Faults) -> np.ndarray:
    """[n] str objects of a text column; a missing or undecodable one is a fault.

    `NA` and the like are no names: all rows that have it would be one drug.
    """
    text = chunk.frame[name].to_numpy(object)
    missing = np.array([i for i, value in enumerate(text) if len(value) < 8 and is_missing(value)], int)
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


def read_words(chunk: Chunk, name: str) -> np.ndarray:
    """[n] str objects of a text column, '' where a value is missing."""
    codes, words = pd.factorize(chunk.frame[name])
    return np.array(["" if is_missing(word) else word for word in words], object)[codes]


class UniqueIds:
    """Finds a `sig_id` that occurs twice, over all chunks of a file.

    Of each id two 64-bit hashes are kept, a fifth of what the string takes. That two of a million ids are taken
    for one is less likely than 1 in 10^26. The hashes stand in sorted runs, of which the last ones are merged
    while they are as long as the one before, so there are few.
    """

    def __init__(self) -> None:
        self._runs: list[np.ndarray] = []

    def read(self, chunk: Chunk, faults: Faults) -> np.ndarray:
        """[n] the chunk's sig_ids; a repeated one is a fault."""
        ids = read_names(chunk, "sig_id", faults)
        keys = np.stack([pd.util.hash_array(ids, hash_key=key, categorize=False) for key in _HASH_KEYS])
        order = np.argsort(keys[0], kind="stable")
        run = keys[:, order]
        again = pd.Series(ids, dtype=object).duplicated().to_numpy(copy=True)
        again[order] |= self._has(run)  # Looked up in their order, which is several times as fast.
        again &= ids != ""
        if again.any():
            report(chunk, "sig_id", "repeated", np.flatnonzero(again), ids, "each id once", faults)
        self._add(run)
        return ids

    def _has(self, keys: np.ndarray) -> np.ndarray:
        has = np.zeros(keys.shape[1], bool)
        for run in self._runs:
            at = np.minimum(np.searchsorted(run[0], keys[0]), run.shape[1] - 1)
            has |= (run[:, at] == keys).all(0)
        return has

    def _add(self, run: np.ndarray) -> None:
        self._runs.append(run)
        while len(self._runs) > 1 and self._runs[-1].shape[1] >= self._runs[-2].shape[1]:
            both = np.hstack(self._runs[-2:])
            self._runs[-2:] = [both[:, np.argsort(both[0], kind="stable")]]
