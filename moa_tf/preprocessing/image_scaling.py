"""Scaling of raw values to [0, 1], the range of a picture's brightness."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from moa_tf.preprocessing.adapted import AdaptedLayer

TINY = np.finfo(np.float32).tiny
"""The least range that has a finite inverse in float32."""


class _FeatureRange(AdaptedLayer):
    """What both scalings share: the shape passes through."""

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
        self.shift = self._weight("shift", (self._expect_features(input_shape),))
        self.maximum = self._weight("maximum", ())

    def adapt(self, features: Any) -> None:
        """Takes the minima and the maximum from [N, F] features of the training fold; a second time anew.

        Raises:
            InputError: no rows, a value that is not finite, another rank, or the layer is part of a model that was
                made for another number of features.
        """
        features = self._table(features)
        self._build_for(features.shape[1])
        shift = np.abs(features.min(0)) + 1
        self.shift.assign(shift)
        # The logarithm rises, so each feature's largest value has its largest logarithm.
        maximum = np.log(np.maximum(features.max(0) + shift, 1)).max()
        self.maximum.assign(maximum if maximum > 0 else 1)
        self._adapted = True

    def call(self, features: Any) -> Any:
        self._require_adapted()
        logarithms = ops.log(ops.maximum(self._wide(features) + self.shift, 1.0))
        return ops.cast(ops.minimum(logarithms / self.maximum, 1.0), self.compute_dtype)


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
        features = self._expect_features(input_shape)
        self.minimum = self._weight("minimum", (features,))
        self.scale = self._weight("scale", (features,))

    def adapt(self, features: Any) -> None:
        """Takes both ends of every feature's range from [N, F] features of the training fold; a second time anew.

        Raises:
            InputError: no rows, a value that is not finite, another rank, or the layer is part of a model that was
                made for another number of features.
        """
        features = self._table(features)
        self._build_for(features.shape[1])
        low, span = features.min(0), np.ptp(features, axis=0)
        self.minimum.assign(low)
        self.scale.assign(np.divide(1, span, out=np.zeros_like(span), where=span > TINY))
        self._adapted = True

    def call(self, features: Any) -> Any:
        self._require_adapted()
        return ops.cast(
            ops.clip((self._wide(features) - self.minimum) * self.scale, 0.0, 1.0), self.compute_dtype
        )
