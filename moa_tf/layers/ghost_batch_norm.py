"""Ghost batch normalisation: batch normalisation over virtual batches smaller than the batch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
from keras import ops

from moa_tf.errors import InputError, whole_number
from moa_tf.layers.gradient import custom_gradient


@keras.saving.register_keras_serializable(package="moa_tf")
class GhostBatchNormalization(keras.layers.Layer):
    """Normalises each feature over virtual batches, so that a large batch keeps the noise of small ones.

    In training the B rows are cut into k = ⌈B / virtual_batch_size⌉ virtual batches of ⌈B / k⌉ rows, the
    last of which may be shorter, and each is normalised by its own mean and variance:

        y = gamma (x - mean_j) / sqrt(variance_j + epsilon) + beta

    The moving statistics take the virtual batches one after the other, moving ← momentum · moving +
    (1 - momentum) · statistic_j, with the unbiased variance; k such steps are one weighted sum, so nothing
    here loops. In inference the moving statistics normalise. Under data-parallel replicas each replica
    normalises its own rows and the moving statistics are averaged over the replicas.

    Source: Hoffer, Hubara & Soudry, Train longer, generalize better, arXiv 1705.08741, algorithm 1; sizes,
    order of updates and unbiased variance as in pytorch-tabnet 4.1.

    Args:
        virtual_batch_size: most rows in a virtual batch; None normalises over the whole batch.
        momentum: share of the old value that the moving statistics keep at each virtual batch, as in
            `keras.layers.BatchNormalization` (PyTorch's momentum is 1 minus this).
        epsilon: added to the variance.

    Input and output: [B, F]. Statistics are computed in float32 whatever the compute dtype.

    Raises:
        InputError: virtual_batch_size below 1, momentum outside [0, 1), epsilon not above 0, or an input
            that is not [B, F].

    Examples:
        >>> import numpy as np
        >>> from moa_tf.layers import GhostBatchNormalization
        >>> layer = GhostBatchNormalization(virtual_batch_size=2, epsilon=1e-12)
        >>> x = np.array([[0.0], [2.0], [10.0], [30.0]], "float32")
        >>> np.array(layer(x, training=True)).round(3).ravel().tolist()
        [-1.0, 1.0, -1.0, 1.0]
    """

    def __init__(
        self,
        virtual_batch_size: int | None = 128,
        momentum: float = 0.98,
        epsilon: float = 1e-5,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if not 0 <= momentum < 1:
            raise InputError(f"momentum={momentum}: expected in [0, 1)")
        if epsilon <= 0:
            raise InputError(f"epsilon={epsilon}: expected above 0")
        self.virtual_batch_size = whole_number("virtual_batch_size", virtual_batch_size, optional=True)
        self.momentum = float(momentum)
        self.epsilon = float(epsilon)
        self.supports_masking = True

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        if len(input_shape) != 2 or input_shape[-1] is None:
            raise InputError(
                f"GhostBatchNormalization input of shape {input_shape}: expected [batch, features]"
            )
        # The weights stay in float32 under a float16 policy as well: the variable dtype of mixed precision.
        shape = (input_shape[-1],)
        self.gamma = self.add_weight(shape, "ones", name="gamma")
        self.beta = self.add_weight(shape, "zeros", name="beta")
        # Replicas see different rows: without the mean each would keep its own statistics.
        moving = {"trainable": False, "autocast": False, "aggregation": "mean"}
        self.moving_mean = self.add_weight(shape, "zeros", name="moving_mean", **moving)
        self.moving_variance = self.add_weight(shape, "ones", name="moving_variance", **moving)

    def call(self, inputs: Any, training: bool | None = None) -> Any:
        gamma, beta = self.affine()
        return self._apply(inputs, gamma, beta, training)

    def affine(self) -> tuple[Any, Any]:
        """The weights gamma and beta, [F] float32."""
        return ops.cast(self.gamma, "float32"), ops.cast(self.beta, "float32")

    def standardise(self, inputs: Any, training: bool | None = None) -> Any:
        """What `call` multiplies by gamma and adds beta to, [B, F]."""
        width = inputs.shape[-1:]
        return self._apply(inputs, ops.ones(width), ops.zeros(width), training)

    def _apply(self, inputs: Any, gamma: Any, beta: Any, training: bool | None) -> Any:
        if not training:
            scale = gamma * ops.rsqrt(ops.cast(self.moving_variance, "float32") + self.epsilon)
            shift = beta - ops.cast(self.moving_mean, "float32") * scale
            return ops.cast(ops.cast(inputs, "float32") * scale + shift, self.compute_dtype)
        size, rows = self._sizes(inputs)
        x = ops.cast(inputs, "float32")
        y, mean, variance, count = _normalise(x, gamma, beta, size, rows, self.epsilon)
        self._update_moving(ops.stop_gradient(mean), ops.stop_gradient(variance), count)
        return ops.cast(y, self.compute_dtype)

    def _sizes(self, inputs: Any) -> tuple[Any, Any]:
        """Rows of the batch and of a virtual batch: ints where the batch size is static, else tensors."""
        size = inputs.shape[0] if inputs.shape[0] is not None else ops.shape(inputs)[0]
        if self.virtual_batch_size is None:
            return size, _at_least_1(size)
        # A batch without rows has no virtual batch: 1 keeps both divisors from 0.
        return size, _at_least_1(_ceil_div(size, _at_least_1(_ceil_div(size, self.virtual_batch_size))))

    def _update_moving(self, mean: Any, variance: Any, count: Any) -> None:
        # One row has no unbiased variance: it counts with its biased one, 0.
        unbiased = variance * (count / ops.maximum(count - 1.0, 1.0))
        age = ops.cast(ops.arange(ops.shape(mean)[0] - 1, -1, -1), "float32")
        weights = (1.0 - self.momentum) * ops.power(ops.cast(self.momentum, "float32"), age)[:, None]
        kept = 1.0 - ops.sum(weights)
        for moving, statistic in ((self.moving_mean, mean), (self.moving_variance, unbiased)):
            moving.assign(moving * kept + ops.sum(weights * statistic, axis=0))

    def compute_output_shape(self, input_shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        return input_shape

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "virtual_batch_size": self.virtual_batch_size,
            "momentum": self.momentum,
            "epsilon": self.epsilon,
        }


def _ceil_div(a: Any, b: Any) -> Any:
    return (a + b - 1) // b


def _at_least_1(a: Any) -> Any:
    return max(a, 1) if isinstance(a, int) else ops.maximum(a, 1)


def _normalise(x: Any, gamma: Any, beta: Any, size: Any, rows: Any, epsilon: float) -> tuple[Any, ...]:
    """Normalises [size, F] in virtual batches of `rows`, with a hand-written gradient of few passes.

    With centred c = x - mean, a = gamma / √(variance + epsilon) and n rows, the gradient is
    dx = a · (dy - Σdy / n - c Σ(dy c) / (n (variance + epsilon))), dgamma = Σ dy c / √(variance + epsilon) and
    dbeta = Σ dy, all from the two sums over each virtual batch.

    Returns:
        y [size, F]; mean and biased variance of each virtual batch [k, F]; its number of rows [k, 1].
    """
    batches = _ceil_div(size, rows)
    padding = batches * rows - size
    even = isinstance(padding, int) and padding == 0
    features = x.shape[-1]
    count = ops.minimum(size - ops.arange(batches) * rows, rows)
    count = ops.cast(count, "float32")[:, None]

    def virtual(values: Any) -> Any:
        padded = values if even else ops.pad(values, [[0, padding], [0, 0]])
        return ops.reshape(padded, (batches, rows, features))

    def whole(values: Any) -> Any:
        return ops.reshape(values, (-1, features))[:size]

    def forward(x: Any, gamma: Any, beta: Any) -> tuple[Any, Callable[..., Any]]:
        mean = ops.sum(virtual(x), axis=1) / count
        centred = virtual(x) - mean[:, None]
        squares = ops.square(centred)
        if not even:
            in_batch = ops.arange(rows)[None, :] < ops.cast(count, "int32")
            squares = squares * ops.cast(in_batch, "float32")[:, :, None]
        variance = ops.sum(squares, axis=1) / count
        inverse = ops.rsqrt(variance + epsilon)
        scale = gamma * inverse

        def gradient(*upstream: Any) -> tuple[Any, Any, Any]:
            # TensorFlow gives the three outputs' gradients as arguments, JAX as one tuple.
            first = upstream[0][0] if isinstance(upstream[0], tuple | list) else upstream[0]
            dy = virtual(first)
            sums = ops.sum(dy, axis=1)
            products = ops.sum(dy * centred, axis=1)
            slope = -scale * ops.square(inverse) * products / count
            shift = -scale * sums / count
            dx = dy * scale[:, None] + (centred * slope[:, None] + shift[:, None])
            return whole(dx), ops.sum(inverse * products, axis=0), ops.sum(sums, axis=0)

        y = whole(centred * scale[:, None] + beta)
        return (y, mean, variance), gradient

    # The moving statistics get no gradient, so that of mean and variance is of no account.
    return *custom_gradient(forward)(x, gamma, beta), count
