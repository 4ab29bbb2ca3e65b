"""Training of one network on one fold."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import keras
import numpy as np

from moa_tf.data.input import Inference, training_batches
from moa_tf.errors import InputError
from moa_tf.evaluation.metrics import mean_log_loss
from moa_tf.models.base import Family, ModelConfig
from moa_tf.training.checkpoint import load_checkpoint, save_checkpoint
from moa_tf.training.compiled import CompiledModel
from moa_tf.training.losses import SmoothedBinaryCrossentropy, log_positive_weights
from moa_tf.training.multi_worker import MultiWorkerModel
from moa_tf.training.optimizers import make_learning_rate, make_optimizer
from moa_tf.training.reporter import Reporter
from moa_tf.training.strategy import Placement


@dataclass(frozen=True)
class FoldData:
    """What one fold's networks are trained and scored on.

    Attributes:
        preprocessing: fitted on the training rows.
        features: name -> [N, ...] its outputs for all rows.
        targets: [N, T] float32.
        train: [M] indices of the rows to train on.
        held_out: [V] indices of the rows to score after every epoch; empty with `--refit`.
    """

    preprocessing: keras.Model
    features: dict[str, np.ndarray]
    targets: np.ndarray
    train: np.ndarray
    held_out: np.ndarray

    @property
    def prior(self) -> np.ndarray:
        """[T] label means of the training rows."""
        return self.targets[self.train].mean(axis=0, dtype=np.float64)


@dataclass
class Progress:
    """What a training must remember from epoch to epoch beside weights and optimiser."""

    history: list[dict[str, float]] = field(default_factory=list)
    best: float = math.inf
    best_epoch: int = -1
    stalled: int = 0
    since_reduced: int = 0


def probabilities(network: Inference, features: dict[str, np.ndarray]) -> np.ndarray:
    """[N, T] float32 sigmoid of the network's logits."""
    logits = network(features)
    return (0.5 * (1.0 + np.tanh(0.5 * logits.astype(np.float64)))).astype(np.float32)


def train_network(
    family: Family,
    data: FoldData,
    config: ModelConfig,
    seed: int,
    placement: Placement,
    precision: str = "float32",
    checkpoint: Path | None = None,
    checkpoint_seconds: float = 60.0,
    label: str = "",
    reporter: Reporter | None = None,
    initialise: Callable[[keras.Model], None] | None = None,
) -> tuple[keras.Model, dict[str, Any]]:
    """Builds a network and trains it.

    Args:
        family: what to build.
        data: the fold.
        config: hyperparameters.
        seed: of initial weights, dropout and the order of rows.
        placement: where.
        precision: Keras dtype policy of the network.
        checkpoint: file for the state between epochs; training goes on from it if it is there.
        checkpoint_seconds: least time between two checkpoints: a network of 12 million weights has 150 MB of
            state, and an epoch may take only seconds.
        label: what to call this network in messages.
        reporter: told of every step and epoch.
        initialise: called with the new network, to load pretrained weights into it.

    Returns:
        The network, and `{"epochs": [{loss, ...}], "best_epoch": e}`.

    Raises:
        InputError: settings that do not fit the data or the replicas, or a loss that is no longer finite.
    """
    batch_size = min(config.batch_size, len(data.train))
    if batch_size % placement.replicas:
        raise InputError(
            f"batch_size={batch_size}: expected a multiple of the {placement.replicas} replicas "
            "(it is the global batch size)"
        )
    steps = len(data.train) // batch_size
    with _scope(placement), _dtype_policy(precision):
        network = family.build(data.preprocessing, config, data.prior, seed)
        if initialise is not None:
            initialise(network)
        # Another model of the same layers is compiled, so that the network is saved without optimiser state.
        model = _model_class(config, placement)(network.input, network.output)
        if family.synchronise and placement.replicas > 1:
            _synchronise(network, True)
            if isinstance(model, CompiledModel) and any(_batch_normalizations(network)):
                raise InputError(
                    f"jit_compile=true: expected false with {placement.replicas} replicas, as their batch "
                    "statistics are taken together, which an XLA program cannot do"
                )
        weights = None
        if config.positive_weights == "log":
            weights = log_positive_weights(data.targets[data.train].sum(axis=0))
        optimizer = make_optimizer(config, make_learning_rate(config, steps * config.epochs))
        if precision == "mixed_float16":
            optimizer = keras.optimizers.LossScaleOptimizer(optimizer)
        # Keras's own way to XLA fails under a strategy; CompiledModel goes another.
        model.compile(
            optimizer, SmoothedBinaryCrossentropy(config.label_smoothing, weights), jit_compile=False
        )
        optimizer.build(model.trainable_variables)
    reporter = reporter or Reporter()
    follow = _Follow(data, config, checkpoint, checkpoint_seconds, reporter, placement.chief)
    first = follow.restore(model)
    reporter.member(label, config.epochs - first, steps)
    if first < config.epochs:
        model.fit(
            training_batches(
                data.features, data.targets, data.train, batch_size, range(first, config.epochs), seed
            ),
            initial_epoch=first,
            epochs=config.epochs,
            steps_per_epoch=steps,
            shuffle=False,
            verbose=0,
            callbacks=[*family.callbacks(config), follow],
        )
    follow.finish(model)
    _synchronise(network, False)
    return network, {"epochs": follow.progress.history, "best_epoch": follow.progress.best_epoch}


