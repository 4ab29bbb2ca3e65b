"""Keras's `fit` with the arithmetic of a training step compiled by XLA, under a strategy as well."""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf


class CompiledModel(keras.Model):
    """A functional model whose training step computes loss and gradients in one XLA program.

    XLA makes one pass over memory of many, which pays for layers that are mostly such passes; for those that are
    mostly matrix products TensorFlow's own kernels are faster on a CPU. `jit_compile=True` of `keras.Model`
    compiles the optimiser too, which fails under a strategy: replicas cannot meet inside an XLA program. Here
    the program is a function of the variables' values; assigning them and averaging over the replicas stays
    outside. Losses and results are those of `keras.Model`, to rounding; under replicas also those of `add_loss`,
    which `keras.Model` adds up over the replicas that were traced before.
    """

    def train_step(self, data: Any) -> dict[str, Any]:
        x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
        # A factor on the gradient under mixed precision, else 1.
        scale = tf.convert_to_tensor(self.optimizer.scale_loss(tf.ones(())))
        loss, y_pred, gradients, state = self._loss_and_gradients(
            [variable.value for variable in self.trainable_variables],
            [variable.value for variable in self.non_trainable_variables],
            scale,
            x,
            y,
            sample_weight,
        )
        for variable, value in zip(self.non_trainable_variables, state, strict=True):
            variable.assign(value)
        self.optimizer.apply_gradients(zip(gradients, self.trainable_variables, strict=True))
        # Keras divides a replica's loss by their number, so that the replicas' sum is the batch's mean.
        replicas = tf.distribute.get_strategy().num_replicas_in_sync
        self._loss_tracker.update_state(loss * replicas, sample_weight=tf.shape(y)[0])
        return self.compute_metrics(x, y, y_pred, sample_weight)

    @tf.function(jit_compile=True)
    def _loss_and_gradients(
        self, trainable: list[Any], state: list[Any], scale: Any, x: Any, y: Any, sample_weight: Any
    ) -> tuple[Any, Any, list[Any], list[Any]]:
        """Loss, outputs, gradients times `scale`, and the new values of moving statistics and random states."""
        values = [
            *zip(self.trainable_variables, trainable, strict=True),
            *zip(self.non_trainable_variables, state, strict=True),
        ]
        with tf.GradientTape() as tape, keras.StatelessScope(values, collect_losses=True) as scope:
            tape.watch(trainable)
            y_pred = self(x, training=True)
            loss = self.compute_loss(x, y, y_pred, sample_weight)
            scaled = loss * scale
        updated = [scope.get_current_value(variable) for variable in self.non_trainable_variables]
        return loss, y_pred, tape.gradient(scaled, trainable), updated
