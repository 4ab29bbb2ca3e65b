"""Layers from scaled features to more or fewer of them: principal components, row statistics, selection."""

from __future__ import annotations

import keras
import numpy as np
from keras import ops


@keras.saving.register_keras_serializable(package="moa_tf")
class PrincipalComponents(keras.layers.Layer):
    """Projection on the training rows' principal components: `y = (x - mean) · V`.

    Args:
        components: number of components; at most min(rows, features), to which adapt() lowers it.

    Input shape: [B, F]. Output shape: [B, components].

    Source: scikit-learn's `PCA` fits it; the sign of a component is the one that PCA gives.
    """

    def __init__(self, components: int, **kwargs) -> None:
        super().__init__(**kwargs)
        if components < 1:
            raise ValueError(f"components={components}: expected at least 1")
        self.components = components

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        features = input_shape[-1]
        self.mean = self.add_weight(name="mean", shape=(features,), initializer="zeros", trainable=False)
        self.kernel = self.add_weight(
            name="kernel", shape=(features, self.components), initializer="zeros", trainable=False
        )

    def adapt(self, data: np.ndarray) -> None:
        """Fits mean and components on [N, F] training rows."""
        from sklearn.decomposition import PCA

        self.components = min(self.components, *data.shape)
        # The covariance form is one F × F eigenproblem, but rounds small components when rows are few.
        solver = "covariance_eigh" if len(data) > data.shape[1] else "full"
        pca = PCA(self.components, svd_solver=solver).fit(data)
        self.build(data.shape)
        self.built = True
        self.mean.assign(pca.mean_)
        self.kernel.assign(pca.components_.T)

    def call(self, inputs):
        return ops.matmul(inputs - self.mean, self.kernel)

    def compute_output_shape(self, input_shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        return (*input_shape[:-1], self.components)

    def get_config(self) -> dict:
        return {**super().get_config(), "components": self.components}


@keras.saving.register_keras_serializable(package="moa_tf")
class RowStatistics(keras.layers.Layer):
    """Mean, standard deviation, skewness and excess kurtosis of each row (population moments, no bias correction).

    Input shape: [B, F]. Output shape: [B, 4]. A constant row has skewness and kurtosis 0.

    Source: the features that lish-moa's winners added to genes and cells.
    """

    def call(self, inputs):
        mean = ops.mean(inputs, axis=-1, keepdims=True)
        centred = inputs - mean
        square = ops.square(centred)
        variance = ops.mean(square, axis=-1, keepdims=True)
        safe = ops.where(variance > 0, variance, 1.0)
        skewness = ops.mean(square * centred, axis=-1, keepdims=True) / (safe * ops.sqrt(safe))
        kurtosis = ops.mean(square * square, axis=-1, keepdims=True) / ops.square(safe) - 3.0
        kurtosis = ops.where(variance > 0, kurtosis, 0.0)
        return ops.concatenate([mean, ops.sqrt(variance), skewness, kurtosis], axis=-1)

    def compute_output_shape(self, input_shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        return (*input_shape[:-1], 4)


@keras.saving.register_keras_serializable(package="moa_tf")
class VarianceThreshold(keras.layers.Layer):
    """Keeps the features whose training variance is above a threshold.

    Args:
        threshold: features with population variance at or below it are dropped.
        columns: indices that are kept; adapt() fills it in, and it travels in the config because the
            output's shape depends on it.

    Input shape: [B, F]. Output shape: [B, len(columns)].
    """

    def __init__(self, threshold: float = 0.0, columns: list[int] | None = None, **kwargs) -> None:
        super().__init__(**kwargs)
        self.threshold = threshold
        self.columns = columns

    def adapt(self, data: np.ndarray) -> None:
        """Chooses the columns on [N, F] training rows.

        Raises:
            ValueError: no feature's variance is above the threshold.
        """
        self.columns = np.flatnonzero(np.var(data, axis=0, dtype=np.float64) > self.threshold).tolist()
        if not self.columns:
            raise ValueError(f"variance_threshold={self.threshold}: no feature varies more than that")

    def call(self, inputs):
        if self.columns is None:
            raise ValueError("VarianceThreshold is called before adapt()")
        return ops.take(inputs, np.asarray(self.columns, "int32"), axis=-1)

    def compute_output_shape(self, input_shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        return (*input_shape[:-1], len(self.columns))

    def get_config(self) -> dict:
        return {**super().get_config(), "threshold": self.threshold, "columns": self.columns}
