"""Sparse alternatives to softmax, which give exact zeros: sparsemax and α-entmax with α = 1.5."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from typing import Any

import keras
from keras import ops

from moa_tf.layers.gradient import custom_gradient

MAX_NEWTON_STEPS = 64
"""More than any row needs: 876 entries take 4 to 8."""


def sparsemax(logits: Any, axis: int = -1) -> Any:
    """The point of the probability simplex that is nearest to the logits.

    p = max(z - τ, 0), with τ such that Σ p = 1. The threshold τ comes from Newton's iteration on
    f(τ) = Σ max(z - τ, 0) - 1, which is convex and falling: started left of the root it rises to it and
    never passes it, so no sort is needed. The gradient is the closed form on the support S of p:
    dz = s ∘ (dp - mean_S dp), with s the indicator of S.

    Source: Martins & Astudillo, From Softmax to Sparsemax, arXiv 1602.02068, sections 2.2 and 2.5; the
    iteration is Michelot's (1986).

    Args:
        logits: float tensor of any shape. Computed in float32, returned in its own dtype.
        axis: the axis along which the result sums to 1.

    Returns:
        A tensor of the shape and dtype of `logits`. A logit of -∞ gets probability 0. A row without a largest finite
        logit, or with a NaN, is NaN, and its gradient too; other rows do not feel it.
    """
    return _along_last_axis(_sparsemax, logits, axis)


def entmax15(logits: Any, axis: int = -1) -> Any:
    """α-entmax with α = 1.5, half way between softmax (α = 1) and sparsemax (α = 2).

    p = max(z / 2 - τ, 0)², with τ such that Σ p = 1, found as in `sparsemax` by Newton's iteration, here on
    f(τ) = ‖max(z / 2 - τ, 0)‖ - 1: a norm of convex functions is convex, and nearer to a line than its
    square, so that half as many steps do. The gradient is the closed form dz = √p ∘ (dp - Σ √p dp / Σ √p).

    Source: Peters, Niculae & Martins, Sparse Sequence-to-Sequence Models, arXiv 1905.05702, section 3.

    Args:
        logits: float tensor of any shape. Computed in float32, returned in its own dtype.
        axis: the axis along which the result sums to 1.

    Returns:
        A tensor of the shape and dtype of `logits`. A logit of -∞ gets probability 0. A row without a largest finite
        logit, or with a NaN, is NaN, and its gradient too; other rows do not feel it.
    """
    return _along_last_axis(_entmax15, logits, axis)


def _along_last_axis(function: Callable[[Any], Any], logits: Any, axis: int) -> Any:
    logits = ops.convert_to_tensor(logits)
    moved = axis not in (-1, len(logits.shape) - 1)
    z = ops.moveaxis(logits, axis, -1) if moved else logits
    p = ops.cast(function(ops.cast(z, "float32")), logits.dtype)
    return ops.moveaxis(p, -1, axis) if moved else p


def _newton(step: Callable[[Any], Any], tau: Any, tolerance: float) -> Any:
    """Iterates τ ← τ + step(τ) until no row has moved by more than `tolerance`."""

    def unfinished(tau: Any, moving: Any) -> Any:
        return moving

    def body(tau: Any, moving: Any) -> tuple[Any, Any]:
        delta = step(tau)
        # A NaN is above nothing: its row waits for the others and does not stop them.
        return tau + delta, ops.any(delta > tolerance)

    moving = ops.convert_to_tensor(True)
    return ops.while_loop(unfinished, body, (tau, moving), maximum_iterations=MAX_NEWTON_STEPS)[0]


def _largest(z: Any) -> Any:
    # Without `initial` Keras refuses a batch that has no rows.
    return ops.max(z, axis=-1, keepdims=True, initial=-math.inf)


@custom_gradient
def _sparsemax(z: Any) -> tuple[Any, Callable[..., Any]]:
    z = z - _largest(z)

    def step(tau: Any) -> Any:
        excess = ops.sum(ops.relu(z - tau), axis=-1, keepdims=True) - 1.0
        return excess / ops.sum(ops.cast(z > tau, z.dtype), axis=-1, keepdims=True)

    # The largest entry is 0 and its probability at most 1, so the threshold is at least -1.
    # f is piecewise linear, so the steps end on the root itself: what is left to see is rounding.
    tau = _newton(step, ops.zeros_like(z[..., :1]) - 1.0, tolerance=2e-7)
    p = ops.relu(z - tau)

    def gradient(*upstream: Any) -> Any:
        support = ops.sign(p)  # NaN where p is.
        dz = upstream[0] * support
        mean = ops.sum(dz, axis=-1, keepdims=True) / ops.sum(support, axis=-1, keepdims=True)
        return dz - mean * support

    return p, gradient


@custom_gradient
def _entmax15(z: Any) -> tuple[Any, Callable[..., Any]]:
    z = 0.5 * (z - _largest(z))

    def step(tau: Any) -> Any:
        r = ops.relu(z - tau)
        squares = ops.sum(ops.square(r), axis=-1, keepdims=True)
        return (squares - ops.sqrt(squares)) / ops.sum(r, axis=-1, keepdims=True)

    # f is smooth and convergence quadratic: a step of 1e-5 leaves an error below float32's rounding.
    tau = _newton(step, ops.zeros_like(z[..., :1]) - 1.0, tolerance=1e-5)
    root = ops.relu(z - tau)

    def gradient(*upstream: Any) -> Any:
        dz = upstream[0] * root
        mean = ops.sum(dz, axis=-1, keepdims=True) / ops.sum(root, axis=-1, keepdims=True)
        return dz - mean * root

    return ops.square(root), gradient


class _SparseActivation(keras.layers.Layer):
    """What the two layers share: an axis, and a call that keeps shape and dtype."""

    def __init__(self, axis: int = -1, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.axis = operator.index(axis)
        self.supports_masking = True
        self._build_at_init()

    def compute_output_shape(self, input_shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        return input_shape

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "axis": self.axis}


@keras.saving.register_keras_serializable(package="moa_tf")
class Sparsemax(_SparseActivation):
    """Sparsemax as a layer; the equation is in `sparsemax`.

    Args:
        axis: the axis along which the output sums to 1.

    Examples:
        >>> import keras
        >>> from moa_tf.layers import Sparsemax
        >>> logits = keras.ops.convert_to_tensor([[1.0, 1.0, 0.0], [0.5, 0.0, -2.0]])
        >>> keras.ops.convert_to_numpy(Sparsemax()(logits)).tolist()
        [[0.5, 0.5, 0.0], [0.75, 0.25, 0.0]]
    """

    def call(self, inputs: Any) -> Any:
        return sparsemax(inputs, self.axis)


@keras.saving.register_keras_serializable(package="moa_tf")
class Entmax15(_SparseActivation):
    """α-entmax with α = 1.5 as a layer; the equation is in `entmax15`.

    Args:
        axis: the axis along which the output sums to 1.

    Examples:
        >>> import keras
        >>> from moa_tf.layers import Entmax15
        >>> logits = keras.ops.convert_to_tensor([[1.0, 1.0, -4.0]])
        >>> keras.ops.convert_to_numpy(Entmax15()(logits)).round(4).tolist()
        [[0.5, 0.5, 0.0]]
    """

    def call(self, inputs: Any) -> Any:
        return entmax15(inputs, self.axis)
