"""Scaling of raw values to [0, 1], the range of a picture's brightness."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from keras import ops


class _FeatureRange(keras.layers.Layer):
    """What both scalings share: weights that adapt() sets, and the shape passing through."""

    def _add(self, name: str, shape: tuple[int, ...]) -> keras.Variable:
        return self.add_weight(name=name, shape=shape, initializer="zeros", trainable=False, autocast=False)

    def _prepare(self, features: Any) -> np.ndarray:
        features = ops.convert_to_numpy(features)
        if not self.built:
            self.build(features.shape)
            self.built = True
        return features

    def compute_output_shape(self, input_shape: Sequence[int | None]) -> Sequence[int | None]:
        return input_shape


@keras.saving.register_keras_serializable(package="moa_tf")
class Norm2Scaling(_FeatureRange):
    """Logarithm of the distance to each feature's minimum, over one maximum of all features.

    x' = log(max(x + |min_f| + 1, 1)) / max, then at most 1, where min_f is the feature's minimum and max the
    largest logarithm, both over the training fold. One maximum for all keeps the features comparable. The
    inner max puts values below all that were seen at 0, where the logarithm alone would be negative or
    undefined.

    Call arguments:
        features: [B, F] float, in their own units.

    Returns:
        [B, F] in [0, 1].

    Source: Sharma et al. 2019, DeepInsight, supplementary information, norm-2.
    """

    def build(self, input_shape: Sequence[int | None]) -> None:
        self.shift = self._add("shift", (input_shape[-1],))
        self.maximum = self._add("maximum", ())

    def adapt(self, features: Any) -> None:
        """Takes the minima and the maximum from [N, F] features of the training fold."""
        features = self._prepare(features)
        shift = np.abs(features.min(0)) + 1
        self.shift.assign(shift)
        # The logarithm rises, so each feature's largest value has its largest logarithm.
        maximum = np.log(np.maximum(features.max(0) + shift, 1)).max()
        self.maximum.assign(maximum if maximum > 0 else 1)

    def call(self, features: Any) -> Any:
        shift, maximum = ops.cast(self.shift, features.dtype), ops.cast(self.maximum, features.dtype)
        return ops.minimum(ops.log(ops.maximum(features + shift, 1.0)) / maximum, 1.0)


@keras.saving.register_keras_serializable(package="moa_tf")
class MinMaxScaling(_FeatureRange):
    """Each feature over its own range: x' = (x - min_f) / (max_f - min_f), clipped to [0, 1].

    A feature that did not vary over the training fold becomes 0.

    Call arguments:
        features: [B, F] float, in their own units.

    Returns:
        [B, F] in [0, 1].
    """

    def build(self, input_shape: Sequence[int | None]) -> None:
        self.minimum = self._add("minimum", (input_shape[-1],))
        self.scale = self._add("scale", (input_shape[-1],))

    def adapt(self, features: Any) -> None:
        """Takes both ends of every feature's range from [N, F] features of the training fold."""
        features = self._prepare(features)
        low, span = features.min(0), np.ptp(features, axis=0)
        self.minimum.assign(low)
        self.scale.assign(np.divide(1, span, out=np.zeros_like(span), where=span > 0))

    def call(self, features: Any) -> Any:
        minimum, scale = ops.cast(self.minimum, features.dtype), ops.cast(self.scale, features.dtype)
        return ops.clip((features - minimum) * scale, 0.0, 1.0)
