"""Importance of raw features over a whole table: per signature, per mechanism, and in all, in flat memory."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from moa_tf.data.schema import Signatures
from moa_tf.errors import InputError
from moa_tf.explanation.figures import plain_style, save_figure
from moa_tf.explanation.symbols import label_columns, name_columns

Explain = Callable[[Signatures], tuple[np.ndarray, np.ndarray]]
"""Signatures -> importance [B, R] and probabilities [B, T]."""


@dataclass
class ImportanceSums:
    """What is kept of a table's importance: sums, whose size does not depend on its length.

    Attributes:
        columns: R names of raw columns.
        targets: T names of mechanisms.
        rows: number of signatures seen.
        total: [R] sum of importance over signatures.
        weighted: [T, R] sum of importance, each signature weighted by the mechanism's probability.
        weights: [T] sum of these probabilities.
    """

    columns: tuple[str, ...]
    targets: tuple[str, ...]
    rows: int
    total: np.ndarray
    weighted: np.ndarray
    weights: np.ndarray

    @classmethod
    def empty(cls, columns: Sequence[str], targets: Sequence[str]) -> ImportanceSums:
        shape = (len(targets), len(columns))
        return cls(tuple(columns), tuple(targets), 0, np.zeros(shape[1]), np.zeros(shape), np.zeros(shape[0]))

    def add(self, importance: np.ndarray, probabilities: np.ndarray) -> None:
        """Adds [B, R] importance and [B, T] probabilities."""
        importance, probabilities = np.asarray(importance, np.float64), np.asarray(probabilities, np.float64)
        self.rows += len(importance)
        self.total += importance.sum(axis=0)
        self.weighted += probabilities.T @ importance
        self.weights += probabilities.sum(axis=0)

    @property
    def overall(self) -> np.ndarray:
        """[R] mean importance over signatures."""
        return self.total / max(self.rows, 1)

    @property
    def by_target(self) -> np.ndarray:
        """[T, R] mean importance over signatures, weighted by the mechanism's probability."""
        return self.weighted / np.maximum(self.weights, 1e-30)[:, None]


def explain_table(
    explain: Explain,
    parts: Iterable[Signatures],
    columns: Sequence[str],
    targets: Sequence[str],
    out: Path,
    *,
    top: int = 10,
    names: dict[str, str] | None = None,
    progress: Callable[[int], None] = lambda rows: None,
) -> ImportanceSums:
    """Explains a table piece by piece and writes each signature's most important features.

    Controls count in no mechanism, as their probability is 0.

    Args:
        explain: gives importance and probabilities of a few signatures.
        parts: the table in pieces; each is explained by itself.
        columns: R names that belong to the importance.
        targets: T names that belong to the probabilities.
        out: `.parquet` file of `sig_id`, `rank` (from 1), `feature`, `name`, `importance`.
        top: number of features a signature.
        names: what to call columns, from `read_gene_names`.
        progress: is called with the number of rows just done.

    Raises:
        InputError: `top` below 1, or importance that does not fit the columns.
    """
    import pyarrow as pa
    from pyarrow import parquet

    if top < 1:
        raise InputError(f"top={top}: expected at least 1")
    top = min(top, len(columns))
    called = np.asarray(name_columns(columns, names or {}), object)
    labels = np.asarray(columns, object)
    sums = ImportanceSums.empty(columns, targets)
    schema = pa.schema(
        [
            ("sig_id", pa.string()),
            ("rank", pa.int32()),
            ("feature", pa.string()),
            ("name", pa.string()),
            ("importance", pa.float32()),
        ]
    )
    with parquet.ParquetWriter(out, schema) as writer:
        for part in parts:
            importance, probabilities = explain(part)
            # A model that does not read time and dose gives nothing for them: they come last, and count 0.
            unread = len(columns) - importance.shape[1]
            if unread > 0 and all(name.startswith("cp_") for name in columns[-unread:]):
                importance = np.pad(importance, ((0, 0), (0, unread)))
            if importance.shape[1:] != (len(columns),):
                raise InputError(f"importance of {importance.shape[1]} columns: expected {len(columns)}")
            probabilities = np.where(part.control[:, None], 0.0, probabilities)
            sums.add(importance, probabilities)
            best = np.argsort(-importance, axis=1, kind="stable")[:, :top]
            values = np.take_along_axis(importance, best, axis=1)
            arrays: list[Any] = [
                np.repeat(part.sig_id, top),
                np.tile(np.arange(1, top + 1, dtype=np.int32), len(part)),
                labels[best].ravel(),
                called[best].ravel(),
                values.astype(np.float32).ravel(),
            ]
            writer.write_table(pa.Table.from_arrays([pa.array(a) for a in arrays], schema=schema))
            progress(len(part))
    return sums


