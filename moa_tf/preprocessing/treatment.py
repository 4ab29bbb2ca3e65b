"""Dose and time as numbers that a network can use."""

from __future__ import annotations

import keras
import numpy as np
from keras import ops

from moa_tf.data.schema import DOSES
from moa_tf.errors import InputError
from moa_tf.preprocessing.adapted import AdaptedLayer


@keras.saving.register_keras_serializable(package="moa_tf")
class TimeEncoding(AdaptedLayer):
    """One column per training time, linear between neighbours: 24 h is [1, 0, 0], 36 h is [½, ½, 0].

    On the training times this is one-hot; a time never trained on gets its neighbours' shares instead of
    nothing, and one outside the range counts as the nearest end.

    Args:
        times: ascending hours; adapt() fills them in.

    Input shape: [B] hours. Output shape: [B, len(times)].

    Raises:
        InputError: times that do not rise, or a call before adapt().
    """

    def __init__(self, times: list[float] | None = None, **kwargs) -> None:
        super().__init__(**kwargs)
        self.times = None if times is None else [float(time) for time in times]
        if times is not None and not (
            len(times) and np.isfinite(self.times).all() and (np.diff(times) > 0).all()
        ):
            raise InputError(f"times={self.times}: expected at least one, finite and ascending")

    @property
    def is_adapted(self) -> bool:
        return self.times is not None

    def adapt(self, hours: np.ndarray) -> None:
        """Takes the distinct times of [N] training rows; a second time as if it were the first.

        Raises:
            InputError: no rows, a time that is not finite, another rank, or the layer is part of a model that was
                made for other times.
        """
        times = np.unique(self._table(hours, rank=1, dtype=np.float64)).tolist()
        self._require_free({"times": self.times}, {"times": times})
        self.times = times

    def call(self, inputs):
        self._require_adapted()
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
        self._require_adapted()
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
