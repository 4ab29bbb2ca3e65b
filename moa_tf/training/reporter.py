"""How a training speaks to whoever runs it."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any


def log(line: str) -> None:
    """Gives a line that the user should know to the logger `moa_tf`, which shows it unless it is told otherwise."""
    logging.getLogger("moa_tf").warning(line)


class Reporter:
    """Says nothing; the command line's shows a live display. Override what is of interest.

    All of it is called in the process that trains, between two steps: what an experiment tracker wants is here.
    """

    def run(self, name: str) -> None:
        """One of several runs begins, that of the model `name`."""

    def settings(self, description: dict[str, Any]) -> None:
        """A run begins; what `run.json` says of it: `model`, `backend`, `settings`, `data`, `versions` and more."""

    def start(self, members: int) -> None:
        """Training begins; `members` networks are still to be trained."""

    def more(self, networks: int) -> None:
        """So many more are to be trained, to choose by."""

    def member(self, label: str, epochs: int, steps: int) -> None:
        """The network called `label` begins, with `epochs` epochs of `steps` steps."""

    def batch(self) -> None:
        """A step is done; of steps that are computed in one call each is told after the last."""

    def epoch(self, epoch: int, figures: dict[str, float]) -> None:
        """Epoch `epoch`, counted from 0, is done, with `loss`, `learning_rate`, `held_out_log_loss`."""

    def metrics(self, metrics: dict[str, Any]) -> None:
        """A run is finished; what `metrics.json` says of it."""

    def message(self, line: str) -> None:
        """Something that the user should know."""


class LogReporter(Reporter):
    """Gives messages to the logger `moa_tf`, each once."""

    def __init__(self) -> None:
        self.told: set[str] = set()

    def message(self, line: str) -> None:
        if line not in self.told:
            self.told.add(line)
            log(line)


class Reporters(Reporter):
    """Several, told one after the other."""

    def __init__(self, reporters: Sequence[Reporter]) -> None:
        self.reporters = tuple(reporters)

    def run(self, name: str) -> None:
        for each in self.reporters:
            each.run(name)

    def settings(self, description: dict[str, Any]) -> None:
        for each in self.reporters:
            each.settings(description)

    def start(self, members: int) -> None:
        for each in self.reporters:
            each.start(members)

    def more(self, networks: int) -> None:
        for each in self.reporters:
            each.more(networks)

    def member(self, label: str, epochs: int, steps: int) -> None:
        for each in self.reporters:
            each.member(label, epochs, steps)

    def batch(self) -> None:
        for each in self.reporters:
            each.batch()

    def epoch(self, epoch: int, figures: dict[str, float]) -> None:
        for each in self.reporters:
            each.epoch(epoch, figures)

    def metrics(self, metrics: dict[str, Any]) -> None:
        for each in self.reporters:
            each.metrics(metrics)

    def message(self, line: str) -> None:
        for each in self.reporters:
            each.message(line)
