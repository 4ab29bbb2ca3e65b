"""Collects what is wrong with the input, so that one pass reports every fault."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import chain

from moa_tf.errors import InputError

EXAMPLES = 3
COLUMNS = 5


@dataclass
class _Cells:
    count: int = 0
    examples: list[tuple[int, str]] = field(default_factory=list)


def one_line(text: str) -> str:
    """Line breaks, which quoted cells may hold, as `\\n`."""
    return "\\n".join(text.splitlines())


class Faults:
    """Faults of one or several files, each on one line.

    Cells at fault are counted per file, column and kind; columns whose faulty cells are the same rows share
    one line, so that a broken row gives one line and not 872.
    """

    def __init__(self) -> None:
        self._lines: list[str] = []
        self._cells: dict[tuple[str, str, str, str], _Cells] = {}

    def __bool__(self) -> bool:
        return bool(self._lines or self._cells)

    def add(self, file: str, what: str) -> None:
        """Adds the line `file: what`."""
        line = f"{file}: {what}" if file else what
        if line not in self._lines:
            self._lines.append(line)

    def add_ids(self, file: str, what: str, ids: Iterable[str], expected: str) -> None:
        """Adds one line for a list of ids, of which the first are shown."""
        ids = list(ids)
        shown = ", ".join(map(str, ids[:EXAMPLES])) + (", …" if len(ids) > EXAMPLES else "")
        self.add(file, f"column sig_id: {len(ids)} {what} ({shown}), expected {expected}")

    def add_cells(
        self, file: str, column: str, what: str, cells: Iterable[tuple[int, str]], expected: str
    ) -> None:
        """Counts faulty cells of one column.

        Args:
            file: name of the file.
            column: name of the column.
            what: what is wrong with them, to follow a count ("not a number").
            cells: the row (1 is the first below the header) and a description of each faulty cell.
            expected: what was expected.
        """
        entry = self._cells.setdefault((file, column, what, expected), _Cells())
        for cell in cells:
            entry.count += 1
            if len(entry.examples) < EXAMPLES:
                entry.examples.append(cell)

    def lines(self) -> Iterator[str]:
        """One line a fault: those of cells, then those of files and of files that do not fit together."""
        return (one_line(line) for line in chain(self._cell_lines(), self._lines))

    def _cell_lines(self) -> Iterator[str]:
        groups: dict[tuple, list[str]] = {}
        for (file, column, what, expected), cells in self._cells.items():
            rows = tuple(row for row, _ in cells.examples)
            groups.setdefault((file, what, expected, cells.count, rows), []).append(column)
        for (file, what, expected, count, _), columns in groups.items():
            cells = self._cells[file, columns[0], what, expected]
            shown = "; ".join(f"row {row}{text and ', ' + text}" for row, text in cells.examples)
            names = ", ".join(columns[:COLUMNS])
            if len(columns) > COLUMNS:
                names += f" and {len(columns) - COLUMNS} more"
            plural = "column" if len(columns) == 1 else f"{len(columns)} columns"
            each = "" if len(columns) == 1 else " each"
            more = "; …" if count > len(cells.examples) else ""
            yield f"{file}: {plural} {names}: {count}{each} {what} ({shown}{more}), expected {expected}"

    def raise_if_any(self) -> None:
        """Raises InputError with one line a fault, if there is one."""
        if self:
            raise InputError("\n".join(self.lines()))
