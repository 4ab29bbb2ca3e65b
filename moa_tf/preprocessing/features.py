"""Layers from scaled features to more or fewer of them: principal components, row statistics, selection."""

from __future__ import annotations

import keras
import numpy as np
from keras import ops

from moa_tf.errors import InputError, whole_number
from moa_tf.preprocessing.adapted import AdaptedLayer
from moa_tf.preprocessing.columns import ColumnChoice

FAR_MEAN = 8.0
"""Means further from 0 than so many deviations are taken off before the covariance."""

NEARLY_CONSTANT = 1e-8
"""Variance, in units of the largest value squared, below which the rounding of the mean shows in higher moments."""


@keras.saving.register_keras_serializable(package="moa_tf")
class PrincipalComponents(AdaptedLayer):
    """Projection on the training rows' principal components: `y = (x - mean) · V`.

    Args:
        components: number of components; at most min(rows, features), to which adapt() lowers it.

    Input shape: [B, F]. Output shape: [B, components].

    Raises:
        InputError: components below 1, or a call before adapt().

    Source: scikit-learn's `PCA` fits it; the sign of a component is the one that PCA gives.
    """

    def __init__(self, components: int, **kwargs) -> None:
        super().__init__(**kwargs)
        self.components = self._asked = whole_number("components", components)

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        features = self._expect_features(input_shape)
        self.mean = self._weight("mean", (features,))
        self.kernel = self._weight("kernel", (features, self.components))

    def adapt(self, data: np.ndarray) -> None:
        """Fits mean and components on [N, F] training rows; a second time as if it were the first.

        Raises:
            InputError: no rows, a value that is not finite, another rank, or the layer is part of a model that was
                made for another number of features or components.
        """
        from sklearn.decomposition import PCA

        data = self._table(data)
        self._build_for(data.shape[1], components=min(self._asked, *data.shape))
        # The covariance form subtracts mean · meanᵀ, and with it the digits, where a mean is far from 0.
        mean = data.mean(axis=0, dtype=np.float64)
        far = np.where(np.abs(mean) > FAR_MEAN * data.std(axis=0), mean, 0).astype(data.dtype)
        if far.any():
            data = data - far
        # The covariance form is one F × F eigenproblem, but rounds small components when rows are few.
        solver = "covariance_eigh" if len(data) > data.shape[1] else "full"
        pca = PCA(self.components, svd_solver=solver).fit(data)
        self.mean.assign(far + pca.mean_)
        self.kernel.assign(pca.components_.T)
        self._adapted = True

    def call(self, inputs):
        self._require_adapted()
        return ops.cast(ops.matmul(self._wide(inputs) - self.mean, self.kernel), self.compute_dtype)

    def compute_output_shape(self, input_shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        return (*input_shape[:-1], self.components)

    def get_config(self) -> dict:
        return {**super().get_config(), "components": self.components}


@keras.saving.register_keras_serializable(package="moa_tf")
class RowStatistics(keras.layers.Layer):
    """Mean, standard deviation, skewness and excess kurtosis of each row (population moments, no bias correction).

    Input shape: [B, F]. Output shape: [B, 4]. A constant row has deviation, skewness and kurtosis 0. Computed in
    float32 at least, whatever the scale of the row.

    Source: the features that lish-moa's winners added to genes and cells.
    """

    def __init__(self, **kwargs) -> None:
        super().__init__(**kwargs)
        # Half precision overflows at the fourth power of 16.
        self.autocast = False

    def call(self, inputs):
        x = ops.cast(inputs, keras.backend.result_type(self.compute_dtype, "float32"))
        # By a power of two, so that no digit changes.
        largest = ops.stop_gradient(ops.max(ops.abs(x), axis=-1, keepdims=True, initial=0.0))
        exponent = ops.floor(ops.log2(ops.where(largest > 0, largest, 1.0)))
        scale = ops.power(ops.cast(2.0, x.dtype), ops.clip(exponent, -126, 127))
        constant = ops.all(x == x[..., :1], axis=-1, keepdims=True)
        x = x / scale
        mean = _row_mean(x)
        centred = x - mean
        nearly_constant = _row_mean(ops.square(centred)) < NEARLY_CONSTANT
        centred = centred - ops.where(nearly_constant, _row_mean(centred), 0.0)
        square = ops.square(centred)
        variance = _row_mean(square)
        constant = ops.logical_or(constant, variance == 0)
        safe = ops.where(constant, 1.0, variance)
        deviation = ops.where(constant, 0.0, ops.sqrt(safe))
        skewness = ops.where(constant, 0.0, _row_mean(square * centred) / (safe * ops.sqrt(safe)))
        kurtosis = ops.where(constant, 0.0, _row_mean(square * square) / ops.square(safe) - 3.0)
        moments = ops.concatenate([mean * scale, deviation * scale, skewness, kurtosis], axis=-1)
        return ops.cast(moments, self.compute_dtype)

    def compute_output_shape(self, input_shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        return (*input_shape[:-1], 4)


def _row_mean(values):
    return ops.mean(values, axis=-1, keepdims=True)


@keras.saving.register_keras_serializable(package="moa_tf")
class VarianceThreshold(ColumnChoice):
    """Keeps the features whose training variance is above a threshold.

    Args:
        threshold: features with population variance at or below it are dropped.
        columns: see `ColumnChoice`.
    """

    def __init__(self, threshold: float = 0.0, columns: list[int] | None = None, **kwargs) -> None:
        super().__init__(columns, **kwargs)
        self.threshold = float(threshold)

    def _choose(self, data: np.ndarray) -> list[int]:
        columns = np.flatnonzero(np.var(data, axis=0, dtype=np.float64) > self.threshold).tolist()
        if not columns:
            raise InputError(f"variance_threshold={self.threshold}: no feature varies more than that")
        return columns

    def get_config(self) -> dict:
        return {**super().get_config(), "threshold": self.threshold, "columns": self.columns}
