"""One list a drug, out of its replicates, doses and times."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from scipy.special import expit

from moa_tf.data.schema import Signatures
from moa_tf.data.storage import whole_groups
from moa_tf.ensemble.weights import logit

RULES = ("mean-logit", "mean-probability", "max-condition")
"""`mean-logit` and `mean-probability` are means over all of a drug's signatures. `max-condition` is the mean over
replicates at the dose, time and cell line where it is highest: what a drug does at its highest dose alone is not
averaged away."""


def conditions(signatures: Signatures) -> np.ndarray:
    """[N] texts, `D1, 24 h, A375` say: signatures of one dose, time and cell line have the same."""
    spec, parts = signatures.spec, []
    if signatures.cp_dose is not None:
        parts.append(
            _words(signatures.cp_dose, lambda dose: spec.doses[int(dose)] if spec.doses else f"{dose:g} µM")
        )
    if signatures.cp_time is not None:
        parts.append(_words(signatures.cp_time, lambda hours: f"{hours:g} h"))
    if signatures.cp_cell is not None:
        lines = (*spec.cell_lines, "another cell line")  # the last one is −1
        parts.append(_words(signatures.cp_cell, lambda line: lines[int(line)]))
    found = np.full(len(signatures), "", object)
    for number, part in enumerate(parts):
        found = found + (", " if number else "") + part
    return found


def _words(values: np.ndarray, word: Callable[[Any], str]) -> np.ndarray:
    there, place = np.unique(values, return_inverse=True)
    return np.array([word(value) for value in there], object)[place]


class Sums:
    """Sums of rows by key, a chunk at a time, in memory that grows with the keys alone.

    Attributes:
        keys: K keys, in the order in which they came.
        counts: [K] rows.
        values: [K, F] sums.
    """

    def __init__(self, columns: int) -> None:
        self._place: dict[Any, int] = {}
        self.counts = np.zeros(0, np.int64)
        self.values = np.zeros((0, columns))

    @property
    def keys(self) -> list[Any]:
        return list(self._place)

    def add(self, keys: list[Any], rows: np.ndarray) -> None:
        """Adds rows [N, F], each under its key."""
        place = np.array([self._place.setdefault(key, len(self._place)) for key in keys], np.int64)
        more = len(self._place) - len(self.counts)
        self.counts = np.concatenate([self.counts, np.zeros(more, np.int64)])
        # Twice as many places as are needed, so that growing costs little.
        if len(self._place) > len(self.values):
            grown = np.zeros((max(2 * len(self.values), len(self._place)), rows.shape[1]))
            grown[: len(self.values)] = self.values
            self.values = grown
        np.add.at(self.counts, place, 1)
        order = np.argsort(place, kind="stable")
        there, starts = np.unique(place[order], return_index=True)
        if len(there):
            self.values[there] += np.add.reduceat(np.asarray(rows, np.float64)[order], starts)

    def means(self) -> np.ndarray:
        """[K, F]."""
        return self.values[: len(self.counts)] / self.counts[:, None]


class Consensus:
    """A rule at work.

    Args:
        rule: of `RULES`.
        targets: how many.
    """

    def __init__(self, rule: str, targets: int) -> None:
        self._rule, self._sums = rule, Sums(targets)

    def add(self, probabilities: np.ndarray, drug: np.ndarray, condition: np.ndarray) -> None:
        """Takes signatures' probabilities [N, T], their drugs' names [N] and conditions [N]."""
        by_condition = self._rule == "max-condition"
        keys = list(zip(drug, condition, strict=True)) if by_condition else list(drug)
        self._sums.add(keys, logit(probabilities) if self._rule == "mean-logit" else probabilities)

    def result(self) -> tuple[np.ndarray, np.ndarray]:
        """[D] names, sorted, and [D, T] probabilities."""
        means, keys = self._sums.means(), self._sums.keys
        if not keys:
            return np.zeros(0, str), means
        if self._rule == "max-condition":
            names, place = np.unique([str(drug) for drug, _ in keys], return_inverse=True)
            found = np.zeros((len(names), means.shape[1]))
            np.maximum.at(found, place, means)
            return names, found
        names = np.array([str(key) for key in keys])
        order = np.argsort(names)
        return names[order], (expit(means) if self._rule == "mean-logit" else means)[order]

    def table(self) -> dict[str, dict[str, np.ndarray]]:
        """Of `max-condition`: drug -> condition -> [T] means there."""
        found: dict[str, dict[str, np.ndarray]] = {}
        for (drug, condition), values in zip(self._sums.keys, self._sums.means(), strict=True):
            found.setdefault(str(drug), {})[condition] = values
        return found


def consensus(
    rule: str,
    probabilities: np.ndarray,
    drug: np.ndarray,
    condition: np.ndarray,
    rows: np.ndarray | None = None,
) -> np.ndarray:
    """[D, T] by `rule` of rows that are all there, or of those of them at `rows`; drugs in the order of their names."""
    rows = np.arange(len(drug)) if rows is None else rows
    names, number, counts = np.unique(drug[rows].astype(str), return_inverse=True, return_counts=True)
    order = rows[np.argsort(number, kind="stable")]
    found = np.empty((len(names), probabilities.shape[1]))
    # Some drugs at a time, with all of their rows.
    for group, part in whole_groups(np.append(0, np.cumsum(counts)[:-1]), len(order)):
        some, few = order[part], Consensus(rule, probabilities.shape[1])
        few.add(probabilities[some], drug[some], condition[some])
        found[group] = few.result()[1]
    return found
