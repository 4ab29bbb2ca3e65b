"""Finds a table and opens it: a CSV or Parquet file, or a directory of Parquet files."""

from __future__ import annotations

import csv
import gzip
import re
import zlib
from collections.abc import Collection, Iterator, Sequence
from contextlib import closing
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from moa_tf.data.containers import GZIP, PARQUET, TEXT, identify
from moa_tf.data.delimited import read_head
from moa_tf.data.faults import EXAMPLES, Faults
from moa_tf.data.names import same_stem, shorten
from moa_tf.data.tables import SUFFIXES, Table, first_line
from moa_tf.errors import InputError


def check_table(path: Path) -> None:
    """Finds early that a table cannot be there.

    Raises:
        InputError: `path` is neither a file nor a directory whose name ends in .parquet.
    """
    if not _is_table(path):
        raise InputError(f"{path}: {_absence(path)}")


def find_table(directory: Path, stem: str, faults: Faults, required: bool = True) -> Path | None:
    """The one table `stem` in `directory`, in any of the formats.

    What has nearly the name is a fault where no file has the name: a table must not be left out unseen.
    """
    expected = ", ".join(stem + suffix for suffix in SUFFIXES)
    found = [directory / (stem + suffix) for suffix in SUFFIXES if _is_table(directory / (stem + suffix))]
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
    """A directory of Parquet files that are one table, as Spark and Dask write it; rows are numbered over all.

    Args:
        path: the directory.
        parts: its files in their order, each with its schema; the names of the columns are the same in all.
    """

    def __init__(self, path: Path, parts: Sequence[tuple[Path, pa.Schema]]) -> None:
        super().__init__(path, parts[0][1])
        self._files = parts

    @property
    def files(self) -> list[Path]:
        """Where the rows are, in their order."""
        return [path for path, _ in self._files]

    def _parts(self) -> Iterator[Table]:
        return (Table(path, schema, _name_part(path)) for path, schema in self._files)

    def texts(self) -> list[str]:
        """The columns that can be read as text in every part."""
        texts = [set(part.texts()) for part in self._parts()]
        return [name for name in self.columns if all(name in part for part in texts)]

    def _check_kinds(self, columns: Collection[str], text: Collection[str], faults: Faults) -> bool:
        """As of one file; only the first part at fault is reported, as the others mostly have the same types."""
        return all(part._check_kinds(columns, text, faults) for part in self._parts())

    def _parquet_frames(
        self, names: list[str], text: Collection[str], rows: int
    ) -> Iterator[tuple[pd.DataFrame, np.ndarray]]:
        before = done = 0
        for part in self._parts():
            try:
                with closing(part._parquet_frames(names, text, rows)) as frames:
                    for frame, row in frames:
                        done = before + int(row[-1])
                        yield frame, before + row
            except (pa.ArrowException, OSError) as error:
                raise OSError(f"{part.path.name}: {first_line(error)}") from error
            before = done


def open_table(path: Path, faults: Faults) -> Table | None:
    """Reads the header of a table; None where that fails, with the reason in `faults`.

    Which of the formats a file is, its bytes say and not its name.
    """
    path = Path(path)
    if not path.name.endswith(SUFFIXES):
        faults.add(str(path), f"expected a file that ends in {', '.join(SUFFIXES)}")
        return None
    if not _is_table(path):
        faults.add(str(path), _absence(path))
        return None
    if path.is_dir():
        return _open_parts(path, faults)
    return _open_file(path, path.name, faults)


def _is_table(path: Path) -> bool:
    return path.is_file() or (path.name.endswith(".parquet") and path.is_dir())


def _absence(path: Path) -> str:
    if not path.exists():
        return "no such file"
    return "is no file, expected one, or a directory of Parquet files whose name ends in .parquet"


def _open_file(path: Path, name: str, faults: Faults, part: bool = False) -> Table | None:
    """Reads the header of a CSV or Parquet file, or of a part of a table, which must be Parquet."""
    try:
        kind = identify(path)
        if kind not in ((PARQUET,) if part else (TEXT, GZIP, PARQUET)):
            expected = (
                "Parquet, as its name says" if part else "CSV text in UTF-8, gzipped or not, or Parquet"
            )
            faults.add(name, f"is {kind if path.stat().st_size else 'empty'}, expected {expected}")
            return None
        table = Table(path, pq.read_schema(path) if kind == PARQUET else read_head(path, kind == GZIP), name)
    except (EOFError, zlib.error, gzip.BadGzipFile):
        faults.add(name, "cannot be decompressed: is it truncated?")
        return None
    except (pa.ArrowException, OSError, csv.Error) as error:
        faults.add(name, f"not a readable {path.suffix[1:]} file: {first_line(error)}; is it truncated?")
        return None
    if any("\ufffd" in column or "\0" in column for column in table.raw):
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
    """Reads the headers of a directory's files but for those like `_SUCCESS`, `_metadata` and `.part-0.crc`."""
    try:
        files = [file for file in path.iterdir() if not file.name.startswith((".", "_"))]
    except OSError as error:
        faults.add(path.name, f"cannot be read ({error.strerror})")
        return None
    others = sorted(file.name for file in files if not (file.name.endswith(".parquet") and file.is_file()))
    if others or not files:
        what = f"holds {shorten(others, EXAMPLES)}" if others else "holds no file"
        faults.add(path.name, f"{what}, expected Parquet files alone")
        return None
    first, parts, whole = None, [], True
    for file in sorted(files, key=_natural):
        name = _name_part(file)
        table = _open_file(file, name, faults, part=True)
        if table is None:
            whole = False
            continue
        first = first or table
        ours, theirs = ({*one.columns, *one.unnamed} for one in (first, table))
        lost, more = sorted(ours - theirs), sorted(theirs - ours)
        if lost or more:
            what = [f"lacks columns ({len(lost)}: {shorten(lost, EXAMPLES)})"] if lost else []
            what += [f"has further columns ({len(more)}: {shorten(more, EXAMPLES)})"] if more else []
            faults.add(name, f"{' and '.join(what)}, expected those of {first.path.name}")
            whole = False
        # Thousands of parts share one schema, which takes more memory than all else about them.
        schema = table._source
        parts.append((file, parts[-1][1] if parts and schema.equals(parts[-1][1]) else schema))
    return Parts(path, parts) if whole else None


def _name_part(path: Path) -> str:
    return f"{path.parent.name}/{path.name}"


def _natural(path: Path) -> tuple[list[tuple[int, str]], str]:
    """part-2 before part-10."""
    pieces = re.split(r"(\d+)", path.name)
    return [(int(piece), "") if piece.isdecimal() else (-1, piece) for piece in pieces], path.name
