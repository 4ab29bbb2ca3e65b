"""TabNet's feature importance, mapped from the network's features back to the columns of the raw table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from moa_tf.data.schema import CONDITIONS
from moa_tf.errors import InputError
from moa_tf.layers import CategoryEmbedding, NearestIndex
from moa_tf.models.base import Explainer, Member
from moa_tf.models.tabnet.network import build_explainer
from moa_tf.preprocessing import PrincipalComponents, RowStatistics, VarianceThreshold


def column_shares(
    preprocessing: keras.Model, network: keras.Model, panel: Mapping[str, Any] | None = None
) -> np.ndarray:
    """How the importance of each of the network's features divides among the raw table's columns.

    - A scaled gene or cell belongs to its own column.
    - A principal component is divided by its squared loadings, which sum to 1.
    - A row statistic is divided equally among the columns that it is taken over.
    - Time, dose and cell line, as numbers or as embeddings, belong to `cp_time`, `cp_dose` and `cp_cell`.

    Args:
        preprocessing: of a model that reads a vector of features, fitted or loaded.
        network: a TabNet on top of it.
        panel: what has the panel's inputs with their shapes, as a `Member.baseline` does. Without it the columns are
            those of the inputs that the preprocessing reads.

    Returns:
        [F, R] float32 of shares; each row sums to 1. R are the `importance_columns`, F the network's
        features, columns of embeddings included.

    Raises:
        InputError: a part of the preprocessing whose columns are not known.
    """
    inputs = panel or preprocessing.input
    widths = {kind: inputs[kind].shape[-1] for kind in ("genes", "cells") if kind in inputs}
    treatment = [name for name in CONDITIONS if name in inputs]
    total = sum(widths.values()) + len(treatment)
    start = dict(zip(widths, np.cumsum([0, *widths.values()]), strict=False))
    place = {name: total - len(treatment) + index for index, name in enumerate(treatment)}

    def treated(name: str, width: int) -> np.ndarray:
        return np.eye(total, dtype=np.float32)[[place[name]] * width]

    parts = []
    for layer in _parts(preprocessing):
        kind, _, what = layer.name.partition("_")
        width = layer.output.shape[-1]
        if kind in widths:
            columns = start[kind] + np.asarray(_kept(preprocessing, kind, widths[kind]))
            shares = np.zeros((width, total), np.float32)
            shares[:, columns] = _kind_shares(layer, len(columns))
            parts.append(shares)
        elif f"cp_{kind}" in treatment and not what:
            parts.append(treated(f"cp_{kind}", width))
        else:
            raise InputError(f"explain: preprocessing has a layer {layer.name} whose columns are not known")
    embeddings = [layer for layer in network.layers if isinstance(layer, CategoryEmbedding)]
    categories = [layer for layer in preprocessing.layers if isinstance(layer, NearestIndex)]
    if embeddings:
        parts += [
            treated(f"cp_{layer.name.partition('_')[0]}", embeddings[0].embedding_dim) for layer in categories
        ]
    return np.concatenate(parts)


def _parts(preprocessing: keras.Model) -> list[keras.layers.Layer]:
    """The layers whose outputs lie side by side in `features`, in their order."""
    operation = preprocessing.output["features"]._keras_history.operation
    if not isinstance(operation, keras.layers.Concatenate):
        return [operation]
    return [tensor._keras_history.operation for tensor in operation.input]


def _kept(preprocessing: keras.Model, kind: str, width: int) -> Sequence[int]:
    names = {layer.name: layer for layer in preprocessing.layers}
    layer = names.get(f"{kind}_varying")
    return layer.columns if isinstance(layer, VarianceThreshold) else range(width)


def _kind_shares(layer: keras.layers.Layer, count: int) -> np.ndarray:
    """[width of the layer's output, count] shares among the kept columns of its kind."""
    if isinstance(layer, PrincipalComponents):
        squares = np.square(ops.convert_to_numpy(layer.kernel)).T
        return squares / squares.sum(axis=1, keepdims=True)
    if isinstance(layer, RowStatistics):
        return np.full((layer.output.shape[-1], count), 1.0 / count, np.float32)
    return np.eye(count, dtype=np.float32)


def explainer(
    preprocessing: keras.Model, network: keras.Model, panel: Mapping[str, Any] | None = None
) -> keras.Model:
    """A TabNet's importance of the raw table's columns.

    Args:
        preprocessing: fitted or loaded.
        network: a TabNet on top of it, trained or loaded.
        panel: as for `column_shares`.

    Returns:
        Keras model from the preprocessing's outputs to `logits` [B, T] and `importance` [B, R], not
        negative and summing to 1 in each row (to 0 where the network decided on nothing, Σ relu(d) = 0). R
        are the `importance_columns`.
    """
    shares = column_shares(preprocessing, network, panel)
    explained = build_explainer(network)
    divide = keras.layers.Dense(
        shares.shape[1], use_bias=False, trainable=False, dtype="float32", name="columns"
    )
    raw = divide(explained.output["importance"])
    divide.set_weights([shares])
    sums = ops.sum(raw, axis=-1, keepdims=True)
    importance = raw / ops.maximum(sums, keras.config.epsilon() ** 2)
    return keras.Model(network.input, {"logits": explained.output["logits"], "importance": importance})


def ensemble_explainer(members: Sequence[Member]) -> Explainer:
    """The mean importance and probability over all networks of a run.

    Args:
        members: of each fold.

    Returns:
        A function from the tensors of `spec.inputs` to `importance` [B, R], for all mechanisms in the parts that
        `probabilities` [B, T] give, and `target` [B] int32, the most probable one, or that of an input `target`, which
        changes nothing else. It can be called as it is, or become the `explain` signature of an export.
    """
    models = [
        (member.preprocessing, explainer(member.preprocessing, network, member.baseline))
        for member in members
        for network in member.networks
    ]

    def explain(inputs: dict[str, Any]) -> dict[str, Any]:
        importance = probabilities = 0.0
        for preprocessing, model in models:
            features = preprocessing({name: inputs[name] for name in preprocessing.input}, training=False)
            outputs = model(features, training=False)
            importance += outputs["importance"] / len(models)
            probabilities += ops.sigmoid(outputs["logits"]) / len(models)
        target = inputs["target"] if "target" in inputs else ops.argmax(probabilities, axis=1)
        target = ops.cast(target, "int32")
        return {"importance": importance, "probabilities": probabilities, "target": target}

    return explain
