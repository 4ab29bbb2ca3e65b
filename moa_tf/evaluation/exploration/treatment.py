"""How the rows were treated: type, time, dose, cell line, and how many there are of a drug."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from moa_tf.data.check import count_signatures
from moa_tf.data.schema import TREATMENT, Dataset
from moa_tf.evaluation.exploration.part import (
    BLUE,
    Part,
    count,
    draw_bars,
    hide_scale,
    new_figure,
    numbers,
    tidy,
)
from moa_tf.evaluation.page import Section, figure, paragraph
from moa_tf.explanation.figures import plain_style

_TITLES = {
    "cp_type": "type",
    "cp_time": "time, hours",
    "cp_dose": "dose",
    "cp_cell": "cell line",
}
_BARS = 12


def explore_treatment(dataset: Dataset) -> Part:
    """Rows of each type, time, dose and cell line; rows of a drug."""
    signatures = dataset.signatures
    counts = count_signatures(signatures)
    known = {name: counts[name] for name in TREATMENT if name in counts}
    table = pd.DataFrame(
        [(name, value, rows) for name, values in known.items() for value, rows in values.items()],
        columns=["column", "value", "signatures"],
    )
    tables, parts = {}, []
    if known:
        said = "; ".join(f"{_TITLES[name]}: {_list(values)}" for name, values in known.items())
        alt = f"Bars: number of signatures by {', '.join(_TITLES[name] for name in known)}."
        tables["treatment.csv"] = table
        caption = f"Signatures by {said}."
        parts.append(figure(_draw(known), alt, caption, numbers("treatment.csv", table)))
    else:
        parts.append(paragraph("The table has no column of treatment (cp_type, cp_time, cp_dose, cp_cell)."))
    figures: dict[str, Any] = {"treatment": known}
    if dataset.drug_id is None:
        parts.append(
            paragraph(
                "There is no train_drug: which rows are of one drug is not known, and each counts as one."
            )
        )
    else:
        drugs, rows = np.unique(dataset.drug_id[~signatures.control], return_counts=True)
        most = int(rows.argmax())
        several = int((rows > 1).sum())
        caption = (
            f"{count(len(drugs), 'drug')}: the median has {count(round(float(np.median(rows))), 'treated signature')}, "
            f"{drugs[most]} the most ({rows[most]:,}). {several:,} have more than one."
        )
        frequency = pd.Series(rows).value_counts().sort_index()
        sizes = pd.DataFrame({"signatures": frequency.index, "drugs": frequency.to_numpy()})
        tables["rows_of_a_drug.csv"] = sizes
        figures["rows_of_a_drug"] = {
            "drugs": len(drugs),
            "median": float(np.median(rows)),
            "most": int(rows[most]),
        }
        if len(sizes) == 1:
            parts.append(
                paragraph(
                    f"Each of {count(len(drugs), 'drug')} has {count(int(rows[0]), 'treated signature')}."
                )
            )
        else:
            alt = "Histogram: number of drugs by how many signatures they have."
            parts.append(figure(_draw_sizes(rows), alt, caption, numbers("rows_of_a_drug.csv", sizes)))
    return Part(Section("treatment", "Treatment", tuple(parts)), tables, figures)


def _list(values: dict[str, int]) -> str:
    ordered = sorted(values.items(), key=lambda item: -item[1])
    shown = ", ".join(f"{name} {rows:,}" for name, rows in ordered[:4])
    return shown + (f" and {len(ordered) - 4} more" if len(ordered) > 4 else "")


@plain_style()
def _draw(counts: dict[str, dict[str, int]]) -> Any:
    most = max(min(_BARS, len(values)) for values in counts.values())
    drawing = new_figure(9, 0.9 + 0.26 * most)
    for axes, (name, values) in zip(
        drawing.subplots(1, len(counts), squeeze=False)[0], counts.items(), strict=True
    ):
        chosen = list(values.items())
        if len(chosen) > _BARS:
            chosen = sorted(chosen, key=lambda item: -item[1])[:_BARS]
        draw_bars(axes, [key for key, _ in chosen], [rows for _, rows in chosen])
        axes.set_ylim(most - 0.5, -0.5)
        more = f" ({_BARS} of {len(values)})" if len(values) > _BARS else ""
        tidy(axes, _TITLES[name] + more)
        hide_scale(axes)
    return drawing


@plain_style()
def _draw_sizes(rows: np.ndarray) -> Any:
    drawing = new_figure(9, 2.6)
    axes = drawing.subplots()
    most = min(int(rows.max()), 30)
    drugs = np.bincount(np.minimum(rows, most), minlength=most + 1)[1:]
    bars = axes.bar(np.arange(1, most + 1), drugs, color=BLUE)
    axes.bar_label(bars, [f"{n:,}" if n else "" for n in drugs], fontsize=7)
    places = np.unique(np.linspace(1, most, min(most, 15)).round().astype(int))
    axes.set_xticks(places, [f"{place}+" if place == most < rows.max() else str(place) for place in places])
    tidy(axes, "", "treated signatures of a drug", "drugs")
    return drawing
