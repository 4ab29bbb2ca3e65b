"""The attentive transformer, which chooses the features of a decision step, and the groups it chooses from."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from moa_tf.errors import InputError, whole_number
from moa_tf.layers.entmax import entmax15, sparsemax
from moa_tf.layers.ghost_batch_norm import GhostBatchNormalization
from moa_tf.layers.shapes import known_size

MASK_TYPES = {"sparsemax": sparsemax, "entmax": entmax15}


@keras.saving.register_keras_serializable(package="moa_tf")
class AttentiveTransformer(keras.layers.Layer):
    """Mask over the features: M = sparsemax(P ∘ GBN(a W)), or α-entmax 1.5 in its place.

    P is the prior scale, near 0 for features that earlier steps have used up. Each row of M sums to 1.

    Source: Arik & Pfister, TabNet, arXiv 1908.07442, section 3.2, equation 1.

    Args:
        units: number of features, or of groups of features, to choose from.
        mask_type: `sparsemax` or `entmax`.
        virtual_batch_size: of the ghost batch normalisation.
        momentum: of the ghost batch normalisation, in Keras's sense.
        seed: of the kernel's initial values.

    Input: a [B, A], the attention part of the step before; optionally `prior` [B, units]. Output: [B, units].

    Raises:
        InputError: units below 1 or an unknown mask_type.

    Examples:
        >>> import numpy as np
        >>> from moa_tf.layers import AttentiveTransformer
        >>> mask = AttentiveTransformer(units=6, seed=0)(np.ones((2, 3), "float32"))
        >>> np.array(mask).sum(axis=1).round(5).tolist()
        [1.0, 1.0]
    """

    def __init__(
        self,
        units: int,
        mask_type: str = "sparsemax",
        virtual_batch_size: int | None = 128,
        momentum: float = 0.98,
        seed: int | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if mask_type not in MASK_TYPES:
            raise InputError(f"mask_type={mask_type}: expected one of {', '.join(MASK_TYPES)}")
        self.units = whole_number("units", units)
        self.mask_type = mask_type
        self.virtual_batch_size = whole_number("virtual_batch_size", virtual_batch_size, optional=True)
        self.momentum = float(momentum)
        self.seed = whole_number("seed", seed, least=0, optional=True)
        self.normalization = GhostBatchNormalization(
            virtual_batch_size, momentum, dtype=self.dtype_policy, name="normalization"
        )

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        width = known_size(input_shape)
        initializer = keras.initializers.RandomNormal(stddev=width**-0.25, seed=self.seed)
        self.kernel = self.add_weight((width, self.units), initializer, name="kernel")
        self.normalization.build((input_shape[0], self.units))

    def call(self, inputs: Any, prior: Any = None, training: bool | None = None) -> Any:
        x = self.normalization(keras.ops.matmul(inputs, self.kernel), training=training)
        return MASK_TYPES[self.mask_type](x if prior is None else x * keras.ops.cast(prior, x.dtype))

    def compute_output_shape(self, input_shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        return (*input_shape[:-1], self.units)

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "units": self.units,
            "mask_type": self.mask_type,
            "virtual_batch_size": self.virtual_batch_size,
            "momentum": self.momentum,
            "seed": self.seed,
        }


def group_matrix(groups: Sequence[Sequence[int]], features: int) -> np.ndarray:
    """Which features each attention group holds, with equal shares that sum to 1 a group.

    Features named in no group form a group each, after the named groups, in their order.

    Args:
        groups: indices of the features of each group; no index twice.
        features: number of features.

    Returns:
        [number of groups, features] float32.

    Raises:
        InputError: an empty group, an index outside the features, or an index in two groups.
    """
    seen: dict[int, int] = {}
    for number, group in enumerate(groups):
        if len(group) == 0:
            raise InputError(f"groups: group {number} is empty, expected at least one feature")
        for index in group:
            if not 0 <= index < features:
                raise InputError(
                    f"groups: group {number} holds feature {index}, expected 0 to {features - 1}"
                )
            if index in seen:
                raise InputError(
                    f"groups: feature {index} is in groups {seen[index]} and {number}, expected one group at most"
                )
            seen[index] = number
    every = [*map(list, groups), *([index] for index in range(features) if index not in seen)]
    matrix = np.zeros((len(every), features), np.float32)
    for number, group in enumerate(every):
        matrix[number, group] = 1.0 / len(group)
    return matrix
