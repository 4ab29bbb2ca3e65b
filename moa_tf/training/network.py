"""Training of one network on one fold."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np

from moa_tf.config import Recipe
from moa_tf.data.input import training_batches
from moa_tf.data.prior import label_sums
from moa_tf.data.storage import read
from moa_tf.models.base import Family, Hyperparameters
from moa_tf.training import backends
from moa_tf.training.fold import Fold
from moa_tf.training.follow import Course, Follow
from moa_tf.training.losses import SmoothedBinaryCrossentropy, log_positive_weights
from moa_tf.training.optimizers import make_learning_rate, make_optimizer
from moa_tf.training.reporter import Reporter
from moa_tf.training.strategy import Placement


@dataclass(frozen=True)
class NetworkData:
    """What one fold's networks are trained and judged on.

    Attributes:
        preprocessing: fitted on the training rows.
        features: name -> [N, ...] its outputs for all rows; what is floating point may be bfloat16.
        targets: [N, T] float32.
        fold: which rows are for what.
    """

    preprocessing: keras.Model
    features: dict[str, np.ndarray]
    targets: np.ndarray
    fold: Fold

    def at(self, rows: np.ndarray) -> dict[str, np.ndarray]:
        """The features of `rows`, none in bfloat16."""
        return {name: read(values, rows) for name, values in self.features.items()}


EPOCH_STEPS = 25
"""At least so many steps make an epoch where a training is measured in steps: judging costs as much as some of them."""


@dataclass(frozen=True)
class Length:
    """How long a training is.

    Attributes:
        batch_size: global.
        passes: over the rows, in each epoch.
        steps: in each epoch.
        epochs: that the schedule spans.
    """

    batch_size: int
    passes: int
    steps: int
    epochs: int


def training_length(recipe: Recipe, rows: int, replicas: int) -> Length:
    """The length of a training on that many rows."""
    batch_size = fitting_batch(recipe.batch_size, rows, replicas)
    steps = rows // batch_size
    if not recipe.steps:
        return Length(batch_size, 1, steps, recipe.epochs)
    passes = math.ceil(EPOCH_STEPS / steps)
    return Length(batch_size, passes, steps * passes, math.ceil(recipe.steps / (steps * passes)))


def train_network(
    family: Family,
    data: NetworkData,
    hyperparameters: Hyperparameters,
    seed: int,
    placement: Placement,
    precision: str = "float32",
    course: Course | None = None,
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
        hyperparameters: architecture and recipe.
        seed: of initial weights, dropout and the order of rows.
        placement: where.
        precision: Keras dtype policy of the network.
        course: to repeat, instead of judging epochs by held-out rows; the recipe's schedule stays as it is.
        checkpoint: file for the state between epochs; training goes on from it if it is there.
        checkpoint_seconds: least time between two checkpoints: a network of 12 million weights has 150 MB of
            state, and an epoch may take only seconds.
        label: what to call this network in messages.
        reporter: told of every step and epoch.
        initialise: called with the new network, to load pretrained weights into it; not where a checkpoint has
            later ones.

    Returns:
        The network, and `{"epochs": [{loss, ...}], "best_epoch": e, "planned": n}`, n the epochs of the schedule.

    Raises:
        InputError: settings that do not fit the data or the replicas, or a loss that is no longer finite.
    """
    architecture, recipe = hyperparameters.architecture, hyperparameters.recipe
    length = training_length(recipe, len(data.fold.train), placement.replicas)
    epochs = length.epochs if course is None else course.epochs(length.epochs)
    backend = backends.current()
    with backend.building(placement), _dtype_policy(precision):
        network = family.build(data.preprocessing, architecture, data.fold.prior, seed)
        # Another model of the same layers is compiled, so that the network is saved without optimiser state.
        output = family.training_output(network)
        model = backend.training_model(network, output, recipe, placement, family.synchronise)
        weights = None
        if recipe.positive_weights == "log":
            weights = log_positive_weights(label_sums(data.targets, data.fold.train))
        # A course that ends early ends within the schedule, which spans all epochs all the same.
        optimizer = make_optimizer(recipe, make_learning_rate(recipe, length.steps * length.epochs))
        if precision == "mixed_float16":
            optimizer = keras.optimizers.LossScaleOptimizer(optimizer)
        loss = SmoothedBinaryCrossentropy(recipe.label_smoothing, weights)
        # An epoch is a whole number of calls.
        at_once = max(n for n in range(1, backend.most_at_once(placement) + 1) if length.steps % n == 0)
        model.compile(optimizer, loss, jit_compile=backend.JIT_COMPILE, steps_per_execution=at_once)
        optimizer.build(model.trainable_variables)
    reporter = reporter or Reporter()
    follow = Follow(network, data, recipe, course, checkpoint, checkpoint_seconds, reporter, placement.chief)
    first = follow.restore(model)
    if first == 0 and initialise is not None:
        with backend.pretraining(placement):
            initialise(network)
    # An early stop that the checkpoint holds leaves nothing to train.
    first = epochs if follow.is_over() else first
    reporter.member(label, epochs - first, length.steps)
    if first < epochs:
        batches = training_batches(
            data.features,
            data.targets,
            data.fold.train,
            length.batch_size,
            range(first * length.passes, epochs * length.passes),
            seed,
        )
        with backend.fitting(placement):
            model.fit(
                batches,
                initial_epoch=first,
                epochs=epochs,
                steps_per_epoch=length.steps,
                shuffle=False,
                verbose=0,
                callbacks=[*family.callbacks(architecture), follow],
            )
    follow.finish(model)
    backend.settle(network)
    network = family.finish(network, architecture)
    progress = follow.progress
    return network, {
        "epochs": progress.history,
        "best_epoch": progress.best_epoch,
        "planned": length.epochs,
    }


def fitting_batch(batch_size: int, rows: int, replicas: int) -> int:
    """The global batch size for a fold: no more than its rows, and the same number for every replica."""
    return min(batch_size, rows // replicas * replicas)


@contextlib.contextmanager
def _dtype_policy(precision: str) -> Iterator[None]:
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(precision)
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)
