"""The schema of the examples: what ExampleValidator holds a table to, written once and then curated by its user."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
from google.protobuf import text_format
from tensorflow_metadata.proto.v0 import path_pb2, schema_pb2
from tfx.proto import distribution_validator_pb2

from moa_tf.atomic import replacing
from moa_tf.data.schema import TYPES, Dataset
from moa_tf.errors import InputError
from pipelines.examples import DRUG, ID, NONSCORED, TARGETS, Panel

WIDER = 0.5
"""Ranges of numbers are those of the first table, wider by this part of it on either side."""

DIVERGENCE = 0.05
"""Largest Jensen-Shannon divergence of the numbers of two tables. Halves of real tables of some 300 drugs, dealt by
drug, differ by up to .01; a shift of all values by half a standard deviation makes .05 of a normal distribution."""

SHARES = 0.25
"""Largest difference of a word's share of the rows in two tables (L∞)."""

KINDS = {np.float32: schema_pb2.FLOAT, bytes: schema_pb2.BYTES}


def write_schema(file: Path, dataset: Dataset) -> None:
    """Writes the schema of a table's examples as text, to be read and changed by hand."""
    with replacing(file) as temporary:
        temporary.write_text(text_format.MessageToString(make_schema(dataset)), encoding="utf-8")


def keep_schema(file: Path, root: Path) -> Path:
    """The schema under a name that its content gives: ImportSchemaGen's cache knows it by its path alone.

    Raises:
        InputError: no file, or no schema in it.
    """
    if not file.is_file():
        raise InputError(f"{file}: no such file, expected a schema")
    content = file.read_bytes()
    try:
        text_format.Parse(content, schema_pb2.Schema())
    except (text_format.ParseError, UnicodeDecodeError) as error:
        raise InputError(f"{file}: {error}, expected a schema in text format") from None
    kept = root / "schemas" / hashlib.sha256(content).hexdigest()[:12] / "schema.pbtxt"
    kept.parent.mkdir(parents=True, exist_ok=True)
    kept.write_bytes(content)
    return kept


def make_schema(dataset: Dataset) -> schema_pb2.Schema:
    """The schema of a table's examples: each feature in every example, of its shape, words and range of numbers."""
    signatures, panel = dataset.signatures, Panel.of(dataset)
    schema = schema_pb2.Schema()
    for name, (shape, _) in panel.spec.inputs.items():
        words = TYPES if name == "cp_type" else panel.spec.codes.get(name)
        feature = _add(schema, name, shape, words is not None)
        values = getattr(signatures, name)
        if words is None:
            _set_range(feature, values, panel.spec.missing and name in ("genes", "cells"))
        elif name != "cp_cell":  # A model has a place for cell lines that it has never seen.
            feature.string_domain.value.extend(
                words if name == "cp_type" else sorted({*words, *[""] * _blank(values)})
            )
    for name in (ID, DRUG):
        _add(schema, name, (), True)
    for name, names in ((TARGETS, panel.targets), (NONSCORED, panel.nonscored)):
        if names:
            domain = _add(schema, name, (len(names),), False).float_domain
            domain.min, domain.max, domain.disallow_nan = 0, 1, True
    return schema


def _blank(codes: np.ndarray) -> bool:
    return bool((codes < 0).any())


def _add(schema: schema_pb2.Schema, name: str, shape: tuple[int, ...], text: bool) -> schema_pb2.Feature:
    feature = schema.feature.add(name=name, type=schema_pb2.BYTES if text else schema_pb2.FLOAT)
    feature.presence.min_fraction = 1
    feature.presence.min_count = 1
    for size in shape or (1,):
        feature.shape.dim.add(size=size)
    return feature


def _set_range(feature: schema_pb2.Feature, values: np.ndarray, missing: bool) -> None:
    low, high = float(np.nanmin(values)), float(np.nanmax(values))
    margin = WIDER * ((high - low) or abs(high) or 1)
    feature.float_domain.min, feature.float_domain.max = low - margin, high + margin
    feature.float_domain.disallow_nan = not missing
    feature.float_domain.disallow_inf = True


def drift_config(panel: Panel, labels: bool) -> distribution_validator_pb2.DistributionValidatorConfig:
    """How far a table may be from the one that was accepted before, or one to be predicted from the training table.

    Args:
        panel: what the examples hold.
        labels: whether both have labels.
    """
    config = distribution_validator_pb2.DistributionValidatorConfig()
    for name in [*panel.spec.inputs, *[TARGETS] * labels]:
        if name == "cp_cell":
            continue
        feature = config.default_slice_config.feature.add(path=path_pb2.Path(step=[name]))
        if name in panel.spec.codes:
            feature.distribution_comparator.infinity_norm.threshold = SHARES
        else:
            feature.distribution_comparator.jensen_shannon_divergence.threshold = DIVERGENCE
    return config
