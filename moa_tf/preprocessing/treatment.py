"""Dose, time and cell line as numbers that a network can use."""

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
class OneHot(keras.layers.Layer):
    """One column per category that the training rows have: for levels of dose, and for cell lines.

    A category that was never trained on, or an unknown one (−1), is all zeros.

    Args:
        categories: their number.
        seen: indices of those in the training rows; adapt() fills it in, None stands for all.

    Input shape: [B] int32. Output shape: [B, categories].
    """

    def __init__(self, categories: int, seen: list[int] | None = None, **kwargs) -> None:
        super().__init__(**kwargs)
        self.categories = int(categories)
        self.seen = seen

    def adapt(self, codes: np.ndarray) -> None:
        """Takes the categories of [N] training rows."""
        codes = np.unique(np.asarray(codes, np.int64))
        self.seen = codes[codes >= 0].tolist()

    def call(self, inputs):
        known = np.arange(self.categories, dtype="int32")
        if self.seen is not None:
            known = np.where(np.isin(known, self.seen), known, -2).astype("int32")
        return ops.cast(ops.expand_dims(inputs, -1) == known, self.compute_dtype)

    def compute_output_shape(self, input_shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        return (*input_shape, self.categories)

    def get_config(self) -> dict:
        return {**super().get_config(), "categories": self.categories, "seen": self.seen}


@keras.saving.register_keras_serializable(package="moa_tf")
class DoseEncoding(OneHot):
    """`OneHot` of the competition's two levels, as runs of version 0.1.0 name it."""

    def __init__(self, categories: int = len(DOSES), seen: list[int] | None = None, **kwargs) -> None:
        super().__init__(categories, seen, **kwargs)


@keras.saving.register_keras_serializable(package="moa_tf")
class LogDose(AdaptedLayer):
    """One column: (log₁₀ µM − mean) / deviation over the training rows; 0, the mean, where a dose is missing.

    Args:
        mean: of log₁₀ µM; adapt() fills it in.
        deviation: likewise; 1 where the training rows have one dose only.

    Input shape: [B] µM, above 0 or NaN. Output shape: [B, 1].
    """

    def __init__(self, mean: float | None = None, deviation: float | None = None, **kwargs) -> None:
        super().__init__(**kwargs)
        self.mean, self.deviation = mean, deviation

    @property
    def is_adapted(self) -> bool:
        return self.mean is not None

    def adapt(self, micromolar: np.ndarray) -> None:
        """Takes mean and deviation of [N] training rows' doses."""
        logs = np.log10(np.asarray(micromolar, np.float64))
        logs = logs[np.isfinite(logs)]
        self.mean = float(logs.mean()) if len(logs) else 0.0
        self.deviation = float(logs.std()) if len(logs) and logs.std() > 1e-6 else 1.0

    def call(self, inputs):
        self._require_adapted()
        dose = ops.cast(inputs, "float32")
        known = dose > 0  # false for NaN
        logs = ops.log10(ops.where(known, dose, 1.0))
        scaled = ops.where(known, (logs - self.mean) / self.deviation, 0.0)
        return ops.cast(ops.expand_dims(scaled, -1), self.compute_dtype)

    def compute_output_shape(self, input_shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        return (*input_shape, 1)

    def get_config(self) -> dict:
        return {**super().get_config(), "mean": self.mean, "deviation": self.deviation}
