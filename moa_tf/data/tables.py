"""CSV and Parquet files as a stream of pandas frames of bounded size, with the faults of the file itself.

pandas' C parser reads CSV: on the competition's 876 columns it is no slower than pyarrow's and takes less
memory (benchmarks/loading.py). Its guesses are switched off: nothing is taken for a missing value, a row's length is
checked, and a column that is not all numbers arrives as its text.
"""

from __future__ import annotations

import csv
import gzip
import re
import tempfile
import warnings
import zlib
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from moa_tf.data.faults import EXAMPLES, Faults

SUFFIXES = (".csv", ".csv.gz", ".parquet")
ROWS = 4096
"""Rows a chunk: 876 columns of float64 in 29 MB."""

TALL = 50_000
"""A Parquet row group with more rows is copied to temporary files, as large as its columns in memory are."""

BLOCK = 64
"""Columns of such a row group that are decoded at once."""

_INDEX = re.compile(r"__index_level_\d+__|Unnamed: \d+|")
_SKIPPED = re.compile(r"line (\d+): expected (\d+) fields, saw (\d+)")


@dataclass
class Chunk:
    """Some consecutive rows of a file.

    Attributes:
        file: name of the file, for messages.
        frame: the rows; text columns are objects, the others have the type that they were read as.
        row: [n] the row of the file for each, from 1, the header not counted.
    """

    file: str
    frame: pd.DataFrame
    row: np.ndarray


def find_table(directory: Path, stem: str, faults: Faults, required: bool = True) -> Path | None:
    """The one file in `directory` that holds the table `stem`, in any of the formats."""
    found = [directory / (stem + suffix) for suffix in SUFFIXES if (directory / (stem + suffix)).is_file()]
    if len(found) > 1:
        names = " and ".join(path.name for path in found)
        faults.add(str(directory), f"both {names} are there, expected one of them")
        return None
    if not found and required:
        faults.add(str(directory), f"no {stem}, expected one of {', '.join(stem + s for s in SUFFIXES)}")
    return found[0] if found else None


class Table:
    """An open file whose header has been read.

    Attributes:
        path: the file.
        columns: names in the file's order, without an index that pandas wrote.
    """

    def __init__(self, path: Path, header: Sequence[str]) -> None:
        self.path = path
        self._header = list(header)
        self.columns = [name for name in header if not _INDEX.fullmatch(name)]

    @property
    def parquet(self) -> bool:
        return self.path.suffix == ".parquet"

    def chunks(
        self, columns: Sequence[str], text: Collection[str], faults: Faults, rows: int = ROWS
    ) -> Iterator[Chunk]:
        """Streams the file.

        Args:
            columns: which columns to read; they come in the file's order.
            text: those of them to read as text, each an object column of str, '' where there is none.
            faults: gets what is wrong with the file itself; rows at fault in length are left out.
            rows: the most rows a chunk has.
        """
        read = self._parquet_chunks if self.parquet else self._csv_chunks
        done = 0
        try:
            for chunk in read(columns, text, faults, rows):
                done = int(chunk.row[-1])
                yield chunk
        except (EOFError, zlib.error, gzip.BadGzipFile):
            faults.add(
                self.path.name, f"the compressed file ends or breaks after row {done}: is it truncated?"
            )
        except (pa.ArrowException, pd.errors.ParserError, pd.errors.EmptyDataError, OSError) as error:
            faults.add(self.path.name, f"cannot be read after row {done}: {_first_line(error)}")
        else:
            if not done:
                faults.add(self.path.name, "the table has no rows, expected at least one")

    def _csv_chunks(
        self, columns: Sequence[str], text: Collection[str], faults: Faults, rows: int
    ) -> Iterator[Chunk]:
        wanted = set(columns)
        names = [name for name in self._header if name in wanted]
        # Neither names= nor usecols=: with them pandas 2 cuts rows that are longer than the header silently.
        with pd.read_csv(
            self.path,
            dtype={name: object for name in text},
            na_filter=False,
            low_memory=False,
            on_bad_lines="warn",
            encoding_errors="replace",
            chunksize=rows,
        ) as reader:
            row, skipped = 1, np.zeros(0, int)
            while True:
                with warnings.catch_warnings(record=True) as caught:
                    warnings.simplefilter("always")
                    frame = next(reader, None)
                if frame is None:
                    return
                if not isinstance(frame.index, pd.RangeIndex):
                    # pandas takes what row 1 has too many for an index.
                    self._report_length(1, frame.shape[1] + frame.index.nlevels, faults)
                    return
                frame.columns = self._header
                skipped = np.r_[skipped, self._report_long(caught, faults)]
                number = np.arange(row, row + len(frame) + np.sum(skipped >= row))
                number = number[~np.isin(number, skipped)][: len(frame)]
                if not len(frame):
                    continue
                row = int(number[-1]) + 1
                whole = self._whole_rows(frame, number, faults)
                if not whole.all():
                    frame, number = frame[whole], number[whole]
                frame.index = pd.RangeIndex(len(frame))
                if len(frame):
                    yield Chunk(self.path.name, frame if names == self._header else frame[names], number)

    def _report_long(self, caught: list[warnings.WarningMessage], faults: Faults) -> list[int]:
        """Rows that pandas left out because they have too many cells; it tells so in a warning only."""
        rows = []
        for line, _, saw in _SKIPPED.findall("\n".join(str(warning.message) for warning in caught)):
            rows.append(int(line) - 1)
            self._report_length(rows[-1], int(saw), faults)
        return rows

    def _report_length(self, row: int, length: int, faults: Faults) -> None:
        expected = f"{len(self._header)}, as the header has"
        faults.add_cells(
            self.path.name, "(all)", "rows of another length", [(row, f"{length} cells")], expected
        )

    def _whole_rows(self, frame: pd.DataFrame, number: np.ndarray, faults: Faults) -> np.ndarray:
        """[n] bool, false for rows that end early, which are reported.

        pandas fills them with empty cells; so two or more of these at the end of a row count as one cut off.
        """
        tail = frame.iloc[:, -2:]
        if frame.shape[1] < 3 or any(dtype.kind != "O" for dtype in tail.dtypes):
            return np.ones(len(frame), bool)
        short = (tail == "").to_numpy(bool).all(1)
        for i in np.flatnonzero(short):
            filled = np.flatnonzero([value != "" for value in frame.iloc[i]])
            self._report_length(int(number[i]), int(filled[-1]) + 1 if len(filled) else 0, faults)
        return ~short

    def _parquet_chunks(
        self, columns: Sequence[str], text: Collection[str], faults: Faults, rows: int
    ) -> Iterator[Chunk]:
        row, wanted = 1, set(columns)
        names = [name for name in self._header if name in wanted]
        with closing(_batches(self.path, names, rows)) as batches:
            for batch in batches:
                if not batch.num_rows:
                    continue
                frame = batch.to_pandas(ignore_metadata=True)
                for name in text:
                    series = frame[name].astype(object)
                    frame[name] = np.array(
                        [
                            "" if missing else str(value)
                            for value, missing in zip(series, series.isna(), strict=True)
                        ],
                        object,
                    )
                yield Chunk(self.path.name, frame, np.arange(row, row + len(frame)))
                row += len(frame)


