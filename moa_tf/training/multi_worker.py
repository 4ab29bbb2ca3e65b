"""Keras's `fit` under MultiWorkerMirroredStrategy."""

from __future__ import annotations

import keras
import tensorflow as tf


class MultiWorkerModel(keras.Model):
    """A functional model whose `fit` works when each worker is a process of its own.

    Keras 3 fails there in two places (keras issue 20585): it takes one batch of values per replica for a tensor
    when it builds metrics and optimiser, and it averages each of the step's logs along its first axis, which a
    scalar does not have. Here the first local value builds, and the logs have an axis.
    """

    def _maybe_symbolic_build(self, iterator=None, data_batch=None):
        if iterator is not None:
            local = self.distribute_strategy.experimental_local_results
            _, _, batches = next(iter(iterator))
            data_batch = tf.nest.map_structure(lambda value: local(value)[0], next(batches))
        with self.distribute_strategy.scope():
            self._symbolic_build(data_batch=data_batch)

    def train_step(self, data):
        return {name: tf.reshape(value, [1]) for name, value in super().train_step(data).items()}
