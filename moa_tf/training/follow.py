"""What happens after each epoch: judge, lower the learning rate, stop, checkpoint."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import keras
import numpy as np

from moa_tf.config import Recipe
from moa_tf.errors import InputError
from moa_tf.evaluation.metrics import mean_log_loss
from moa_tf.training.checkpoint import load_checkpoint, save_checkpoint
from moa_tf.training.inference import Inference
from moa_tf.training.reporter import Reporter

if TYPE_CHECKING:
    from moa_tf.training.network import NetworkData


@dataclass
class Progress:
    """What a training must remember from epoch to epoch beside weights and optimiser."""

    history: list[dict[str, float]] = field(default_factory=list)
    best: float = math.inf
    best_epoch: int = -1
    stalled: int = 0
    since_reduced: int = 0


@dataclass(frozen=True)
class Course:
    """What a training repeats of others that were steered, on rows that were held out of them.

    Attributes:
        fraction: after how much of the schedule to stop.
        learning_rates: that of each epoch, where the judged loss moved it (`plateau`); else None.
    """

    fraction: float = 1.0
    learning_rates: tuple[float, ...] | None = None

    def epochs(self, planned: int) -> int:
        """How many of the schedule's `planned` epochs to train."""
        return max(1, round(self.fraction * planned))


def repeat(recipe: Recipe, histories: Sequence[dict[str, Any]]) -> Course:
    """The course of some trainings: the (upper) median of the epochs that they kept, and of their rates in each epoch.

    Args:
        recipe: by which they were trained.
        histories: of every network, as `train_network` gives them.
    """
    fraction = 1.0
    if recipe.early_stopping:
        fraction = statistics.median_high(
            (history["best_epoch"] + 1) / history["planned"] for history in histories
        )
    if recipe.schedule != "plateau":
        return Course(fraction)
    rates = [[epoch["learning_rate"] for epoch in history["epochs"]] for history in histories]
    longest = max(map(len, rates))
    return Course(
        fraction,
        # A network that had stopped by then says nothing; one at least went as far as the median.
        tuple(
            statistics.median_high(several[epoch] for several in rates if epoch < len(several))
            for epoch in range(longest)
        ),
    )


def probabilities(
    network: Inference, features: dict[str, np.ndarray], rows: np.ndarray | None = None
) -> np.ndarray:
    """[M, T] float32 sigmoid of the network's logits for `rows` [M] of the features, by default all."""
    parts = [
        (0.5 * (1.0 + np.tanh(0.5 * logits.astype(np.float64)))).astype(np.float32)
        for _, logits in network.blocks(features, rows=rows)
    ]
    return np.concatenate(parts)


class Follow(keras.callbacks.Callback):
    """Judges each epoch on the treated held-out rows; lowers the learning rate, stops, checkpoints.

    By a course it judges too, for whoever watches, and nothing follows from it.

    Keras has a callback for each of these, but none that can be resumed: their state is lost with the process.
    What it judges by is the log loss over treated rows that the run's table gives.
    """

    def __init__(
        self,
        network: keras.Model,
        data: NetworkData,
        recipe: Recipe,
        course: Course | None,
        checkpoint: Path | None,
        checkpoint_seconds: float,
        reporter: Reporter,
        chief: bool,
    ) -> None:
        super().__init__()
        self.network, self.recipe, self.course = network, recipe, course
        self.checkpoint, self.checkpoint_seconds = checkpoint, checkpoint_seconds
        self.reporter, self.chief = reporter, chief
        self.data = data
        self.progress = Progress()
        self.best_weights: list[np.ndarray] = []
        self.saved_at = time.monotonic()
        self.told = 0

    def restore(self, model: keras.Model) -> int:
        """Goes back to the checkpoint, if there is one; returns the number of epochs that are done."""
        if self.checkpoint is None:
            return 0
        try:
            found = load_checkpoint(self.checkpoint, model)
        except ValueError as error:
            self.reporter.message(
                f"{self.checkpoint}: damaged ({error}); this network is trained from its start"
            )
            return 0
        if found is None:
            return 0
        state, self.best_weights = found
        self.progress = Progress(**state)
        return len(self.progress.history)

    def on_train_begin(self, logs: dict | None = None) -> None:
        self.inference = Inference(self.network)

    def on_train_batch_end(self, batch: int, logs: dict | None = None) -> None:
        # Keras tells the last step of a call.
        for _ in range(self.told, batch + 1):
            self.reporter.batch()
        self.told = batch + 1

    def on_epoch_begin(self, epoch: int, logs: dict | None = None) -> None:
        self.told = 0
        if self.course is not None and self.course.learning_rates is not None:
            rates = self.course.learning_rates
            # On more rows an epoch of some steps is not quite the same share of the whole.
            self.model.optimizer.learning_rate.assign(rates[min(epoch, len(rates) - 1)])

    def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
        loss = float(logs["loss"])
        if not math.isfinite(loss):
            raise InputError(
                f"learning_rate={self.recipe.learning_rate:g}: the loss is {loss} in epoch {epoch + 1}; expected "
                "a finite loss, try a lower learning rate or clip_norm=1"
            )
        figures = {"loss": loss, "learning_rate": float(np.asarray(self.model.optimizer.learning_rate))}
        judged = self.data.fold.judged
        if len(judged):
            predicted = probabilities(self.inference, self.data.features, judged)
            figures["held_out_log_loss"] = mean_log_loss(self.data.targets[judged], predicted)
        self._judge(epoch, figures)
        self.progress.history.append(figures)
        self.reporter.epoch(epoch, figures)
        if self.is_over():
            self.model.stop_training = True
        due = time.monotonic() - self.saved_at >= self.checkpoint_seconds
        if due and self.checkpoint is not None and self.chief:
            save_checkpoint(self.checkpoint, self.model, vars(self.progress), self.best_weights)
            self.saved_at = time.monotonic()

    def _judge(self, epoch: int, figures: dict[str, float]) -> None:
        progress, recipe = self.progress, self.recipe
        score = figures.get("held_out_log_loss", figures["loss"])
        if score < progress.best:
            progress.best, progress.best_epoch = score, epoch
            progress.stalled = progress.since_reduced = 0
            if recipe.early_stopping and self.course is None:
                self.best_weights = [np.asarray(weight) for weight in self.model.weights]
            return
        progress.stalled += 1
        progress.since_reduced += 1
        # A course sets each epoch's rate itself.
        plateau = recipe.schedule == "plateau" and self.course is None
        if plateau and progress.since_reduced >= recipe.plateau_patience:
            rate = self.model.optimizer.learning_rate
            rate.assign(float(np.asarray(rate)) * recipe.plateau_factor)
            progress.since_reduced = 0

    def is_over(self) -> bool:
        """Whether early stopping has come; a course ends by its own number of epochs."""
        return self.course is None and 0 < self.recipe.early_stopping <= self.progress.stalled

    def finish(self, model: keras.Model) -> None:
        """The weights that the network is to have: the moving average's, or where early stopping is on the best."""
        if self.recipe.ema:
            # `fit` has done so, unless the last epoch's checkpoint left it nothing to train.
            model.optimizer.finalize_variable_values(model.trainable_variables)
        if self.best_weights:
            for weight, value in zip(model.weights, self.best_weights, strict=True):
                weight.assign(value)
