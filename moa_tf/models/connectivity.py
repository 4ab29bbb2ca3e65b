"""Connectivity, learnt: a signature has the mechanisms of the drugs whose signatures are most similar to it."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Literal, NamedTuple

import keras
import numpy as np
from keras import ops

from moa_tf.config import require
from moa_tf.data.prior import prior as prior_of
from moa_tf.evaluation.metrics import mean_log_loss
from moa_tf.layers import Connectivity
from moa_tf.models.axes import principal_axes
from moa_tf.models.base import (
    Explainer,
    Family,
    Hyperparameters,
    Member,
    References,
    Task,
    Tensors,
    explain_by_gradients,
)
from moa_tf.models.space import feature_space
from moa_tf.models.tabular import SMALL_TABLE, TabularConfig, fit_preprocessing

LAYER = "connectivity"
NEIGHBOURS = 5
JUDGED = 1000
"""Of a large table so many rows of an inner fold are judged."""


@dataclass(frozen=True)
class ConnectivityConfig(TabularConfig):
    """What is chosen from on inner folds; all combinations are tried.

    Attributes:
        whitening: exponents α, from 0 (correlation) to 1 (each principal axis counts the same).
        ridges: shares λ of the axes' mean variance that is added to each before whitening.
        temperatures: τ of the softmax over similarities.
        mixing: shares ε of the prior.
        large: above this many training signatures only two inner folds are taken, and 1,000 rows of each judged.
    """

    scaling: Literal["rank-gauss", "standard"] = "standard"
    clip: float = 5.0
    row_standardise: bool = True
    treatment: bool = False
    whitening: tuple[float, ...] = (0.0, 0.5, 1.0)
    ridges: tuple[float, ...] = (0.1, 0.3, 1.0, 3.0, 10.0)
    temperatures: tuple[float, ...] = (0.02, 0.035, 0.05, 0.07, 0.1, 0.15, 0.2, 0.3, 1.0, 3.0)
    mixing: tuple[float, ...] = (0.01, 0.02, 0.05, 0.1, 0.2, 0.35, 0.5, 0.7, 0.85)
    large: int = 5000

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, low, high, expected in (
            ("whitening", 0.0, 1.0, "one or more, in [0, 1]"),
            ("ridges", 1e-6, np.inf, "one or more, at least 1e-6"),
            ("temperatures", 1e-3, np.inf, "one or more, at least 0.001"),
            ("mixing", 1e-3, 1.0, "one or more, in [0.001, 1]"),
        ):
            values = getattr(self, name)
            require(len(values) > 0 and low <= min(values) and max(values) <= high, name, values, expected)
        require(self.large >= 0, "large", self.large, "at least 0")


# A table's size changes how much is judged, not what is fitted.
PRESETS = MappingProxyType({name: Hyperparameters(ConnectivityConfig()) for name in ("small", "full")})


def choose_preset(signatures: int) -> str:
    """The preset for a table of that many signatures, where the user names none."""
    return "small" if signatures < SMALL_TABLE else "full"


def build(
    preprocessing: keras.Model, config: ConnectivityConfig, prior: np.ndarray, seed: int
) -> keras.Model:
    """The network, a `Connectivity` layer: before it holds references it predicts the prior.

    Args:
        preprocessing: gives `features` [B, F]; only its shape is used.
        config: unused; every family's function takes one.
        prior: [T] label means of the training fold.
        seed: unused, as nothing here is random.

    Returns:
        Keras model from `{"features": [B, F]}` to [B, T] float32 logits.
    """
    inputs = keras.Input(preprocessing.output["features"].shape[1:], name="features")
    layer = Connectivity(len(prior), dtype="float32", name=LAYER)
    network = keras.Model({"features": inputs}, layer(inputs), name="connectivity")
    layer.prior.assign(prior_of(np.asarray(prior)[None]))
    return network


class Chosen(NamedTuple):
    """One combination of settings; see `ConnectivityConfig`."""

    whitening: float = 0.5
    ridge: float = 1.0
    temperature: float = 0.1
    mixing: float = 0.5


class Library:
    """The drugs of some rows as references: a drug's signature is the mean of its rows.

    Compared are x ↦ (x − m) V diag((e + λ ē)^(−α/2)), with the rows' mean m, principal axes V, variances e along them
    and their mean ē.

    Args:
        x: [N, F] features.
        targets: [N, T], 0 or 1. A drug has the mechanisms of all its rows.
        drug: [N] ids.
    """

    def __init__(self, x: np.ndarray, targets: np.ndarray, drug: np.ndarray) -> None:
        self.prior, self.mean = prior_of(targets), x.mean(axis=0)
        squares, self.axes = principal_axes(x - self.mean)
        self.variances = squares / len(x)
        self.mean_variance = self.variances.sum() / min(x.shape)
        self.ids, first, place = np.unique(drug, return_index=True, return_inverse=True)
        order = np.argsort(place, kind="stable")
        starts = np.searchsorted(place[order], np.arange(len(first)))
        counts = np.diff([*starts, len(x)])
        self.references = np.add.reduceat(x[order], starts, axis=0) / counts[:, None]
        self.labels = np.maximum.reduceat(targets[order], starts, axis=0)
        self.along = (self.references - self.mean) @ self.axes

    def scales(self, whitening: float, ridge: float) -> np.ndarray:
        """[K] factors of the axes."""
        return (self.variances + ridge * self.mean_variance) ** (-whitening / 2)

    def losses(self, x: np.ndarray, targets: np.ndarray, config: ConnectivityConfig) -> dict[Chosen, float]:
        """Log loss of each combination on rows of other drugs."""
        along, losses = (x - self.mean) @ self.axes, {}
        for whitening, ridge in itertools.product(config.whitening, config.ridges):
            if whitening == 0 and ridge != config.ridges[0]:
                continue  # which would change nothing
            scales = self.scales(whitening, ridge)
            similarity = _unit(along * scales) @ _unit(self.along * scales).T
            for temperature in config.temperatures:
                near = np.exp((similarity - similarity.max(axis=1, keepdims=True)) / temperature)
                mean = near @ self.labels / near.sum(axis=1, keepdims=True)
                for mixing in config.mixing:
                    chosen = Chosen(whitening, ridge, temperature, mixing)
                    predicted = np.clip((1 - mixing) * mean + mixing * self.prior, 0, 1)
                    losses[chosen] = mean_log_loss(targets, predicted)
        return losses


def _unit(x: np.ndarray) -> np.ndarray:
    return x / np.sqrt(np.sum(x**2, axis=1, keepdims=True) + 1e-12)


def solve(network: keras.Model, task: Task, config: ConnectivityConfig) -> dict[str, Any]:
    """Chooses the similarity on the inner folds, where drugs are not among their own references, and holds all drugs.

    Args:
        network: from `build`.
        task: the training rows; controls among them are no references.
        config: what to choose from.

    Returns:
        `whitening`, `ridge`, `temperature`, `mixing`, and the `inner_log_loss` that they were chosen by, None where
        nothing could be held out: then they are middling ones.
    """
    x, large = task.features["features"].astype(np.float64), len(task.targets) > config.large

    def library(rows: np.ndarray) -> Library:
        rows = rows[task.treated[rows]]
        return Library(x[rows], task.targets[rows], task.drug[rows])

    totals: dict[Chosen, float] = {}
    judgements = 0
    for rows, judged in task.inner[: 2 if large else None]:
        if large and len(judged) > JUDGED:
            judged = np.random.default_rng(0).choice(judged, JUDGED, replace=False)
        for chosen, loss in library(rows).losses(x[judged], task.targets[judged], config).items():
            totals[chosen] = totals.get(chosen, 0.0) + loss * len(judged)
        judgements += len(judged)
    chosen = min(totals, key=totals.__getitem__) if totals else Chosen()
    held = library(np.arange(len(x)))
    network.get_layer(LAYER).hold(
        held.ids,
        held.references,
        held.labels,
        mean=held.mean,
        projection=held.axes * held.scales(chosen.whitening, chosen.ridge),
        temperature=chosen.temperature,
        mixing=chosen.mixing,
        prior=held.prior,
    )
    return {**chosen._asdict(), "inner_log_loss": totals[chosen] / judgements if totals else None}


def references(members: Sequence[Member]) -> References:
    """The drugs that any of the networks holds."""
    layers = [network.get_layer(LAYER) for member in members for network in member.networks]
    ids = sorted({name for layer in layers for name in layer.ids})
    place = {name: k for k, name in enumerate(ids)}
    labels = np.zeros((len(ids), layers[0].targets), bool)
    for layer in layers:
        if layer.ids:
            labels[[place[name] for name in layer.ids]] |= ops.convert_to_numpy(layer.labels).astype(bool)
    return References(tuple(ids), labels)


def explain(members: Sequence[Member]) -> Explainer:
    """Integrated gradients, and the references that a signature's mechanisms come from.

    Args:
        members: of each fold. A reference's weight is the mean of the networks', 0 in those that do not hold it; its
            similarity the mean of those that do.

    Returns:
        Function from the tensors of the panel's inputs to what `explain_by_gradients` gives, and `neighbours` [B, K]
        int32, places in `references(members).ids`, heaviest first, and their `similarity` [B, K] float32.
    """
    by_gradients = explain_by_gradients(members)
    ids = references(members).ids
    if not ids:
        return by_gradients
    holders = []
    for member in members:
        for network in member.networks:
            layer = network.get_layer(LAYER)
            column = {name: k for k, name in enumerate(layer.ids)}
            # What is not held is read from a further column of zeros.
            columns = np.array([column.get(name, len(column)) for name in ids], np.int32)
            holders.append((member.preprocessing, layer, columns))
    held = np.sum([columns < len(layer.ids) for _, layer, columns in holders], axis=0).astype(np.float32)

    def neighbours(inputs: Tensors) -> Tensors:
        weight = similarity = 0.0
        for preprocessing, layer, columns in holders:
            read = {name: inputs[name] for name in preprocessing.input}
            similar = layer.similarity(preprocessing(read, training=False)["features"])
            zeros = ops.zeros_like(similar[:, :1])
            weight += ops.take(ops.concatenate([layer.attention(similar), zeros], axis=1), columns, axis=1)
            similarity += ops.take(ops.concatenate([similar, zeros], axis=1), columns, axis=1)
        _, places = ops.top_k(weight, min(NEIGHBOURS, len(ids)))
        mean = similarity / ops.convert_to_tensor(held)
        return {
            "neighbours": ops.cast(places, "int32"),
            "similarity": ops.take_along_axis(mean, places, axis=1),
        }

    return lambda inputs: {**by_gradients(inputs), **neighbours(inputs)}


FAMILY = Family(
    "connectivity",
    PRESETS,
    choose_preset,
    fit_preprocessing,
    build,
    explain=explain,
    solve=solve,
    space=feature_space,
    references=references,
    joins=None,
)
