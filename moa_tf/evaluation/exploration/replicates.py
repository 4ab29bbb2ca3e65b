"""What is alike that should be, and what is alike that should not: replicates, mechanisms, near-duplicates."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from moa_tf.data.schema import Dataset
from moa_tf.evaluation.exploration.matrix import unit_rows
from moa_tf.evaluation.exploration.part import (
    BLUE,
    GREEN,
    GREY,
    Part,
    count,
    new_figure,
    numbers,
    percent,
    tidy,
)
from moa_tf.evaluation.exploration.similarity import (
    LISTED,
    MOST_ROWS,
    NEAR,
    REPLICATES,
    correlations_between,
    near_duplicates,
    replicate_correlations,
    row_codes,
    share_replicating,
)
from moa_tf.evaluation.page import Section, figure, paragraph, table
from moa_tf.explanation.figures import plain_style

FEWEST = 10
"""Correlation over fewer features says little: over two it is 1 or −1."""

_NAMES = {
    "replicates": "replicates of a drug",
    "mechanism": "different drugs that share a target",
    "different": "different drugs",
}


def explore_similarity(dataset: Dataset, matrix: np.ndarray, seed: int) -> list[Part]:
    """A section on replicates, and one on near-duplicates.

    Args:
        dataset: N rows.
        matrix: [N, F] from `standardise`.
        seed: of what is drawn.
    """
    if matrix.shape[1] < FEWEST:
        text = f"Rows are compared over at least {FEWEST} features that vary; here are {matrix.shape[1]}."
        return [Part(Section("replicates", "Replicates", (paragraph(text),)))]
    rows = np.flatnonzero(~dataset.signatures.control)
    left_out = max(0, len(rows) - MOST_ROWS)
    if left_out:
        rows = np.sort(np.random.default_rng(seed).choice(rows, MOST_ROWS, replace=False))
    unit = unit_rows(matrix[rows])
    varying = ~np.isnan(unit[:, 0])
    rows, unit = rows[varying], unit[varying]
    names = dataset.signatures.sig_id if dataset.drug_id is None else dataset.drug_id
    drugs, drug = np.unique(names[rows].astype(str), return_inverse=True)
    sampled = f" Of all treated signatures {MOST_ROWS:,} were drawn for this." if left_out else ""
    return [
        _explore_replicates(dataset, rows, unit, drugs, drug, seed, sampled),
        _explore_duplicates(dataset, rows, unit, drug, names, sampled),
    ]


def _explore_replicates(
    dataset: Dataset,
    rows: np.ndarray,
    unit: np.ndarray,
    drugs: np.ndarray,
    drug: np.ndarray,
    seed: int,
    sampled: str,
) -> Part:
    pairs, medians = replicate_correlations(unit, drug, seed)
    null = correlations_between(unit, drug, seed=seed)
    shared = correlations_between(unit, drug, dataset.targets[rows], seed=seed)
    groups = {"replicates": pairs, "mechanism": shared, "different": null}
    groups = {name: values for name, values in groups.items() if len(values)}
    share, bound = share_replicating(medians, null)
    table_ = pd.DataFrame(
        [_summary(_NAMES[name], values) for name, values in groups.items()], columns=_SUMMARY
    )
    per_drug = pd.DataFrame(
        [(drugs[code], int((drug == code).sum()), median) for code, median in medians.items()],
        columns=["drug", "signatures", "median_correlation"],
    ).sort_values("median_correlation", ascending=False, kind="stable")
    said = ", ".join(f"{_NAMES[name]} {np.median(values):.3f}" for name, values in groups.items())
    caption = f"Median correlation of pairs of treated signatures: {said}. " if said else ""
    if medians:
        caption += (
            f"{percent(share)} of {count(len(medians), 'drug')} with replicates have a median replicate correlation "
            f"above {bound:.2f}, the 95th percentile of different drugs (percent replicating)."
        )
    else:
        caption += "No drug has two rows, so nothing is known of replicates."
    features = count(unit.shape[1], "standardised feature")
    caption += (
        f" Pearson's correlation over {features}; of a drug at most {REPLICATES} rows are compared.{sampled}"
    )
    figures = {
        "replicates": {name: float(np.median(values)) for name, values in groups.items()}
        | {"drugs_with_replicates": len(medians), "percent_replicating": 100 * share, "bound": bound}
    }
    tables = {"similarity.csv": table_} | ({"replicates.csv": per_drug} if medians else {})
    if not groups:
        return Part(Section("replicates", "Replicates", (paragraph(caption),)), {}, figures)
    folded = [numbers("similarity.csv", table_), *([numbers("replicates.csv", per_drug)] if medians else [])]
    alt = (
        f"Densities of the correlation between two signatures: {', '.join(_NAMES[name] for name in groups)}."
    )
    part = figure(_draw(groups), alt, caption, *folded)
    return Part(Section("replicates", "Replicates", (part,)), tables, figures)


_SUMMARY = ["pairs of", "drawn", "p5", "p25", "median", "p75", "p95"]


def _summary(name: str, values: np.ndarray) -> list[Any]:
    return [name, len(values), *np.quantile(values, [0.05, 0.25, 0.5, 0.75, 0.95]).astype(float)]


@plain_style()
def _draw(groups: dict[str, np.ndarray]) -> Any:
    drawing = new_figure(9, 3.2)
    axes = drawing.subplots()
    colours = {"replicates": BLUE, "mechanism": GREEN, "different": GREY}
    everything = np.concatenate(list(groups.values()))
    low, high = float(everything.min()), float(everything.max())
    low, high = (low, high) if high > low else (low - 0.1, high + 0.1)
    for name in reversed(groups):
        values, fill = groups[name], name == "different"
        said = f"{_NAMES[name]} ({len(values):,} pairs)"
        density, edges = np.histogram(values, 80, (low, high), density=True)
        axes.stairs(
            density,
            edges,
            color=colours[name],
            fill=fill,
            label=said,
            lw=1.5,
        )
        axes.axvline(float(np.median(values)), color="#777777" if fill else colours[name], lw=1, ls="--")
    axes.legend(fontsize=8, frameon=False)
    tidy(axes, "dashed: medians", "Pearson's correlation of two signatures", "density")
    return drawing


def _explore_duplicates(
    dataset: Dataset, rows: np.ndarray, unit: np.ndarray, drug: np.ndarray, names: np.ndarray, sampled: str
) -> Part:
    total, first, second, correlation = near_duplicates(unit, drug)
    signatures = dataset.signatures
    involved, place = np.unique(np.concatenate([rows[first], rows[second]]), return_inverse=True)
    some = signatures.take(involved)
    code = row_codes(some.genes, some.cells)[place] if len(involved) else np.empty(0, int)
    same = code[: len(first)] == code[len(first) :]
    pairs = pd.DataFrame(
        {
            "sig_id": signatures.sig_id[rows[first]],
            "other_sig_id": signatures.sig_id[rows[second]],
            "drug": names[rows[first]],
            "other_drug": names[rows[second]],
            "correlation": np.minimum(correlation, 1).astype(float),
            "identical": np.where(same, "yes", "no"),
            "same_targets": np.where(
                (dataset.targets[rows[first]] == dataset.targets[rows[second]]).all(1), "yes", "no"
            ),
        }
    )
    figures = {"near_duplicates": {"above": NEAR, "pairs": total, "identical": int(same.sum())}}
    owner = "signatures" if dataset.drug_id is None else "signatures of different drugs"
    if not total:
        text = f"No two {owner} correlate above {NEAR}.{sampled}"
        return Part(
            Section("duplicates", "Near-duplicates", (paragraph(text),)), {"duplicates.csv": pairs}, figures
        )
    among = f" of the {LISTED:,} most alike" if total > LISTED else ""
    other = int((pairs["same_targets"] == "no").sum())
    text = (
        f"{count(total, 'pair')} of {owner} correlate above {NEAR}. Identical{among}: {int(same.sum()):,}; with "
        f"different targets{among}: {other:,}. With drugs held out such a pair can stand in training and held out "
        f"at once, which flatters.{sampled}"
    )
    shown = pairs.head(20)
    title = "The most alike" if total > len(shown) else "All of them"
    parts = [paragraph(text), table(title, list(shown.columns), shown.itertuples(index=False))]
    if len(pairs) > len(shown):
        parts.append(numbers("duplicates.csv", pairs))
    return Part(Section("duplicates", "Near-duplicates", tuple(parts)), {"duplicates.csv": pairs}, figures)
