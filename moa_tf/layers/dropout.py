"""Dropout with one random byte for each element."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from moa_tf.errors import whole_number

LEVELS = 256


@keras.saving.register_keras_serializable(package="moa_tf")
class ByteDropout(keras.layers.Dropout):
    """`keras.layers.Dropout` whose rate is rounded to a multiple of 1/256.

    y = x · [byte ≥ d] · 256/(256 − d), d = 256 · rate rounded, at least 1 and at most 255 if the rate is above 0

    Keras draws 32 random bits for each element and throws most of them away; drawing them costs more than all
    else that dropout does on a CPU. Elements are dropped independently, and E[y] = x exactly, for the scale is
    that of the rounded rate. The seed generator's state makes it reproducible, as in the base class. With a
    `noise_shape` the base class does the work.

    Args:
        rate: fraction of elements to set to zero.
        noise_shape: as in `keras.layers.Dropout`.
        seed: as in `keras.layers.Dropout`.

    Examples:
        >>> import numpy as np
        >>> from moa_tf.layers import ByteDropout
        >>> sorted(set(np.array(ByteDropout(0.5, seed=1)(np.ones((9, 9), "float32"), training=True)).ravel().tolist()))
        [0.0, 2.0]

    Source: Srivastava et al. 2014, Dropout, section 4, in its inverted form (section 10).
    """

    def __init__(self, rate: float, noise_shape: Any = None, seed: int | None = None, **kwargs: Any) -> None:
        seed = whole_number("seed", seed, least=0, optional=True)
        super().__init__(float(rate), noise_shape=noise_shape, seed=seed, **kwargs)

    def call(self, inputs: Any, training: bool | None = False) -> Any:
        if training and self.rate == 1:  # Keras 3.12's own refuses it.
            return ops.zeros_like(inputs)
        if not training or not 0 < self.rate < 1 or self.noise_shape is not None or not len(inputs.shape):
            return super().call(inputs, training=training)
        scale = ops.cast(self.scale, inputs.dtype)
        return inputs * (ops.cast(self.kept(ops.shape(inputs)), inputs.dtype) * scale)

    def kept(self, shape: Any) -> Any:
        """Draws which elements of an array of that shape, of one axis at least, are kept: bool."""
        *leading, last = shape
        # The largest int32 is never drawn: a byte's probability is off by less than 1e-9.
        words = keras.random.randint(
            (*leading, (last + 3) // 4), -(2**31), 2**31 - 1, dtype="int32", seed=self.seed_generator
        )
        return ops.view(words, "uint8")[..., :last] >= self._dropped

    @property
    def scale(self) -> float:
        """What makes up for the elements that are dropped, at a rate above 0 and below 1."""
        return LEVELS / (LEVELS - self._dropped)

    @property
    def _dropped(self) -> int:
        return min(max(round(self.rate * LEVELS), 1), LEVELS - 1)
