"""The 978 landmark genes, which L1000 measures; the expression of all others is inferred from theirs."""

from __future__ import annotations

import csv
from functools import cache
from importlib import resources


@cache
def landmark_symbols() -> dict[str, str]:
    """Entrez gene id -> symbol of the 978 landmark genes, as text.

    Source: fields `pr_gene_id` and `pr_gene_symbol` of the plate LJP005_A375_24H_X1_B19, which comes with
    cmapPy's tests (github.com/cmap/cmapPy, BSD-3); symbols are those of that time (`AARS`, today `AARS1`).
    """
    table = resources.files("moa_tf.data").joinpath("landmarks.csv").read_text("utf-8")
    return {row["entrez_id"]: row["symbol"] for row in csv.DictReader(table.splitlines())}
