"""How every command shows its results: a short table on stdout, and the figures as JSON on request."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from moa_tf.atomic import replacing, to_plain


def print_table(title: str, columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Prints a table on stdout. Floats get four significant digits; other values are shown by `str`.

    Columns that hold numbers only are set to the right. Written to a file or a pipe, lines are never folded.
    """
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    rows = [list(row) for row in rows]
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, title_style="bold")
    for index, name in enumerate(columns):
        numeric = bool(rows) and all(_is_number(row[index]) for row in rows)
        table.add_column(name, justify="right" if numeric else "left", overflow="fold")
    for row in rows:
        table.add_row(*(Text(_show(value)) for value in row))
    Console(file=sys.stdout, width=None if sys.stdout.isatty() else 10_000).print(table)


def write_json(path: str | os.PathLike, values: Any) -> None:
    """Writes `values` to `path` as strict JSON, atomically. NumPy values become plain ones, NaN null.

    Raises:
        InputError: `path` cannot be written.
    """
    text = json.dumps(to_plain(values), indent=2, ensure_ascii=False, allow_nan=False)
    with replacing(path) as temporary:
        temporary.write_text(text + "\n", encoding="utf-8")


@contextmanager
def row_progress(what: str) -> Iterator[Callable[[int], None]]:
    """Shows on stderr how many signatures are done; gives the function that adds to them.

    Only on a terminal: a log would hold nothing but leftovers of the moving line.
    """
    from rich.console import Console
    from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    columns = (SpinnerColumn(), TextColumn("{task.description}: {task.completed:,} signatures"))
    with Progress(*columns, TimeElapsedColumn(), console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task(what, total=None)
        yield lambda rows: progress.advance(task, rows)


def _is_number(value: Any) -> bool:
    return hasattr(value, "__float__") and not isinstance(value, bool)


def _show(value: Any) -> str:
    if value is None:
        return "–"
    value = value.item() if hasattr(value, "item") else value
    return f"{value:.4g}" if isinstance(value, float) else str(value)
