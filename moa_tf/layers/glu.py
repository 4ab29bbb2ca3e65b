"""Gated linear units with ghost batch normalisation, and the feature transformer made of them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

from moa_tf.errors import InputError, whole_number
from moa_tf.layers.ghost_batch_norm import GhostBatchNormalization
from moa_tf.layers.shapes import known_size


def glu_kernel(units: int, inputs: int, seed: int | None, **kwargs: Any) -> keras.layers.Dense:
    """The linear map of a GLU layer, `inputs` to 2 · `units` without a bias.

    Its standard deviation, √2 · inputs^(-1/4), is pytorch-tabnet's.
    """
    stddev = math.sqrt(2.0) * inputs**-0.25
    initializer = keras.initializers.RandomNormal(stddev=stddev, seed=seed)
    return keras.layers.Dense(2 * units, use_bias=False, kernel_initializer=initializer, **kwargs)


@keras.saving.register_keras_serializable(package="moa_tf")
class GatedLinearUnit(keras.layers.Layer):
    """GLU layer of TabNet: y = a ∘ sigmoid(b), with [a, b] = GBN(x W).

    Source: Dauphin et al., Language Modeling with Gated Convolutional Networks, arXiv 1612.08083, section 2;
    with the normalisation, Arik & Pfister, TabNet, arXiv 1908.07442, section 3.2 and figure 4c.

    Args:
        units: width of the output.
        kernel: the Dense layer that computes x W, to share it with other GLU layers; None makes an own one.
        virtual_batch_size: of the ghost batch normalisation.
        momentum: of the ghost batch normalisation, in Keras's sense.
        seed: of the own kernel's initial values.

    Input: x [B, F]; optionally `affine`, a pair of [F] c and d: then x stands for c ∘ x + d. Output:
    [B, units].

    Raises:
        InputError: units below 1, or a kernel of another width than 2 · units.

    Examples:
        >>> import numpy as np
        >>> from moa_tf.layers import GatedLinearUnit
        >>> tuple(GatedLinearUnit(units=8)(np.zeros((4, 5), "float32")).shape)
        (4, 8)
    """

    def __init__(
        self,
        units: int,
        kernel: keras.layers.Dense | None = None,
        virtual_batch_size: int | None = 128,
        momentum: float = 0.98,
        seed: int | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.units = whole_number("units", units)
        if kernel is not None and kernel.units != 2 * self.units:
            raise InputError(f"kernel of {kernel.units} units: expected {2 * units}, twice the layer's units")
        self.shares_kernel = kernel is not None
        self.kernel: Any = kernel
        self.virtual_batch_size = whole_number("virtual_batch_size", virtual_batch_size, optional=True)
        self.momentum = float(momentum)
        self.seed = whole_number("seed", seed, least=0, optional=True)
        self.normalization = GhostBatchNormalization(
            virtual_batch_size, momentum, dtype=self.dtype_policy, name="normalization"
        )

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        if self.kernel is None:
            self.kernel = glu_kernel(
                self.units, known_size(input_shape), self.seed, dtype=self.dtype_policy, name="kernel"
            )
        if not self.kernel.built:
            self.kernel.build(input_shape)
        self.normalization.build((input_shape[0], 2 * self.units))

    def call(self, inputs: Any, affine: Any = None, training: bool | None = None) -> Any:
        x = self.normalization(self._product(inputs, affine), training=training)
        # The gradient of a split is one concatenation; that of two slices is two padded copies and their sum.
        values, gate = ops.split(x, 2, axis=-1)
        return values * ops.sigmoid(gate)

    def _product(self, inputs: Any, affine: Any) -> Any:
        if affine is None:
            return self.kernel(inputs)
        # As x (c ∘ W) + d W the gradients of c and d come with that of W. Else they ask for the gradient of the inputs,
        # which takes a product as large, and which nothing else needs where the inputs are data.
        scale, shift, kernel = (ops.cast(values, "float32") for values in (*affine, self.kernel.kernel))
        scaled, constant = scale[:, None] * kernel, ops.matmul(shift[None, :], kernel)
        return ops.matmul(inputs, ops.cast(scaled, inputs.dtype)) + ops.cast(constant, inputs.dtype)

    def compute_output_shape(self, input_shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        return (*input_shape[:-1], self.units)

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "units": self.units,
            "kernel": keras.saving.serialize_keras_object(self.kernel) if self.shares_kernel else None,
            "virtual_batch_size": self.virtual_batch_size,
            "momentum": self.momentum,
            "seed": self.seed,
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> GatedLinearUnit:
        if config.get("kernel") is not None:
            config = {**config, "kernel": keras.saving.deserialize_keras_object(config["kernel"])}
        return cls(**config)


@keras.saving.register_keras_serializable(package="moa_tf")
class FeatureTransformer(keras.layers.Layer):
    """A chain of GLU layers: first those whose kernels all decision steps share, then the step's own.

    x ← GLU(x) for the first layer; x ← √0.5 · (x + GLU(x)) for every later one, where √0.5 keeps the variance
    from growing. Shared are the kernels only: each transformer has its own normalisation.

    Source: Arik & Pfister, TabNet, arXiv 1908.07442, section 3.2 and figure 4c; the ungated order of the
    residual as in pytorch-tabnet 4.1.

    Args:
        units: width of the output.
        n_independent: number of GLU layers of its own.
        shared: Dense layers without bias, of 2 · units each, for the shared GLU layers; see `glu_kernel`.
            A layer saved by itself saves a copy of them: inside `TabNetEncoder`, which owns them, they
            stay shared.
        virtual_batch_size: of the ghost batch normalisation.
        momentum: of the ghost batch normalisation, in Keras's sense.
        seed: of the own kernels' initial values.

    Input: [B, F]; optionally `affine`, as for the first `GatedLinearUnit`. Output: [B, units].

    Raises:
        InputError: neither shared nor independent layers.

    Examples:
        >>> import numpy as np
        >>> from moa_tf.layers import FeatureTransformer
        >>> tuple(FeatureTransformer(units=8, n_independent=2)(np.zeros((4, 5), "float32")).shape)
        (4, 8)
    """

    def __init__(
        self,
        units: int,
        n_independent: int = 2,
        shared: Sequence[keras.layers.Dense] = (),
        virtual_batch_size: int | None = 128,
        momentum: float = 0.98,
        seed: int | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.n_independent = whole_number("n_independent", n_independent, least=0)
        if n_independent + len(shared) < 1:
            raise InputError(
                f"n_independent={n_independent} with {len(shared)} shared layers: expected at least one layer"
            )
        self.units = whole_number("units", units)
        self.shared = list(shared)
        self.virtual_batch_size = whole_number("virtual_batch_size", virtual_batch_size, optional=True)
        self.momentum = float(momentum)
        self.seed = whole_number("seed", seed, least=0, optional=True)
        kernels = [*shared, *[None] * n_independent]
        self.blocks = [
            GatedLinearUnit(
                units,
                kernel,
                virtual_batch_size,
                momentum,
                seed=None if seed is None else seed + index,
                dtype=self.dtype_policy,
                name=f"glu_{index}",
            )
            for index, kernel in enumerate(kernels)
        ]

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        for block in self.blocks:
            block.build(input_shape)
            input_shape = (input_shape[0], self.units)

    def call(self, inputs: Any, affine: Any = None, training: bool | None = None) -> Any:
        x = self.blocks[0](inputs, affine=affine, training=training)
        for block in self.blocks[1:]:
            x = (x + block(x, training=training)) * math.sqrt(0.5)
        return x

    def compute_output_shape(self, input_shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        return (*input_shape[:-1], self.units)

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "units": self.units,
            "n_independent": self.n_independent,
            "shared": [keras.saving.serialize_keras_object(kernel) for kernel in self.shared],
            "virtual_batch_size": self.virtual_batch_size,
            "momentum": self.momentum,
            "seed": self.seed,
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> FeatureTransformer:
        shared = [keras.saving.deserialize_keras_object(kernel) for kernel in config["shared"]]
        return cls(**{**config, "shared": shared})
