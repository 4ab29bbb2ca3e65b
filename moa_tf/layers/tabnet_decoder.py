"""What self-supervised pretraining adds to TabNet: random masks over the features, and a decoder."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from moa_tf.errors import InputError, whole_number
from moa_tf.layers.glu import FeatureTransformer, glu_kernel
from moa_tf.layers.seeds import part_seed
from moa_tf.layers.shapes import known_size


@keras.saving.register_keras_serializable(package="moa_tf")
class RandomGroupMask(keras.layers.Layer):
    """Draws which attention groups of each row are hidden: independent Bernoulli(ratio), 1 for hidden.

    Args:
        units: number of groups.
        ratio: share that is hidden, between 0 and 1.
        seed: of the draws.

    Input: any [B, ...]; only B counts. Output: [B, units] of zeros and ones.

    Raises:
        InputError: units below 1, or ratio outside (0, 1).

    Examples:
        >>> import numpy as np
        >>> from moa_tf.layers import RandomGroupMask
        >>> mask = np.array(RandomGroupMask(units=100, ratio=0.8, seed=1)(np.zeros((90, 7), "float32")))
        >>> mask.shape, round(float(mask.mean()), 1)
        ((90, 100), 0.8)
    """

    def __init__(self, units: int, ratio: float = 0.5, seed: int | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if not 0 < ratio < 1:
            raise InputError(f"ratio={ratio}: expected between 0 and 1")
        self.units = whole_number("units", units)
        self.ratio = float(ratio)
        self.seed = whole_number("seed", seed, least=0, optional=True)
        self.seed_generator = keras.random.SeedGenerator(self.seed)

    def call(self, inputs: Any) -> Any:
        shape = (ops.shape(inputs)[0], self.units)
        drawn = keras.random.uniform(shape, dtype="float32", seed=self.seed_generator)
        return ops.cast(drawn < self.ratio, self.compute_dtype)

    def compute_output_shape(self, input_shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        return (input_shape[0], self.units)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "units": self.units, "ratio": self.ratio, "seed": self.seed}


@keras.saving.register_keras_serializable(package="moa_tf")
class TabNetDecoder(keras.layers.Layer):
    """Reconstructs the features from the steps' decisions: x̂ = (Σ_steps FeatureTransformerⁱ(relu(dⁱ))) W.

    Source: Arik & Pfister, TabNet, arXiv 1908.07442, section 3.4 and figure 4b; one projection after the sum
    of the steps, as in pytorch-tabnet 4.1.

    Args:
        units: number of features.
        n_shared: GLU layers whose kernels all steps share.
        n_independent: GLU layers of each step's own.
        virtual_batch_size: of the ghost batch normalisation.
        momentum: of the ghost batch normalisation, in Keras's sense.
        seed: of the initial values.

    Input: [B, n_steps, n_d]. Output: [B, units].

    Raises:
        InputError: units below 1, a negative number of layers, or neither shared nor independent ones.

    Examples:
        >>> import numpy as np
        >>> from moa_tf.layers import TabNetDecoder
        >>> tuple(TabNetDecoder(units=5)(np.zeros((4, 3, 8), "float32")).shape)
        (4, 5)
    """

    def __init__(
        self,
        units: int,
        n_shared: int = 1,
        n_independent: int = 1,
        virtual_batch_size: int | None = 128,
        momentum: float = 0.98,
        seed: int | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.units = whole_number("units", units)
        self.n_shared = whole_number("n_shared", n_shared, least=0)
        self.n_independent = whole_number("n_independent", n_independent, least=0)
        self.virtual_batch_size = whole_number("virtual_batch_size", virtual_batch_size, optional=True)
        self.momentum = float(momentum)
        if self.n_shared + self.n_independent < 1:
            raise InputError("n_shared=0 with n_independent=0: expected at least one GLU layer")
        self.seed = whole_number("seed", seed, least=0, optional=True)

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        batch, steps, width = input_shape[0], known_size(input_shape, 1), known_size(input_shape)
        seeds = [part_seed(self.seed, 100 * step) for step in range(steps + 1)]
        dtype = {"dtype": self.dtype_policy}
        self.shared = [
            glu_kernel(width, width, part_seed(self.seed, 50 + k), name=f"shared_{k}", **dtype)
            for k in range(self.n_shared)
        ]
        self.transformers = [
            FeatureTransformer(
                width,
                self.n_independent,
                self.shared,
                self.virtual_batch_size,
                self.momentum,
                seed=seeds[step],
                name=f"feature_transformer_{step}",
                **dtype,
            )
            for step in range(steps)
        ]
        for transformer in self.transformers:
            transformer.build((batch, width))
        initializer = keras.initializers.RandomNormal(stddev=width**-0.25, seed=seeds[-1])
        self.kernel = self.add_weight((width, self.units), initializer, name="kernel")

    def call(self, inputs: Any, training: bool | None = None) -> Any:
        parts = [
            transformer(inputs[:, step], training=training)
            for step, transformer in enumerate(self.transformers)
        ]
        return ops.matmul(sum(parts[1:], parts[0]), self.kernel)

    def compute_output_shape(self, input_shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        return (input_shape[0], self.units)

    def get_config(self) -> dict[str, Any]:
        names = "units n_shared n_independent virtual_batch_size momentum seed"
        return {**super().get_config(), **{name: getattr(self, name) for name in names.split()}}


@keras.saving.register_keras_serializable(package="moa_tf")
class ReconstructionError(keras.layers.Layer):
    """Squared error on the hidden features, each in units of its variance over the batch.

    e_b = Σ_j S_bj (x̂_bj - x_bj)² / var_j / Σ_j S_bj, so that a guess at the batch's mean costs about 1.

    Source: Arik & Pfister, TabNet, arXiv 1908.07442, section 3.4; the mean over a row's hidden features as in
    pytorch-tabnet 4.1. A feature that is constant in the batch counts with variance 1.

    Input: x̂ [B, F], x [B, F], S [B, F], 1 where x was hidden. Output: [B] float32.

    Examples:
        >>> import numpy as np
        >>> from moa_tf.layers import ReconstructionError
        >>> x = np.array([[0.0, 1.0], [2.0, 1.0]], "float32")
        >>> guess, hidden = np.ones((2, 2), "float32"), np.array([[1, 1], [0, 1]], "float32")
        >>> np.array(ReconstructionError()(guess, x, hidden)).tolist()
        [0.5, 0.0]
    """

    def build(self, reconstruction_shape: Any, features_shape: Any, hidden_shape: Any) -> None:
        """No weights; the names are those of the call, by which Keras gives the shapes."""

    def compute_output_shape(self, reconstruction_shape: Any, features_shape: Any, hidden_shape: Any) -> Any:
        return (reconstruction_shape[0],)

    def compute_output_spec(self, reconstruction: Any, features: Any, hidden: Any) -> keras.KerasTensor:
        return keras.KerasTensor((reconstruction.shape[0],), "float32")

    def call(self, reconstruction: Any, features: Any, hidden: Any) -> Any:
        x, hidden = ops.cast(features, "float32"), ops.cast(hidden, "float32")
        variance = ops.var(x, axis=0)
        variance = ops.where(variance > 1e-12, variance, ops.ones_like(variance))
        errors = hidden * ops.square(ops.cast(reconstruction, "float32") - x) / variance
        return ops.sum(errors, axis=1) / ops.maximum(ops.sum(hidden, axis=1), 1.0)