def _batches(path: Path, columns: list[str], rows: int) -> Iterator[pa.RecordBatch]:
    """Streams the columns of a Parquet file, at most `rows` rows at a time, in bounded memory."""
    with pq.ParquetFile(path, buffer_size=1 << 14, pre_buffer=False) as file:
        for group in range(file.num_row_groups):
            size = file.metadata.row_group(group).num_rows
            # A column being read holds a page and its dictionary: 2 MB in a tall group, 2 GB for the table.
            tall = size > TALL and len(columns) > BLOCK
            read = _tall_batches if tall else _plain_batches
            yield from read(file, group, columns, rows)


def _plain_batches(
    file: pq.ParquetFile, group: int, columns: list[str], rows: int
) -> Iterator[pa.RecordBatch]:
    yield from file.iter_batches(batch_size=rows, row_groups=[group], columns=columns)


def _tall_batches(
    file: pq.ParquetFile, group: int, columns: list[str], rows: int
) -> Iterator[pa.RecordBatch]:
    """Goes by way of temporary files with a few columns each, which are then read side by side."""
    with tempfile.TemporaryDirectory(prefix="moa-tf-") as directory, ExitStack() as stack:
        readers = []
        for start in range(0, len(columns), BLOCK):
            block = columns[start : start + BLOCK]
            copy = str(Path(directory, f"{start}.arrow"))
            with pa.OSFile(copy, "wb") as sink, ExitStack() as writing:
                writer = None
                for batch in _plain_batches(file, group, block, rows):
                    writer = writer or writing.enter_context(pa.ipc.new_stream(sink, batch.schema))
                    writer.write_batch(batch)
            readers.append(pa.ipc.open_stream(stack.enter_context(pa.OSFile(copy))))
        for parts in zip(*readers, strict=True):
            arrays = [array for part in parts for array in part.columns]
            batch = pa.RecordBatch.from_arrays(arrays, names=columns)
            batch.validate()
            yield batch


def open_table(path: Path, faults: Faults) -> Table | None:
    """Reads the header of a CSV or Parquet file; None where that fails, with the reason in `faults`."""
    path = Path(path)
    if not path.name.endswith(SUFFIXES):
        faults.add(str(path), f"expected a file that ends in {', '.join(SUFFIXES)}")
        return None
    if not path.is_file():
        faults.add(str(path), "no such file")
        return None
    try:
        header = pq.read_schema(path).names if path.suffix == ".parquet" else _csv_header(path)
    except (EOFError, zlib.error, gzip.BadGzipFile):
        faults.add(path.name, "cannot be decompressed: is it truncated?")
        return None
    except (pa.ArrowException, OSError, csv.Error) as error:
        faults.add(
            path.name, f"not a readable {path.suffix[1:]} file: {_first_line(error)}; is it truncated?"
        )
        return None
    if any("\ufffd" in name or "\0" in name for name in header):
        faults.add(path.name, "the header is not UTF-8 text, expected UTF-8")
        return None
    if not header:
        faults.add(path.name, "the file is empty, expected a header and rows")
        return None
    repeated = pd.Index(header)[pd.Index(header).duplicated()].unique().tolist()
    if repeated:
        shown = ", ".join(repeated[:EXAMPLES]) + (", …" if len(repeated) > EXAMPLES else "")
        faults.add(
            path.name, f"{len(repeated)} column names occur more than once ({shown}), expected each once"
        )
        return None
    return Table(path, header)


def _csv_header(path: Path) -> list[str]:
    opener: Callable[..., IO[str]] = gzip.open if path.suffix == ".gz" else open
    with opener(path, "rt", encoding="utf-8-sig", errors="replace", newline="") as file:
        # Blank lines are none to pandas either.
        return next((cells for cells in csv.reader(file) if cells), [])


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0] or type(error).__name__
