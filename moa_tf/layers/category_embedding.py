"""Embeddings of categorical columns, side by side."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from moa_tf.errors import InputError, whole_number


@keras.saving.register_keras_serializable(package="moa_tf")
class CategoryEmbedding(keras.layers.Layer):
    """One embedding table a categorical column, the embeddings concatenated.

    Args:
        sizes: number of categories of each column.
        embedding_dim: width of each embedding.
        seed: of the initial values, drawn from a standard normal.

    Input: [B, len(sizes)] integers, column k in [0, sizes[k]). Output: [B, len(sizes) · embedding_dim].

    Raises:
        InputError: no columns, a size or a width below 1.

    Examples:
        >>> import numpy as np
        >>> from moa_tf.layers import CategoryEmbedding
        >>> tuple(CategoryEmbedding(sizes=(3, 2), embedding_dim=4)(np.array([[2, 0], [1, 1]])).shape)
        (2, 8)
    """

    def __init__(
        self, sizes: Sequence[int], embedding_dim: int = 1, seed: int | None = None, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        if not len(sizes):
            raise InputError("sizes: expected at least one column")
        self.sizes = tuple(whole_number(f"sizes[{k}]", size) for k, size in enumerate(sizes))
        self.embedding_dim = whole_number("embedding_dim", embedding_dim)
        # Half precision would round a category's number that comes as a float.
        self.autocast = False
        self.seed = whole_number("seed", seed, least=0, optional=True)

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        if input_shape[-1] != len(self.sizes):
            raise InputError(f"categories of shape {input_shape}: expected {len(self.sizes)} columns")
        self.tables = [
            self.add_weight(
                (size, self.embedding_dim),
                keras.initializers.RandomNormal(
                    stddev=1.0, seed=None if self.seed is None else self.seed + k
                ),
                name=f"table_{k}",
            )
            for k, size in enumerate(self.sizes)
        ]

    def call(self, inputs: Any) -> Any:
        columns = ops.cast(inputs, "int32")
        parts = [ops.take(table, columns[:, k], axis=0) for k, table in enumerate(self.tables)]
        return ops.cast(ops.concatenate(parts, axis=-1), self.compute_dtype)

    def compute_output_shape(self, input_shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        return (input_shape[0], len(self.sizes) * self.embedding_dim)

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "sizes": self.sizes,
            "embedding_dim": self.embedding_dim,
            "seed": self.seed,
        }


@keras.saving.register_keras_serializable(package="moa_tf")
class NearestIndex(keras.layers.Layer):
    """Index of the nearest of a few known values: turns hours or doses into a category.

    Args:
        values: the known values; ties go to the first.

    Input: [B] numbers. Output: [B, 1] int32 in [0, len(values)).

    Raises:
        InputError: no values, or one that is not finite.

    Examples:
        >>> import numpy as np
        >>> from moa_tf.layers import NearestIndex
        >>> np.array(NearestIndex((24, 48, 72))(np.array([48.0, 70.0]))).ravel().tolist()
        [1, 2]
    """

    def __init__(self, values: Sequence[float], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if not len(values):
            raise InputError("values: expected at least one")
        self.values = tuple(float(value) for value in values)
        if not np.isfinite(self.values).all():
            raise InputError(f"values={self.values}: expected finite numbers")
        # Half precision would make neighbours of values that are none.
        self.autocast = False

    def call(self, inputs: Any) -> Any:
        distance = ops.abs(ops.cast(inputs, "float32")[:, None] - np.asarray(self.values, "float32"))
        return ops.cast(ops.argmin(distance, axis=1), "int32")[:, None]

    def compute_output_spec(self, inputs: Any) -> keras.KerasTensor:
        return keras.KerasTensor((inputs.shape[0], 1), "int32")

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "values": self.values}
