"""Dense layer whose weight vectors are split into a length and a direction."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from moa_tf.errors import InputError, whole_number
from moa_tf.layers.gradient import custom_gradient


@keras.saving.register_keras_serializable(package="moa_tf")
class WeightNormDense(keras.layers.Layer):
    """Dense layer with weight normalisation.

    y = activation(x W + b), W[:, o] = g[o] v[:, o] / ‖v[:, o]‖

    v is the weight `kernel`. W itself is never formed: y = activation((x v) · g/‖v‖ + b) scales the B × units
    product instead of the inputs × units matrix, which is the larger of the two in training. A v[:, o] of 0 has no
    direction: its W[:, o] is 0, and so are its gradients, so that `kernel_initializer="zeros"` trains b alone.

    Args:
        units: number of outputs.
        activation: name or function, applied last; None for none.
        use_bias: whether to add b.
        kernel_initializer: of v. g starts at ‖v‖, so that W starts at v.
        bias_initializer: of b.

    Call arguments:
        inputs: [B, ..., inputs].
        training: whether gradients with respect to the weights will be asked for. It chooses between two
            forms of the same function; the outputs are equal.

    Returns:
        [B, ..., units] in the layer's compute dtype. ‖v‖ is computed in the dtype of the variables.

    Examples:
        >>> import numpy as np
        >>> from moa_tf.layers import WeightNormDense
        >>> layer = WeightNormDense(1, use_bias=False)
        >>> layer.build((None, 2))
        >>> layer.set_weights([np.array([[3.0], [4.0]]), np.array([10.0])])  # v, and g
        >>> np.array(layer(np.array([[1.0, 1.0]], "float32"))).tolist()
        [[14.0]]

    Source: Salimans & Kingma 2016, Weight Normalization, equations 2 and 3; section 3 for
    `initialise_from`.
    """

    def __init__(
        self,
        units: int,
        activation: Any = None,
        use_bias: bool = True,
        kernel_initializer: Any = "glorot_uniform",
        bias_initializer: Any = "zeros",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.units = whole_number("units", units)
        self.activation = keras.activations.get(activation)
        self.use_bias = use_bias
        self.kernel_initializer = keras.initializers.get(kernel_initializer)
        self.bias_initializer = keras.initializers.get(bias_initializer)
        self.input_spec = keras.layers.InputSpec(min_ndim=2)

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        inputs = input_shape[-1]
        # autocast=False: half precision would spoil the norm, a sum over all inputs.
        self.kernel = self.add_weight(
            name="kernel", shape=(inputs, self.units), initializer=self.kernel_initializer, autocast=False
        )
        self.g = self.add_weight(
            name="g",
            shape=(self.units,),
            initializer=lambda shape, dtype: ops.cast(
                ops.sqrt(_squared_norm(ops.convert_to_tensor(self.kernel))), dtype
            ),
            autocast=False,
        )
        self.bias: Any = None
        if self.use_bias:
            self.bias = self.add_weight(name="bias", shape=(self.units,), initializer=self.bias_initializer)
        self.input_spec = keras.layers.InputSpec(min_ndim=2, axes={-1: inputs})

    def call(self, inputs: Any, training: bool | None = None) -> Any:
        # TensorFlow's custom_gradient takes tensors, no variables; a reshape to the same shape costs nothing.
        v, g = (ops.reshape(weight, weight.shape) for weight in (self.kernel, self.g))
        # Saved and exported graphs take the plain form: a hand-written gradient is lost on export.
        outputs = (_scaled_product if training else _plain_scaled_product)(inputs, v, g)
        if self.bias is not None:
            outputs = outputs + self.bias
        return outputs if self.activation is None else self.activation(outputs)

    def compute_output_shape(self, input_shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        return (*input_shape[:-1], self.units)

    def initialise_from(self, batch: Any) -> Any:
        """Sets g and b so that x W + b has mean 0 and variance 1 over `batch`, for every unit.

        With t = x v/‖v‖: g = 1/σ[t], b = −μ[t]/σ[t]. A unit whose t does not vary (σ below 1e-6) keeps its g.
        Deterministic. Call it once before training, eagerly, layer by layer; under a tf.distribute strategy
        within its scope and outside its replicas: all of them then get the same values.

        Args:
            batch: [B, ..., inputs], what this layer will see.

        Returns:
            The layer's outputs for `batch`, for the next layer.

        Raises:
            InputError: the layer has no bias, or the batch fewer than two rows.
        """
        if not self.use_bias:
            raise InputError(f"{self.name}: use_bias=False: data-dependent initialisation sets the bias")
        batch = ops.convert_to_tensor(batch)
        if batch.shape[0] < 2:
            raise InputError(f"{self.name}: batch of {batch.shape[0]} rows: expected at least 2")
        if not self.built:
            self.build(batch.shape)
        inputs = ops.cast(batch, self.kernel.dtype)
        v = ops.convert_to_tensor(self.kernel)
        t = ops.reshape(ops.matmul(inputs, v) * _over_norm(1.0, v)[0], (-1, self.units))
        mean, deviation = ops.mean(t, axis=0), ops.std(t, axis=0)
        varies = deviation > 1e-6
        g = ops.where(varies, 1 / ops.where(varies, deviation, 1.0), self.g)
        self.g.assign(g)
        self.bias.assign(-mean * g)
        return self(batch)

    def get_config(self) -> dict[str, Any]:
        return super().get_config() | {
            "units": self.units,
            "activation": keras.activations.serialize(self.activation),
            "use_bias": self.use_bias,
            "kernel_initializer": keras.initializers.serialize(self.kernel_initializer),
            "bias_initializer": keras.initializers.serialize(self.bias_initializer),
        }


def _squared_norm(v: Any) -> Any:
    """[units] squared lengths of the columns of v [inputs, units]."""
    # A product with a row of ones: on a CPU it takes half the time of a sum down the columns.
    return ops.matmul(ops.ones((1, v.shape[0]), v.dtype), ops.square(v))[0]


def _over_norm(g: Any, v: Any) -> tuple[Any, Any]:
    """g/‖v‖, or 0 where ‖v‖ is 0; and ‖v‖, or 1 there. Both [units]."""
    squared = _squared_norm(v)
    # The gradient of the root at 0 is infinite: 1 stands in before the root is taken.
    norm = ops.sqrt(ops.where(squared > 0, squared, 1.0))
    return ops.where(squared > 0, g / norm, 0.0), norm


def _plain_scaled_product(x: Any, v: Any, g: Any) -> Any:
    """The product x v · g/‖v‖ in the dtype of x, gradient by the backend."""
    return ops.matmul(x, ops.cast(v, x.dtype)) * ops.cast(_over_norm(g, v)[0], x.dtype)


@custom_gradient
def _scaled_product(x: Any, v: Any, g: Any) -> Any:
    """As `_plain_scaled_product`, with a gradient that passes over the inputs × units matrix less often.

    With z = x v and u = dy · g/‖v‖: dx = u vᵀ, dg = Σ_b dy z / ‖v‖, dv = xᵀ u − v · dg g/‖v‖².
    """
    scale, norm = _over_norm(g, v)
    low = ops.cast(v, x.dtype)
    low_scale = ops.cast(scale, x.dtype)
    z = ops.matmul(x, low)

    def gradient(dy: Any) -> tuple[Any, Any, Any]:
        u = dy * low_scale
        rows = tuple(range(len(x.shape) - 1))
        dg = ops.sum(ops.cast(dy, g.dtype) * ops.cast(z, g.dtype), axis=rows) / norm
        flat_x, flat_u = (ops.reshape(a, (-1, a.shape[-1])) for a in (x, u))
        dv = ops.cast(ops.matmul(ops.transpose(flat_x), flat_u), v.dtype) - v * (dg * scale / norm)
        return ops.matmul(u, ops.transpose(low)), dv, dg

    return z * low_scale, gradient
