"""Dose and time as numbers that a network can use."""

from __future__ import annotations

import keras
import numpy as np
from keras import ops

from moa_tf.data.schema import DOSES


@keras.saving.register_keras_serializable(package="moa_tf")
class TimeEncoding(keras.layers.Layer):
    """One column per training time, linear between neighbours: 24 h is [1, 0, 0], 36 h is [½, ½, 0].

    On the training times this is one-hot; a time never trained on gets its neighbours' shares instead of
    nothing, and one outside the range counts as the nearest end.

    Args:
        times: ascending hours; adapt() fills them in.

    Input shape: [B] hours. Output shape: [B, len(times)].
    """

    def __init__(self, times: list[float] | None = None, **kwargs) -> None:
        super().__init__(**kwargs)
        self.times = times

    def adapt(self, hours: np.ndarray) -> None:
        """Takes the distinct times of [N] training rows."""
        self.times = np.unique(np.asarray(hours, np.float64)).tolist()

    def call(self, inputs):
        times = np.asarray(self.times, "float32")
        hours = ops.clip(ops.expand_dims(ops.cast(inputs, "float32"), -1), times[0], times[-1])
        # A hat function per time: falls from 1 to 0 over the gap to each neighbour.
        gap = np.diff(times)
        left = np.concatenate([[1.0], gap]).astype("float32")
        right = np.concatenate([gap, [1.0]]).astype("float32")
        distance = hours - times
        hat = 1.0 - ops.where(distance < 0, -distance / left, distance / right)
        return ops.cast(ops.maximum(hat, 0.0), self.compute_dtype)

    def compute_output_shape(self, input_shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        return (*input_shape, len(self.times))

    def get_config(self) -> dict:
        return {**super().get_config(), "times": self.times}


@keras.saving.register_keras_serializable(package="moa_tf")
class DoseEncoding(keras.layers.Layer):
    """One-hot of the dose's index into `moa_tf.data.DOSES`; an unknown dose (-1) is all zeros.

    Input shape: [B] int32. Output shape: [B, 2].
    """

    def call(self, inputs):
        return ops.cast(
            ops.expand_dims(inputs, -1) == np.arange(len(DOSES), dtype="int32"), self.compute_dtype
        )

    def compute_output_shape(self, input_shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        return (*input_shape, len(DOSES))
