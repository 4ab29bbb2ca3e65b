"""Batch normalisation of matrices in fewer passes over the batch."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops


@keras.saving.register_keras_serializable(package="moa_tf")
class FastBatchNormalization(keras.layers.BatchNormalization):
    """`keras.layers.BatchNormalization` with a hand-written gradient for [B, F] inputs.

    y = a x + (β − μ a), a = γ/σ, μ = E[x], σ² = E[x²] − μ² + ε, over the batch.

    Arguments, weights, moving statistics and results (to rounding) are those of the base class, which does all
    work in inference, with other shapes, masks or renormalisation, and with `synchronized=True`.

    σ² loses digits where |μ| is large beside the deviation, by a relative error of about 1e-7 (μ/σ)²: this is
    a layer for scaled features and for activations, where that is small.

    Source: Ioffe & Szegedy 2015, Batch Normalization, algorithm 1 and section 3.
    """

    def call(self, inputs: Any, training: bool | None = None, mask: Any = None) -> Any:
        learns = training and self.trainable
        plain = self.synchronized or mask is not None or getattr(self, "renorm", False)
        if not learns or plain or len(inputs.shape) != 2 or self.axis not in (-1, 1):
            return super().call(inputs, training=training, mask=mask)
        x = ops.cast(inputs, keras.backend.result_type(inputs.dtype, "float32"))
        rows = ops.cast(ops.shape(x)[0], x.dtype)
        # The gradient of both is in `_normalise`.
        still = ops.stop_gradient(x)
        mean = _total(still) / rows
        variance = ops.maximum(_total(ops.square(still)) / rows - ops.square(mean), 0.0)
        features = mean.shape
        # TensorFlow's custom_gradient takes tensors, no variables; a reshape to the same shape costs nothing.
        gamma = ops.reshape(self.gamma, features) if self.scale else ops.ones(features, x.dtype)
        beta = ops.reshape(self.beta, features) if self.center else ops.zeros(features, x.dtype)
        gamma, beta = (ops.cast(weight, x.dtype) for weight in (gamma, beta))
        outputs = _normalise(x, gamma, beta, mean, ops.rsqrt(variance + self.epsilon))
        for moving, value in ((self.moving_mean, mean), (self.moving_variance, variance)):
            kept = ops.cast(moving, x.dtype) * self.momentum
            moving.assign(kept + value * (1.0 - self.momentum))
        return ops.cast(outputs, self.compute_dtype)


def _total(values: Any) -> Any:
    """[F] sums down the columns of values [B, F]."""
    # A product with a row of ones: on a CPU it takes half the time of a sum.
    return ops.matmul(ops.transpose(ops.ones_like(values[:, :1])), values)[0]


@ops.custom_gradient
def _normalise(x: Any, gamma: Any, beta: Any, mean: Any, inverse: Any) -> Any:
    """γ (x − mean) · inverse + β, for the mean and the inverse deviation of x itself.

    With x̂ = (x − mean) · inverse: dβ = Σdy, dγ = Σ dy x̂, dx = γ · inverse · (dy − dβ/B − x̂ dγ/B).
    """
    scale = gamma * inverse

    def gradient(dy: Any) -> tuple[Any, ...]:
        rows = ops.cast(ops.shape(x)[0], x.dtype)
        dbeta = _total(dy)
        dgamma = (_total(dy * x) - mean * dbeta) * inverse
        # What is the same for a whole column is taken together: three passes over the batch.
        slope = scale * inverse * dgamma / rows
        dx = dy * scale - (x * slope + (scale * dbeta / rows - mean * slope))
        return dx, dgamma, dbeta, ops.zeros_like(mean), ops.zeros_like(inverse)

    return x * scale + (beta - mean * scale), gradient
