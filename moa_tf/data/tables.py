"""CSV and Parquet files as a stream of pandas frames of bounded size, with the faults of the file itself.

pandas' C parser reads CSV: on the competition's 876 columns it is no slower than pyarrow's and takes less
memory (benchmarks/loading.py). Its guesses are switched off: nothing is taken for a missing value or for an index,
a row's length is checked, and a column that is not all numbers arrives as its text.
"""

from __future__ import annotations

import csv
import gzip
import re
import warnings
import zlib
from collections.abc import Collection, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import IO

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from moa_tf.data.delimited import Delimited, name_separator
from moa_tf.data.faults import COLUMNS, Faults, one_line
from moa_tf.data.names import clean, shorten
from moa_tf.data.parquet import is_plain, is_text, read_batches, to_text

SUFFIXES = (".csv", ".csv.gz", ".parquet")
ROWS = 4096
"""Rows a chunk: 876 columns of float64 in 29 MB."""

_UNNAMED = re.compile(r"Unnamed: \d+([._].*)?|")
_INDEX = re.compile(r"__index_level_\d+__|__null_dask_index__")


@dataclass
class Chunk:
    """Some consecutive rows of a file.

    Attributes:
        file: name of the file, for messages.
        frame: the rows; text columns are objects, the others have the type that they were read as.
        row: [n] the row of the file for each, from 1, the header not counted.
        decimal: what stands for the decimal point in columns that are not all numbers.
    """

    file: str
    frame: pd.DataFrame
    row: np.ndarray
    decimal: str = "."


