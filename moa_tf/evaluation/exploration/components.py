"""Principal components: the table in two dimensions, and what its largest directions go with."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from moa_tf.data.schema import TREATMENT, Dataset
from moa_tf.evaluation.exploration.part import (
    BLUE,
    GREY,
    RED,
    Part,
    count,
    label,
    new_figure,
    numbers,
    percent,
    tidy,
)
from moa_tf.evaluation.page import Section, figure, paragraph
from moa_tf.explanation.figures import plain_style

COMPONENTS = 10

_MECHANISMS = 6
_BELOW = {"frameon": False, "loc": "upper center", "bbox_to_anchor": (0.5, -0.16), "ncols": 2}
_COLOURS = ("#4477aa", "#cc3311", "#228833", "#ccbb44", "#66ccee", "#aa3377")


@dataclass(frozen=True)
class Components:
    """Principal components of the treated rows.

    Attributes:
        scores: [N, K] of all rows, controls too.
        share: [K] of the treated rows' variance.
    """

    scores: np.ndarray
    share: np.ndarray


def fit_components(matrix: np.ndarray, control: np.ndarray, seed: int = 0) -> Components:
    """At most `COMPONENTS` components of [N, F] standardised features, fitted on the rows that are no controls."""
    from sklearn.decomposition import PCA

    treated = matrix[~control]
    size = min(COMPONENTS, len(treated) - 1, matrix.shape[1])
    pca = PCA(size, random_state=seed).fit(treated)
    return Components(pca.transform(matrix), pca.explained_variance_ratio_)


def eta_squared(scores: np.ndarray, group: np.ndarray) -> float:
    """Share of the variance of the components that lies between groups.

    η² = Σ_g n_g ‖mean_g − mean‖² / Σ_i ‖x_i − mean‖², over all components together. Where a group says nothing, it is
    (G − 1) / (N − 1) in the mean, for G groups of N rows.

    Args:
        scores: [N, K].
        group: [N] the group of each row.

    Returns:
        In [0, 1]; NaN where nothing varies.

    Source: Fisher, Statistical Methods for Research Workers (1925): the correlation ratio.
    """
    scores = np.asarray(scores, np.float64)
    centred = scores - scores.mean(0)
    _, number, rows = np.unique(group, return_inverse=True, return_counts=True)
    sums = np.zeros((len(rows), scores.shape[1]))
    np.add.at(sums, number, centred)
    total = float((centred**2).sum())
    return float((sums**2 / rows[:, None]).sum() / total) if total > 0 else float("nan")


def explore_components(dataset: Dataset, matrix: np.ndarray, seed: int) -> list[Part]:
    """A section with the rows in two dimensions, and one on what the first components go with.

    Args:
        dataset: N rows.
        matrix: [N, F] from `standardise`.
        seed: of the solver, where the table is large.
    """
    control = dataset.signatures.control
    if min(matrix.shape[1], int((~control).sum()) - 1) < 2:
        text = "Two components need at least two features that vary, and three treated signatures."
        return [Part(Section("components", "In two dimensions", (paragraph(text),)))]
    components = fit_components(matrix, control, seed)
    return [_explore_embedding(dataset, components), _explore_groups(dataset, components)]


def _explore_embedding(dataset: Dataset, components: Components) -> Part:
    control = dataset.signatures.control
    rows = (dataset.targets * ~control[:, None]).sum(0)
    commonest = [int(j) for j in np.argsort(-rows, kind="stable")[:_MECHANISMS] if rows[j]]
    names = [f"PC{k + 1}" for k in range(components.scores.shape[1])]
    table = pd.DataFrame(components.scores, columns=names).round(4)
    table.insert(0, "sig_id", dataset.signatures.sig_id)
    share = pd.DataFrame({"component": names, "share": components.share, "sum": np.cumsum(components.share)})
    caption = (
        f"The first two principal components hold {percent(components.share[0])} and {percent(components.share[1])} of "
        f"the variance of the standardised features, the first {len(names)} together "
        f"{percent(components.share.sum())}."
    )
    if control.any():
        away = np.abs(components.scores[control].mean(0)) / components.scores[~control].std(0)
        caption += (
            f" The controls' centre lies {away[0]:.2f} standard deviations of the treated signatures from theirs along "
            f"the first, {away[1]:.2f} along the second."
        )
    low, high = _limits(components)
    outside = int((~((low <= components.scores[:, :2]) & (components.scores[:, :2] <= high)).all(1)).sum())
    caption += (
        f" {count(outside, 'signature')} {'lies' if outside == 1 else 'lie'} beyond the axes."
        if outside
        else ""
    )
    shown = [f"{dataset.target_names[j]} ({int(rows[j])})" for j in commonest]
    alt = f"Signatures over the first two components{', by treated and control' * bool(control.any())}" + (
        f"; the commonest targets in colour: {', '.join(shown)}." if shown else "."
    )
    drawing = _draw_embedding(dataset, components, commonest)
    part = figure(drawing, alt, caption, numbers("component_shares.csv", share))
    tables = {"components.csv": table, "component_shares.csv": share}
    figures = {"component_shares": components.share}
    return Part(Section("components", "In two dimensions", (part,)), tables, figures)


def _limits(components: Components) -> tuple[np.ndarray, np.ndarray]:
    """Lowest and highest [2] that are drawn: the few rows far out would press all others into one spot."""
    low, high = np.quantile(components.scores[:, :2], [0.01, 0.99], axis=0)
    margin = 0.15 * (high - low) + 1e-6
    return low - margin, high + margin


@plain_style()
def _draw_embedding(dataset: Dataset, components: Components, commonest: list[int]) -> Any:
    control = dataset.signatures.control
    points = components.scores[:, :2]
    low, high = _limits(components)
    drawing = new_figure(9, 4.4)
    panels = drawing.subplots(1, 2)
    size = 40 / np.sqrt(len(points)) + 1

    def dots(axes: Any, rows: np.ndarray, colour: str, name: str, scale: float = 1) -> None:
        axes.scatter(
            *points[rows].T, s=scale * size, color=colour, label=name, lw=0, alpha=0.8, rasterized=True
        )

    dots(panels[0], ~control, BLUE, f"treated ({int((~control).sum()):,})")
    if control.any():
        dots(panels[0], control, RED, f"control ({int(control.sum()):,})")
    dots(panels[1], ~control, GREY, "other")
    for j, colour in zip(commonest, _COLOURS, strict=False):
        dots(panels[1], (dataset.targets[:, j] > 0) & ~control, colour, label(dataset.target_names[j]), 2.5)
    titles = ("treated and controls" if control.any() else "treated", "the commonest targets")
    for axes, title in zip(panels, titles, strict=True):
        x, y = (f"PC{k + 1} ({percent(components.share[k])})" for k in range(2))
        tidy(axes, title, x, y)
        axes.set_xlim(low[0], high[0])
        axes.set_ylim(low[1], high[1])
        axes.legend(fontsize=7, markerscale=2.5, **_BELOW)
    return drawing


def _explore_groups(dataset: Dataset, components: Components) -> Part:
    rows = np.flatnonzero(~dataset.signatures.control)
    found = []
    for name, values in _columns(dataset).items():
        values = values[rows].astype(str)
        known = values != ""
        groups, some = len(np.unique(values[known])), int(known.sum())
        if 1 < groups < some:
            scores = components.scores[rows[known]]
            chance = (groups - 1) / (some - 1)
            shares = [eta_squared(part, values[known]) for part in (scores[:, :1], scores)]
            found.append((name, groups, some, *shares, chance))
    title = "What the components go with"
    first = f"first {components.scores.shape[1]}"
    if not found:
        text = "No column of treatment or of train_drug groups the treated signatures."
        return Part(Section("groups", title, (paragraph(text),)))
    table = pd.DataFrame(found, columns=["column", "groups", "signatures", "eta2_first", "eta2", "by_chance"])
    excess = (table["eta2"] - table["by_chance"]).to_numpy()
    said = "; ".join(
        f"{row.column} {percent(row.eta2)} ({percent(row.by_chance)} by chance, {count(row.groups, 'group')})"
        for row in table.iloc[np.argsort(-excess, kind="stable")].itertuples()
    )
    caption = (
        f"Share of the variance of the {first} components that lies between the groups of a column (η²): {said}. A "
        "batch that stands far above chance is worth holding out (train --split COLUMN)."
    )
    alt = f"Bars: η² of the {first} components by column, with what chance gives."
    part = figure(_draw_groups(table, first), alt, caption, numbers("groups.csv", table))
    return Part(
        Section("groups", title, (part,)), {"groups.csv": table}, {"groups": table.to_dict("records")}
    )


def _columns(dataset: Dataset) -> dict[str, np.ndarray]:
    """Column -> [N] the group of each row, '' where it is not known."""
    signatures = dataset.signatures
    columns: dict[str, np.ndarray] = {}
    for name in TREATMENT[1:]:
        values = getattr(signatures, name)
        if values is not None:
            columns[name] = np.where(np.isnan(values) | (values < 0), "", values.astype(str))
    if dataset.drug_id is not None:
        columns["drug_id"] = dataset.drug_id
    return columns | dict(dataset.groups)


@plain_style()
def _draw_groups(table: pd.DataFrame, first: str) -> Any:
    drawing = new_figure(9, 1.1 + 0.36 * len(table))
    axes = drawing.subplots()
    places = np.arange(len(table))
    bars = axes.barh(places, 100 * table["eta2"], color=BLUE, height=0.65, label=f"{first} components")
    axes.bar_label(bars, [percent(value) for value in table["eta2"]], fontsize=8, padding=3)
    axes.plot(100 * table["by_chance"], places, "|", color="#222222", ms=14, mew=2, label="by chance")
    axes.set_yticks(places, [label(name) for name in table["column"]])
    axes.invert_yaxis()
    axes.set_xlim(0, max(5, 112 * float(table[["eta2", "by_chance"]].max().max())))
    axes.legend(fontsize=8, frameon=False, loc="lower left", bbox_to_anchor=(0, 1), ncols=2)
    tidy(axes, "", "η², %")
    return drawing
