"""Integrated gradients: how much each raw column of a signature moved a mechanism's logit.

The default by which a family explains itself; it asks nothing of a model but that gradients pass through it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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

NODES = 256
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

    The integral is a Gauss–Legendre sum in s, t = τ sinh(s asinh(1/τ)): near the median signature, where all scaled
    features are about 0, skewness and kurtosis of a row turn quickly. Where they are 0 up to rounding (folds of at
    most 100 rows, gaps that the median fills) a row has no shape, and skewness and kurtosis of the rounding could be
    anything: there the baseline is z⁰ + τ b, with b a fixed row of deviation 1, skewness and excess kurtosis 0.

    Args:
        members: of each fold, with their baselines; each network is explained from its own fold's. The top mechanism
            is that of the highest mean probability, attributions and logits are means over networks.

    Returns:
        Function from the tensors of the panel's inputs and, if given, `target` [B] int32, to `attribution` [B, R]
        float32 in units of the logit, R being `importance_columns`; `importance`, its absolute value; `target` [B]
        int32, the mechanism; and its `logit` and `baseline_logit` [B] float32, whose difference is the sum of the
        attributions.

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
        walks = [_Walk(path, inputs) for path in paths]
        probabilities = sum(ops.sigmoid(logits[-1]) for walk in walks for logits in walk.logits)
        target = inputs["target"] if "target" in inputs else ops.argmax(probabilities, axis=1)
        target = ops.cast(target, "int32")
        # 1 where the logit is that of the mechanism, so that a sum over targets picks it.
        chosen = ops.one_hot(target, probabilities.shape[1], dtype="float32")
        picked = [ops.sum(sum(walk.logits) * chosen, axis=-1) for walk in walks]
        attribution = sum(walk.attribute(chosen) for walk in walks) / networks
        return {
            "attribution": attribution,
            "importance": ops.abs(attribution),
            "target": target,
            "logit": sum(logits[-1] for logits in picked) / networks,
            "baseline_logit": sum(logits[0] for logits in picked) / networks,
        }

    return explain


class _Path:
    """What a fold's line runs through: the preprocessing, cut behind the rank-Gauss layers, and the networks."""

    def __init__(self, member: Member, quadrature: tuple[np.ndarray, np.ndarray]) -> None:
        self.preprocessing, self.networks, self.baseline = member
        self.quadrature = quadrature
        inputs, outputs = self.preprocessing.input, self.preprocessing.output
        self.scalers = [layer for layer in self.preprocessing.layers if isinstance(layer, QuantileToNormal)]
        raw = [layer.input for layer in self.scalers]
        above, below = _inputs_of(raw, []), _inputs_of(outputs, self.scalers)
        self.scaled = [name for name in NUMBERS if name in above]
        self.direct = [name for name in NUMBERS if name in below]
        self.conditions = [name for name in CONDITIONS if name in inputs]
        beside = [inputs[name] for name in (*self.direct, *self.conditions)]
        self.after = keras.Model([*(layer.output for layer in self.scalers), *beside], outputs)
        self.before = keras.Model([inputs[name] for name in self.scaled], raw) if raw else None
        self.columns = [self._columns(name) for name in self.scaled]
        row = {
            name: ops.convert_to_tensor(self.baseline[name][None]) for name in (*self.scaled, *self.direct)
        }
        self.start = [ops.convert_to_numpy(place) for place in self.places(row)]
        if any(isinstance(layer, RowStatistics) for layer in self.preprocessing.layers):
            for index, place in enumerate(self.start[: len(self.scalers)]):
                if place.std() < BEND / 5:
                    self.start[index] = place + BEND * _mesokurtic(place.shape[1])

    def _columns(self, name: str) -> np.ndarray:
        """Where each column of an input is among all that the rank-Gauss layers get; their number where it is not."""
        sizes = {other: len(self.baseline[other]) for other in self.scaled}
        # A median stands in for a column that is not used: it does not follow.
        probes = [
            {other: np.full((1, sizes[other]), np.float32(0)) for other in self.scaled} for _ in range(2)
        ]
        probes[0][name] = np.arange(1, sizes[name] + 1, dtype=np.float32)[None]
        probes[1][name] = 2 * probes[0][name]
        once, twice = (
            np.concatenate([ops.convert_to_numpy(u)[0] for u in self._raw(_tensors(probe))])
            for probe in probes
        )
        follows = np.flatnonzero(once != twice)
        if not np.array_equal(twice[follows], 2 * once[follows]):
            raise InputError(f"explain: {name} is not read column by column before rank-Gauss")
        places = np.full(sizes[name], len(once), np.int32)
        places[once[follows].astype(int) - 1] = follows
        return places

    def _raw(self, values: Mapping[str, Any]) -> list[Any]:
        """What the rank-Gauss layers get."""
        if self.before is None:
            return []
        raw = self.before([values[name] for name in self.scaled], training=False)
        return raw if isinstance(raw, list) else [raw]

    def places(self, values: Mapping[str, Any]) -> list[Any]:
        """What the line is straight in: [B, F] of each rank-Gauss layer, and what does not pass through one."""
        scaled = [layer(u) for layer, u in zip(self.scalers, self._raw(values), strict=True)]
        return [*scaled, *(values[name] for name in self.direct)]

    def logits(self, places: list[Any], conditions: list[Any]) -> list[Any]:
        """[B, T] float32 of each network."""
        features = self.after([*places, *conditions], training=False)
        return [ops.cast(network(features, training=False), "float32") for network in self.networks]


