"""Which drug a signature is of, and which mechanisms of action that drug has."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd

from moa_tf.data.conversion.fields import values_of

_BROAD = re.compile(r"(BRD-[A-Z]\d{8})(?:-.*)?")
_BETWEEN = re.compile(r"\||, ")
_NOT_IN_A_NAME = re.compile(r"[^\w-]+")


def name_mechanism(text: str) -> str:
    """A mechanism as the competition writes it: `HDAC inhibitor` -> `hdac_inhibitor`.

    `Na/K-ATPase inhibitor` becomes `na_k-atpase_inhibitor`; hyphens stay.
    """
    text = unicodedata.normalize("NFKC", text).lower()
    return re.sub("_+", "_", _NOT_IN_A_NAME.sub("_", text)).strip("_")


def split_mechanisms(text: str) -> tuple[str, ...]:
    """The names in `A inhibitor|B agonist` or `A inhibitor, B agonist`."""
    names = map(name_mechanism, _BETWEEN.split(text))
    return tuple(dict.fromkeys(name for name in names if name))


def shorten_id(drug: str) -> str:
    """`BRD-K02708799`, which names the compound, of `BRD-K02708799-001-02-2`, which names its batch."""
    found = _BROAD.fullmatch(drug)
    return found[1] if found else drug


def find_drugs(
    fields: pd.DataFrame, control: np.ndarray, sig_id: np.ndarray
) -> tuple[np.ndarray | None, int]:
    """The drug of each signature: its id, else its name.

    Args:
        fields: [N] fields of the signatures.
        control: [N] bool.
        sig_id: [N] ids.

    Returns:
        [N] drugs, or None where no field tells them; and how many treated signatures have neither id nor name
        and so count as a drug each, called by their sig_id.
    """
    ids, names = values_of(fields, "drug"), values_of(fields, "name")
    if ids is None and names is None:
        return None, 0
    drugs = (
        np.full(len(fields), "", object)
        if ids is None
        else np.array([shorten_id(value) for value in ids], object)
    )
    if names is not None:
        drugs = np.where(drugs == "", names, drugs)
    unknown = drugs == ""
    drugs = np.where(unknown & control, "control", drugs)
    return np.where(unknown & ~control, sig_id, drugs), int((unknown & ~control).sum())


@dataclass(frozen=True)
class Mechanisms:
    """The mechanisms of drugs, by id and by name in lower case; several rows of a drug are one."""

    by_id: Mapping[str, frozenset[str]]
    by_name: Mapping[str, frozenset[str]]

    @classmethod
    def collect(cls, ids: np.ndarray | None, names: np.ndarray | None, mechanisms: np.ndarray) -> Mechanisms:
        """From [n] ids, [n] names (either may be None) and [n] lists of mechanisms as text; '' is unknown."""
        known = mechanisms != ""
        split = {text: split_mechanisms(text) for text in set(mechanisms[known])}
        tables: list[dict[str, set[str]]] = []
        for keys, change in ((ids, shorten_id), (names, str.lower)):
            table: dict[str, set[str]] = {}
            if keys is not None:
                for key, text in set(zip(keys[known], mechanisms[known], strict=True)):
                    if key and split[text]:
                        table.setdefault(change(key), set()).update(split[text])
            tables.append(table)
        by_id, by_name = ({key: frozenset(value) for key, value in table.items()} for table in tables)
        return cls(by_id, by_name)

    def of(self, drug: str, names: Iterable[str]) -> frozenset[str]:
        """Those of one drug: by its id, or else by its names; empty if they are not known."""
        if drug in self.by_id:
            return self.by_id[drug]
        found = [self.by_name.get(name.lower(), frozenset()) for name in (drug, *names)]
        return frozenset().union(*found)


@dataclass(frozen=True)
class Labels:
    """Labels of the signatures.

    Attributes:
        names: T mechanisms, sorted.
        matrix: [D, T] int8, of each known drug.
        row: [N] the row of `matrix` for each signature; −1 for a drug whose mechanism is not known, and for
            controls.
        dropped: mechanisms of too few drugs -> how many.
    """

    names: tuple[str, ...]
    matrix: np.ndarray
    row: np.ndarray
    dropped: dict[str, int]


def label(
    drugs: np.ndarray, names: np.ndarray | None, treated: np.ndarray, mechanisms: Mechanisms, min_drugs: int
) -> Labels:
    """Labels the treated signatures of the drugs whose mechanism is known.

    Args:
        drugs: [N] drug ids.
        names: [N] names of the drugs, or None.
        treated: [N] bool; no other signature gets a label or counts.
        mechanisms: of the drugs.
        min_drugs: how many drugs a mechanism needs to be kept. A drug of which none is kept stays, without a label.
    """
    called: dict[str, set[str]] = {drug: set() for drug in sorted(set(drugs[treated]))}
    if names is not None:
        for drug, name in set(zip(drugs[treated], names[treated], strict=True)):
            called[drug].add(name)
    known = {drug: found for drug, of in called.items() if (found := mechanisms.of(drug, of))}
    count = pd.Series([name for found in known.values() for name in found], dtype=object).value_counts()
    kept = tuple(sorted(name for name, n in count.items() if n >= min_drugs))
    place = {name: j for j, name in enumerate(kept)}
    matrix = np.zeros((len(known), len(kept)), np.int8)
    for i, found in enumerate(known.values()):
        matrix[i, [place[name] for name in found if name in place]] = 1
    row = np.where(treated, pd.Index(list(known), dtype=object).get_indexer(drugs), -1)
    dropped = {name: int(n) for name, n in sorted(count.items()) if n < min_drugs}
    return Labels(kept, matrix, row, dropped)