class Table:
    """An open file whose header has been read.

    Attributes:
        path: the file.
        name: what messages call it.
        raw: the header as it is.
        header: a name for each column.
        columns: names in the file's order, without an index that pandas or Dask wrote and without `unnamed`.
        unnamed: what columns without a name are called here. They may hold a row index, or nothing.
    """

    def __init__(self, path: Path, source: Delimited | pa.Schema, name: str = "") -> None:
        self.path = path
        self.name = name or path.name
        self._source = source
        self.raw = list(source.header if isinstance(source, Delimited) else source.names)
        names = [clean(name) for name in self.raw]
        blank = [bool(_UNNAMED.fullmatch(name)) for name in names]
        self.header = [f"no. {j + 1} without a name" if blank[j] else names[j] for j in range(len(names))]
        self.unnamed = [name for name, is_blank in zip(self.header, blank, strict=True) if is_blank]
        self._leading = self.header[: blank.index(False)] if False in blank else []
        self.columns = [
            name for name in self.header if name not in self.unnamed and not _INDEX.fullmatch(name)
        ]

    @property
    def files(self) -> list[Path]:
        """Where the rows are, in their order."""
        return [self.path]

    @property
    def repeated(self) -> list[str]:
        """Names that more than one column has."""
        header = pd.Index(self.header)
        return header[header.duplicated()].unique().tolist()

    def show_header(self) -> str:
        """How the header begins, for messages about one that is not understood."""
        first = ", ".join(repr(name[:40]) for name in self.raw[:COLUMNS])
        more = ", …" if len(self.raw) > COLUMNS else ""
        if not isinstance(self._source, Delimited):
            return f"the table has {len(self.raw)} columns: {first}{more}"
        between = name_separator(self._source.separator)
        after = f" after {self._source.show_comments()}" if self._source.comments else ""
        return f"the header{after} has {len(self.raw)} cells, taken apart at {between}: {first}{more}"

    def unused(self, used: Collection[str]) -> list[str]:
        """The columns that are not among `used`, those without a name too."""
        used = set(used)
        return [name for name in self.header if name not in used]

    def count_rows(self) -> int:
        """How many there are, without reading them: about, where it is CSV.

        Raises:
            OSError, EOFError, zlib.error, pa.ArrowException: the table cannot be read.
        """
        if isinstance(self._source, Delimited):
            return self._source.estimate_rows()
        return sum(pq.read_metadata(path).num_rows for path in self.files)

    def texts(self) -> list[str]:
        """The columns that can be read as text."""
        if isinstance(self._source, Delimited):
            return self.columns
        kinds = dict(zip(self.header, self._source.types, strict=True))
        return [name for name in self.columns if is_text(kinds[name])]

    def remark(self, used: Collection[str]) -> str:
        """One line on how the file is read, where that is not plain, and on columns not used; '' for none."""
        parts = list(self._source.remarks) if isinstance(self._source, Delimited) else []
        if unused := self.unused(used):
            are = "1 column is" if len(unused) == 1 else f"{len(unused)} columns are"
            parts.append(f"{are} not used ({shorten(unused, COLUMNS)})")
        return one_line(f"{self.name}: {'; '.join(parts)}") if parts else ""

    def chunks(
        self, columns: Sequence[str], text: Collection[str], faults: Faults, rows: int = ROWS
    ) -> Iterator[Chunk]:
        """Streams the file.

        Args:
            columns: which columns to read; they come in the file's order.
            text: those of them to read as text, each an object column of str without blanks around it, '' where
                there is none.
            faults: gets what is wrong with the file itself; rows at fault in length are left out.
            rows: the most rows a chunk has.
        """
        delimited = isinstance(self._source, Delimited)
        if not delimited and not self._check_kinds({*columns, *self.unnamed}, text, faults):
            return
        names = [name for name in self.header if name in set(columns)]
        frames = (
            self._csv_frames(text, faults, rows) if delimited else self._parquet_frames(names, text, rows)
        )
        decimal = self._source.decimal if delimited else "."
        leading, done = set(self._leading), 0
        try:
            with closing(frames):
                for frame, row in frames:
                    done = int(row[-1])
                    self._check_unnamed(frame, row, leading, faults)
                    for name in text:
                        frame[name] = pd.Series(list(map(clean, frame[name])), frame.index, object)
                    yield Chunk(self.name, frame if list(frame) == names else frame[names], row, decimal)
        except (EOFError, zlib.error, gzip.BadGzipFile):
            faults.add(self.name, f"the compressed file ends or breaks after row {done}: is it truncated?")
        except (
            pa.ArrowException,
            pd.errors.ParserError,
            pd.errors.EmptyDataError,
            OSError,
            csv.Error,
        ) as error:
            faults.add(self.name, f"cannot be read after row {done}: {first_line(error)}")
        else:
            if not done and not faults:
                faults.add(self.name, "the table has no rows, expected at least one")

    def _check_unnamed(self, frame: pd.DataFrame, row: np.ndarray, leading: set[str], faults: Faults) -> None:
        """Columns without a name may be empty, or, before all others, count the rows: pandas' index."""
        for name in self.unnamed:
            values = frame[name]
            if name in leading:
                if np.array_equal(pd.to_numeric(values, errors="coerce"), row - 1):
                    continue
                leading.remove(name)  # So the rows before held data too.
                self._report_unnamed(name, ((i, repr(str(i - 1))) for i in range(1, row[0])), faults)
            texts = values.astype(str).where(values.notna(), "").map(clean)
            held = np.flatnonzero(texts != "")
            self._report_unnamed(name, ((int(row[i]), repr(texts.iat[i][:40])) for i in held), faults)

    def _report_unnamed(self, name: str, cells: Iterator[tuple[int, str]], faults: Faults) -> None:
        first = next(cells, None)
        if first:
            cells = chain([first], cells)
            expected = "a name in the header (or, in front, a row index from 0)"
            faults.add_cells(self.name, name, "cells with data", cells, expected)

    def _csv_frames(
        self, text: Collection[str], faults: Faults, rows: int
    ) -> Iterator[tuple[pd.DataFrame, np.ndarray]]:
        """The rows that are as long as the header, all columns, with their numbers.

        pandas leaves out long rows with a warning, or (pandas 2, first of a chunk) cuts them, and fills up short
        ones with empty cells. Each leaves a sign: the warning, a separator too many, an empty last cell. Only where
        one of these is seen are all rows looked at with the csv module, which takes as long again.
        """
        source, width = self._source, len(self.raw)
        if source.first is None:
            return
        if source.first > width:  # pandas would take the header for short instead.
            yield from self._whole_rows(0, faults, rows)
            return
        # Neither names= nor usecols=: with them pandas 2 cuts rows that are longer than the header silently.
        with source.open() as file:
            counted = _Counting(file, source.separator)
            reader = pd.read_csv(
                counted,
                sep=source.separator,
                decimal=source.decimal,
                index_col=False,
                dtype={raw: object for raw, name in zip(self.raw, self.header, strict=True) if name in text},
                na_filter=False,
                low_memory=False,
                on_bad_lines="warn",
                chunksize=rows,
            )
            done, known = 0, False
            while True:
                with warnings.catch_warnings(record=True) as caught:
                    warnings.simplefilter("always")
                    frame = next(reader, None)
                if frame is None:
                    odd = bool(caught) or counted.separators != (done + 1) * (width - 1)
                else:
                    odd = bool(caught) or _ends_empty(frame)
                if odd and not known:
                    if any(length != width for length in map(len, source.records())):
                        yield from self._whole_rows(done, faults, rows)
                        return
                    known = True
                if frame is None:
                    return
                if len(frame):
                    frame.columns = self.header
                    frame.index = pd.RangeIndex(len(frame))
                    yield frame, np.arange(done + 1, done + 1 + len(frame))
                    done += len(frame)

    def _whole_rows(self, done: int, faults: Faults, rows: int) -> Iterator[tuple[pd.DataFrame, np.ndarray]]:
        """Reports the rows of another length in a file that has some; the others after row `done`, as text."""
        width, kept = len(self.raw), []
        for row, cells in enumerate(self._source.records(), 1):
            if len(cells) != width:
                at = [(row, f"{len(cells)} cells")]
                expected = f"{width}, as the header has"
                faults.add_cells(self.name, "(all)", "rows of another length", at, expected)
            elif row > done:
                kept.append((row, cells))
            if len(kept) == rows:
                yield self._frame_of(kept)
                kept = []
        if kept:
            yield self._frame_of(kept)

    def _frame_of(self, kept: list[tuple[int, list[str]]]) -> tuple[pd.DataFrame, np.ndarray]:
        frame = pd.DataFrame([cells for _, cells in kept], columns=self.header, dtype=object)
        return frame, np.array([row for row, _ in kept])

    def _check_kinds(self, columns: Collection[str], text: Collection[str], faults: Faults) -> bool:
        """Whether all these columns of a Parquet file hold what can be read; reports those that do not."""
        wrong: dict[str, list[str]] = {}
        for name, kind in zip(self.header, self._source.types, strict=True):
            if name in columns and not (is_text(kind) or (is_plain(kind) and name not in text)):
                wrong.setdefault(str(kind)[:60], []).append(name)
        for kind, names in wrong.items():
            which = f"column {names[0]}" if len(names) == 1 else f"{len(names)} columns"
            shown = "" if len(names) == 1 else f" ({shorten(names, COLUMNS)})"
            faults.add(self.name, f"{which} of type {kind}{shown}, expected text or numbers")
        return not wrong

    def _batches(self, columns: list[str], rows: int) -> Iterator[pa.RecordBatch]:
        return read_batches(self.path, columns, rows)

    def _parquet_frames(
        self, names: list[str], text: Collection[str], rows: int
    ) -> Iterator[tuple[pd.DataFrame, np.ndarray]]:
        row, wanted = 1, {*names, *self.unnamed}
        raw = {raw: name for raw, name in zip(self.raw, self.header, strict=True) if name in wanted}
        with closing(self._batches(list(raw), rows)) as batches:
            for batch in batches:
                if not batch.num_rows:
                    continue
                columns = dict(zip((raw[name] for name in batch.schema.names), batch.columns, strict=True))
                texts = {
                    name: to_text(array)
                    for name, array in columns.items()
                    if name in text or not is_plain(array.type)
                }
                empty = pa.nulls(batch.num_rows)
                arrays = [empty if name in texts else array for name, array in columns.items()]
                frame = pa.RecordBatch.from_arrays(arrays, names=list(columns)).to_pandas()
                for name, values in texts.items():
                    frame[name] = pd.Series(values, frame.index, object)
                yield frame, np.arange(row, row + len(frame))
                row += len(frame)


class _Counting:
    """A text file for pandas to read, which counts the separators."""

    def __init__(self, file: IO[str], separator: str) -> None:
        self._file, self._byte = file, ord(separator)
        self.separators = 0

    def read(self, size: int = -1) -> bytes:
        data = self._file.read(size).encode()  # pandas would encode it too.
        self.separators += int(np.count_nonzero(np.frombuffer(data, np.uint8) == self._byte))
        return data

    def __iter__(self) -> Iterator[str]:  # What pandas knows a file by; it reads it by `read`.
        return iter(self._file)


def _ends_empty(frame: pd.DataFrame) -> bool:
    last = frame.iloc[:, -1]
    return last.dtype.kind == "O" and bool((last == "").any())


def first_line(error: Exception) -> str:
    """What an error says, on one line."""
    return str(error).strip().partition("\n")[0] or type(error).__name__
