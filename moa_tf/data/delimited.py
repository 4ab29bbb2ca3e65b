"""CSV text: what stands between its cells, where its header is, how many cells each of its rows has."""

from __future__ import annotations

import csv
import gzip
import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import IO

from moa_tf.data.names import clean, find_near_misses

SEPARATORS = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "vertical bars"}
ID = "sig_id"
"""Every table has this column, so it tells which separator is the right one."""

_LINE = 1 << 24
_SAMPLE = 50
_ESTIMATE = 1 << 20
_SEPARATOR_LINE = re.compile(r'"?sep=([,;|:\t])"?', re.IGNORECASE)
_POINT = re.compile(r"[-+]?\d*\.\d+([eE][-+]?\d+)?")
_COMMA = re.compile(r"[-+]?\d*,\d+([eE][-+]?\d+)?")


@dataclass(frozen=True)
class Delimited:
    """A CSV file whose header has been read.

    Attributes:
        path: the file.
        gzipped: whether it is compressed.
        header: the header's cells, as they are.
        separator: what stands between cells.
        decimal: `.` or `,`.
        before: lines before the header.
        comments: those of them that start with #.
        first: number of cells in the first row, None where there is no row.
    """

    path: Path
    gzipped: bool
    header: list[str]
    separator: str = ","
    decimal: str = "."
    before: int = 0
    comments: int = 0
    first: int | None = None

    @property
    def remarks(self) -> list[str]:
        """What is said about how the file is read; nothing of an ordinary one."""
        remarks = []
        if self.comments:
            remarks.append(f"without {self.show_comments()} before the header")
        if self.separator != ",":
            decimal = ", and commas for decimal points" if self.decimal == "," else ""
            remarks.append(f"read with {name_separator(self.separator)} between cells{decimal}")
        return remarks

    def show_comments(self) -> str:
        lines = "1 line that starts" if self.comments == 1 else f"{self.comments} lines that start"
        return f"{lines} with #"

    def open(self) -> IO[str]:
        """The text from the header on."""
        file = _open(self.path, self.gzipped)
        for _ in range(self.before):
            file.readline()
        return file

    def estimate_rows(self) -> int:
        """As many rows as there would be if all were as long as the first megabyte's."""
        with self.open() as file:
            sample = file.read(_ESTIMATE)
            lines, read = sample.count("\n"), file.buffer
            # How much of the file itself these took, compressed or not.
            done = (read.fileobj if self.gzipped else read).tell()
        whole = len(sample) < _ESTIMATE
        return max(lines - 1, 0) if whole else int(lines * self.path.stat().st_size / done)

    def records(self) -> Iterator[list[str]]:
        """The cells of each row, as the csv module tells them apart."""
        with self.open() as file:
            yield from islice(_records(file, self.separator), 1, None)


def read_head(path: Path, gzipped: bool) -> Delimited:
    """Finds the header and the separator, which is the one that makes `sig_id` a cell of the header.

    Where none does, the header is the one with the most cells: to be shown, not to be used.

    Raises:
        OSError, EOFError, zlib.error, csv.Error: the file cannot be read.
    """
    with _open(path, gzipped) as file:
        before, comments, separator = 0, 0, None
        while line := file.readline(_LINE):
            bare = clean(line)
            if before == 0 and (given := _SEPARATOR_LINE.fullmatch(line.strip("\r\n"))):
                separator = given[1]
            elif bare.startswith("#"):
                comments += 1
            elif bare:
                break
            before += 1
        while line.count('"') % 2 and len(line) < _LINE and (more := file.readline(_LINE)):
            line += more
        separator = separator or _find_separator(line)
        rows = list(islice(_records(file, separator), 1 if separator == "," else _SAMPLE))
    header = _split(line, separator)
    decimal = "." if separator == "," else _find_decimal(header, rows)
    first = len(rows[0]) if rows else None
    return Delimited(path, gzipped, header, separator, decimal, before, comments, first)


def name_separator(separator: str) -> str:
    return SEPARATORS.get(separator, repr(separator))


def _open(path: Path, gzipped: bool) -> IO[str]:
    opener = gzip.open if gzipped else open
    return opener(path, "rt", encoding="utf-8-sig", errors="replace", newline="")


def _records(file: IO[str], separator: str) -> Iterator[list[str]]:
    # Lines that are empty or blank are none to pandas either.
    for cells in csv.reader(file, delimiter=separator):
        if len(cells) > 1 or (cells and (not cells[0] or cells[0].strip(" \t"))):
            yield cells


def _split(line: str, separator: str) -> list[str]:
    return next(csv.reader(line.splitlines(keepends=True), delimiter=separator), [])


def _find_separator(line: str) -> str:
    headers = {separator: [clean(cell) for cell in _split(line, separator)] for separator in SEPARATORS}
    for fits in (lambda cells: ID in cells, lambda cells: find_near_misses(cells, [ID])):
        found = [separator for separator, cells in headers.items() if fits(cells)]
        if found:
            return max(found, key=lambda separator: len(headers[separator]))
    return max(headers, key=lambda separator: len(headers[separator]))


def _find_decimal(header: list[str], rows: list[list[str]]) -> str:
    """A comma, if more numbers of the first rows have a comma than a point; the others are faults then."""
    ids = next((i for i, name in enumerate(header) if clean(name) == ID), -1)
    cells = [cell.strip() for row in rows for i, cell in enumerate(row) if i != ids]
    commas, points = (sum(map(bool, map(kind.fullmatch, cells))) for kind in (_COMMA, _POINT))
    return "," if commas > points else "."
