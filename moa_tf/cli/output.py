"""How every command shows its results: a short table on stdout, and the figures as JSON on request.

Names of files, targets and genes are text here: nothing in them is markup, and what the terminal's encoding lacks
is written as an escape.
"""

from __future__ import annotations

import io
import json
import math
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TextIO

from moa_tf.atomic import replacing, to_plain

if TYPE_CHECKING:
    from rich.console import Console

UNDEFINED = "–"
"""Stands in a table for a figure that is not defined, such as an AUROC without a positive."""


def print_table(title: str, columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Prints a table on stdout. Floats get four significant digits; other values are shown by `str`.

    None and NaN are shown as a dash. Columns that hold numbers only are set to the right. Written to a file or a
    pipe, lines are never folded.
    """
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    def cell(value: Any, style: str = "") -> Text:
        return Text(_in_encoding(_show(value)), style)

    rows = [list(row) for row in rows]
    table = Table(box=box.SIMPLE_HEAD)
    for index, name in enumerate(columns):
        values = [row[index] for row in rows if row[index] is not None]
        numeric = bool(values) and all(map(_is_number, values))
        table.add_column(cell(name), justify="right" if numeric else "left", overflow="fold")
    for row in rows:
        table.add_row(*map(cell, row))
    console = Console(file=sys.stdout, width=None if sys.stdout.isatty() else 10_000)
    with console.capture() as captured:
        if title:
            console.print(cell(title, "bold"), soft_wrap=True)  # a table folds its own title to its width
        console.print(table)
    _write(captured.get())


def print_lines(*lines: str) -> None:
    """Prints lines on stdout as they are."""
    _write("".join(_in_encoding(line) + "\n" for line in lines))


def fixed(value: float | None, digits: int) -> str:
    """`value` with so many digits after the point, or a dash where it is None or NaN."""
    return UNDEFINED if value is None or math.isnan(value) else f"{value:.{digits}f}"


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
    from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    text = TextColumn("{task.description}: {task.completed:,} signatures", markup=False)
    columns = (SpinnerColumn("line"), text, TimeElapsedColumn())
    console = progress_console()
    progress = Progress(*columns, console=console, transient=True, disable=not console.is_terminal)
    task = progress.add_task(what, total=None)

    def advance(rows: int) -> None:
        progress.start()  # only now: TensorFlow's start takes stderr for itself
        progress.advance(task, rows)

    try:
        yield advance
    finally:
        progress.stop()


@contextmanager
def part_progress(what: str) -> Iterator[Callable[[int, int, int], None]]:
    """Shows on stderr how many parts are done; gives the function that takes them, all parts, and signatures done.

    Where stderr is no terminal, it is a line for each tenth of the parts.
    """
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    text = TextColumn(
        "{task.description}: {task.completed:,} of {task.total:,} parts, {task.fields[signatures]:,} signatures",
        markup=False,
    )
    console, tenth = progress_console(), None
    live = console.is_terminal
    columns = (BarColumn(), text, TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True, disable=not live) as progress:
        task = progress.add_task(what, total=0, signatures=0)

        def show(done: int, parts: int, signatures: int) -> None:
            nonlocal tenth
            progress.update(task, completed=done, total=parts, signatures=signatures)
            # What was there before this call is said by the call.
            before, tenth = tenth, done * 10 // parts
            if not live and before is not None and before < tenth:
                print(
                    f"{what}: {done} of {parts} parts, {signatures:,} signatures", file=sys.stderr, flush=True
                )

        yield show


def progress_console() -> Console:
    """Where progress is shown: stderr, without markup."""
    from rich.console import Console

    return Console(stderr=True, markup=False, emoji=False, highlight=False)


class Patient:
    """A text stream that nobody has to read: who has read enough, as `head` does, stops nothing.

    The command goes on, as what else it writes (`--json`) is still wanted. Characters that the stream's encoding
    lacks are written as escapes.
    """

    def __init__(self, stream: TextIO | None) -> None:
        self._stream = io.StringIO() if stream is None else stream  # None: the caller has closed it
        if hasattr(self._stream, "reconfigure"):
            self._stream.reconfigure(errors="backslashreplace")

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        try:
            return self._stream.write(text)
        except BrokenPipeError:
            self.drop()
            return len(text)

    def flush(self) -> None:
        try:
            self._stream.flush()
        except BrokenPipeError:
            self.drop()

    def drop(self) -> None:
        """Has all that is still to come go nowhere."""
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, self._stream.fileno())
        os.close(nowhere)


def _write(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()


def _in_encoding(text: str) -> str:
    """`text` with escapes for what stdout's encoding lacks, before a table's widths are measured."""
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    try:
        text.encode(encoding)
    except UnicodeEncodeError:
        plain = text.translate({ord("–"): "-", ord("−"): "-", ord("…"): "...", ord("×"): "x"})
        return plain.encode(encoding, "backslashreplace").decode(encoding)
    return text


def _is_number(value: Any) -> bool:
    return hasattr(value, "__float__") and not isinstance(value, bool)


def _show(value: Any) -> str:
    value = value.item() if hasattr(value, "item") else value
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return UNDEFINED
    return f"{value:.4g}" if isinstance(value, float) else str(value)