def _model_class(config: ModelConfig, placement: Placement) -> type[keras.Model]:
    if placement.name == "multi-worker":
        return MultiWorkerModel
    # A TPU's steps are XLA programs anyway.
    return CompiledModel if config.jit_compile and placement.name != "tpu" else keras.Model


class _Follow(keras.callbacks.Callback):
    """Scores the held-out rows after each epoch; lowers the learning rate, stops, checkpoints.

    Keras has a callback for each of these, but none that can be resumed: their state is lost with the process.
    """

    def __init__(
        self,
        data: FoldData,
        config: ModelConfig,
        checkpoint: Path | None,
        checkpoint_seconds: float,
        reporter: Reporter,
        chief: bool,
    ) -> None:
        super().__init__()
        self.config, self.checkpoint, self.checkpoint_seconds = config, checkpoint, checkpoint_seconds
        self.reporter, self.chief = reporter, chief
        self.held_out = {name: values[data.held_out] for name, values in data.features.items()}
        self.held_out_targets = data.targets[data.held_out]
        self.progress = Progress()
        self.best_weights: list[np.ndarray] = []
        self.saved_at = time.monotonic()

    def restore(self, model: keras.Model) -> int:
        """Goes back to the checkpoint, if there is one; returns the epoch to go on with."""
        if self.checkpoint is None:
            return 0
        try:
            found = load_checkpoint(self.checkpoint, model)
        except ValueError as error:
            self.reporter.message(
                f"{self.checkpoint}: damaged ({error}); this fold is trained from its start"
            )
            return 0
        if found is None:
            return 0
        state, self.best_weights = found
        self.progress = Progress(**state)
        stopped = self._is_over()
        return self.config.epochs if stopped else len(self.progress.history)

    def on_train_begin(self, logs: dict | None = None) -> None:
        self.inference = Inference(self.model)

    def on_train_batch_end(self, batch: int, logs: dict | None = None) -> None:
        self.reporter.batch()

    def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
        loss = float(logs["loss"])
        if not math.isfinite(loss):
            raise InputError(
                f"learning_rate={self.config.learning_rate:g}: the loss is {loss} in epoch {epoch + 1}; expected "
                "a finite loss, try a lower learning rate or clip_norm=1"
            )
        figures = {"loss": loss, "learning_rate": float(np.asarray(self.model.optimizer.learning_rate))}
        if len(self.held_out_targets):
            predicted = probabilities(self.inference, self.held_out)
            figures["held_out_log_loss"] = mean_log_loss(self.held_out_targets, predicted)
        self._judge(epoch, figures)
        self.progress.history.append(figures)
        self.reporter.epoch(epoch, figures)
        if self._is_over():
            self.model.stop_training = True
        due = time.monotonic() - self.saved_at >= self.checkpoint_seconds
        if due and self.checkpoint is not None and self.chief:
            save_checkpoint(self.checkpoint, self.model, vars(self.progress), self.best_weights)
            self.saved_at = time.monotonic()

    def _judge(self, epoch: int, figures: dict[str, float]) -> None:
        progress, config = self.progress, self.config
        score = figures.get("held_out_log_loss", figures["loss"])
        if score < progress.best:
            progress.best, progress.best_epoch = score, epoch
            progress.stalled = progress.since_reduced = 0
            if config.early_stopping:
                self.best_weights = [np.asarray(weight) for weight in self.model.weights]
            return
        progress.stalled += 1
        progress.since_reduced += 1
        if config.schedule == "plateau" and progress.since_reduced >= config.plateau_patience:
            rate = self.model.optimizer.learning_rate
            rate.assign(float(np.asarray(rate)) * config.plateau_factor)
            progress.since_reduced = 0

    def _is_over(self) -> bool:
        return 0 < self.config.early_stopping <= self.progress.stalled

    def finish(self, model: keras.Model) -> None:
        """Goes back to the best weights, where early stopping is on."""
        if self.best_weights:
            for weight, value in zip(model.weights, self.best_weights, strict=True):
                weight.assign(value)


def _scope(placement: Placement) -> contextlib.AbstractContextManager:
    return contextlib.nullcontext() if placement.strategy is None else placement.strategy.scope()


@contextlib.contextmanager
def _dtype_policy(precision: str) -> Iterator[None]:
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(precision)
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)


def _batch_normalizations(network: keras.Model) -> Iterator[keras.layers.BatchNormalization]:
    kind = keras.layers.BatchNormalization
    return (layer for layer in network._flatten_layers() if isinstance(layer, kind))


def _synchronise(network: keras.Model, on: bool) -> None:
    """Takes batch statistics over all replicas, or over the batch at hand as elsewhere than in training."""
    for layer in _batch_normalizations(network):
        layer.synchronized = on
