"""Preprocessing for the models that read features as numbers, in a vector or several."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

import keras
import numpy as np

from moa_tf.config import require
from moa_tf.data.schema import CONDITIONS, Signatures
from moa_tf.errors import InputError
from moa_tf.models.base import ModelConfig
from moa_tf.preprocessing import (
    LogDose,
    MedianImputation,
    OneHot,
    PrincipalComponents,
    QuantileToNormal,
    RowStatistics,
    TimeEncoding,
    VarianceThreshold,
)
from moa_tf.preprocessing.inputs import make_inputs

SMALL_TABLE = 5000
"""Below this many training signatures a family's preset `small` is taken by itself."""

SMALL_SCALING = MappingProxyType({"scaling": "standard", "clip": 5.0, "row_standardise": True})
"""For tables of some hundred signatures. How a signature's features compare with one another says more of its mechanism
than how large they are, and outliers say more than their ranks: `moa-tf train --model linear` has log loss .0686 on
NCI-60 and .1090 on GDSC by these, .0718 and .1186 by `--set scaling=rank-gauss --set clip=0 --set
row_standardise=false`."""


ROW_NOISE = 0.25
"""Added to a row's variance, in squared standard deviations of features, before the row is divided by its root: a
signature that hardly varies (no response, or all cells dead) has no shape, and noise is not to be blown up to one."""


@dataclass(frozen=True)
class TabularConfig(ModelConfig):
    """How raw signatures become one vector.

    Attributes:
        scaling: `rank-gauss` maps through training quantiles to a normal; `standard` subtracts the mean and
            divides by the standard deviation.
        n_quantiles: knots of rank-Gauss for each feature.
        clip: scaled features are cut off at ± this many standard deviations; 0 for none.
        row_standardise: then give each signature mean 0 and variance 1 over its genes, and over its cells, so that
            its direction alone is left, as in a correlation of signatures.
        variance_threshold: raw features whose training variance is at or below it are dropped.
        keep_scaled: feed the scaled genes and cells themselves, beside what is derived from them.
        gene_components: principal components of the scaled genes; 0 for none.
        cell_components: principal components of the scaled cells; 0 for none.
        row_statistics: add mean, standard deviation, skewness, kurtosis of the scaled genes and cells.
        treatment: feed dose, time and cell line.
    """

    scaling: Literal["rank-gauss", "standard"] = "rank-gauss"
    n_quantiles: int = 100
    clip: float = 0.0
    row_standardise: bool = False
    variance_threshold: float = 0.0
    keep_scaled: bool = True
    gene_components: int = 0
    cell_components: int = 0
    row_statistics: bool = False
    treatment: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.n_quantiles >= 2, "n_quantiles", self.n_quantiles, "at least 2")
        require(self.clip >= 0, "clip", self.clip, "at least 0")
        require(self.gene_components >= 0, "gene_components", self.gene_components, "at least 0")
        require(self.cell_components >= 0, "cell_components", self.cell_components, "at least 0")
        require(
            self.keep_scaled or self.gene_components > 0,
            "keep_scaled",
            self.keep_scaled,
            "true unless gene_components is above 0",
        )


@dataclass(frozen=True)
class Parts:
    """Fitted layers from the panel's inputs to what a family joins, as it likes, to its network's inputs.

    Attributes:
        inputs: those that are read.
        raw: kind -> [N, F] values of the training rows, of the features that vary, missing ones filled.
        scaled: kind -> the same features, scaled, of a batch.
        derived: gene components, cell components, gene statistics, cell statistics, time, dose, cell line, as far as
            configuration and panel have them.
    """

    inputs: dict[str, keras.KerasTensor]
    raw: dict[str, np.ndarray]
    scaled: dict[str, keras.KerasTensor]
    derived: list[keras.KerasTensor]


def fit_preprocessing(signatures: Signatures, config: TabularConfig, seed: int) -> keras.Model:
    """Fits every layer on these rows and joins them to one model.

    Args:
        signatures: the training fold's rows, and no others.
        config: which layers.
        seed: unused, as nothing here is random; every family's function takes one.

    Returns:
        Keras model from those of the panel's inputs that are used to `{"features": [B, F] float32}`.
        The order: genes, cells, gene components, cell components, gene statistics, cell statistics, time, dose, cell
        line.

    Raises:
        InputError: no feature varies.
    """
    parts = fit_parts(signatures, config)
    return keras.Model(parts.inputs, {"features": feature_vector(parts, config)}, name="preprocessing")


def feature_vector(parts: Parts, config: TabularConfig) -> keras.KerasTensor:
    """[B, F], all parts in one vector."""
    return join([*(parts.scaled.values() if config.keep_scaled else ()), *parts.derived], "features")


def join(parts: Sequence[keras.KerasTensor], name: str) -> keras.KerasTensor:
    """Vectors side by side, by a layer called `name` if there is more than one."""
    return parts[0] if len(parts) == 1 else keras.layers.Concatenate(name=name)(parts)


