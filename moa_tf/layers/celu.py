"""The continuously differentiable exponential linear unit, with its α."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from moa_tf.errors import InputError


@keras.saving.register_keras_serializable(package="moa_tf")
class CELU(keras.layers.Layer):
    """`keras.activations.celu` as a layer that has α.

    y = max(x, 0) + min(α (exp(x/α) − 1), 0)

    Args:
        alpha: −α is what y goes to on the left.

    Call arguments:
        inputs: of any shape.

    Returns:
        Of the same shape.

    Raises:
        InputError: α is not above 0.

    Examples:
        >>> import numpy as np
        >>> from moa_tf.layers import CELU
        >>> np.array(CELU(0.5)(np.array([-100.0, 0.0, 3.0], "float32"))).tolist()
        [-0.5, 0.0, 3.0]

    Source: Barron 2017, Continuously Differentiable Exponential Linear Units, equation 2.
    """

    def __init__(self, alpha: float = 1.0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.alpha = float(alpha)
        if not self.alpha > 0:
            raise InputError(f"alpha={alpha}: expected above 0")

    def call(self, inputs: Any) -> Any:
        return ops.celu(inputs, self.alpha)

    def compute_output_shape(self, input_shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        return input_shape

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "alpha": self.alpha}
