"""The whole exploration: all sections, the page that they make, and the tables behind it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

import moa_tf
from moa_tf.data.schema import Dataset
from moa_tf.errors import InputError
from moa_tf.evaluation.exploration.components import explore_components
from moa_tf.evaluation.exploration.distributions import explore_distributions
from moa_tf.evaluation.exploration.labels import explore_labels
from moa_tf.evaluation.exploration.matrix import standardise
from moa_tf.evaluation.exploration.part import Part
from moa_tf.evaluation.exploration.replicates import explore_similarity
from moa_tf.evaluation.exploration.treatment import explore_treatment
from moa_tf.evaluation.exploration.viability import explore_viability
from moa_tf.evaluation.page import Html, Section, listing, page, paragraph, table

PAGE = "index.html"


@dataclass(frozen=True)
class Exploration:
    """What was found in a table.

    Attributes:
        page: an HTML page in one file.
        tables: name of a CSV file -> its rows.
        figures: the numbers, as plain values or NumPy's.
    """

    page: Html
    tables: Mapping[str, pd.DataFrame]
    figures: Mapping[str, Any]

    def write(self, directory: Path) -> None:
        """Writes the page as `index.html`, and the tables, into an empty directory."""
        (directory / PAGE).write_text(self.page, encoding="utf-8")
        for name, frame in self.tables.items():
            frame.to_csv(directory / name, index=False)


def explore(dataset: Dataset, seed: int = 0, tell: Callable[[str], None] = lambda line: None) -> Exploration:
    """Looks at a table of signatures from all sides.

    Args:
        dataset: the table.
        seed: of the pairs of rows that are drawn.
        tell: gets the name of each subject as it begins.

    Raises:
        InputError: no row is treated.
    """
    control = dataset.signatures.control
    if control.all():
        raise InputError(
            f"{dataset.source}: all {len(dataset)} signatures are controls, expected treated ones"
        )
    parts: list[Part] = [_overview(dataset), explore_treatment(dataset)]
    tell("distributions")
    parts += explore_distributions(dataset)
    tell("labels")
    parts += explore_labels(dataset)
    toxicity = explore_viability(dataset)
    parts += [toxicity] if toxicity is not None else []
    matrix = standardise(dataset.signatures)
    tell("components")
    parts += explore_components(dataset, matrix, seed)
    tell("similarity")
    parts += explore_similarity(dataset, matrix, seed)
    figures: dict[str, Any] = {"source": dataset.source, "simulated": dataset.simulated, "seed": seed}
    tables: dict[str, pd.DataFrame] = {}
    for part in parts:
        figures |= part.figures
        tables |= part.tables
    name = Path(dataset.source).resolve().name or "table"
    title = f"{name}: exploration of {'simulated ' * dataset.simulated}signatures"
    lead = [paragraph("Simulated data: nothing here says anything of real drugs.")] * dataset.simulated
    note = f"moa-tf {moa_tf.__version__}, data {dataset.fingerprint[:12]}, seed {seed}. Tables: {', '.join(tables)}."
    return Exploration(page(title, lead, [part.section for part in parts], note), tables, figures)


def _overview(dataset: Dataset) -> Part:
    signatures = dataset.signatures
    spec, control = signatures.spec, signatures.control
    figures: dict[str, Any] = {
        "signatures": len(dataset),
        "controls": int(control.sum()),
        "drugs": None if dataset.drug_id is None else len(np.unique(dataset.drug_id[~control].astype(str))),
        "genes": len(spec.genes),
        "cell_lines": len(spec.cells),
        "targets": len(dataset.target_names),
        "nonscored_targets": len(dataset.nonscored_names),
    }
    rows = [[name.replace("_", " "), value] for name, value in figures.items()]
    rows.append(["treatment", ", ".join(spec.treatment) or "none"])
    rows.append(["further columns of train_drug", ", ".join(dataset.groups) or "none"])
    warnings = list(dataset.notes.get("warnings", ()))
    said = (
        [paragraph("Reading the tables gave these warnings:"), listing(warnings)]
        if warnings
        else [paragraph("Reading the tables gave no warning.")]
    )
    section = Section(
        "overview", "Overview", (table("What the table holds", ["what", "number"], rows), *said)
    )
    return Part(section, {}, {"overview": figures, "warnings": warnings})
