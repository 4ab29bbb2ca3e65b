"""What can be explained: a run directory or an exported model, behind one face."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd

from moa_tf.data.schema import Signatures, SignatureSpec
from moa_tf.errors import InputError
from moa_tf.models.base import importance_columns
from moa_tf.serving.versions import REFERENCES

if TYPE_CHECKING:
    from moa_tf.serving.predict import ServedModel


class Explanation(NamedTuple):
    """Of B signatures.

    Attributes:
        importance: [B, R], see `Source.columns`.
        probabilities: [B, T] of the mechanisms.
        features: [B, F] scaled features that a DeepInsight's images are drawn from, else None.
        neighbours: [B, K] places in `Source.references` of the drugs that the prediction comes from, else None.
        similarity: [B, K] to these, else None.
    """

    importance: np.ndarray
    probabilities: np.ndarray
    features: np.ndarray | None
    neighbours: np.ndarray | None = None
    similarity: np.ndarray | None = None


@dataclass(frozen=True)
class Source:
    """A model that gives importance.

    Attributes:
        spec: the panel that it takes.
        columns: R names of the columns that importance is given for.
        targets: T names of mechanisms.
        explain: computes a few signatures at a time, as an image model's memory demands.
        pixels: [F, 2] row and column of each feature in a DeepInsight's image, else None.
        image_size: pixels on a side of that image.
        drawn: [F] which of the R columns these features are, else None.
        grid: rows and columns of the maps that importance is read from; () where the model does not say.
        references: `drug` and `mechanisms` of the drugs whose signatures the model holds, else None.
    """

    spec: SignatureSpec
    columns: tuple[str, ...]
    targets: tuple[str, ...]
    explain: Callable[[Signatures], Explanation]
    pixels: np.ndarray | None = None
    image_size: int = 0
    drawn: np.ndarray | None = None
    grid: tuple[int, ...] = ()
    references: pd.DataFrame | None = None


def open_source(path: Path) -> Source:
    """Loads a run (it has a `run.json`) or an exported model, whichever `path` is.

    Raises:
        InputError: neither, or an export without the signature `explain`.
    """
    return _open_run(path) if (path / "run.json").is_file() else _open_saved_model(path)


def _read_outputs(outputs: Mapping[str, Any], targets: int) -> Explanation:
    """Importance that is for one mechanism a signature counts for that one alone: it gets probability 1."""
    # Exports of version 0.1.0 give a DeepInsight's activation by itself.
    importance = outputs["importance" if "importance" in outputs else "activation"].numpy()
    sums = importance.sum(axis=1, keepdims=True)
    if "probabilities" in outputs:
        probabilities = outputs["probabilities"].numpy()
    else:
        probabilities = np.eye(targets, dtype=np.float32)[outputs["target"].numpy()]
    features = outputs["features"].numpy() if "features" in outputs else None
    near = [outputs[name].numpy() if name in outputs else None for name in ("neighbours", "similarity")]
    return Explanation(importance / np.where(sums > 0, sums, 1.0), probabilities, features, *near)


def _open_run(path: Path) -> Source:
    import tensorflow as tf

    from moa_tf.ensemble.opening import open_run
    from moa_tf.serving.export import suggest_batch_size
    from moa_tf.serving.run_export import reference_table

    opened = open_run(path)
    targets = opened.description["targets"]
    function = tf.function(opened.explainer(), reduce_retracing=True)

    def explain(signatures: Signatures) -> dict[str, Any]:
        return function({name: tf.constant(value) for name, value in signatures.inputs().items()})

    references = reference_table(opened.references(), targets) if opened.has_references else None
    batch_size = suggest_batch_size(opened.ensemble.members)
    return _source(opened.spec, tuple(targets), explain, batch_size, references)


def _open_saved_model(path: Path) -> Source:
    from moa_tf.serving.predict import load_model

    return served_source(load_model(path))


def served_source(served: ServedModel) -> Source:
    """Of an exported model that is loaded.

    Raises:
        InputError: it has no signature `explain`.
    """
    from moa_tf.serving.predict import raw_inputs

    if "explain" not in served.loaded.signatures:
        raise InputError(
            f"{served.path}: a {served.metadata.get('model')} without the signature explain; expected an export by "
            "this version"
        )
    signature = served.loaded.signatures["explain"]

    def explain(signatures: Signatures) -> dict[str, Any]:
        return signature(**raw_inputs(signatures))

    table = served.path / "assets" / REFERENCES
    references = pd.read_csv(table, dtype=str, keep_default_na=False) if table.exists() else None
    batch_size = served.metadata.get("batch_size", 32)
    return _source(served.spec, served.target_names, explain, batch_size, references)


def _source(
    spec: SignatureSpec,
    targets: tuple[str, ...],
    outputs_of: Callable[[Signatures], dict[str, Any]],
    batch_size: int,
    references: pd.DataFrame | None,
) -> Source:
    def explain(signatures: Signatures) -> Explanation:
        starts = range(0, max(len(signatures), 1), batch_size)
        parts = [
            _read_outputs(outputs_of(signatures.take(np.s_[start : start + batch_size])), len(targets))
            for start in starts
        ]
        together = zip(*parts, strict=True)
        return Explanation(*(None if several[0] is None else np.concatenate(several) for several in together))

    # A map, where the family has one, is among the outputs whatever the signature.
    outputs = outputs_of(_placeholder(spec))
    pixels = outputs["pixels"].numpy() if "pixels" in outputs else None
    size = int(outputs["image_size"]) if "pixels" in outputs else 0
    drawn = None
    if pixels is not None:  # Exports of version 0.1.0 draw all.
        drawn = outputs["columns"].numpy() if "columns" in outputs else np.arange(len(pixels))
    grid = tuple(outputs["grid"].numpy().tolist()) if "grid" in outputs else ()
    columns = importance_columns(spec)
    return Source(spec, columns, targets, explain, pixels, size, drawn, grid, references)


def _placeholder(spec: SignatureSpec) -> Signatures:
    # No time and no dose is 0, and every category has a code 0.
    make = {"int32": np.zeros, "float32": np.ones}
    inputs = {name: make[dtype]((1, *shape), dtype) for name, (shape, dtype) in spec.inputs.items()}
    return Signatures(spec, np.array(["none"], object), **({"genes": None} | inputs))