def overall_table(sums: ImportanceSums, names: dict[str, str] | None = None) -> pd.DataFrame:
    """One row a column, most important first: `feature`, `name`, `importance` (mean over signatures)."""
    called = name_columns(sums.columns, names or {})
    table = pd.DataFrame({"feature": sums.columns, "name": called, "importance": sums.overall})
    return table.sort_values("importance", ascending=False, kind="stable").reset_index(drop=True)


def mechanism_table(sums: ImportanceSums, top: int = 10, names: dict[str, str] | None = None) -> pd.DataFrame:
    """The `top` features of every mechanism, by how far they exceed their importance over all signatures.

    Returns:
        Rows of `mechanism`, `rank`, `feature`, `name`, `importance` (mean weighted by the mechanism's
        probability), `excess` (that minus the mean over all signatures).
    """
    called = np.asarray(name_columns(sums.columns, names or {}), object)
    importance, columns = sums.by_target, np.asarray(sums.columns, object)
    excess = importance - sums.overall
    top = min(top, len(columns))
    best = np.argsort(-excess, axis=1, kind="stable")[:, :top]
    return pd.DataFrame(
        {
            "mechanism": np.repeat(np.asarray(sums.targets, object), top),
            "rank": np.tile(np.arange(1, top + 1), len(sums.targets)),
            "feature": columns[best].ravel(),
            "name": called[best].ravel(),
            "importance": np.take_along_axis(importance, best, axis=1).ravel(),
            "excess": np.take_along_axis(excess, best, axis=1).ravel(),
        }
    )


@plain_style()
def plot_mechanisms(
    sums: ImportanceSums,
    path: Path,
    *,
    mechanisms: int = 12,
    top: int = 8,
    names: dict[str, str] | None = None,
) -> None:
    """Draws the top features of those mechanisms that are predicted most, a panel each.

    A bar is a feature's importance for the mechanism, the line on it its importance over all signatures. The features
    are those of `mechanism_table`, which exceed that the most; the longest bar comes first.

    Args:
        sums: from `explain_table`.
        path: image to write.
        mechanisms: number of panels at most.
        top: features a panel.
        names: what to call columns.
    """
    from matplotlib.figure import Figure

    table = mechanism_table(sums, top)
    labels = dict(zip(sums.columns, label_columns(sums.columns, names or {}), strict=True))
    chosen = np.argsort(-sums.weights, kind="stable")[:mechanisms]
    # A mechanism that nothing counts for has no features; with controls alone one empty panel says so.
    chosen = [target for target in chosen if sums.weights[target] > 0] or chosen[:1]
    width = min(3, len(chosen))
    height = -(-len(chosen) // width)
    figure = Figure(figsize=(4.6 * width, 0.6 + 0.26 * height * (top + 3)), layout="constrained")
    overall = dict(zip(sums.columns, sums.overall, strict=True))
    for index, target in enumerate(chosen):
        rows = table[table["mechanism"] == sums.targets[target]]
        rows = rows.sort_values("importance", ascending=False, kind="stable")[::-1]
        axis = figure.add_subplot(height, width, index + 1)
        places = np.arange(len(rows))  # not names: those of two genes may be one
        axis.barh(places, rows["importance"], color="#4477aa")
        marks = [overall[feature] for feature in rows["feature"]]
        axis.scatter(marks, places, marker="|", color="#222222", s=80, label="all signatures")
        axis.set_yticks(places, [labels[feature] for feature in rows["feature"]])
        axis.set_title(sums.targets[target].replace("_", " "), fontsize=9)
        axis.tick_params(labelsize=7)
        axis.spines[["top", "right"]].set_visible(False)
        if index == 0:
            axis.legend(fontsize=7, frameon=False, loc="lower right")
    figure.supxlabel(
        "mean share of importance, weighted by the mechanism's probability\n"
        "(of the features that exceed their share over all signatures the most)",
        fontsize=9,
    )
    save_figure(figure, path, dpi=150)
