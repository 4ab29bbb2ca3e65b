"""The live display of a training, on stderr."""

from __future__ import annotations

import time
from typing import Self

from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TaskProgressColumn,
    TextColumn,
    TimeRemainingColumn,
)

from moa_tf.cli.output import progress_console
from moa_tf.training.reporter import Reporter


class LiveReporter(Reporter):
    """Network, epoch, losses and time left; on a terminal one moving line, in a log a line a network."""

    def __init__(self) -> None:
        self.console = progress_console()
        self.bar = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=20),
            TaskProgressColumn(),
            MofNCompleteColumn(),
            TextColumn("networks"),
            TimeRemainingColumn(),
            console=self.console,
            disable=not self.console.is_terminal,
        )
        self.members = 0
        self.task: TaskID | None = None
        self.prefix = ""
        self.told: set[str] = set()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.bar.stop()
        if self.members:
            self._finish_member()

    def run(self, name: str) -> None:
        self.prefix = f"{name}, "

    def start(self, members: int) -> None:
        self.bar.start()  # only now: TensorFlow's start takes stderr for itself
        if self.task is None:
            self.task = self.bar.add_task("preparing", total=members)
        else:
            self.more(members)

    def more(self, networks: int) -> None:
        self.bar.update(self.task, total=self.bar.tasks[self.task].total + networks)

    def member(self, label: str, epochs: int, steps: int) -> None:
        if self.members:
            self._finish_member()
        self.members += 1
        self.label, self.epochs, self.step_share = self.prefix + label, epochs, 1 / max(epochs * steps, 1)
        self.figures: dict[str, float] = {}
        self.done, self.began = 0, time.monotonic()
        self._show()

    def batch(self) -> None:
        self.bar.advance(self.task, self.step_share)

    def epoch(self, epoch: int, figures: dict[str, float]) -> None:
        self.figures = figures
        self.done += 1
        self._show()

    def message(self, line: str) -> None:
        if line in self.told:
            return
        self.told.add(line)
        self.console.print(line, style="yellow", soft_wrap=True)

    def _losses(self) -> str:
        names = {"loss": "loss", "held_out_log_loss": "held-out log loss"}
        return "  ".join(
            f"{text} {self.figures[name]:.5f}" for name, text in names.items() if name in self.figures
        )

    def _show(self) -> None:
        self.bar.update(
            self.task, description=f"{self.label}  epoch {self.done}/{self.epochs}  {self._losses()}"
        )

    def _finish_member(self) -> None:
        seconds = time.monotonic() - self.began
        what = f"{self.done} epochs in" if self.done else "solved in"
        self.console.print(f"{self.label}: {what} {seconds:.0f} s  {self._losses()}".rstrip(), soft_wrap=True)
