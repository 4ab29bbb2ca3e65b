"""Names of genes that a biologist reads, in place of `g-16`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from moa_tf.data.landmarks import landmark_symbols
from moa_tf.errors import InputError

SYMBOLS = ("symbol", "gene_symbol", "pr_gene_symbol", "gene")
IDS = ("old", "entrez", "entrez_id", "gene_id", "pr_gene_id")
COLUMNS = ("new", "column", "feature")


def read_gene_names(path: str | Path) -> dict[str, str]:
    """Reads a gene mapping: column of the features table -> what to call the gene.

    The table has a column `new` (or `column`, `feature`) with names such as g-16, and either a column
    `symbol` (or `gene_symbol`, `pr_gene_symbol`, `gene`) or one with Entrez ids, `old` (or `entrez`,
    `entrez_id`, `gene_id`, `pr_gene_id`). Where there is no symbol, the ids of the 978 landmark genes give it, and
    other ids become `Entrez:ID`.

    Args:
        path: a `.csv` file.

    Raises:
        InputError: the file cannot be read, or lacks these columns, or maps a column twice.
    """
    try:
        table = pd.read_csv(path, dtype=str, keep_default_na=False)
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be read as .csv ({error})") from None
    table = table.apply(lambda values: values.str.strip())
    lowered = {name.strip().lower(): name for name in table.columns}
    column, symbol, identifier = (
        next((lowered[name] for name in names if name in lowered), None) for names in (COLUMNS, SYMBOLS, IDS)
    )
    if column is None or (symbol is None and identifier is None):
        raise InputError(
            f"{path}: columns {', '.join(table.columns)}; expected new, and old (Entrez ids) or symbol"
        )
    twice = table[column][table[column].duplicated()]
    if len(twice):
        raise InputError(f"{path}: column {column}: {twice.iloc[0]} is there twice, {len(twice)} such rows")
    names = table[symbol] if symbol is not None else pd.Series("", index=table.index)
    if identifier is not None:
        table[identifier] = table[identifier].str.removesuffix(".0")  # what pandas makes of numbers with gaps
        symbols = table[identifier].map(landmark_symbols())
        ids = ("Entrez:" + table[identifier]).where(table[identifier] != "", "")
        names = names.where(names != "", symbols.where(symbols.notna(), ids))
    return {key: name for key, name in zip(table[column], names, strict=True) if name}


def name_columns(columns: Sequence[str], names: dict[str, str]) -> list[str]:
    """What to call each column: by `names`, or the column's own name where that has none."""
    return [names.get(column, column) for column in columns]


def label_columns(columns: Sequence[str], names: dict[str, str]) -> list[str]:
    """Names that tell the columns apart in a picture: `TP53 (g-12)` where several are called TP53."""
    called = name_columns(columns, names)
    times = Counter(called)
    return [
        f"{name} ({column})" if times[name] > 1 and name != column else name
        for name, column in zip(called, columns, strict=True)
    ]
