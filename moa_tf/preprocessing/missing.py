"""Missing values: the training rows' medians stand in for them, in the graph."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from keras import ops


@keras.saving.register_keras_serializable(package="moa_tf")
class MedianImputation(keras.layers.Layer):
    """Puts each feature's median over the training rows in the place of NaN.

    A feature of which more than `max_missing` is missing in the training rows, or all, is not used: it becomes 0 in
    every row, a constant, which what follows drops as it drops every feature that does not vary.

    Args:
        max_missing: the largest share of missing values with which a feature is still used.

    Call arguments:
        inputs: [B, F] float, NaN for a missing value.

    Returns:
        [B, F] without NaN.

    Raises:
        ValueError: called before adapt().

    Example:
        >>> import numpy as np
        >>> layer = MedianImputation()
        >>> layer.adapt(np.array([[1.0, np.nan], [3.0, np.nan], [np.nan, 5.0]], "float32"))
        >>> np.array(layer(np.array([[np.nan, 7.0]], "float32"))).tolist()
        [[2.0, 0.0]]
    """

    def __init__(self, max_missing: float = 0.5, adapted: bool = False, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if not 0 <= max_missing <= 1:
            raise ValueError(f"max_missing={max_missing}: expected in [0, 1]")
        self.max_missing = float(max_missing)
        self.adapted = adapted

    def build(self, input_shape: Sequence[int | None]) -> None:
        options = {"shape": (input_shape[-1],), "trainable": False, "dtype": "float32", "autocast": False}
        self.median = self.add_weight(name="median", initializer="zeros", **options)
        self.used = self.add_weight(name="used", initializer="ones", **options)

    def adapt(self, data: np.ndarray) -> None:
        """Takes the medians of [N, F] training rows."""
        data = np.asarray(data, np.float32)
        if not self.built:
            self.build(data.shape)
            self.built = True
        missing = np.isnan(data)
        share = missing.mean(axis=0)
        used = (share <= self.max_missing) & (share < 1)
        median = np.zeros(data.shape[1], np.float32)
        if used.any():
            median[used] = np.nanmedian(data[:, used], axis=0)
        self.median.assign(median)
        self.used.assign(used.astype(np.float32))
        self.adapted = True

    @property
    def dropped(self) -> np.ndarray:
        """Indices of the features that are not used."""
        return np.flatnonzero(ops.convert_to_numpy(self.used) == 0)

    def call(self, inputs: Any) -> Any:
        if not self.adapted:
            raise ValueError("MedianImputation is called before adapt()")
        median, used = (ops.cast(weight, inputs.dtype) for weight in (self.median, self.used))
        return ops.where(ops.logical_or(ops.isnan(inputs), used == 0), median, inputs)

    def compute_output_shape(self, input_shape: Sequence[int | None]) -> Sequence[int | None]:
        return input_shape

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "max_missing": self.max_missing, "adapted": self.adapted}
