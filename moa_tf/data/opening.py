"""Finds a table in a directory and opens it: a CSV or Parquet file, or a directory of Parquet files."""

from __future__ import annotations

import csv
import gzip
import re
import zlib
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from moa_tf.data.containers import GZIP, PARQUET, TEXT, identify
from moa_tf.data.delimited import read_head
from moa_tf.data.faults import EXAMPLES, Faults
from moa_tf.data.names import same_stem, shorten
from moa_tf.data.tables import ROWS, SUFFIXES, Chunk, Table, first_line


def is_table(path: Path) -> bool:
    """Whether there is a file, or a directory of Parquet files."""
    return path.is_file() or (path.is_dir() and path.name.endswith(".parquet"))


def find_table(directory: Path, stem: str, faults: Faults, required: bool = True) -> Path | None:
    """The one file in `directory` that holds the table `stem`, in any of the formats, or its directory of parts.

    What has nearly the name is a fault where no file has the name: a table must not be left out unseen.
    """
    expected = ", ".join(stem + suffix for suffix in SUFFIXES)
    found = [directory / (stem + suffix) for suffix in SUFFIXES if is_table(directory / (stem + suffix))]
    if len(found) > 1:
        names = " and ".join(path.name for path in found)
        faults.add(str(directory), f"both {names} are there, expected one of them")
        return None
    if not found:
        near = sorted(path.name for path in directory.iterdir() if same_stem(path.name, stem))
        if near:
            what = f"no {stem}, but {shorten(near, EXAMPLES)}, expected a file named one of {expected}"
            faults.add(str(directory), what)
        elif required:
            faults.add(str(directory), f"no {stem}, expected one of {expected}")
    return found[0] if found else None


class Parts(Table):
    """A directory of Parquet files that together are one table, as Spark and Dask write it.

    Args:
        path: the directory.
        parts: its files in their order, whose columns have the same names.
    """

    def __init__(self, path: Path, parts: Sequence[Table]) -> None:
        super().__init__(path, parts[0]._source)
        self._parts = parts

    @property
    def files(self) -> tuple[str, ...]:
        return tuple(part.name for part in self._parts)

    def chunks(
        self,
        columns: Sequence[str],
        text: Collection[str],
        faults: Faults,
        rows: int = ROWS,
        empty: bool = False,
    ) -> Iterator[Chunk]:
        """Streams the files one after the other; a chunk's rows are numbered within its file."""
        found = False
        for part in self._parts:
            for chunk in part.chunks(columns, text, faults, rows, empty=True):
                found = True
                yield chunk
        if not found and not faults and not empty:
            faults.add(self.name, "the table has no rows, expected at least one")


def open_table(path: Path, faults: Faults, name: str = "") -> Table | None:
    """Reads the header of a CSV or Parquet file; None where that fails, with the reason in `faults`.

    Which of the formats it is, its bytes say and not its name. A directory whose name ends in .parquet is opened by
    its parts.

    Args:
        path: the file or directory.
        faults: gets what is wrong.
        name: what messages call it, if not by its own name.
    """
    path = Path(path)
    if not path.name.endswith(SUFFIXES):
        faults.add(str(path), f"expected a file that ends in {', '.join(SUFFIXES)}")
        return None
    if path.is_dir() and is_table(path):
        return _open_parts(path, faults)
    if not path.is_file():
        faults.add(str(path), "no such file" if not path.exists() else "is no file, expected one")
        return None
    name = name or path.name
    try:
        kind = identify(path)
        if kind not in (TEXT, GZIP, PARQUET):
            faults.add(name, f"is {kind}, expected CSV text in UTF-8, gzipped or not, or Parquet")
            return None
        table = Table(path, pq.read_schema(path) if kind == PARQUET else read_head(path, kind == GZIP), name)
    except (EOFError, zlib.error, gzip.BadGzipFile):
        faults.add(name, "cannot be decompressed: is it truncated?")
        return None
    except (pa.ArrowException, OSError, csv.Error) as error:
        faults.add(name, f"not a readable {path.suffix[1:]} file: {first_line(error)}; is it truncated?")
        return None
    if any("\ufffd" in name or "\0" in name for name in table.raw):
        faults.add(name, "the header is not UTF-8 text, expected UTF-8")
        return None
    if not table.raw:
        faults.add(name, "the file is empty, expected a header and rows")
        return None
    if table.repeated:
        shown = shorten(table.repeated, EXAMPLES)
        what = f"{len(table.repeated)} column names occur more than once ({shown}), expected each once"
        faults.add(name, what)
        return None
    return table


def _open_parts(path: Path, faults: Faults) -> Table | None:
    """A directory's Parquet files; hidden ones and those that begin with _ (`_SUCCESS`, `_metadata`) are none."""
    files = [file for file in path.iterdir() if not file.name.startswith((".", "_"))]
    strange = sorted(file.name for file in files if not file.name.endswith(".parquet"))
    if strange or not files:
        what = f"holds {shorten(strange, EXAMPLES)}" if strange else "holds no file"
        faults.add(path.name, f"{what}, expected Parquet files alone")
        return None
    parts = [open_table(file, faults, f"{path.name}/{file.name}") for file in sorted(files, key=_natural)]
    whole = [part for part in parts if part is not None]
    if len(whole) < len(parts):
        return None
    first = whole[0]
    for part in whole[1:]:
        lost, more = set(first.header) - set(part.header), set(part.header) - set(first.header)
        if lost or more:
            named = [f"lacks {shorten(sorted(lost), EXAMPLES)}"] * bool(lost)
            named += [f"has {shorten(sorted(more), EXAMPLES)} too"] * bool(more)
            faults.add(part.name, f"{' and '.join(named)}, expected the columns of {first.name}")
    return None if faults else Parts(path, whole)


def _natural(path: Path) -> list[tuple[int, str]]:
    """part-2 before part-10."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", path.name)]
