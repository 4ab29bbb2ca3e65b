"""Integrated gradients: how much each raw column of a signature moved a mechanism's logit.

The default by which a family explains itself; it asks nothing of a model but that gradients pass through it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from moa_tf.data.schema import CONDITIONS, Signatures
from moa_tf.errors import InputError
from moa_tf.layers.gradient import input_gradients
from moa_tf.models.base import Explainer, Member, Tensors
from moa_tf.preprocessing import QuantileToNormal

STEPS = 32
"""Steps of the path; see `explainer` for how they are spaced."""
GRADING = 3
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
    of `importance_columns`, and each gets the difference of the logit. Then genes and cells along the straight line,

        a_j = (x_j − x⁰_j) ∫₀¹ ∂f/∂x_j (x⁰ + t (x − x⁰)) dt,

    so that Σ_j a_j = f(x) − f(x⁰), with f the logit of the mechanism. A missing value stays at its median: it gets 0.

    The integral is a sum over the steps of midpoints. Rank-Gauss has jumps where training values are tied, and ends
    in cliffs that no sum of gradients would find: its slope in a step is (z(x_b) − z(x_a)) / (x_b − x_a), which is
    the mean of its gradient there, and all else is differentiated at the middle of z. The steps end at (k / n)³:
    at the baseline all scaled features are about 0, where skewness and kurtosis of a row turn quickly.

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
    paths = [_Path(member) for member in members]
    networks = sum(len(member.networks) for member in members)

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

    def __init__(self, member: Member) -> None:
        self.preprocessing, self.networks, self.baseline = member
        inputs = self.preprocessing.input
        self.numbers = [name for name in NUMBERS if name in self.baseline]
        self.read = [name for name in self.numbers if name in inputs]
        self.scalers = [layer for layer in self.preprocessing.layers if isinstance(layer, QuantileToNormal)]
        if self.scalers:
            below = [layer.output for layer in self.scalers]
            beside = _inputs_of(self.preprocessing.output, self.scalers)
            self.beside = [name for name in inputs if name in beside]
            self.before = keras.Model(
                [inputs[name] for name in self.read], [layer.input for layer in self.scalers]
            )
            self.after = keras.Model(
                [*below, *(inputs[name] for name in self.beside)], self.preprocessing.output
            )

    def logits(self, inputs: Mapping[str, Any]) -> list[Any]:
        """[B, T] float32 of each network."""
        read = {name: inputs[name] for name in self.preprocessing.input}
        return self._of_features(self.preprocessing(read, training=False))

    def _of_features(self, features: Tensors) -> list[Any]:
        return [ops.cast(network(features, training=False), "float32") for network in self.networks]

    def attribute(self, inputs: Mapping[str, Any], chosen: Any) -> tuple[Any, Any]:
        """[B, R] attributions and [B] logits of the baseline, both summed over the networks."""
        rows = ops.shape(chosen)[0]
        here = {
            name: ops.broadcast_to(ops.convert_to_tensor(value), (rows, *value.shape))
            for name, value in self.baseline.items()
        }
        start = last = _pick(self.logits(here), chosen)
        treatment = []
        for name in CONDITIONS:
            if name in self.baseline:
                here[name] = inputs[name]
                now = _pick(self.logits(here), chosen) if name in self.preprocessing.input else last
                treatment.append(ops.expand_dims(now - last, 1))
                last = now
        walked = self._walk(here, inputs, chosen)
        numbers = [walked.get(name, ops.zeros_like(here[name])) for name in self.numbers]
        return ops.concatenate([*numbers, *treatment], axis=1), start

    def _walk(self, here: Tensors, inputs: Mapping[str, Any], chosen: Any) -> Tensors:
        """The attributions of genes and cells, from what `here` holds of them to what `inputs` do."""
        start = [here[name] for name in self.read]
        way = [ops.cast(inputs[name], "float32") - x for name, x in zip(self.read, start, strict=True)]
        way = [ops.where(ops.isnan(d), 0.0, d) for d in way]
        ends = ops.convert_to_tensor(((np.arange(STEPS + 1) / STEPS) ** GRADING).astype(np.float32))

        def step(k: Any, state: tuple[list[Any], ...]) -> tuple[list[Any], ...]:
            sums, low, low_scaled = state
            high = [x + ops.take(ends, k + 1) * d for x, d in zip(start, way, strict=True)]
            high_scaled = self._scale(high)
            middle = [(a + b) / 2 for a, b in zip(low, high, strict=True)]

            def logit(values: list[Any]) -> Any:
                if not self.scalers:
                    return _pick(self.logits(here | dict(zip(self.read, values, strict=True))), chosen)
                lines = zip(self._raw(values), low_scaled, high_scaled, strict=True)
                scaled = [_on_the_line(u, *ends) for u, *ends in lines]
                features = self.after([*scaled, *(here[name] for name in self.beside)], training=False)
                return _pick(self._of_features(features), chosen)

            slopes = input_gradients(logit, middle)
            sums = [s + g * (b - a) for s, g, a, b in zip(sums, slopes, low, high, strict=True)]
            return sums, high, high_scaled

        first = ([ops.zeros_like(x) for x in start], start, self._scale(start))
        sums, _, _ = ops.fori_loop(0, STEPS, step, first)
        return dict(zip(self.read, sums, strict=True))

    def _raw(self, values: list[Any]) -> list[Any]:
        """What the rank-Gauss layers get."""
        raw = self.before(values, training=False)
        return raw if isinstance(raw, list) else [raw]

    def _scale(self, values: list[Any]) -> list[tuple[Any, Any]]:
        """What each rank-Gauss layer gets, and what it makes of it."""
        if not self.scalers:
            return []
        return [(u, layer(u)) for layer, u in zip(self.scalers, self._raw(values), strict=True)]


def _pick(logits: list[Any], chosen: Any) -> Any:
    """[B] of the chosen mechanism, summed over the networks."""
    return ops.sum(sum(logits) * chosen, axis=1)


def _on_the_line(u: Any, low: tuple[Any, Any], high: tuple[Any, Any]) -> Any:
    """The line through (u_a, z_a) and (u_b, z_b), as a function of u between them."""
    (u_a, z_a), (u_b, z_b) = low, high
    width = u_b - u_a
    moves = width != 0
    slope = ops.where(moves, (z_b - z_a) / ops.where(moves, width, 1.0), 0.0)
    return (z_a + z_b) / 2 + slope * (u - (u_a + u_b) / 2)


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
