"""Tables of metadata: LINCS 2020's siginfo, compoundinfo and geneinfo, the Drug Repurposing Hub, or others."""

from __future__ import annotations

import csv
import gzip
import io
import zlib
from itertools import chain, islice
from pathlib import Path
from typing import IO

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from moa_tf.data.containers import GZIP, PARQUET, TEXT, identify
from moa_tf.data.conversion.fields import ALIASES, Renaming, check_ids, find_field, list_fields, tidy
from moa_tf.data.names import clean, shorten
from moa_tf.errors import InputError

_COMMENTS = ("!", "#")
_ROWS = 20_000


def read_table(path: Path, renaming: Renaming) -> pd.DataFrame:
    """The known fields of a table: text with tabs, commas or semicolons, gzipped or not, or Parquet.

    Lines before the header that start with `!` (the Drug Repurposing Hub's) or `#` are passed over.

    Returns:
        [n] text, '' where a value is missing.

    Raises:
        InputError: the table cannot be read.
    """
    try:
        kind = identify(path)
        if kind == PARQUET:
            names = [name for name in pq.read_schema(path).names if renaming.wanted(clean(name))]
            table = pq.read_table(path, columns=names)
            columns = {clean(name): tidy(table[name].to_pandas().to_numpy(object)) for name in names}
            return renaming.apply(columns, table.num_rows, str(path))
        if kind not in (TEXT, GZIP):
            raise InputError(f"{path}: is {kind}, expected a table as text or Parquet")
        with gzip.open(path, "rb") if kind == GZIP else path.open("rb") as raw:
            text = io.TextIOWrapper(raw, "utf-8-sig", errors="replace", newline="")
            return _read_text(path, text, renaming)
    except (EOFError, zlib.error, gzip.BadGzipFile):
        raise InputError(f"{path}: the compressed file ends or breaks early: is it truncated?") from None
    except (pa.ArrowException, csv.Error, OSError) as error:
        raise InputError(f"{path}: cannot be read: {str(error).strip().splitlines()[0]}") from None


def read_signatures(path: Path, sig_id: np.ndarray, renaming: Renaming) -> tuple[pd.DataFrame, int]:
    """The fields of these signatures, and how many rows the table has.

    Raises:
        InputError: the table has no ids, or some of them twice, or lacks signatures.
    """
    table = read_table(path, renaming)
    name = find_field(table, "signature")
    if name is None:
        raise _lacks(path, table, ALIASES["signature"])
    ids = table.pop(name).to_numpy(object)
    check_ids(f"{path}: column {name}", "signatures", ids)
    place = pd.Index(ids).get_indexer(sig_id)
    lost = np.flatnonzero(place < 0)
    if len(lost):
        shown = shorten(sig_id[lost], 3)
        raise InputError(
            f"{path}: {len(lost)} of {len(sig_id)} signatures have no row ({shown}), expected one each"
        )
    return table.iloc[place].reset_index(drop=True), len(ids)


def read_compounds(path: Path, renaming: Renaming) -> pd.DataFrame:
    """A table with drugs, by id or name, and their mechanisms.

    Raises:
        InputError: it has no field for one of these.
    """
    table = read_table(path, renaming)
    if not any(find_field(table, meaning) for meaning in ("drug", "name")):
        raise _lacks(path, table, (*ALIASES["drug"], *ALIASES["name"]))
    if find_field(table, "mechanism") is None:
        raise _lacks(path, table, ALIASES["mechanism"])
    return table


def read_genes(path: Path, renaming: Renaming) -> pd.DataFrame:
    """A table with genes, by Entrez id or by what the matrix calls them, and their symbols.

    Raises:
        InputError: it has no field for one of these.
    """
    table = read_table(path, renaming)
    for meanings in (("gene", "feature"), ("symbol",)):
        if not any(find_field(table, meaning) for meaning in meanings):
            raise _lacks(path, table, [name for meaning in meanings for name in ALIASES[meaning]])
    return table


def _read_text(path: Path, file: IO[str], renaming: Renaming) -> pd.DataFrame:
    line = file.readline()
    while line and (line.startswith(_COMMENTS) or not line.strip()):
        line = file.readline()
    if not line:
        raise InputError(f"{path}: has no header, expected a table")
    separator = next((mark for mark in "\t;" if mark in line), ",")
    # With tabs a quote is a letter more often than not (5"-…), with commas never.
    quoting = csv.QUOTE_NONE if separator == "\t" else csv.QUOTE_MINIMAL
    records = csv.reader(chain([line], file), delimiter=separator, quoting=quoting)
    header = [clean(name).strip('"') for name in next(records)]
    wanted = [j for j, name in enumerate(header) if renaming.wanted(name)]
    names = [header[j] for j in wanted]
    if len(set(names)) < len(names):
        raise InputError(f"{path}: columns are there twice ({shorten(sorted(names), 5)})")
    last, rows = max(wanted, default=-1), 0
    parts: list[list[np.ndarray]] = []
    while block := list(islice(records, _ROWS)):
        for number, cells in enumerate(block, rows + 1):
            if cells and (len(cells) <= last or any(cells[len(header) :])):
                what = f"row {number}: {len(cells)} cells, expected {len(header)}, as the header has"
                raise InputError(f"{path}: {what}: is it truncated?")
        rows += len(block)
        block = [cells for cells in block if cells]
        parts.append([tidy(np.array([cells[j].strip('"') for cells in block], object)) for j in wanted])
    if not rows:
        raise InputError(f"{path}: has no rows, expected some")
    columns = dict(zip(names, map(np.concatenate, zip(*parts, strict=True)), strict=True))
    return renaming.apply(columns, len(next(iter(columns.values()), ())), str(path))


def _lacks(path: Path, table: pd.DataFrame, expected: tuple[str, ...] | list[str]) -> InputError:
    names = ", ".join(expected)
    return InputError(
        f"{path}: no values in any of {names} (known fields there: {list_fields(table.columns)}); "
        "--rename NEW=OLD says what they are called"
    )
