"""What a recipe leaves open, chosen on rows that are held out of the training fold."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from moa_tf.atomic import to_plain
from moa_tf.config import Recipe
from moa_tf.training.follow import Course, repeat
from moa_tf.training.reporter import Reporter
from moa_tf.training.run import write_text

Train = Callable[[Recipe, str, Path], dict[str, Any]]
"""(recipe, label, checkpoint) -> history of a network that was trained on the inner fold's rows."""


@dataclass(frozen=True)
class Choice:
    """A recipe with nothing left open.

    Attributes:
        weight_decay: the chosen one.
        course: when to stop, and the learning rates, as they were where inner rows were held out.
        log_loss: of the inner held-out rows, at what was chosen; None where there were too few drugs to hold any out.
        trials: the log loss of each decay, and the fraction of the schedule at which it was best.
    """

    weight_decay: float
    course: Course
    log_loss: float | None = None
    trials: Sequence[dict[str, float]] = ()

    def apply(self, recipe: Recipe) -> Recipe:
        return dataclasses.replace(recipe, weight_decay=self.weight_decay, decays=())

    def to_dict(self) -> dict[str, Any]:
        """As JSON values."""
        return to_plain(dataclasses.asdict(self))

    def describe(self) -> str:
        """In a few words, for whoever watches."""
        if self.log_loss is None:
            return f"weight decay {self.weight_decay:g}, unchosen: too few drugs to hold any out"
        return (
            f"weight decay {self.weight_decay:g}, {self.course.fraction:.0%} of the schedule; log loss of the inner "
            f"held-out rows {self.log_loss:.5f}"
        )


def read_choice(path: Path) -> Choice:
    """What `Choice.to_dict` gave, from its file."""
    values = json.loads(path.read_text(encoding="utf-8"))
    course = values.pop("course")
    rates = course["learning_rates"]
    return Choice(course=Course(course["fraction"], None if rates is None else tuple(rates)), **values)


def choose(
    recipe: Recipe, train: Train, directory: Path, label: str, reporter: Reporter, writes: bool
) -> Choice:
    """Trains once for each decay, and takes the one whose best epoch is best.

    Args:
        recipe: what is open: `decays`, when to stop early, a plateau's learning rates.
        train: trains a network by a recipe, judged on the inner held-out rows.
        directory: where each trial is kept when it is done, so that none is made twice.
        label: of the fold, for messages.
        reporter: told of the choice.
        writes: whether this process writes the run.
    """
    trials, histories = [], []
    decays = recipe.decays or (recipe.weight_decay,)
    reporter.more(len(decays))
    for number, decay in enumerate(decays):
        one = dataclasses.replace(recipe, weight_decay=decay, decays=())
        history = _trial(one, number, train, directory, f"{label}, inner fold, decay {decay:g}", writes)
        histories.append(history)
        losses = [epoch["held_out_log_loss"] for epoch in history["epochs"]]
        best = history["best_epoch"] if recipe.early_stopping else len(losses) - 1
        trials.append(
            {"weight_decay": decay, "log_loss": losses[best], "fraction": (best + 1) / history["planned"]}
        )
    chosen = min(range(len(trials)), key=lambda number: _or_last(trials[number]["log_loss"]))
    choice = Choice(decays[chosen], repeat(recipe, [histories[chosen]]), trials[chosen]["log_loss"], trials)
    reporter.message(f"{label}: {choice.describe()}")
    return choice


def _or_last(loss: float) -> float:
    return loss if math.isfinite(loss) else math.inf


def _trial(
    recipe: Recipe, number: int, train: Train, directory: Path, label: str, writes: bool
) -> dict[str, Any]:
    path, checkpoint = directory / f"trial-{number}.json", directory / f"trial-{number}-checkpoint.npz"
    if path.exists():
        return json.loads(path.read_text(encoding="utf-8"))
    history = train(recipe, label, checkpoint)
    if writes:
        write_text(path, history)
        checkpoint.unlink(missing_ok=True)
    return history