class _Walk:
    """A batch's way along a path.

    Attributes:
        logits: [S, B, T] of each network at the baseline, with one column of the treatment after the other that the
            path reads, and at the end.
    """

    def __init__(self, path: _Path, inputs: Mapping[str, Any]) -> None:
        self.path, self.inputs = path, inputs
        filled = {
            name: ops.where(ops.isnan(inputs[name]), ops.convert_to_tensor(path.baseline[name]), inputs[name])
            for name in {*path.scaled, *path.direct}
        }
        self.end = path.places(filled)
        self.start = [
            ops.broadcast_to(place, ops.shape(end)) for place, end in zip(path.start, self.end, strict=True)
        ]
        self.own = [inputs[name] for name in path.conditions]
        base = [
            ops.full_like(own, ops.convert_to_tensor(path.baseline[name]))
            for name, own in zip(path.conditions, self.own, strict=True)
        ]
        stops = [self.own[:count] + base[count:] for count in range(len(base) + 1)]
        # All at once: a call of a Keras model takes long to trace.
        places = [
            ops.concatenate([start] * len(stops) + [end])
            for start, end in zip(self.start, self.end, strict=True)
        ]
        conditions = [ops.concatenate(several) for several in zip(*stops, self.own, strict=True)]
        self.logits = [
            ops.reshape(each, (len(stops) + 1, -1, each.shape[-1]))
            for each in path.logits(places, conditions)
        ]

    def attribute(self, chosen: Any) -> Any:
        """[B, R] attributions of the mechanism that is 1 in `chosen` [B, T], summed over the networks."""
        path = self.path
        switched = ops.sum(sum(self.logits)[:-1] * chosen, axis=-1)
        steps = dict(
            zip(path.conditions, ops.unstack(switched[1:] - switched[:-1], len(path.conditions)), strict=True)
        )
        still = ops.zeros_like(chosen[:, 0])
        treatment = [steps.get(name, still) for name in CONDITIONS if name in path.baseline]
        through, direct = self._integrate(chosen)
        columns = dict(zip(path.scaled, path.columns, strict=True))
        parts = []
        for name in NUMBERS:
            if name in path.baseline:
                part = ops.zeros_like(still)[:, None] + np.zeros(len(path.baseline[name]), np.float32)
                if name in columns:
                    part += ops.take(through, columns[name], axis=1)
                if name in path.direct:
                    part += direct[path.direct.index(name)]
                parts.append(ops.where(ops.isnan(self.inputs[name]), 0.0, part))
        return ops.concatenate([*parts, *(each[:, None] for each in treatment)], axis=1)

    def _integrate(self, chosen: Any) -> tuple[Any, list[Any]]:
        """[B, F + 1] for what the rank-Gauss layers get, and 0; [B, ...] for each input beside them."""
        path = self.path
        way = [end - start for start, end in zip(self.start, self.end, strict=True)]
        nodes, weights = (ops.convert_to_tensor(x, "float32") for x in path.quadrature)

        def logit(places: list[Any]) -> Any:
            return ops.sum(sum(path.logits(places, self.own)) * chosen, axis=1)

        def step(k: Any, sums: list[Any]) -> list[Any]:
            t, weight = ops.take(nodes, k), ops.take(weights, k)
            _, slopes = value_and_gradients(logit, [a + t * d for a, d in zip(self.start, way, strict=True)])
            return [total + weight * slope for total, slope in zip(sums, slopes, strict=True)]

        sums = ops.fori_loop(0, len(path.quadrature[0]), step, [ops.zeros_like(place) for place in way])
        parts = [total * d for total, d in zip(sums, way, strict=True)]
        scalers = len(path.scalers)
        return ops.concatenate([*parts[:scalers], ops.zeros_like(chosen[:, :1])], axis=1), parts[scalers:]


def _tensors(values: Mapping[str, np.ndarray]) -> Tensors:
    return {name: ops.convert_to_tensor(value) for name, value in values.items()}


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
