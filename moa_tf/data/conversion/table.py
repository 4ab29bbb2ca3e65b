"""CSV and Parquet tables with a row a signature, whatever their columns are called."""

from __future__ import annotations

import csv
import gzip
import zlib
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from moa_tf.data.columns import report
from moa_tf.data.containers import GZIP, PARQUET
from moa_tf.data.conversion.fields import ALIASES, Renaming, check_ids, list_fields, tidy
from moa_tf.data.conversion.source import MISSING, Progress, Scratch, Source
from moa_tf.data.delimited import read_head
from moa_tf.data.faults import Faults
from moa_tf.data.names import is_missing, shorten
from moa_tf.data.tables import Chunk, Table
from moa_tf.errors import InputError

_ROWS = 4096


def open_table(
    path: Path, kind: str, scratch: Path, renaming: Renaming, progress: Progress, stack: ExitStack
) -> Source:
    """Reads a table whole, its numbers into the file `scratch`.

    Features are the columns `g-*` and `c-*`; where there are none, every column of numbers (by the first rows)
    that is no known field.

    Args:
        path: the file.
        kind: what it is, `TEXT`, `GZIP` or `PARQUET` of `moa_tf.data.containers`.
        scratch: where the numbers are put, 4 bytes each.
        renaming: which fields to read, and what they are called here.
        progress: told of the rows.
        stack: closes and removes `scratch`.

    Raises:
        InputError: one line for each fault of the file.
    """
    faults = Faults()
    table = _open(path, kind)
    identifier = next(
        (name for alias in ALIASES["signature"] for name in table.header if renaming.new(name) == alias), None
    )
    if identifier is None:
        ids = ", ".join(ALIASES["signature"])
        raise InputError(
            f"{path}: no column of ids of the signatures (columns {list_fields(table.header)}), "
            f"expected one of {ids}, or --rename sig_id=COLUMN"
        )
    fields = [name for name in table.header if name != identifier and renaming.wanted(name)]
    features = _find_features(path, table, [identifier, *fields], faults)
    numbers = Scratch(scratch, by_feature=False, length=len(features))
    stack.callback(numbers.close)
    text = [identifier, *fields]
    parts: list[dict[str, np.ndarray]] = []
    for chunk in table.chunks([*text, *features], text, faults, _ROWS):
        parts.append({name: tidy(chunk.frame[name].to_numpy(object)) for name in text})
        numbers.write(_read_numbers(chunk, features, faults))
        progress("reading signatures", numbers.lines, 0)
    faults.raise_if_any()
    columns = {name: np.concatenate([part[name] for part in parts]) for name in text}
    ids = columns.pop(identifier)
    check_ids(f"{path}: column {identifier}", "signatures", ids)
    named = renaming.apply(columns, len(ids), str(path))
    return Source(kind, ids, np.array(features, object), named, pd.DataFrame(index=features), numbers.read)


def _open(path: Path, kind: str) -> Table:
    try:
        table = Table(path, pq.read_schema(path) if kind == PARQUET else read_head(path, kind == GZIP))
    except (EOFError, zlib.error, gzip.BadGzipFile):
        raise InputError(f"{path}: cannot be decompressed: is it truncated?") from None
    except (pa.ArrowException, OSError, csv.Error) as error:
        raise InputError(
            f"{path}: not a readable table: {str(error).splitlines()[0]}; is it truncated?"
        ) from None
    if table.repeated:
        raise InputError(
            f"{path}: {len(table.repeated)} column names occur more than once ({table.repeated[0]})"
        )
    return table


def _find_features(path: Path, table: Table, others: list[str], faults: Faults) -> list[str]:
    known = [name for name in table.columns if name.startswith(("g-", "c-"))]
    if known:
        return known
    rest = [name for name in table.columns if name not in set(others)]
    with closing(_first_chunk(table, rest, faults)) as chunks:
        first = next(chunks, None)
    faults.raise_if_any()
    features = [] if first is None else [name for name in rest if _holds_numbers(first, name)]
    if not features:
        raise InputError(
            f"{path}: no column of numbers that could be a feature (columns {list_fields(table.header)})"
        )
    return features


def _first_chunk(table: Table, columns: list[str], faults: Faults) -> Iterator[Chunk]:
    yield from table.chunks(columns, (), faults, _ROWS)


def _holds_numbers(chunk: Chunk, name: str) -> bool:
    """Whether a column has a number among its first rows, or nothing at all: else it is text, not a feature."""
    values = chunk.frame[name]
    if values.dtype.kind in "iuf":
        return True
    words = [str(value) for value in values if not is_missing(value)]
    numbers = pd.to_numeric(pd.Series(words, dtype=object).str.replace(chunk.decimal, "."), errors="coerce")
    return not words or bool(numbers.notna().any())


def _read_numbers(chunk: Chunk, names: list[str], faults: Faults) -> np.ndarray:
    """[n, F] numbers, NaN for what is missing."""
    frame = chunk.frame
    for name in [name for name in names if frame[name].dtype.kind not in "iuf"]:
        words = frame[name].astype(object).map(lambda value: "" if is_missing(value) else str(value))
        text = words if chunk.decimal == "." else words.str.replace(chunk.decimal, ".", regex=False)
        values = pd.to_numeric(text.where(words != ""), errors="coerce")
        wrong = np.flatnonzero(values.isna() & (words != ""))
        if len(wrong):
            report(chunk, name, "not a number", wrong, words.tolist(), "numbers", faults)
        frame = frame.assign(**{name: values.astype(np.float64)})
    numbers = frame[names].to_numpy(np.float64)
    return np.where(numbers == MISSING, np.nan, numbers)


def describe_columns(source: Source) -> str:
    """Which columns of a table were taken for features."""
    return f"{len(source.feature_id)} columns are features ({shorten(source.feature_id, 3)})"
