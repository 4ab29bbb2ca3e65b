"""What a reader should know of an exported model before using it, as JSON and as Markdown beside it.

Source for the parts: Mitchell et al. 2019, Model Cards for Model Reporting.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from moa_tf.data.schema import SignatureSpec

JSON, MARKDOWN = "model_card.json", "README.md"
"""Names of the files in a version's directory."""

SPLITS = {
    "drug": "drugs held out: no drug is in training and held-out rows at once",
    "row": "rows held out: most drugs are in training and held-out rows at once, which flatters every figure",
    "kaggle": "the competition's split: rare drugs held out, the rows of frequent ones dealt out",
    "signature": "signatures held out: the data name no drugs, and replicates of one may be on both sides",
}
FIGURES = {
    "log_loss": ("log_loss_treated", "log loss"),
    "macro_auroc": ("macro_auroc", "AUROC, mean over mechanisms"),
    "macro_average_precision": ("macro_average_precision", "average precision, mean over mechanisms"),
}
"""Key of an interval -> key of the figure, its title."""
RANKED = 20
"""Mechanisms that the Markdown lists, those of the most drugs; the JSON has all."""


def model_card(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """The card as JSON values.

    Args:
        metadata: what `export` writes beside a model. What an exporter did not add (`metrics`, `split`, `data`, …) is
            null in the card.
    """
    spec = SignatureSpec.from_dict(metadata["spec"])
    metrics = metadata.get("metrics") or {}
    return {
        "model": metadata.get("model"),
        "description": metadata.get("ensemble"),
        "combination": metadata["combination"],
        "networks": metadata["networks"],
        "components": metadata.get("components", []),
        "left_out": metadata.get("left_out", []),
        "created": metadata["created"],
        "versions": metadata["versions"],
        "settings": metadata.get("settings"),
        "inputs": {
            "genes": len(spec.genes),
            "cells": len(spec.cells),
            "treatment": list(spec.treatment),
            "doses": list(spec.doses) if "cp_dose" in spec.treatment else [],
            "cell_lines": list(spec.cell_lines),
            "missing_values": _missing(spec),
        },
        "targets": len(metadata["targets"]),
        "signatures": metadata["signatures"],
        "training_data": {
            "fingerprint": metadata.get("fingerprint"),
            "simulated": metadata.get("simulated"),
            "signatures": (metadata.get("data") or {}).get("signatures"),
            "scored_signatures": metrics.get("rows"),
            "drugs": metrics.get("drugs"),
        },
        "evaluation": {
            "split": metadata.get("split"),
            "what": _split(metadata.get("split")),
            "rows": metrics.get("treated_rows"),
            "metrics": {name: metrics.get(key) for name, (key, _) in FIGURES.items()},
            "intervals": metrics.get("intervals", {}),
            "column_means_log_loss": metrics.get("prior_log_loss_treated"),
            "caveat": metadata.get("caveat") or "",
            "mechanisms": metadata.get("mechanisms"),
        },
        "calibration": {
            "method": metadata.get("calibration") or "none",
            "expected_calibration_error": metrics.get("calibration_error"),
            "reliability": metadata.get("reliability"),
        },
        "intended_use": (
            "Hypotheses on the mechanism of action of compounds from signatures of the same assay, panel and "
            "normalisation as the training data, to be followed up by an experiment; research only, no diagnosis and "
            "no decision on a patient."
        ),
        "limits": _limits(metadata, spec),
    }


def to_markdown(card: Mapping[str, Any]) -> str:
    """The card for a reader."""
    data, judged, calibration = (card[key] for key in ("training_data", "evaluation", "calibration"))
    inputs = card["inputs"]
    kinds = {"genes": "genes", "cells": "cell lines"}
    panel = [f"{inputs[kind]:,} {name}" for kind, name in kinds.items() if inputs[kind]] + inputs["treatment"]
    lines = [
        f"# {card['model'] or 'Model'}: mechanisms of action from signatures",
        "",
        f"Exported {card['created']} by moa-tf {card['versions']['moa-tf']}"
        f" (TensorFlow {card['versions']['tensorflow']}).",
        "",
        *_section(
            "Model", [card["description"], f"Predicts {card['targets']:,} targets: {card['combination']}."]
        ),
        *[
            f"- {part['model']}: weight {part['weight']:.3f}, {part['networks']}"
            for part in card["components"]
        ],
        *[f"- left out, as it is no Keras model: {name}" for name in card["left_out"]],
        *_section(
            "Inputs",
            [
                f"{', '.join(panel)}. {inputs['missing_values']}",
                f"Signatures: {', '.join(card['signatures'])}.",
            ],
        ),
        *_section(
            "Training data",
            [
                f"{_number(data['signatures'])} signatures; {_number(data['scored_signatures'])} of them scored, "
                f"{_number(data['drugs'])} treated drugs in these"
                + (". The values are **simulated**." if data["simulated"] else "."),
                f"Fingerprint (sha256): `{data['fingerprint'] or 'not known'}`.",
            ],
        ),
        *_section("Evaluation", [f"Out of fold, {_number(judged['rows'])} treated rows; {judged['what']}."]),
        *_table(["figure", "value", "95 % interval over drugs"], _figures(judged)),
        *([f"**{judged['caveat']}**", ""] if judged["caveat"] else []),
        *_mechanisms(judged["mechanisms"]),
        *_section(
            "Calibration",
            [
                f"Method: {calibration['method']}. Expected calibration error out of fold: "
                f"{_number(calibration['expected_calibration_error'])}."
            ],
        ),
        *_reliability(calibration["reliability"]),
        *_section("Intended use", [card["intended_use"]]),
        *_section("Limits", [*(f"- {limit}" for limit in card["limits"])]),
        *_section("Settings", ["```json", json.dumps(card["settings"], indent=2, ensure_ascii=False), "```"]),
    ]
    return re.sub(r"\n{3,}", "\n\n", "\n".join(lines)).rstrip() + "\n"


def _missing(spec: SignatureSpec) -> str:
    if spec.missing:
        return "A missing gene or cell line is NaN and stands for the training rows' median; infinity is refused."
    return "Missing values are refused: every number must be finite."


def _split(split: str | None) -> str:
    if split is None:
        return "how rows were held out is not known"
    return SPLITS.get(split, f"groups of the column '{split}' held out")


def _limits(metadata: Mapping[str, Any], spec: SignatureSpec) -> list[str]:
    limits = [
        "A mechanism that is not among the targets cannot be named; a drug of another still gets probabilities.",
        "Signatures from another platform, cell line panel or normalisation are not recognised as such.",
        "Mechanisms of few drugs are predicted worse; the figures by mechanism say how much.",
        "The model is trained on all folds' rows by several networks, the figures are of single folds' networks: they "
        "lean to the low side for new drugs of the same kind, and say nothing of other kinds.",
    ]
    if "cp_type" in spec.treatment:
        limits.append("Vehicle controls get 0 for every mechanism by rule, whatever their signature.")
    if metadata.get("simulated"):
        limits.insert(0, "Trained on simulated data: it says nothing of real drugs.")
    return limits


def _section(title: str, paragraphs: Iterable[str | None]) -> list[str]:
    lines = [f"## {title}", ""]
    for text in paragraphs:
        if text:
            # Items of a list and lines of code stay together.
            lines += [text] if text.startswith(("- ", "```", "{")) else [text, ""]
    return ["", *lines] if lines[-1] == "" else ["", *lines, ""]


def _table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    lines = [columns, ["---"] * len(columns), *rows]
    return [*(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |" for line in lines), ""]


def _figures(judged: Mapping[str, Any]) -> list[list[str]]:
    rows = []
    for name, (_, title) in FIGURES.items():
        ends = judged["intervals"].get(name) or (None, None)
        between = "not known" if None in ends else f"{_number(ends[0])} to {_number(ends[1])}"
        rows.append([title, _number(judged["metrics"][name]), between])
    rows.append(["log loss of the column means", _number(judged["column_means_log_loss"]), ""])
    return rows


def _mechanisms(of: Mapping[str, Any] | None) -> list[str]:
    if not of:
        return []
    columns = [of[key] for key in ("name", "drugs", "auroc", "average_precision")]
    rows = sorted(zip(*columns, strict=True), key=lambda row: -row[1])
    head = f"The {RANKED} mechanisms of the most drugs (all {len(rows)} in `{JSON}`):"
    return [
        *([head, ""] if len(rows) > RANKED else []),
        *_table(
            ["mechanism", "drugs", "AUROC", "average precision"],
            [[str(name), *map(_number, figures)] for name, *figures in rows[:RANKED]],
        ),
    ]


def _reliability(of: Mapping[str, Any] | None) -> list[str]:
    if not of:
        return []
    rows = zip(*(of[key] for key in ("stated", "observed", "count")), strict=True)
    return _table(
        ["stated probability", "observed", "predictions"], [list(map(_number, row)) for row in rows]
    )


def _number(value: float | None) -> str:
    if value is None or value != value:
        return "not known"
    return f"{value:,}" if isinstance(value, int) else f"{value:.4g}"
