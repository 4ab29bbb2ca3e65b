"""Rank-Gauss: each feature mapped through its training quantiles to a standard normal."""

from __future__ import annotations

import math
from typing import Any

import keras
import numpy as np
from keras import ops

from moa_tf.errors import whole_number
from moa_tf.preprocessing.adapted import AdaptedLayer

_TAIL = 1e-7
"""Probabilities are kept this far from 0 and 1, as scikit-learn does: ±5.2 in the normal."""


@keras.saving.register_keras_serializable(package="moa_tf")
class QuantileToNormal(AdaptedLayer):
    """Maps each feature to a normal distribution by its training quantiles (rank-Gauss).

    With F the piecewise linear empirical distribution function through `n_quantiles` training quantiles,
    `y = Φ⁻¹(F(x))`. Values that occur often share the middle of their ranks. Outside the training range the
    result is finite and constant, ±5.2. Equal to scikit-learn's
    `QuantileTransformer(output_distribution="normal", subsample=None)` on float32 training rows; here it is a
    graph, so that it is exported with the model.

    Args:
        n_quantiles: number of quantiles; at most the number of training rows, to which adapt() lowers it.

    Input shape: [B, F]. Output shape: [B, F].

    Raises:
        InputError: n_quantiles below 2, or a call before adapt().

    Source: scikit-learn, `QuantileTransformer`; for lish-moa the winners' "rank Gauss".

    Examples:
        >>> import numpy as np
        >>> layer = QuantileToNormal(n_quantiles=3)
        >>> layer.adapt(np.array([[0.0], [1.0], [2.0]], "float32"))
        >>> float(layer(np.array([[1.0]], "float32"))[0, 0])
        0.0
    """

    def __init__(self, n_quantiles: int = 1000, **kwargs) -> None:
        super().__init__(**kwargs)
        self.n_quantiles = self._asked = whole_number("n_quantiles", n_quantiles, least=2)

    @property
    def _stride(self) -> int:
        # A power of two, so that the binary search needs no bounds check.
        return 1 << math.ceil(math.log2(self.n_quantiles))

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        shape = (self._expect_features(input_shape) * self._stride,)
        self.quantiles = self._weight("quantiles", shape, "float32")
        self.positions = self._weight("positions", shape, "float32")

    def _may_change(self, name: str) -> bool:
        # The output's shape does not tell; but what was traced after the first adapt() has their number in it.
        return name == "n_quantiles" and not self.is_adapted

    def adapt(self, data: np.ndarray) -> None:
        """Fits the quantiles; a second time as if it were the first.

        Args:
            data: [N, F] training rows, taken in float32.

        Raises:
            InputError: fewer than 2 rows, a value that is not finite, another rank, or the layer is part of a model
                that was made for another number of features, or adapted with another number of quantiles.
        """
        data = self._table(data, least_rows=2, dtype=np.float32)
        n = min(self._asked, len(data))
        self._build_for(data.shape[1], n_quantiles=n)
        references = np.linspace(0, 1, n)
        knots = np.full((data.shape[1], self._stride), np.inf, np.float32)
        positions = np.zeros_like(knots)
        # A block of features at a time keeps the sorted copy small.
        for start in range(0, data.shape[1], 64):
            block = np.array(data[:, start : start + 64].T, order="C")
            quantiles = np.percentile(block, references * 100, axis=1, overwrite_input=True).T
            for feature, row in enumerate(quantiles, start):
                values = np.maximum.accumulate(row.astype(np.float32))
                knots[feature, :n] = values
                positions[feature, :n] = _positions(values, row, references)
        self.quantiles.assign(knots.reshape(-1))
        self.positions.assign(positions.reshape(-1))
        self._adapted = True

    def load_own_variables(self, store: Any) -> None:
        super().load_own_variables(store)
        if self.is_adapted:
            # Behind a feature's quantiles the rest of its stride is infinite.
            first = ops.convert_to_numpy(self.quantiles)[: self._stride]
            self.n_quantiles = int(np.isfinite(first).sum())

    def call(self, inputs):
        self._require_adapted()
        x = ops.cast(inputs, "float32")
        features, stride, n = x.shape[-1], self._stride, self.n_quantiles
        offset = ops.reshape(ops.arange(features, dtype="int32") * stride, (1, features))
        index = ops.zeros_like(x, dtype="int32") + offset
        step = stride // 2
        while step:
            ahead = index + step
            index = ops.where(ops.take(self.quantiles, ahead) <= x, ahead, index)
            step //= 2
        index = ops.minimum(index, offset + (n - 2))
        below, above = ops.take(self.quantiles, index), ops.take(self.quantiles, index + 1)
        width = ops.where(above > below, above - below, 1.0)
        whole = ops.cast(index - offset, "float32")
        last = float(n - 1)
        # Each distance is a difference from its own quantile: 1 - share would lose the tail's digits.
        from_bottom = whole + ops.clip((x - below) / width, 0.0, 1.0)
        from_top = (last - 1.0 - whole) + ops.clip((above - x) / width, 0.0, 1.0)
        # On a quantile, the fitted position says where in a run of equal values x stands.
        at = ops.take(self.positions, ops.where(x == above, index + 1, index))
        on_quantile = ops.logical_or(x == below, x == above)
        from_bottom = ops.where(on_quantile, at, from_bottom)
        from_top = ops.where(on_quantile, last - at, from_top)
        bottom = from_bottom <= from_top
        tail = ops.minimum(from_bottom, from_top) / last
        # scikit-learn keeps p itself in float32, which near 1 has steps of 6e-8: z = 4.4 moves by 1e-3.
        tail = ops.where(bottom, tail, 1.0 - (1.0 - tail))
        z = normal_quantile(ops.clip(tail, _TAIL, 0.5))
        return ops.cast(ops.where(bottom, z, -z), self.compute_dtype)

    def compute_output_shape(self, input_shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        return tuple(input_shape)

    def get_config(self) -> dict:
        return {**super().get_config(), "n_quantiles": self.n_quantiles}


def _positions(values: np.ndarray, quantiles: np.ndarray, references: np.ndarray) -> np.ndarray:
    """Where `values` [n] stand among `quantiles` [n], in [0, n - 1]; a repeated one in its run's middle.

    The interpolation from both sides, and the rule for the ends, are those of scikit-learn. It sends a value
    within 1e-7 of an end to the end, tied or not, except where adding 1e-7 is lost to rounding in float32 (beyond
    about ±1): there tied values keep their middle.
    """
    upward = np.interp(values, quantiles, references)
    downward = -np.interp(-values, -quantiles[::-1], -references[::-1])
    share = (upward + downward) / 2
    share[values + np.float32(_TAIL) > quantiles[-1]] = 1.0
    share[values - np.float32(_TAIL) < quantiles[0]] = 0.0
    return share * (len(values) - 1)


def normal_quantile(p):
    """Φ⁻¹(p) for 1e-7 <= p <= 0.5, accurate to about 1 part in 10⁷ in float32.

    Args:
        p: tensor of lower-tail probabilities.

    Returns:
        Tensor of the same shape, at most 0.

    Source: Wichura (1988), Algorithm AS 241, PPND7.
    """
    q = p - 0.5
    r = 0.180625 - q * q
    centre = (
        q
        * (((59.10937472 * r + 159.29113202) * r + 50.434271938) * r + 3.3871327179)
        / (((67.187563600 * r + 78.757757664) * r + 17.895169469) * r + 1.0)
    )
    r = ops.sqrt(-ops.log(p))
    s = r - 1.6
    near = (((0.17023821103 * s + 1.3067284816) * s + 2.7568153900) * s + 1.4234372777) / (
        (0.12021132975 * s + 0.73700164250) * s + 1.0
    )
    # p >= 1e-7 keeps r under 4.02, so the algorithm's third branch (r > 5) is never needed.
    return ops.where(q > -0.425, centre, -near)
