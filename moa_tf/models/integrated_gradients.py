"""Integrated gradients: how much each raw column of a signature moved a mechanism's logit.

The default by which a family explains itself; it asks nothing of a model but that gradients pass through it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from statistics import NormalDist
from typing import Any

import keras
import numpy as np
from keras import ops

from moa_tf.data.schema import CONDITIONS, Signatures
from moa_tf.errors import InputError
from moa_tf.layers.gradient import value_and_gradients
from moa_tf.models.base import Explainer, Member, Tensors
from moa_tf.preprocessing import QuantileToNormal, RowStatistics

NODES = 128
"""Places on the line where one network is differentiated. Kinks of ReLUs leave an error that falls as 1 / NODES."""
LEAST_NODES = 32
BEND = 0.005
"""Nodes lie close up to about this part of the line, as the scaled median signature is no further from 0."""
NUMBERS = ("genes", "cells")


def fit_baseline(signatures: Signatures) -> dict[str, np.ndarray]:
    """The signature that explanation starts from.

    Args:
        signatures: the training fold's rows.

    Returns:
        Name -> [...] of the panel's inputs, `cp_type` apart: the median of each gene and cell line (0 where all are
        missing), the median time, the median dose in µM (NaN where none is known), the most common level of dose
        and the most common cell line (−1 where none is known).
    """
    baseline: dict[str, np.ndarray] = {}
    for name, (_, dtype) in signatures.spec.inputs.items():
        values = np.asarray(getattr(signatures, name))
        if name in NUMBERS:
            missing = np.isnan(values).all(axis=0)
            # The same median as that which stands in for a missing value, to the last bit.
            middle = np.nanmedian(np.where(missing, np.float32(0), values), axis=0)
        elif dtype == "int32":
            codes = values[values >= 0]
            middle = np.bincount(codes).argmax() if len(codes) else -1
        else:
            # One that was measured: between 24 and 72 h nobody may have looked.
            known = np.sort(values[np.isfinite(values)])
            middle = known[(len(known) - 1) // 2] if len(known) else np.nan
        if name != "cp_type":
            baseline[name] = np.asarray(middle, dtype)
    return baseline


def explainer(members: Sequence[Member]) -> Explainer:
    """A function that attributes each signature's top mechanism to the raw columns.

    From the baseline x⁰ to the signature x, first the treatment: its columns are switched one by one, in the order
    of `importance_columns`, and each gets the difference of the logit. Then genes and cells along a straight line,

        a_j = (z_j − z⁰_j) ∫₀¹ ∂f/∂z_j (z⁰ + t (z − z⁰)) dt,

    so that Σ_j a_j = f(x) − f(x⁰), with f the logit of the mechanism. z_j is x_j itself, or, where the preprocessing
    begins with rank-Gauss, what that makes of x_j alone: it has jumps, where training values are tied, and cliffs at
    both ends, which gradients with respect to x_j do not see. Each column still goes from its median to its own
    value without turning back. A missing value stays at its median: it gets 0.

    The integral is a Gauss–Legendre sum in s, t = sinh(s asinh(1/τ)) τ: near the median signature, where all scaled
    features are about 0, skewness and kurtosis of a row turn quickly. On folds of at most 100 rows all are 0 up to
    rounding, whose skewness and kurtosis are anything; there the baseline is z⁰ + τ b, with b a fixed row of deviation
    1 whose skewness and excess kurtosis are 0.

    Args:
        members: of each fold, with their baselines; each network is explained from its own fold's. The top mechanism
            is that of the highest mean probability, attributions and logits are means over networks.

    Returns:
        Function from the tensors of the panel's inputs to `attribution` [B, R] float32 in units of the logit, R being
        `importance_columns`; `importance`, its absolute value; `target` [B] int32, the mechanism; and its `logit` and
        `baseline_logit` [B] float32, whose difference is the sum of the attributions.

    Raises:
        InputError: a member without baseline.

    Source: Sundararajan, Taly & Yan 2017, Axiomatic Attribution for Deep Networks, sections 3 and 5.
    """
    if not all(member.baseline for member in members):
        raise InputError(
            "explain: these models were kept without the baseline that integrated gradients start from; expected a "
            "run of this version"
        )
    networks = sum(len(member.networks) for member in members)
    # The errors of several networks average out.
    quadrature = _quadrature(max(LEAST_NODES, round(NODES / networks**0.5)))
    paths = [_Path(member, quadrature) for member in members]

    def explain(inputs: Mapping[str, Any]) -> Tensors:
        logits = [path.logits(inputs) for path in paths]
        probabilities = sum(ops.sigmoid(each) for several in logits for each in several)
        target = ops.cast(ops.argmax(probabilities, axis=1), "int32")
        # 1 where the logit is that of the mechanism, so that a sum over targets picks it.
        chosen = ops.one_hot(target, probabilities.shape[1], dtype="float32")
        logit = sum(ops.sum(each * chosen, axis=1) for several in logits for each in several)
        parts = [path.attribute(inputs, chosen) for path in paths]
        attribution = sum(part for part, _ in parts) / networks
        return {
            "attribution": attribution,
            "importance": ops.abs(attribution),
            "target": target,
            "logit": logit / networks,
            "baseline_logit": sum(start for _, start in parts) / networks,
        }

    return explain


class _Path:
    """The way from a fold's baseline, and what its networks say on it, all of them summed."""

    def __init__(self, member: Member, quadrature: tuple[np.ndarray, np.ndarray]) -> None:
        self.preprocessing, self.networks, self.baseline = member
        self.nodes, self.weights = quadrature
        inputs, outputs = self.preprocessing.input, self.preprocessing.output
        self.read = [name for name in NUMBERS if name in inputs]
        # The line is straight behind the rank-Gauss layers, and of what does not pass through them.
        self.scalers = [layer for layer in self.preprocessing.layers if isinstance(layer, QuantileToNormal)]
        beside = _inputs_of(outputs, self.scalers)
        self.direct = [name for name in self.read if name in beside]
        self.conditions = [name for name in CONDITIONS if name in inputs]
        self.after = keras.Model(
            [
                *(layer.output for layer in self.scalers),
                *(inputs[name] for name in (*self.direct, *self.conditions)),
            ],
            outputs,
        )
        self.before = None
        if self.scalers:
            raw = [layer.input for layer in self.scalers]
            reached = _inputs_of(raw, [])
            self.scaled = [name for name in self.read if name in reached]
            self.before = keras.Model([inputs[name] for name in self.scaled], raw)
        self.offsets = [np.zeros(1, np.float32)] * (len(self.scalers) + len(self.direct))
        if any(isinstance(layer, RowStatistics) for layer in self.preprocessing.layers):
            row = {name: ops.convert_to_tensor(self.baseline[name][None]) for name in self.read}
            for index, z in enumerate(self._places(row)[: len(self.scalers)]):
                if np.std(ops.convert_to_numpy(z)) < BEND / 5:
                    self.offsets[index] = BEND * _mesokurtic(z.shape[1])

    def logits(self, inputs: Mapping[str, Any]) -> list[Any]:
        """[B, T] float32 of each network."""
        read = {name: inputs[name] for name in self.preprocessing.input}
        return self._of_features(self.preprocessing(read, training=False))

    def _of_features(self, features: Tensors) -> list[Any]:
        return [ops.cast(network(features, training=False), "float32") for network in self.networks]

    def attribute(self, inputs: Mapping[str, Any], chosen: Any) -> tuple[Any, Any]:
        """[B, R] attributions and [B] logits of the baseline, both summed over the networks."""
        rows = ops.shape(chosen)[0]
        base = {
            name: ops.broadcast_to(ops.convert_to_tensor(value), (rows, *value.shape))
            for name, value in self.baseline.items()
        }
        start = [a + b for a, b in zip(self._places(base), self.offsets, strict=True)]
        here = {name: base[name] for name in self.conditions}

        def logit(places: list[Any]) -> Any:
            features = self.after([*places, *here.values()], training=False)
            return _pick(self._of_features(features), chosen)

        first = last = logit(start)
        treatment = []
        for name in CONDITIONS:
            if name in self.baseline:
                here |= {name: inputs[name]} if name in here else {}
                now = logit(start) if name in here else last
                treatment.append(ops.expand_dims(now - last, 1))
                last = now
        numbers = {name: ops.zeros_like(base[name]) for name in NUMBERS if name in self.baseline}
        numbers |= self._walk(logit, start, base, inputs)
        return ops.concatenate([*numbers.values(), *treatment], axis=1), first

    def _walk(
        self, logit: Callable[[list[Any]], Any], start: list[Any], base: Tensors, inputs: Mapping[str, Any]
    ) -> Tensors:
        """The attributions of genes and cells, along the line from `start`."""
        there = {name: ops.where(ops.isnan(inputs[name]), base[name], inputs[name]) for name in self.read}
        way = [b - a for a, b in zip(start, self._places(there), strict=True)]
        nodes, weights = (ops.convert_to_tensor(x, "float32") for x in (self.nodes, self.weights))

        def step(k: Any, sums: list[Any]) -> list[Any]:
            t, weight = ops.take(nodes, k), ops.take(weights, k)
            _, slopes = value_and_gradients(logit, [a + t * d for a, d in zip(start, way, strict=True)])
            return [total + weight * slope for total, slope in zip(sums, slopes, strict=True)]

        sums = ops.fori_loop(0, len(self.nodes), step, [ops.zeros_like(place) for place in start])
        parts = [total * d for total, d in zip(sums, way, strict=True)]
        through, direct = parts[: len(self.scalers)], parts[len(self.scalers) :]
        result = dict(zip(self.direct, direct, strict=True))
        if self.scalers:
            for name, value in self._to_raw(through, base, there).items():
                result[name] = result[name] + value if name in result else value
        return result

    def _places(self, values: Mapping[str, Any]) -> list[Any]:
        """What the line is straight in."""
        scaled = [layer(u) for layer, u in zip(self.scalers, self._raw(values), strict=True)]
        return [*scaled, *(values[name] for name in self.direct)]

    def _raw(self, values: Mapping[str, Any] | list[Any]) -> list[Any]:
        """What the rank-Gauss layers get."""
        if self.before is None:
            return []
        values = values if isinstance(values, list) else [values[name] for name in self.scaled]
        raw = self.before(values, training=False)
        return raw if isinstance(raw, list) else [raw]

    def _to_raw(self, parts: list[Any], here: Tensors, there: Tensors) -> Tensors:
        """Attributions of the scaled features as those of the columns that they are made of."""
        rates = []
        for part, a, b in zip(parts, self._raw(here), self._raw(there), strict=True):
            moves = a != b
            rates.append(ops.where(moves, part / ops.where(moves, b - a, 1.0), 0.0))

        def moved(values: list[Any]) -> Any:
            return sum(ops.sum(r * u, axis=1) for r, u in zip(rates, self._raw(values), strict=True))

        ends = [there[name] for name in self.scaled]
        _, slopes = value_and_gradients(moved, ends)
        return {
            name: slope * (end - here[name])
            for name, slope, end in zip(self.scaled, slopes, ends, strict=True)
        }


