"""Binary cross-entropy from logits, with label smoothing and class weights."""

from __future__ import annotations

import keras
import numpy as np
from keras import ops

from moa_tf.errors import InputError


@keras.saving.register_keras_serializable(package="moa_tf")
class SmoothedBinaryCrossentropy(keras.losses.Loss):
    """Mean over targets of the label-smoothed binary cross-entropy, from logits.

    With y' = y (1 - s) + s / 2 and logit z, the loss of a target is `softplus(z) - y' z`, which is
    -y' log σ(z) - (1 - y') log(1 - σ(z)) without its overflow. With a weight w for positives it is
    `w y' softplus(-z) + (1 - y') softplus(z)`.

    Args:
        label_smoothing: s, in [0, 1).
        positive_weights: T weights of the positives, or None for 1.

    Call arguments:
        y_true: [B, T] labels.
        y_pred: [B, T] logits; or [B, k, T] of k members, whose losses are averaged.

    Raises:
        InputError: label_smoothing outside [0, 1), or weights that are not finite and positive.

    Source: Szegedy et al. (2016), Rethinking the Inception Architecture, section 7; the weights are those of
    lish-moa's second place.

    Examples:
        >>> import numpy as np
        >>> loss = SmoothedBinaryCrossentropy()
        >>> round(float(loss(np.array([[1.0, 0.0]]), np.array([[0.0, 0.0]]))), 4)
        0.6931
    """

    def __init__(
        self,
        label_smoothing: float = 0.0,
        positive_weights: list[float] | None = None,
        name: str = "smoothed_binary_crossentropy",
        **kwargs,
    ) -> None:
        super().__init__(name=name, **kwargs)
        if not 0 <= label_smoothing < 1:
            raise InputError(f"label_smoothing={label_smoothing}: expected in [0, 1)")
        if positive_weights is not None:
            weights = np.asarray(positive_weights, np.float64)
            if weights.ndim != 1 or not (np.isfinite(weights) & (weights > 0)).all():
                raise InputError("positive_weights: expected one finite weight above 0 for each target")
            positive_weights = weights.tolist()
        self.label_smoothing = float(label_smoothing)
        self.positive_weights = positive_weights

    def call(self, y_true, y_pred):
        y = ops.cast(y_true, "float32") * (1.0 - self.label_smoothing) + 0.5 * self.label_smoothing
        z = ops.cast(y_pred, "float32")
        if len(z.shape) > len(y.shape):
            y = ops.expand_dims(y, 1)
        if self.positive_weights is None:
            losses = ops.softplus(z) - y * z
        else:
            weights = np.asarray(self.positive_weights, "float32")
            losses = weights * y * ops.softplus(-z) + (1.0 - y) * ops.softplus(z)
        return ops.mean(losses, axis=tuple(range(1, len(z.shape))))

    def get_config(self) -> dict:
        return {
            **super().get_config(),
            "label_smoothing": self.label_smoothing,
            "positive_weights": self.positive_weights,
        }


def log_positive_weights(counts: np.ndarray) -> list[float]:
    """Weights that ease from 1 for the rarest target: log(F_min + 100) / log(F + 100).

    Args:
        counts: [T] positives of each target among the training rows.

    Source: lish-moa's second place.
    """
    return (np.log(counts.min() + 100.0) / np.log(counts + 100.0)).tolist()
