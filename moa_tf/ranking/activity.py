"""Whether a drug does anything: do its replicates agree, and is its signature beyond the controls' spread."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
from scipy.stats import chi2

from moa_tf.data.schema import Signatures
from moa_tf.ranking.consensus import Sums

KEPT = 3000
"""The most rows that chance is drawn from."""
DRAWS = 1000
LEVEL = 0.15
"""Of the p-value up to which a drug counts as active. On a simulated table of the competition's size it lets 9 % of the
drugs without an effect pass, and 92 % of the others."""
MOST = 50
"""Replicates; a drug of more is held against chance for this many."""
CONTROLS = 50
"""The fewest controls whose spread can be told."""


@dataclass(frozen=True)
class Scale:
    """Of each feature, what it is without a drug.

    Attributes:
        mean: [F].
        deviation: [F], above 0.
        controls: of how many controls; 0 where there are too few, and all signatures stand in.
    """

    mean: np.ndarray
    deviation: np.ndarray
    controls: int

    def __call__(self, signatures: Signatures) -> np.ndarray:
        """[N, F] float32 distances from the mean in standard deviations; 0 for a missing value."""
        z = (features_of(signatures) - self.mean) / self.deviation
        return np.nan_to_num(z, nan=0.0).astype(np.float32)


def features_of(signatures: Signatures) -> np.ndarray:
    """[N, F] genes, then cell lines."""
    parts = [part for part in (signatures.genes, signatures.cells) if part is not None]
    return np.concatenate(parts, axis=1) if len(parts) > 1 else parts[0]


def fit_scale(chunks: Iterable[Signatures]) -> Scale:
    """Means and deviations over controls, or over all signatures where fewer than `CONTROLS` are."""
    sums: dict[bool, list[np.ndarray]] = {}
    for signatures in chunks:
        values = features_of(signatures).astype(np.float64)
        for control in (False, True):
            rows = values[signatures.control == control]
            known = ~np.isnan(rows)
            found = [known.sum(0), np.where(known, rows, 0).sum(0), np.where(known, rows, 0.0) ** 2]
            found[2] = found[2].sum(0)
            before = sums.get(control, [0, 0, 0])
            sums[control] = [a + b for a, b in zip(before, found, strict=True)]
    controls = int(np.max(sums[True][0], initial=0))
    enough = controls >= CONTROLS
    count, total, squares = sums[True] if enough else (a + b for a, b in zip(*sums.values(), strict=True))
    count = np.maximum(count, 1)
    mean = total / count
    deviation = np.sqrt(np.maximum(squares / count - mean**2, 0))
    return Scale(mean, np.where(deviation > 1e-8, deviation, 1), controls if enough else 0)


class Reservoir:
    """Rows by chance out of a stream, each with the same probability.

    Source: Vitter 1985, Random Sampling with a Reservoir, algorithm R.
    """

    def __init__(self, size: int, seed: int) -> None:
        self._size, self._seen, self._rng = size, 0, np.random.default_rng(seed)
        self._rows: list[np.ndarray] = []

    def add(self, rows: np.ndarray) -> None:
        for row in rows:
            self._seen += 1
            if len(self._rows) < self._size:
                self._rows.append(row.copy())
            elif (place := self._rng.integers(self._seen)) < self._size:
                self._rows[place] = row.copy()

    @property
    def rows(self) -> np.ndarray:
        return np.stack(self._rows) if self._rows else np.zeros((0, 0), np.float32)


@dataclass(frozen=True)
class Activity:
    """Of D drugs; NaN where it cannot be told.

    Attributes:
        agreement: [D] mean correlation between a drug's signatures; of two at least.
        agreement_p: [D] how often as many signatures of different drugs agree as well.
        strength: [D] root mean square of its mean signature, in standard deviations of a mean of as many controls: 1 is
            what a control has.
        strength_p: [D] how often as many controls are as far out.
    """

    agreement: np.ndarray
    agreement_p: np.ndarray
    strength: np.ndarray
    strength_p: np.ndarray

    @property
    def p(self) -> np.ndarray:
        """[D] both together, or the one that can be told.

        Source: Fisher 1925, Statistical Methods for Research Workers, section 21.1.
        """
        told = np.stack([self.agreement_p, self.strength_p])
        known = ~np.isnan(told)
        statistic = -2 * np.log(np.where(known, told, 1)).sum(axis=0)
        return np.where(known.any(axis=0), chi2.sf(statistic, np.maximum(2 * known.sum(axis=0), 1)), np.nan)


class Profiles:
    """Collects what activity and similarity need, a chunk at a time.

    Args:
        scale: from `fit_scale`.
        seed: of what chance is drawn from.

    Attributes:
        mean: sums of scaled signatures by drug.
    """

    def __init__(self, scale: Scale, seed: int = 0) -> None:
        width = len(scale.mean)
        self._scale, self._seed = scale, seed
        self.mean, self._unit = Sums(width), Sums(width)
        self._treated, self._controls = Reservoir(KEPT, seed), Reservoir(KEPT, seed + 1)

    def add_controls(self, signatures: Signatures) -> None:
        """Takes the controls among these signatures, whose spread is what a drug must be beyond."""
        self._controls.add(self._scale(signatures.take(signatures.control)))

    def add(self, signatures: Signatures, drug: np.ndarray) -> None:
        """Takes treated signatures, leaves controls out; and the drug of each [N]."""
        z, treated = self._scale(signatures), ~signatures.control
        unit = _unit(z[treated])
        self.mean.add(list(drug[treated]), z[treated])
        self._unit.add(list(drug[treated]), unit)
        self._treated.add(unit)

    def activity(self) -> Activity:
        """Of the drugs in the order of `mean.keys`."""
        counts = self._unit.counts
        squares = np.square(self._unit.values[: len(counts)]).sum(axis=1)
        pairs = np.maximum(counts * (counts - 1), 1)
        agreement = np.where(counts > 1, (squares - counts) / pairs, np.nan)
        strength = _strength(self.mean.means(), counts)
        rng = np.random.default_rng(self._seed + 2)
        agreement_p = self._chance(agreement, counts, self._treated.rows, _agreement_of, rng, least=2)
        controls = self._controls.rows if self._scale.controls else np.zeros((0, 0), np.float32)
        strength_p = self._chance(strength, counts, controls, _strength_of, rng, least=1)
        strength = strength if self._scale.controls else np.full(len(counts), np.nan)
        return Activity(agreement, agreement_p, strength, strength_p)

    def _chance(
        self,
        found: np.ndarray,
        counts: np.ndarray,
        rows: np.ndarray,
        figure: Callable[[np.ndarray], np.ndarray],
        rng: np.random.Generator,
        least: int,
    ) -> np.ndarray:
        """[D] p-values: of draws of as many rows, how many have a figure as high."""
        p = np.full(len(found), np.nan)
        of = np.minimum(counts, MOST)
        for size in np.unique(of[counts >= least]):
            if len(rows) < max(CONTROLS, 2 * size):
                continue
            # Some at a time: fifty rows of a thousand features, a thousand times, are 200 MB.
            chance = np.concatenate(
                [
                    figure(np.stack([rows[rng.choice(len(rows), size, replace=False)] for _ in range(50)]))
                    for _ in range(DRAWS // 50)
                ]
            )
            here = of == size
            higher = len(chance) - np.searchsorted(np.sort(chance), found[here] - 1e-12)
            p[here] = (1 + higher) / (1 + len(chance))
        return p


def _unit(z: np.ndarray) -> np.ndarray:
    """Rows without their mean, of length 1: products of two are their correlation."""
    centred = z - z.mean(axis=1, keepdims=True)
    return centred / np.maximum(np.linalg.norm(centred, axis=1, keepdims=True), 1e-12)


def _agreement_of(units: np.ndarray) -> np.ndarray:
    """[K] of K sets of rows, [K, n, F]."""
    n = units.shape[1]
    return (np.square(units.sum(axis=1)).sum(axis=1) - n) / (n * (n - 1))


def _strength(means: np.ndarray, counts: np.ndarray) -> np.ndarray:
    return np.sqrt(np.square(means).mean(axis=1) * counts)


def _strength_of(z: np.ndarray) -> np.ndarray:
    return _strength(z.mean(axis=1), np.full(len(z), z.shape[1]))