def _quadrature(nodes: int) -> tuple[np.ndarray, np.ndarray]:
    """Places in [0, 1] and weights that sum to 1."""
    places, weights = np.polynomial.legendre.leggauss(nodes)
    angle = np.arcsinh(1 / BEND)
    s = (places + 1) / 2 * angle
    return BEND * np.sinh(s), weights / 2 * angle * BEND * np.cosh(s)


def _mesokurtic(features: int) -> np.ndarray:
    """[F] float32 of mean 0, deviation 1, skewness 0 and excess kurtosis 0, as nearly as few features can have it."""
    normal = np.array([NormalDist().inv_cdf((i + 0.5) / features) for i in range(features)])

    def bell(power: float) -> np.ndarray:
        values = np.sign(normal) * np.abs(normal) ** power
        return values / max(values.std(), 1e-30)

    low, high = 1.0, 3.0
    for _ in range(30):
        middle = (low + high) / 2
        low, high = (middle, high) if (bell(middle) ** 4).mean() < 3 else (low, middle)
    return np.random.default_rng(0).permutation(bell(low)).astype(np.float32)


def _pick(logits: list[Any], chosen: Any) -> Any:
    """[B] of the chosen mechanism, summed over the networks."""
    return ops.sum(sum(logits) * chosen, axis=1)


def _inputs_of(tensors: Any, stop: Sequence[keras.layers.Layer]) -> set[str]:
    """Names of the inputs that symbolic tensors are made of, not counting what passes through the layers `stop`."""
    names: set[str] = set()
    for tensor in keras.tree.flatten(tensors):
        operation = tensor._keras_history.operation
        if isinstance(operation, keras.layers.InputLayer):
            names.add(operation.name)
        elif operation not in stop:
            names |= _inputs_of(operation.input, stop)
    return names
