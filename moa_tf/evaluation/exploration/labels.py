"""What the labels hold: how many a row has, how many rows and drugs a target, and which targets go together."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from moa_tf.data.schema import Dataset
from moa_tf.evaluation.exploration.part import (
    BLUE,
    GREEN,
    GREY,
    Part,
    count,
    draw_bars,
    hide_scale,
    label,
    new_figure,
    numbers,
    percent,
    tidy,
)
from moa_tf.evaluation.page import Section, figure, paragraph
from moa_tf.explanation.figures import plain_style

MAPPED = 45
"""Targets that the heat map has room for, with names that can be read."""

LISTED = 1000
"""Pairs of targets that are kept, the most correlated ones."""

_BARS = 20


def labels_per_row(labels: np.ndarray) -> np.ndarray:
    """[K] int: how many rows of [N, T] labels have 0, 1, 2, … of them."""
    return np.bincount(labels.sum(1).astype(np.int64))


def count_positives(labels: np.ndarray, drug: np.ndarray | None) -> tuple[np.ndarray, np.ndarray | None]:
    """Rows and drugs that have each target.

    Args:
        labels: [N, T], 0 or 1.
        drug: [N] names, or None where they are not known.

    Returns:
        [T] int rows, and [T] int different drugs or None.
    """
    rows = labels.sum(0).astype(np.int64)
    if drug is None:
        return rows, None
    return rows, np.array([len(np.unique(drug[column > 0].astype(str))) for column in labels.T], np.int64)


def target_correlations(labels: np.ndarray) -> np.ndarray:
    """Pearson's correlation (φ) between the columns of [N, T] labels.

    Returns:
        [T, T] float64; NaN with a column that does not vary.
    """
    labels = labels.astype(np.float64)
    centred = labels - labels.mean(0)
    deviation = np.sqrt((centred**2).mean(0))
    scaled = centred / np.where(deviation > 0, deviation, np.nan)
    return scaled.T @ scaled / max(1, len(labels))


def cluster_order(correlation: np.ndarray) -> np.ndarray:
    """[T] an order in which columns that correlate come one after another: average linkage of 1 − correlation."""
    if len(correlation) < 3:
        return np.arange(len(correlation))
    from scipy.cluster.hierarchy import leaves_list, linkage

    distance = np.maximum(1 - correlation, 0)[np.triu_indices(len(correlation), 1)]
    return leaves_list(linkage(distance, "average", optimal_ordering=True))


def explore_labels(dataset: Dataset) -> list[Part]:
    """A section on positives, and one on targets that go together. Of treated rows alone."""
    treated = ~dataset.signatures.control
    labels = dataset.targets[treated]
    drug = None if dataset.drug_id is None else dataset.drug_id[treated]
    return [_explore_positives(dataset, labels, drug), _explore_correlations(labels, dataset.target_names)]


def _explore_positives(dataset: Dataset, labels: np.ndarray, drug: np.ndarray | None) -> Part:
    rows, drugs = count_positives(labels, drug)
    per_row = labels_per_row(labels)
    table = pd.DataFrame({"target": dataset.target_names, "signatures": rows})
    if drugs is not None:
        table["drugs"] = drugs
    table = table.sort_values(["signatures", "target"], ascending=[False, True], kind="stable")
    treated, units = len(labels), rows if drugs is None else drugs
    unit = "signature" if drugs is None else "drug"
    best = table.iloc[0]
    none, single = int((units == 0).sum()), int((units == 1).sum())
    shares = [percent(number / treated) for number in (per_row[0], per_row[1] if len(per_row) > 1 else 0)]
    caption = (
        f"{count(treated, 'treated signature')} with {count(len(rows), 'target')}: {shares[0]} have none, {shares[1]} "
        f"one, at most {len(per_row) - 1}. The commonest is "
        f"{best['target']} ({count(int(best['signatures']), 'signature')}"
        + (f", {count(int(best['drugs']), 'drug')}" if drugs is not None else "")
        + f"); the median target has {np.median(rows):g} signatures"
        + (f" of {np.median(units):g} drugs" if drugs is not None else "")
        + (
            f". {none:,} without a positive and {single:,} with a single {unit} cannot be learnt and judged with drugs "
            "held out."
            if none or single
            else f". Each has at least two {unit}s, as being judged with drugs held out asks for."
        )
    )
    alt = (
        "Bars: signatures by their number of targets. Line: positives of each target, sorted, on a logarithmic scale. "
        f"Bars: the commonest {min(_BARS, len(table))} targets."
    )
    figures = {
        "labels": {
            "per_signature": {str(k): int(n) for k, n in enumerate(per_row)},
            "without_positive": none,
            f"single_{unit}": single,
        }
    }
    part = figure(_draw_positives(per_row, table), alt, caption, numbers("targets.csv", table))
    parts = [part]
    if dataset.nonscored is not None:
        more = dataset.nonscored[~dataset.signatures.control]
        parts.append(
            paragraph(
                f"Beside them stand {count(len(dataset.nonscored_names), 'target')} that are not scored: "
                f"{percent(more.any(1).mean())} of the treated signatures have one, and "
                f"{percent(((labels.sum(1) == 0) & more.any(1)).mean())} have one and none of the scored; "
                f"{int((~more.any(0)).sum()):,} have no positive."
            )
        )
    return Part(Section("labels", "Labels", tuple(parts)), {"targets.csv": table}, figures)


@plain_style()
def _draw_positives(per_row: np.ndarray, table: pd.DataFrame) -> Any:
    top = table[table["signatures"] > 0].head(_BARS)
    height = 0.5 + 0.21 * max(3, len(top))
    drawing = new_figure(9, 2.4 + height)
    upper, lower = drawing.subfigures(2, 1, height_ratios=(2.4, height))
    axes, positives = upper.subplots(1, 2)
    bars = axes.bar(np.arange(len(per_row)), per_row, color=BLUE)
    axes.bar_label(bars, [f"{n:,}" for n in per_row], fontsize=7)
    axes.margins(y=0.12)
    if len(per_row) <= 12:
        axes.set_xticks(np.arange(len(per_row)))
    tidy(axes, "targets of a signature", "targets", "treated signatures")
    # With one signature a drug both are the same.
    both = "drugs" in table and not table["drugs"].equals(table["signatures"])
    colours = {"signatures": BLUE} | ({"drugs": GREEN} if both else {})
    for name, colour in colours.items():
        values = np.sort(table[name].to_numpy())[::-1]
        places = np.arange(1, len(values) + 1)
        positives.plot(places, values, color=colour, label=name, marker=".", ms=3, lw=1)
    positives.set_yscale("symlog", linthresh=1)
    positives.set_ylim(0, None)
    # Matplotlib's own would write powers as formulas, which names here must not be.
    positives.yaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    tidy(positives, "positives of a target", "targets, by their positives", "positives")
    positives.legend(fontsize=8, frameon=False)
    for axes, name in zip(lower.subplots(1, len(colours), squeeze=False)[0], colours, strict=True):
        draw_bars(axes, list(top["target"]), list(top[name]), colours[name])
        if name == "drugs":
            axes.set_yticklabels([])
        tidy(axes, f"the commonest targets: {name}")
        hide_scale(axes)
    return drawing


def _explore_correlations(labels: np.ndarray, names: tuple[str, ...]) -> Part:
    varying = np.flatnonzero(labels.any(0) & ~labels.all(0))
    title = "Targets that go together"
    if len(varying) < 2:
        text = "Fewer than two targets have both positives and negatives."
        return Part(Section("correlations", title, (paragraph(text),)))
    correlation = target_correlations(labels[:, varying])
    called = np.asarray(names, object)[varying]
    first, second = np.triu_indices(len(varying), 1)
    phi = correlation[first, second]
    order = np.argsort(-np.abs(phi), kind="stable")[:LISTED]
    pairs = pd.DataFrame(
        {"target": called[first[order]], "other_target": called[second[order]], "correlation": phi[order]}
    )
    strongest = np.abs(correlation - np.eye(len(varying))).max(1)
    chosen = np.sort(np.argsort(-strongest, kind="stable")[:MAPPED])
    chosen = chosen[cluster_order(correlation[np.ix_(chosen, chosen)])]
    ends = [
        f"{row.target} and {row.other_target} ({row.correlation:.2f})" for row in pairs.head(3).itertuples()
    ]
    part_of = (
        f"; drawn are the {len(chosen)} of {len(varying)} that correlate the most"
        if len(chosen) < len(varying)
        else ""
    )
    caption = (
        f"Of {count(len(phi), 'pair')} of targets {int((np.abs(phi) > 0.5).sum()):,} correlate by more than .5 over "
        f"treated signatures. The strongest: {'; '.join(ends)}. The order is that of a hierarchical "
        f"clustering{part_of}."
    )
    alt = f"Heat map of the correlations between {len(chosen)} targets, ordered so that correlated ones are neighbours."
    drawing = _draw_map(correlation[np.ix_(chosen, chosen)], list(called[chosen]))
    part = figure(drawing, alt, caption, numbers("target_correlations.csv", pairs))
    figures = {"target_correlations": {"pairs": len(phi), "above_half": int((np.abs(phi) > 0.5).sum())}}
    return Part(Section("correlations", title, (part,)), {"target_correlations.csv": pairs}, figures)


@plain_style()
def _draw_map(correlation: np.ndarray, names: list[str]) -> Any:
    side = 3.2 + 0.13 * len(names)
    drawing = new_figure(side + 0.6, side)
    axes = drawing.subplots()
    image = axes.imshow(correlation, cmap="RdBu_r", vmin=-1, vmax=1, interpolation="nearest")
    places, shown = np.arange(len(names)), [label(name) for name in names]
    axes.set_xticks(places, shown, rotation=90, fontsize=6.5)
    axes.set_yticks(places, shown, fontsize=6.5)
    axes.tick_params(length=0)
    axes.spines[:].set_color(GREY)
    bar = drawing.colorbar(image, ax=axes, shrink=0.5, aspect=25)
    bar.set_label("correlation (φ)", fontsize=8)
    bar.ax.tick_params(labelsize=7)
    return drawing
