"""How alive the cells are under each mechanism: the mean over a panel's cell lines."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from moa_tf.data.schema import Dataset
from moa_tf.evaluation.exploration.part import BLUE, GREEN, RED, Part, count, label, new_figure, numbers, tidy
from moa_tf.evaluation.page import Section, figure
from moa_tf.explanation.figures import plain_style

FEWEST = 5
"""Signatures that a target must have to be drawn: the mean of fewer is chance."""

CENTRED = 0.05
"""Where means over cell lines spread less than this share of what values do, they have been set to 0."""

_DRAWN = 25


def mean_viability(cells: np.ndarray) -> np.ndarray:
    """[N] float64 means of [N, C] over the cell lines that are known; NaN where none is."""
    known = ~np.isnan(cells)
    with np.errstate(invalid="ignore"):
        return np.where(known, cells, 0).sum(1, dtype=np.float64) / known.sum(1)


def viability_of_targets(viability: np.ndarray, labels: np.ndarray, names: tuple[str, ...]) -> pd.DataFrame:
    """Mean viability of the rows that have each target.

    Args:
        viability: [N] from `mean_viability`; NaN is left out.
        labels: [N, T], 0 or 1.
        names: T names.

    Returns:
        Rows of `target`, `signatures`, `mean`, `p25`, `p75`, `difference` (to the mean of all rows), the largest
        difference first; targets without rows are left out.
    """
    known = ~np.isnan(viability)
    overall, found = viability[known].mean(), []
    for name, column in zip(names, labels.T, strict=True):
        values = viability[known & (column > 0)]
        if len(values):
            low, high = np.quantile(values, [0.25, 0.75])
            found.append((name, len(values), values.mean(), low, high, values.mean() - overall))
    table = pd.DataFrame(found, columns=["target", "signatures", "mean", "p25", "p75", "difference"])
    return table.sort_values("difference", key=lambda d: -d.abs(), kind="stable", ignore_index=True)


def explore_viability(dataset: Dataset) -> Part | None:
    """A section on viability and mechanism, where the panel has cell lines."""
    cells, control = dataset.signatures.cells, dataset.signatures.control
    if cells is None:
        return None
    viability = mean_viability(cells)
    labelled = dataset.targets.any(1)
    groups = {
        "with a target": viability[~control & labelled],
        "without": viability[~control & ~labelled],
        "controls": viability[control],
    }
    groups = {name: values[~np.isnan(values)] for name, values in groups.items()}
    groups = {name: values for name, values in groups.items() if len(values)}
    if not groups.keys() - {"controls"}:
        return None
    table = viability_of_targets(viability[~control], dataset.targets[~control], dataset.target_names)
    drawn = table[table["signatures"] >= FEWEST].head(_DRAWN).sort_values("mean", kind="stable")
    overall = float(np.nanmean(viability[~control]))
    means = ", ".join(f"{name} {values.mean():.3g}" for name, values in groups.items())
    lines = count(cells.shape[1], "cell line")
    caption = f"Viability, the mean over {lines}, is {overall:.3g} in treated signatures ({means}). "
    if len(drawn):
        furthest = drawn.sort_values("difference", key=lambda d: -d.abs(), kind="stable").head(3)
        ends = ", ".join(f"{row.target} ({row.mean:.3g})" for row in furthest.itertuples())
        caption += (
            f"Furthest from it are {ends}, of the targets with at least {FEWEST} signatures. A dot is a target's mean, "
            "its line the middle half of its signatures."
        )
    if np.nanstd(viability) < CENTRED * np.nanstd(cells):
        caption += (
            " The means hardly differ beside single values: the table seems to be normalised within each signature, "
            "and says which cell lines a drug acts on, but not how strongly."
        )
    alt = "Densities of mean viability by kind of signature; mean and middle half of the targets furthest from it."
    part = figure(_draw(groups, drawn, overall), alt, caption, numbers("viability.csv", table))
    figures = {"mean_viability": {name: float(values.mean()) for name, values in groups.items()}}
    section = Section("viability-by-target", "Viability by mechanism", (part,))
    return Part(section, {"viability.csv": table}, figures)


@plain_style()
def _draw(groups: dict[str, np.ndarray], table: pd.DataFrame, overall: float) -> Any:
    drawing = new_figure(9, max(3.2, 1 + 0.2 * len(table)))
    left, right = drawing.subplots(1, 2, width_ratios=(1, 1.1)) if len(table) else (drawing.subplots(), None)
    everything = np.concatenate(list(groups.values()))
    low, high = np.quantile(everything, [0.002, 0.998])
    low, high = (low, high) if high > low else (low - 0.5, high + 0.5)
    for (name, values), colour in zip(groups.items(), (BLUE, GREEN, RED), strict=False):
        rows, edges = np.histogram(values, 40, (low, high))
        density = rows / len(values) / (edges[1] - edges[0])
        left.stairs(density, edges, color=colour, lw=1.4, label=f"{name} ({len(values):,})")
    left.legend(fontsize=8, frameon=False)
    tidy(left, "signatures", "mean viability", "density")
    if right is not None:
        places = np.arange(len(table))
        right.hlines(places, table["p25"], table["p75"], color=BLUE, lw=2, alpha=0.5)
        right.plot(table["mean"], places, "o", color=BLUE, ms=4)
        right.axvline(overall, color="#555555", lw=0.8, ls="--")
        right.set_yticks(places, [f"{label(row.target)} ({row.signatures})" for row in table.itertuples()])
        right.invert_yaxis()
        tidy(right, "targets (signatures); dashed: all treated", "mean viability")
    return drawing
