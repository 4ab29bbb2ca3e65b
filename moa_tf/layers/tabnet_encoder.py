"""TabNet's encoder: decision steps that each attend to a few features."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from moa_tf.errors import InputError, whole_number
from moa_tf.layers.ghost_batch_norm import GhostBatchNormalization
from moa_tf.layers.glu import FeatureTransformer, glu_kernel
from moa_tf.layers.seeds import part_seed
from moa_tf.layers.shapes import known_size
from moa_tf.layers.tabnet_attention import MASK_TYPES, AttentiveTransformer, group_matrix


@keras.saving.register_keras_serializable(package="moa_tf")
class TabNetEncoder(keras.layers.Layer):
    """N decision steps over one table of features, with the masks they used.

    With x the batch-normalised features, a⁰ the attention half of the initial split and P¹ = 1, step i is

        Mⁱ = sparsemax(Pⁱ ∘ GBN(aⁱ⁻¹ W))        attentive transformer
        [dⁱ, aⁱ] = FeatureTransformerⁱ(Mⁱ ∘ x)    split into n_d and n_a columns
        Pⁱ⁺¹ = Pⁱ ∘ (γ - Mⁱ)                      γ = 1 lets a feature be used in one step only

    and the decision is Σ relu(dⁱ). With lambda_sparse > 0 the layer adds the loss lambda_sparse · H, where
    H = -Σ_steps mean_B Σ_j M_j log(M_j + epsilon) / n_steps is the masks' entropy. The importance of
    feature j for a signature is Σ_steps (Σ relu(dⁱ)) · Mⁱ_j.

    Under a strategy of several replicas `keras.Model.fit` counts such a loss more than once (a replica adds those of
    the replicas traced before it); `moa_tf.training.compiled.CompiledModel` does not.

    Source: Arik & Pfister, TabNet, arXiv 1908.07442, section 3; choices that the paper leaves open as in
    pytorch-tabnet 4.1.

    Args:
        n_d: width of a step's decision.
        n_a: width of a step's attention.
        n_steps: number of decision steps.
        gamma: relaxation γ, at least 1.
        n_shared: GLU layers in each feature transformer whose kernels all steps share.
        n_independent: GLU layers in each feature transformer of its own.
        mask_type: `sparsemax` or `entmax`.
        lambda_sparse: weight of the masks' entropy in the loss.
        virtual_batch_size: of the ghost batch normalisation.
        momentum: of the ghost batch normalisation, in Keras's sense.
        groups: indices of features that are attended to as one; features in no group form one each.
        epsilon: keeps the logarithm in the entropy finite.
        seed: of the initial values.

    Input: [B, F]; optionally `prior` [B, number of groups], P¹ in place of 1.

    Output: a dict of `decision` [B, n_d], `steps` [B, n_steps, n_d] (each relu(dⁱ)), `masks`
    [B, n_steps, F] and `importance` [B, F].

    Raises:
        InputError: a setting out of its range, or groups that overlap or name features that do not exist.

    Examples:
        >>> import numpy as np
        >>> from moa_tf.layers import TabNetEncoder
        >>> outputs = TabNetEncoder(n_d=4, n_steps=3)(np.ones((2, 6), "float32"))
        >>> {name: tuple(outputs[name].shape) for name in TabNetEncoder.OUTPUTS}
        {'decision': (2, 4), 'steps': (2, 3, 4), 'masks': (2, 3, 6), 'importance': (2, 6)}
    """

    OUTPUTS = ("decision", "steps", "masks", "importance")

    def __init__(
        self,
        n_d: int = 8,
        n_a: int = 8,
        n_steps: int = 3,
        gamma: float = 1.3,
        n_shared: int = 2,
        n_independent: int = 2,
        mask_type: str = "sparsemax",
        lambda_sparse: float = 0.0,
        virtual_batch_size: int | None = 128,
        momentum: float = 0.98,
        groups: Sequence[Sequence[int]] = (),
        epsilon: float = 1e-15,
        seed: int | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        check_architecture(n_d, n_a, n_steps, gamma, n_shared, n_independent, mask_type, lambda_sparse)
        # Plain numbers, whatever NumPy's came: the config is JSON.
        self.n_d, self.n_a, self.n_steps = int(n_d), int(n_a), int(n_steps)
        self.n_shared, self.n_independent = int(n_shared), int(n_independent)
        self.gamma = float(gamma)
        self.mask_type = mask_type
        self.lambda_sparse = float(lambda_sparse)
        self.virtual_batch_size = whole_number("virtual_batch_size", virtual_batch_size, optional=True)
        self.momentum = float(momentum)
        self.groups = tuple(tuple(int(index) for index in group) for group in groups)
        self.epsilon = float(epsilon)
        self.seed = whole_number("seed", seed, least=0, optional=True)

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        batch, features = input_shape[0], known_size(input_shape)
        matrix = group_matrix(self.groups, features)
        self._set_groups(matrix)
        width = self.n_d + self.n_a
        dtype = {"dtype": self.dtype_policy}
        # momentum 0.99 whatever the ghost normalisation's, as in pytorch-tabnet
        self.normalization = GhostBatchNormalization(None, 0.99, name="normalization", **dtype)
        self.normalization.build(input_shape)
        self.shared = [
            glu_kernel(
                width,
                width if index else features,
                part_seed(self.seed, index),
                name=f"shared_{index}",
                **dtype,
            )
            for index in range(self.n_shared)
        ]
        ghost = {"virtual_batch_size": self.virtual_batch_size, "momentum": self.momentum, **dtype}
        self.transformers = [
            FeatureTransformer(
                width,
                self.n_independent,
                self.shared,
                seed=part_seed(self.seed, 100 * (step + 1)),
                name=f"feature_transformer_{step}" if step else "initial_splitter",
                **ghost,
            )
            for step in range(self.n_steps + 1)
        ]
        self.attention = [
            AttentiveTransformer(
                len(matrix),
                self.mask_type,
                seed=part_seed(self.seed, 100 * (step + 1) + 50),
                name=f"attentive_transformer_{step}",
                **ghost,
            )
            for step in range(1, self.n_steps + 1)
        ]
        for transformer in self.transformers:
            transformer.build(input_shape)
        for attentive in self.attention:
            attentive.build((batch, self.n_a))

    def _set_groups(self, matrix: np.ndarray) -> None:
        self.n_groups = len(matrix)
        self._group_of_feature = matrix.argmax(axis=0).astype("int32")
        self._share_of_feature = matrix.max(axis=0)

    def spread(self, mask: Any) -> Any:
        """[B, groups] to [B, F]: a group's weight is divided among its features."""
        if not self.groups:
            return mask
        spread = ops.take(mask, self._group_of_feature, axis=1)
        return spread * ops.cast(self._share_of_feature, mask.dtype)

    def call(self, inputs: Any, prior: Any = None, training: bool | None = None) -> dict[str, Any]:
        standard = self.normalization.standardise(inputs, training)
        affine = scale, shift = self.normalization.affine()
        x = ops.cast(ops.cast(standard, "float32") * scale + shift, self.compute_dtype)
        _, attention = self._split(self.transformers[0](standard, affine=affine, training=training))
        steps: list[Any] = []
        masks, entropy = [], 0.0
        for transformer, attentive in zip(self.transformers[1:], self.attention, strict=True):
            mask = attentive(attention, prior=prior, training=training)
            if self.lambda_sparse > 0:
                entropy += self._entropy(mask)
            if len(steps) + 1 < self.n_steps:
                rest = self.gamma - mask
                prior = rest if prior is None else prior * rest
            masks.append(self.spread(mask))
            decision, attention = self._split(transformer(masks[-1] * x, training=training))
            steps.append(ops.relu(decision))
        if self.lambda_sparse > 0:
            self.add_loss(self.lambda_sparse * entropy / self.n_steps)
        importance = sum(
            mask * ops.sum(step, axis=1, keepdims=True) for mask, step in zip(masks, steps, strict=True)
        )
        return {
            "decision": sum(steps[1:], steps[0]),
            "steps": ops.stack(steps, axis=1),
            "masks": ops.stack(masks, axis=1),
            "importance": importance,
        }

    def _split(self, x: Any) -> tuple[Any, Any]:
        decision, attention = ops.split(x, [self.n_d], axis=-1)
        return decision, attention

    def _entropy(self, mask: Any) -> Any:
        mask = ops.cast(mask, "float32")
        return -ops.mean(ops.sum(mask * ops.log(mask + self.epsilon), axis=1))

    def get_config(self) -> dict[str, Any]:
        names = (
            "n_d n_a n_steps gamma n_shared n_independent mask_type lambda_sparse virtual_batch_size momentum "
            "groups epsilon seed"
        )
        return {**super().get_config(), **{name: getattr(self, name) for name in names.split()}}


def check_architecture(
    n_d: int,
    n_a: int,
    n_steps: int,
    gamma: float,
    n_shared: int,
    n_independent: int,
    mask_type: str,
    lambda_sparse: float,
) -> None:
    """Raises InputError, one line, for the first of TabNet's settings that is out of its range."""
    sizes = {"n_d": (n_d, 1), "n_a": (n_a, 1), "n_steps": (n_steps, 1)}
    sizes |= {"n_shared": (n_shared, 0), "n_independent": (n_independent, 0)}
    for name, (value, least) in sizes.items():
        whole_number(name, value, least)
    for name, weight, least in (("gamma", gamma, 1), ("lambda_sparse", lambda_sparse, 0)):
        if not weight >= least:
            raise InputError(f"{name}={weight}: expected at least {least}")
    if n_shared + n_independent < 1:
        raise InputError("n_shared=0 with n_independent=0: expected at least one GLU layer")
    if mask_type not in MASK_TYPES:
        raise InputError(f"mask_type={mask_type}: expected one of {', '.join(MASK_TYPES)}")
