"""Fields of metadata: what they are called in different tables, and their values as text."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from moa_tf.data.faults import COLUMNS
from moa_tf.data.names import clean, is_missing, shorten
from moa_tf.errors import InputError

ALIASES: dict[str, tuple[str, ...]] = {
    "signature": ("sig_id", "inst_id", "sample_id", "cid", "id"),
    "type": ("cp_type", "pert_type"),
    "time": ("cp_time", "pert_time", "pert_itime"),
    "time_unit": ("pert_time_unit",),
    "dose": ("cp_dose", "pert_dose", "pert_idose", "nearest_dose"),
    "dose_unit": ("pert_dose_unit",),
    "cell": ("cp_cell", "cell_iname", "cell_id"),
    "drug": ("drug_id", "pert_id", "broad_id"),
    "name": ("pert_iname", "cmap_name"),
    "mechanism": ("moa", "pert_moa"),
    "plate": ("rna_plate", "det_plate"),
    "batch": ("bead_batch",),
    "gene": ("gene_id", "pr_gene_id", "entrez_id", "entrez"),
    "feature": ("id", "rid", "pr_id"),
    "symbol": ("gene_symbol", "pr_gene_symbol", "symbol"),
    "space": ("feature_space",),
    "smiles": ("canonical_smiles", "smiles"),
    "scaffold": ("scaffold",),
}
"""What a field means -> what it is called; the first name that has a value counts."""


@dataclass(frozen=True)
class Renaming:
    """Fields that the caller calls otherwise (`--rename`), and further ones to be read (`--quality`).

    Attributes:
        names: old name -> new name.
        others: fields to be read although nothing here knows what they mean.
        met: the old names that were found in some table.
    """

    names: Mapping[str, str] = field(default_factory=dict)
    others: frozenset[str] = frozenset()
    met: set[str] = field(default_factory=set)

    def wanted(self, name: str) -> bool:
        """Whether a field of this name, as its table has it, is to be read."""
        new = self.names.get(name, name)
        return new in self.others or any(new in names for names in ALIASES.values())

    def new(self, name: str) -> str:
        """What the field is called here."""
        if name in self.names:
            self.met.add(name)
        return self.names.get(name, name)

    def apply(self, columns: Mapping[str, np.ndarray], rows: int, where: str) -> pd.DataFrame:
        """[rows] the fields that are wanted, by their new names.

        Raises:
            InputError: two of them have one name then.
        """
        names = [self.new(name) for name in columns]
        twice = {name for name in names if names.count(name) > 1}
        if twice:
            raise InputError(
                f"{where}: {len(twice)} fields are there twice ({shorten(sorted(twice), COLUMNS)})"
            )
        return pd.DataFrame(
            dict(zip(names, columns.values(), strict=True)), pd.RangeIndex(rows), dtype=object
        )

    def check(self) -> None:
        """Raises InputError where an old name was in no table."""
        unmet = [name for name in self.names if name not in self.met]
        if unmet:
            raise InputError(f"--rename: no table has a field {shorten(unmet, COLUMNS)}")


def find_field(fields: pd.DataFrame, meaning: str) -> str | None:
    """The name of the field that means this: the first one that has a value, else None."""
    return next((name for name in ALIASES[meaning] if name in fields and (fields[name] != "").any()), None)


def values_of(fields: pd.DataFrame, meaning: str) -> np.ndarray | None:
    """[N] text of the field that means this, '' where a value is missing; None where there is no such field."""
    name = find_field(fields, meaning)
    return None if name is None else fields[name].to_numpy(object)


def tidy(values: np.ndarray) -> np.ndarray:
    """[N] text without blanks around it; '' for what is missing (empty, NA, NaN, −666). Equal values share a str."""
    codes, unique = pd.factorize(np.asarray(values))
    return np.array([*map(_text, unique), ""], object)[codes]


def check_ids(where: str, what: str, ids: np.ndarray) -> None:
    """Raises InputError where one of the ids is missing, no text, or there twice."""
    for fault, at in (
        ("missing", np.flatnonzero(ids == "")),
        ("not UTF-8 text", np.flatnonzero(["\ufffd" in value for value in ids])),
        ("there more than once", np.flatnonzero(pd.Index(ids).duplicated())),
    ):
        if len(at):
            shown = shorten((f"number {i + 1}" + (f" {ids[i]}" if ids[i] else "") for i in at[:4]), 3)
            raise InputError(f"{where}: {len(at)} ids of {what} are {fault} ({shown}), expected each once")


def list_fields(names: Iterable[str]) -> str:
    """The fields of a table, for a message about one that it lacks."""
    return shorten(names, 12) or "none"


def _text(value: object) -> str:
    if isinstance(value, bytes):
        value = value.decode("utf-8", "replace")
    elif isinstance(value, (float, np.floating)) and float(value).is_integer():
        value = int(value)
    text = clean(str(value))
    return "" if is_missing(text) else text
