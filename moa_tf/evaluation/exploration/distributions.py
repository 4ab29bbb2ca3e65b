"""How the values of genes and of cell lines are distributed, and which are missing."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from moa_tf.data.schema import Dataset, Signatures
from moa_tf.evaluation.exploration.matrix import COLUMNS, MOST_MISSING
from moa_tf.evaluation.exploration.part import (
    BLUE,
    RED,
    Part,
    count,
    label,
    new_figure,
    numbers,
    percent,
    tidy,
)
from moa_tf.evaluation.page import Html, Section, figure, paragraph
from moa_tf.explanation.figures import plain_style

KINDS = {"genes": ("expression", "gene"), "cells": ("viability", "cell line")}
"""Attribute of `Signatures` -> what its values are, and of what."""

BINS = 80
TAILS = 0.001
"""Share of values beyond each end of a histogram; LINCS goes from −207 to +203."""


_EXAMPLES = (
    ("mean", "idxmin", "lowest mean"),
    ("mean", "idxmax", "highest mean"),
    ("deviation", "idxmin", "narrowest"),
    ("deviation", "idxmax", "widest"),
)


def describe_features(values: np.ndarray, names: tuple[str, ...], control: np.ndarray) -> pd.DataFrame:
    """Moments of each column.

    Args:
        values: [N, F]; NaN is a missing value.
        names: F names.
        control: [N] bool; all but `control_mean` is over the other rows.

    Returns:
        F rows of `feature`, `missing` (share), `mean`, `deviation` (the root of the mean square), `skewness` (the mean
        cube of the standardised values), `minimum`, `maximum`, `control_mean`; NaN where there is no value.
    """
    blocks = []
    for start in range(0, values.shape[1], COLUMNS):
        block = values[:, start : start + COLUMNS].astype(np.float64)
        blocks.append(_moments(block[~control]) | {"control_mean": _moments(block[control])["mean"]})
    columns = {key: np.concatenate([block[key] for block in blocks]) for key in blocks[0]}
    return pd.DataFrame({"feature": names, **columns})


def _moments(values: np.ndarray) -> dict[str, np.ndarray]:
    known = ~np.isnan(values)
    rows = known.sum(0)
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = np.where(known, values, 0).sum(0) / rows
        centred = np.where(known, values - mean, 0)
        deviation = np.sqrt((centred**2).sum(0) / rows)
        skewness = (centred**3).sum(0) / rows / np.where(deviation > 0, deviation, np.nan) ** 3
    ends = {
        "minimum": np.min(values, 0, where=known, initial=np.inf),
        "maximum": np.max(values, 0, where=known, initial=-np.inf),
    }
    return {
        "missing": 1 - rows / max(1, len(values)),
        "mean": mean,
        "deviation": deviation,
        "skewness": skewness,
        **{key: np.where(rows > 0, value, np.nan) for key, value in ends.items()},
    }


def explore_distributions(dataset: Dataset) -> list[Part]:
    """A section for the genes, one for the cell lines, as far as the panel has them, and one for missing values."""
    signatures = dataset.signatures
    parts, tables = [], []
    for kind in KINDS:
        values = getattr(signatures, kind)
        if values is not None:
            part, table = _explore_kind(signatures, kind, values)
            parts.append(part)
            tables.append(table)
    return [*parts, *_explore_missing(signatures, pd.concat(tables, ignore_index=True))]


def _explore_kind(signatures: Signatures, kind: str, values: np.ndarray) -> tuple[Part, pd.DataFrame]:
    quantity, unit = KINDS[kind]
    names = getattr(signatures.spec, kind)
    control = signatures.control
    table = describe_features(values, names, control)
    known = table.dropna(subset=["mean"])
    if known.empty:
        text = f"All values of the {count(len(names), unit)} are missing."
        return Part(Section(kind, quantity.capitalize(), (paragraph(text),)), {f"{kind}.csv": table}), table
    histograms = {"treated": values[~control]} | ({"controls": values[control]} if control.any() else {})
    shapes = {name: _shape(some) for name, some in histograms.items()}
    low, high = known.loc[known["mean"].idxmin()], known.loc[known["mean"].idxmax()]
    wide = known.loc[known["deviation"].idxmax()]
    overall = {name: {"mean": mean, "deviation": deviation} for name, (mean, deviation) in shapes.items()}
    caption = (
        f"{quantity.capitalize()}: {count(len(names), unit)} in {count(int((~control).sum()), 'treated signature')}, "
        f"all values {_spread(overall['treated'])}"
        + (
            f"; in {count(int(control.sum()), 'control')} {_spread(overall['controls'])}"
            if control.any()
            else ""
        )
        + f". The means of single {unit}s lie between {low['mean']:.3g} ({low['feature']}) and {high['mean']:.3g} "
        f"({high['feature']}); {wide['feature']} spreads the most (standard deviation {wide['deviation']:.3g}). "
        f"The histograms leave out {percent(TAILS)} of the treated values at each end."
    )
    drawing = _draw(histograms, table, dict(enumerate(names)), quantity, unit)
    alt = (
        f"Histogram of all {quantity} values, treated{' and controls' * bool(control.any())}; mean and standard "
        f"deviation of each {unit}, sorted by mean; histograms of up to four single {unit}s."
    )
    parts: tuple[Html, ...] = (figure(drawing, alt, caption, numbers(f"{kind}.csv", table)),)
    figures = {kind: {"features": len(names), **overall}}
    return Part(Section(kind, quantity.capitalize(), parts), {f"{kind}.csv": table}, figures), table


def _shape(values: np.ndarray) -> tuple[float, float]:
    """Mean and standard deviation of all known values."""
    known = values[~np.isnan(values)]
    if not len(known):
        return float("nan"), float("nan")
    return float(known.mean(dtype=np.float64)), float(known.std(dtype=np.float64))


def _spread(shape: dict[str, float]) -> str:
    return f"{shape['mean']:.3g} ± {shape['deviation']:.3g} (mean ± standard deviation)"


@plain_style()
def _draw(
    groups: dict[str, np.ndarray], table: pd.DataFrame, names: dict[int, str], quantity: str, unit: str
) -> Any:
    """Figures 3 and 5 of Drug Discovery With Neural Networks: all values, each feature, and some by themselves."""
    drawing = new_figure(9, 5.6)
    upper, lower = drawing.subfigures(2, 1, height_ratios=(1.25, 1))
    axes, means = upper.subplots(1, 2)
    _draw_histogram(axes, groups, legend=True)
    tidy(axes, f"all {quantity} values", quantity, "density")
    axes = means
    ordered = table.dropna(subset=["mean"]).sort_values("mean")
    mean, deviation = ordered["mean"].to_numpy(), ordered["deviation"].to_numpy()
    places = np.arange(len(ordered))
    if len(ordered) > 1:
        axes.fill_between(places, mean - deviation, mean + deviation, color=BLUE, alpha=0.25, lw=0)
    axes.plot(places, mean, color=BLUE, marker="." if len(ordered) < 80 else "", lw=1.2)
    axes.axhline(0, color="#888888", lw=0.6)
    tidy(axes, "treated: mean ± standard deviation", f"{unit}s, by their mean", quantity)
    # What has few values is narrow by chance.
    known = ordered[ordered["missing"] <= MOST_MISSING]
    known = ordered if known.empty else known
    chosen: dict[int, str] = {}
    for column, end, why in _EXAMPLES:
        chosen.setdefault(int(getattr(known[column], end)()), why)
    panels = lower.subplots(1, len(chosen), squeeze=False)[0]
    for axes, (column, why) in zip(panels, chosen.items(), strict=True):
        _draw_histogram(axes, {name: values[:, column] for name, values in groups.items()}, bins=40)
        tidy(axes, f"{label(names[column])}\n({why})", quantity)
        axes.set_yticks([])
    return drawing


def _draw_histogram(axes: Any, groups: dict[str, np.ndarray], legend: bool = False, bins: int = BINS) -> None:
    known = {name: values[~np.isnan(values)] for name, values in groups.items()}
    treated = known["treated"]
    if not len(treated):
        return
    some = treated[:: max(1, len(treated) // 1_000_000)]
    low, high = np.quantile(some, [TAILS, 1 - TAILS])
    if not high > low:
        low, high = low - 0.5, high + 0.5
    for (name, values), colour in zip(known.items(), (BLUE, RED), strict=False):
        rows, edges = np.histogram(values, bins, (low, high))
        density = rows / max(1, len(values)) / (edges[1] - edges[0])
        fill = name == "treated"
        axes.stairs(density, edges, color=colour, alpha=0.55 if fill else 1, fill=fill, label=name, lw=1.2)
    if legend and len(known) > 1:
        axes.legend(fontsize=8, frameon=False)


def _explore_missing(signatures: Signatures, table: pd.DataFrame) -> list[Part]:
    matrices = [values for values in (signatures.genes, signatures.cells) if values is not None]
    per_row = sum(np.isnan(values).sum(1) for values in matrices)
    missing, features = int(per_row.sum()), len(table)
    share = missing / len(signatures) / features
    figures = {"missing": missing}
    title = "Missing values"
    if not missing:
        return [
            Part(Section("missing", title, (paragraph("No value of a feature is missing."),)), {}, figures)
        ]
    worst = table.loc[table["missing"].idxmax()]
    rows = pd.DataFrame({"sig_id": signatures.sig_id, "missing": per_row / features})
    rows = rows[rows["missing"] > 0].sort_values("missing", ascending=False, kind="stable")
    half = int((table["missing"] > MOST_MISSING).sum())
    caption = (
        f"{missing:,} of {len(signatures) * features:,} values are missing ({percent(share)}): in "
        f"{int((table['missing'] > 0).sum()):,} of {count(features, 'feature')} and {len(rows):,} of "
        f"{count(len(signatures), 'signature')}. {worst['feature']} lacks the most ({percent(worst['missing'])}); "
        f"of {count(half, 'feature')} more than half is missing. The signature with the most gaps, "
        f"{rows.iloc[0]['sig_id']}, lacks {percent(rows.iloc[0]['missing'])}."
    )
    alt = "Share of missing values of each feature, sorted; histogram of the share missing in each signature."
    drawing = _draw_missing(table["missing"].to_numpy(), per_row / features)
    part = figure(drawing, alt, caption, numbers("missing.csv", rows))
    return [Part(Section("missing", title, (part,)), {"missing.csv": rows}, figures)]


@plain_style()
def _draw_missing(features: np.ndarray, rows: np.ndarray) -> Any:
    drawing = new_figure(9, 3)
    left, right = drawing.subplots(1, 2)
    left.fill_between(np.arange(len(features)), 100 * np.sort(features)[::-1], step="mid", color=BLUE)
    left.set_ylim(0, None)
    tidy(left, "of each feature", "features, by what is missing", "missing, %")
    right.hist(100 * rows, bins=40, color=BLUE)
    tidy(right, "of each signature", "missing, %", "signatures")
    return drawing
