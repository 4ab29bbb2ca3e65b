"""How a training speaks to whoever runs it."""

from __future__ import annotations


class Reporter:
    """Says nothing; the command line's shows a live display. Override what is of interest."""

    def run(self, name: str) -> None:
        """One of several runs begins, that of the model `name`."""

    def start(self, members: int) -> None:
        """Training begins; `members` networks are still to be trained."""

    def more(self, networks: int) -> None:
        """So many more are to be trained, to choose by."""

    def member(self, label: str, epochs: int, steps: int) -> None:
        """The network called `label` begins, with `epochs` epochs of `steps` steps."""

    def batch(self) -> None:
        """A step is done."""

    def epoch(self, epoch: int, figures: dict[str, float]) -> None:
        """Epoch `epoch`, counted from 0, is done, with `loss`, `learning_rate`, `held_out_log_loss`."""

    def message(self, line: str) -> None:
        """Something that the user should know."""
