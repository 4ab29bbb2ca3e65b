"""Layers that take some of the features, or all of them in another order, as the training rows say."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
from keras import ops

from moa_tf.errors import InputError, whole_number
from moa_tf.preprocessing.adapted import AdaptedLayer


class ColumnChoice(AdaptedLayer):
    """Base of the layers whose adapt() says which columns to take, and in which order: `y[:, j] = x[:, columns[j]]`.

    Args:
        columns: indices that are taken; adapt() fills it in, and it travels in the config because the
            output's shape depends on it.

    Input shape: [B, F]. Output shape: [B, len(columns)].

    Raises:
        InputError: a call before adapt(), or on fewer features.
    """

    def __init__(self, columns: list[int] | None = None, **kwargs) -> None:
        super().__init__(**kwargs)
        self.columns = None if columns is None else [int(column) for column in columns]

    def _choose(self, data: np.ndarray) -> list[int]:
        """The columns for [N, F] training rows."""
        raise NotImplementedError

    @property
    def is_adapted(self) -> bool:
        return self.columns is not None

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        features = self._expect_features(input_shape)
        if self.is_adapted and max(self.columns) >= features:
            raise InputError(f"{self._who}: {features} features, expected at least {max(self.columns) + 1}")

    def adapt(self, data: np.ndarray) -> None:
        """Chooses the columns on [N, F] training rows; a second time as if it were the first.

        Raises:
            InputError: a value is not finite, another rank, or the layer is part of a model that was made for other
                columns; for a `VarianceThreshold`, no feature's variance is above it.
        """
        data = self._table(data)
        columns = self._choose(data)
        self._require_free({"columns": self.columns}, {"columns": columns})
        self.columns = columns
        self._build_for(data.shape[1])

    def call(self, inputs):
        self._require_adapted()
        taken = ops.take(inputs, np.asarray(self.columns, "int32"), axis=-1)
        return ops.cast(taken, self.compute_dtype)

    def compute_output_shape(self, input_shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        self._require_adapted()
        return (*input_shape[:-1], len(self.columns))


@keras.saving.register_keras_serializable(package="moa_tf")
class MostVariable(ColumnChoice):
    """Takes the features of the largest training variance, in their own order; of equal ones the first.

    Args:
        count: how many; at most all.
        columns: see `ColumnChoice`.

    Examples:
        >>> import numpy as np
        >>> layer = MostVariable(2)
        >>> layer.adapt(np.array([[1.0, 5.0, 9.0], [3.0, 5.0, 1.0]], "float32"))
        >>> layer.columns
        [0, 2]
    """

    def __init__(self, count: int, columns: list[int] | None = None, **kwargs) -> None:
        super().__init__(columns, **kwargs)
        self.count = whole_number("count", count)

    def _choose(self, data: np.ndarray) -> list[int]:
        variance = np.var(data, axis=0, dtype=np.float64)
        return np.sort(np.argsort(-variance, kind="stable")[: self.count]).tolist()

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "count": self.count, "columns": self.columns}


@keras.saving.register_keras_serializable(package="moa_tf")
class CorrelationOrder(ColumnChoice):
    """Puts features that go together side by side: the leaves of a hierarchical clustering, from left to right.

    Clusters are joined by average linkage of the distance d(i, j) = 1 − r(i, j), r the Pearson correlation over the
    training rows. A feature that does not vary over them has correlation 0 with all.

    Args:
        columns: see `ColumnChoice`.

    Examples:
        >>> import numpy as np
        >>> layer = CorrelationOrder()
        >>> layer.adapt(np.array([[0, 3, 0], [1, 1, 2], [2, 2, 4]], "float32"))
        >>> layer.columns
        [1, 0, 2]

    Source: Sokal & Michener 1958 for average linkage; Eisen et al. 1998, Cluster analysis and display of genome-wide
    expression patterns, for genes in this order; SciPy's `linkage` and `leaves_list`.
    """

    def __init__(self, columns: list[int] | None = None, **kwargs) -> None:
        super().__init__(columns, **kwargs)

    def _choose(self, data: np.ndarray) -> list[int]:
        from scipy.cluster.hierarchy import leaves_list, linkage
        from scipy.spatial.distance import squareform

        if data.shape[1] == 1:
            return [0]
        # What does not vary may be off its own mean by the rounding of it.
        centred = (data - data.mean(axis=0, dtype=np.float64)) * (data != data[0]).any(axis=0)
        length = np.sqrt(np.square(centred).sum(axis=0))
        centred /= np.where(length > 0, length, 1)
        distance = np.clip(1 - centred.T @ centred, 0, 2)
        return leaves_list(linkage(squareform(distance, checks=False), "average")).tolist()

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "columns": self.columns}
