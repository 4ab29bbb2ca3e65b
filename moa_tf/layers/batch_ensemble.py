"""Layers of k networks that are trained side by side and share most of their weights."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

from moa_tf.errors import InputError, whole_number
from moa_tf.layers.dropout import ByteDropout
from moa_tf.layers.gradient import custom_gradient
from moa_tf.layers.shapes import known_size


@keras.saving.register_keras_serializable(package="moa_tf")
class BatchEnsembleDense(keras.layers.Layer):
    """Dense layers of k members that share one matrix.

    y[:, i] = ((x[:, i] · r[i]) W) · s[i] + b[i],  i = 1 … k

    W is [inputs, units]; r [k, inputs], s and b [k, units] are each member's own. W starts uniform in ±1/√inputs, and
    so does b, with the same values for all members; s starts at 1.

    Args:
        units: number of outputs.
        k: number of members.
        random_signs: let r start at random signs, as in the first layer of TabM, so that the members differ; else at 1.

    Call arguments:
        inputs: [B, k, inputs], each member's own; or [B, inputs], the same for all of them.
        training: whether gradients with respect to the weights will be asked for. It chooses between two forms of the
            same function; the outputs are equal.

    Returns:
        [B, k, units] in the layer's compute dtype.

    Raises:
        InputError: units or k below 1; inputs of another number of members.

    Source: Wen et al. 2020, BatchEnsemble, equation 5; Gorishniy et al. 2025, TabM, section 3.3 for how it starts.

    Examples:
        >>> import numpy as np
        >>> from moa_tf.layers import BatchEnsembleDense
        >>> tuple(BatchEnsembleDense(5, k=3, random_signs=True)(np.ones((2, 4), "float32")).shape)
        (2, 3, 5)
    """

    def __init__(self, units: int, k: int, random_signs: bool = False, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.units = whole_number("units", units)
        self.k = whole_number("k", k)
        self.random_signs = random_signs

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        _check_members(self, input_shape, ranks=(2, 3))
        inputs = known_size(input_shape)
        limit = 1 / math.sqrt(inputs)
        self.kernel = self.add_weight(
            (inputs, self.units), keras.initializers.RandomUniform(-limit, limit), name="kernel"
        )
        self.r = self.add_weight((self.k, inputs), _signs if self.random_signs else "ones", name="r")
        self.s = self.add_weight((self.k, self.units), "ones", name="s")
        self.bias = self.add_weight(
            (self.k, self.units),
            lambda shape, dtype: ops.broadcast_to(
                keras.initializers.RandomUniform(-limit, limit)(shape[1:], dtype), shape
            ),
            name="bias",
        )

    def call(self, inputs: Any, training: bool | None = None) -> Any:
        return self.products(inputs, training) * self.s + self.bias

    def products(self, inputs: Any, training: bool | None = None) -> Any:
        """[B, k, units] (x[:, i] · r[i]) W, before s and b."""
        if len(inputs.shape) == 3:
            return ops.matmul(inputs * self.r, self.kernel)
        r, kernel = (
            ops.cast(ops.convert_to_tensor(weight), inputs.dtype) for weight in (self.r, self.kernel)
        )
        # Saved and exported graphs take the plain form: a hand-written gradient is lost on export.
        return (_products if training else _plain_products)(inputs, r, kernel)

    def compute_output_shape(self, input_shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        return (input_shape[0], self.k, self.units)

    def get_config(self) -> dict[str, Any]:
        return super().get_config() | {
            "units": self.units,
            "k": self.k,
            "random_signs": self.random_signs,
        }


@keras.saving.register_keras_serializable(package="moa_tf")
class BatchEnsembleBlocks(keras.layers.Layer):
    """Blocks of BatchEnsembleDense, ReLU, dropout, in half the passes over memory that these take one by one.

    h₀ = x;  h_l = dropout(relu(z_l · s_l + b_l)),  z_l = (h_{l−1} · r_l) W_l,  l = 1 … L

    What a block multiplies is h_l · r_{l+1}, and this is v = z_l · (s_l r_{l+1}) + b_l r_{l+1} where dropout keeps it
    and v has the sign of r_{l+1}, else 0: products of small arrays take the place of two of [B, k, units], and of two
    more with two sums in the gradient.

    Args:
        units: of each block.
        k: number of members.
        dropout: rate, in [0, 1).

    Call arguments:
        inputs: x [B, inputs], the same for all members.
        training: whether to drop.

    Returns:
        h_L [B, k, units of the last block] in the layer's compute dtype.

    Raises:
        InputError: no units, a size or k below 1, a rate out of range.

    Source: Gorishniy et al. 2025, TabM, section 3.3.

    Examples:
        >>> import numpy as np
        >>> from moa_tf.layers import BatchEnsembleBlocks
        >>> tuple(BatchEnsembleBlocks((8, 5), k=3, dropout=0.1)(np.ones((2, 4), "float32")).shape)
        (2, 3, 5)
    """

    def __init__(self, units: Sequence[int], k: int, dropout: float = 0.0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if not len(units):
            raise InputError("units: expected at least one block")
        if not 0 <= dropout < 1:
            raise InputError(f"dropout={dropout}: expected in [0, 1)")
        self.k, self.dropout = whole_number("k", k), float(dropout)
        self.blocks = [
            BatchEnsembleDense(
                size, k, random_signs=not block, dtype=self.dtype_policy, name=f"block_{block + 1}"
            )
            for block, size in enumerate(units)
        ]
        self.dropouts = [ByteDropout(self.dropout) for _ in self.blocks] if dropout else []

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        _check_members(self, input_shape, ranks=(2,))
        for block in self.blocks:
            block.build(input_shape)
            input_shape = block.compute_output_shape(input_shape)

    def call(self, inputs: Any, training: bool | None = None) -> Any:
        z = self.blocks[0].products(inputs, training)
        for place, block in enumerate(self.blocks):
            following = self.blocks[place + 1] if place + 1 < len(self.blocks) else None
            r = ops.ones((), z.dtype) if following is None else ops.cast(following.r, z.dtype)
            kept, scale = True, r
            if training and self.dropouts:
                kept = self.dropouts[place].kept(ops.shape(z))
                scale = r * self.dropouts[place].scale
            v = z * (ops.cast(block.s, z.dtype) * scale) + ops.cast(block.bias, z.dtype) * scale
            z = ops.where(ops.logical_and(ops.equal(v > 0, r > 0), kept), v, ops.zeros((), v.dtype))
            if following is not None:
                z = ops.matmul(z, following.kernel)
        return z  # h_L, as r is 1 after the last block

    def compute_output_shape(self, input_shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        return (input_shape[0], self.k, self.blocks[-1].units)

    def get_config(self) -> dict[str, Any]:
        units = [block.units for block in self.blocks]
        return super().get_config() | {"units": units, "k": self.k, "dropout": self.dropout}


@keras.saving.register_keras_serializable(package="moa_tf")
class EnsembleDense(keras.layers.Layer):
    """Dense layers of k members that share nothing.

    y[:, i] = x[:, i] W[i] + b[i],  i = 1 … k

    W [k, inputs, units] starts uniform in ±1/√inputs.

    Args:
        units: number of outputs.
        k: number of members.
        bias_initializer: of b [k, units].

    Call arguments:
        inputs: [B, k, inputs].

    Returns:
        [B, k, units] in the layer's compute dtype.

    Raises:
        InputError: units or k below 1; inputs of another number of members.

    Examples:
        >>> import numpy as np
        >>> from moa_tf.layers import EnsembleDense
        >>> layer = EnsembleDense(1, k=2)
        >>> layer.build((None, 2, 3))
        >>> layer.set_weights([np.array([[[1], [0], [0]], [[0], [0], [2]]]), np.array([[0], [10]])])
        >>> np.array(layer(np.array([[[1, 2, 3], [1, 2, 3]]], "float32"))).ravel().tolist()
        [1.0, 16.0]

    Source: Gorishniy et al. 2025, TabM, section 3.3.
    """

    def __init__(self, units: int, k: int, bias_initializer: Any = "zeros", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.units = whole_number("units", units)
        self.k = whole_number("k", k)
        self.bias_initializer = keras.initializers.get(bias_initializer)

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        _check_members(self, input_shape, ranks=(3,))
        inputs = known_size(input_shape)
        limit = 1 / math.sqrt(inputs)
        self.kernel = self.add_weight(
            (self.k, inputs, self.units), keras.initializers.RandomUniform(-limit, limit), name="kernel"
        )
        self.bias = self.add_weight((self.k, self.units), self.bias_initializer, name="bias")

    def call(self, inputs: Any) -> Any:
        outputs = ops.matmul(ops.transpose(inputs, (1, 0, 2)), self.kernel)
        return ops.transpose(outputs, (1, 0, 2)) + self.bias

    def compute_output_shape(self, input_shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        return (input_shape[0], self.k, self.units)

    def get_config(self) -> dict[str, Any]:
        return super().get_config() | {
            "units": self.units,
            "k": self.k,
            "bias_initializer": keras.initializers.serialize(self.bias_initializer),
        }


@keras.saving.register_keras_serializable(package="moa_tf")
class MeanProbability(keras.layers.Layer):
    """Logit of the mean of the members' probabilities.

    y = log p̄ − log(1 − p̄),  p̄ = 1/m Σ_i σ(z[:, i]),  i = 1 … m

    Both logarithms are sums of exponentials of log σ(±z), so that no probability rounds to 0 or 1.

    Args:
        members: m, how many of the members, the first ones, are averaged; None for all of them.

    Call arguments:
        inputs: z [B, k, T] logits.

    Returns:
        [B, T] logits in the layer's compute dtype.

    Raises:
        InputError: members below 1 or above k.

    Examples:
        >>> import keras, numpy as np
        >>> from moa_tf.layers import MeanProbability
        >>> logits = np.log([[[1 / 4], [1.0]]]).astype("float32")  # of 0.2 and 0.5
        >>> round(float(keras.ops.sigmoid(MeanProbability()(logits))[0, 0]), 4)
        0.35
    """

    def __init__(self, members: int | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.members = whole_number("members", members, optional=True)

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        if self.members is not None and self.members > input_shape[1]:
            raise InputError(f"members={self.members}: expected at most the {input_shape[1]} that there are")

    def call(self, inputs: Any) -> Any:
        z = inputs[:, : self.members]
        return ops.logsumexp(ops.log_sigmoid(z), axis=1) - ops.logsumexp(ops.log_sigmoid(-z), axis=1)

    def compute_output_shape(self, input_shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        return (input_shape[0], input_shape[2])

    def get_config(self) -> dict[str, Any]:
        return super().get_config() | {"members": self.members}


GROUP = 4
"""Members at a time in the gradient of `_products`: wide products are quick, but an array of all k matrices is larger
than any cache."""


def _plain_products(x: Any, r: Any, kernel: Any) -> Any:
    """[B, k, units] (x · r[i]) W of x [B, inputs], r [k, inputs], W [inputs, units]; gradient by the backend."""
    return ops.matmul(ops.expand_dims(x, 1) * r, kernel)


@custom_gradient
def _products(x: Any, r: Any, kernel: Any) -> Any:
    """As `_plain_products`, with two products of its size in all where the backend's gradient makes three.

    With G[i] = xᵀ dz[:, i]: dW = Σ_i r[i] · G[i], dr[i] = Σ_units W · G[i]. The gradient for x · r[i], from which the
    backend takes dr, is needed for dx alone, which nothing asks for in training.
    """

    def gradient(dz: Any) -> tuple[Any, Any, Any]:
        units, transposed = kernel.shape[1], ops.transpose(x)
        dr, dkernel = [], 0.0
        for i in range(0, r.shape[0], GROUP):
            some = r[i : i + GROUP]
            g = ops.matmul(transposed, ops.reshape(dz[:, i : i + GROUP], (-1, some.shape[0] * units)))
            g = ops.reshape(g, (-1, some.shape[0], units))
            dr.append(ops.matmul(g, kernel[:, :, None])[..., 0])
            dkernel = dkernel + ops.matmul(ops.transpose(some)[:, None], g)[:, 0]
        dx = ops.sum(ops.matmul(dz, ops.transpose(kernel)) * r, axis=1)
        return dx, ops.transpose(ops.concatenate(dr, axis=1)), dkernel

    return _plain_products(x, r, kernel), gradient


def _signs(shape: tuple[int, ...], dtype: Any) -> Any:
    """−1 or 1 with equal probability."""
    return ops.where(keras.initializers.RandomUniform(-1, 1)(shape, dtype) < 0, -1.0, 1.0)


def _check_members(layer: Any, input_shape: tuple[int | None, ...], ranks: tuple[int, ...]) -> None:
    if len(input_shape) not in ranks or (len(input_shape) == 3 and input_shape[1] != layer.k):
        raise InputError(f"{layer.name}: inputs of shape {input_shape}: expected k={layer.k} members")