def fit_parts(signatures: Signatures, config: TabularConfig) -> Parts:
    """Fits every layer on these rows; see `fit_preprocessing`."""
    spec = signatures.spec
    conditions = CONDITIONS if config.treatment else ()
    inputs = make_inputs(spec, ("genes", "cells", *conditions))
    components = {"genes": config.gene_components, "cells": config.cell_components}
    raw, scaled, projected, statistics = {}, {}, [], []
    for kind in ("genes", "cells"):
        if kind not in inputs:
            continue
        keep = VarianceThreshold(config.variance_threshold, name=f"{kind}_varying")
        values, filled = fill_missing(inputs[kind], signatures, kind, config)
        try:
            keep.adapt(values)
        except ValueError:
            continue  # A kind that does not vary over these rows says nothing.
        # Mostly all, and a copy is as large as the table.
        raw[kind] = values if len(keep.columns) == values.shape[1] else values[:, keep.columns]
        scale = _scaling(config, f"{kind}_scaled")
        scale.adapt(raw[kind])
        symbol = scaled[kind] = _standardised(scale(keep(filled)), kind, config)
        if components[kind]:
            project = PrincipalComponents(components[kind], name=f"{kind}_components")
            project.adapt(apply(inputs[kind], symbol, getattr(signatures, kind)))
            projected.append(project(symbol))
        if config.row_statistics:
            statistics.append(RowStatistics(name=f"{kind}_statistics")(symbol))
    if not raw:
        raise InputError(
            f"variance_threshold={config.variance_threshold:g}: no feature varies more than that over the "
            f"{len(signatures)} training signatures"
        )
    read = {name: inputs[name] for name in inputs if name not in ("genes", "cells") or name in raw}
    return Parts(read, raw, scaled, [*projected, *statistics, *_treatment(inputs, signatures)])


def fill_missing(
    symbol: keras.KerasTensor, signatures: Signatures, kind: str, config: ModelConfig
) -> tuple[np.ndarray, keras.KerasTensor]:
    """The features of a kind without missing values, where the panel may have some; else as they are.

    Args:
        symbol: the input `kind`.
        signatures: the training fold's rows.
        kind: `genes` or `cells`.
        config: says how much may be missing.

    Returns:
        [N, F] float32 values, and the symbol for the same of a batch.
    """
    values = getattr(signatures, kind)
    if not signatures.spec.missing:
        return values, symbol
    fill = MedianImputation(config.max_missing, name=f"{kind}_filled", dtype="float32")
    fill.adapt(values)
    median, used = (keras.ops.convert_to_numpy(weight) for weight in (fill.median, fill.used))
    return np.where(np.isnan(values) | (used == 0), median, values), fill(symbol)


def apply(inputs: keras.KerasTensor, outputs: keras.KerasTensor, values: np.ndarray) -> np.ndarray:
    """What `outputs` are for [N, F] values of `inputs`, some thousand rows at a time."""
    model = keras.Model(inputs, outputs)
    # predict() would set up a parallel input pipeline, which op determinism takes apart with error messages.
    found, done = None, 0
    for block in np.array_split(values, max(1, len(values) // 4096)):
        part = model.predict_on_batch(block)
        found = np.empty((len(values), *part.shape[1:]), part.dtype) if found is None else found
        found[done : done + len(part)] = part
        done += len(part)
    return found


def _scaling(config: TabularConfig, name: str) -> keras.layers.Layer:
    if config.scaling == "rank-gauss":
        return QuantileToNormal(config.n_quantiles, name=name)
    return keras.layers.Normalization(name=name)


def _standardised(scaled: keras.KerasTensor, kind: str, config: TabularConfig) -> keras.KerasTensor:
    if config.clip:
        scaled = keras.ops.clip(scaled, -config.clip, config.clip)
    if config.row_standardise:
        name = f"{kind}_row_standardised"
        scaled = keras.layers.LayerNormalization(center=False, scale=False, epsilon=ROW_NOISE, name=name)(
            scaled
        )
    return scaled


def _treatment(inputs: dict[str, keras.KerasTensor], signatures: Signatures) -> list[keras.KerasTensor]:
    spec, parts = signatures.spec, []
    if "cp_time" in inputs:
        time = TimeEncoding(name="time")
        time.adapt(np.asarray(signatures.cp_time))
        parts.append(time(inputs["cp_time"]))
    for name, words in (("cp_dose", spec.doses), ("cp_cell", spec.cell_lines)):
        if name not in inputs:
            continue
        label = name.removeprefix("cp_")
        encoding = OneHot(len(words), name=label) if name in spec.codes else LogDose(name=label)
        encoding.adapt(np.asarray(getattr(signatures, name)))
        parts.append(encoding(inputs[name]))
    return parts
