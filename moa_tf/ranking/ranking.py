"""What a model's calls on drugs are worth: measured out of fold, kept with the model, applied to new drugs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.stats import beta

from moa_tf.ensemble.calibration import Calibration, fit_calibration, read_calibration
from moa_tf.evaluation.drugs import by_drug
from moa_tf.evaluation.metrics import mean_log_loss
from moa_tf.ranking.consensus import RULES, consensus

LEAST = 0.05
"""Probability from which on a mechanism is a call at all."""
CALLS = 25
"""The fewest calls whose precision is stated by itself."""
DRUGS = 20_000
"""The most drugs that it is measured on; a hundred thousand took most of an hour."""
BANDS = 5
"""Of stated precision, in which it is held against what was observed."""


@dataclass(frozen=True)
class Band:
    """Calls of like probability.

    Attributes:
        low: least calibrated probability in it.
        calls: how many, out of fold.
        right: how many of them were true.
    """

    low: float
    calls: int
    right: int

    @property
    def precision(self) -> float:
        """Share that was right."""
        return self.right / self.calls

    def interval(self, level: float = 0.95) -> tuple[float, float]:
        """Of the precision.

        Source: Brown, Cai & DasGupta 2001, Interval Estimation for a Binomial Proportion (Jeffreys' interval).
        """
        tail = (1 - level) / 2
        low = 0.0 if self.right == 0 else beta.ppf(tail, self.right + 0.5, self.calls - self.right + 0.5)
        high = (
            1.0
            if self.right == self.calls
            else beta.ppf(1 - tail, self.right + 0.5, self.calls - self.right + 0.5)
        )
        return float(low), float(high)


@dataclass(frozen=True)
class Ranking:
    """From probabilities of signatures to calls on drugs.

    Attributes:
        rule: of `RULES`.
        calibration: of the consensus, on drugs.
        bands: of calibrated probability, from low to high; none where there were too few calls.
        evidence: out-of-fold figures, JSON values: `drugs`, `log_loss` of each rule (calibrated), and `reliability`,
            bands of stated precision with `stated`, `calls`, `right`, `low` and `high`.
    """

    rule: str
    calibration: Calibration | None
    bands: tuple[Band, ...]
    evidence: dict[str, Any]

    def calibrated(self, probabilities: np.ndarray) -> np.ndarray:
        """[D, T] of a consensus [D, T]."""
        return _calibrated(self.calibration, probabilities)

    def band(self, probability: float) -> Band | None:
        """The band of a call; None below the lowest."""
        found = [band for band in self.bands if probability >= band.low]
        return found[-1] if found else None

    def to_dict(self) -> dict[str, Any]:
        """JSON values."""
        return {
            "rule": self.rule,
            "calibration": self.calibration.to_dict() if self.calibration else None,
            "bands": [vars(band) for band in self.bands],
            "evidence": self.evidence,
        }

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Ranking:
        return cls(
            values["rule"],
            read_calibration(values["calibration"]),
            tuple(Band(**band) for band in values["bands"]),
            values["evidence"],
        )


def fit_ranking(
    targets: np.ndarray,
    probabilities: np.ndarray,
    drug: np.ndarray,
    condition: np.ndarray,
    fold: np.ndarray,
    rows: np.ndarray | None = None,
) -> Ranking:
    """Chooses the rule, calibrates it on drugs, and counts how often its calls were right.

    A drug counts for the fold of its first row. Everything that is stated of a fold's drugs, calibration and precision,
    was fitted on the other folds' drugs; what is kept is fitted on all.

    Args:
        targets: [N, T] labels, 0 or 1.
        probabilities: [N, T] by models that have not seen the row's drug.
        drug: [N] names.
        condition: [N] texts, see `moa_tf.ranking.consensus.conditions`.
        fold: [N] numbers.
        rows: [M] the treated ones among them; None is all.

    Of more than `DRUGS` drugs, as many are taken by chance, always the same.
    """
    rows = np.arange(len(targets)) if rows is None else rows
    names, number = np.unique(drug[rows].astype(str), return_inverse=True)
    if len(names) > DRUGS:
        taken = np.zeros(len(names), bool)
        taken[np.random.default_rng(0).choice(len(names), DRUGS, replace=False)] = True
        rows = rows[taken[number]]
    _, first, labels, _ = by_drug(drug, targets, probabilities, rows)
    home = np.asarray(fold)[rows[first]]
    losses, rule = {}, RULES[0]
    for name in RULES:
        values = consensus(name, probabilities, drug, condition, rows)
        crossed = _cross_calibrated(labels, values, home)
        losses[name] = mean_log_loss(labels, crossed)
        # Of equal ones, as with one signature a drug, the first.
        if name == rule or round(losses[name], 9) < round(losses[rule], 9):
            rule, best, calls = name, values, crossed
    # Of one fold alone nothing could be said of what calibrating does.
    calibration = fit_calibration(labels, best, "temperature") if len(np.unique(home)) > 1 else None
    return Ranking(
        rule,
        calibration,
        count_bands(labels, calls),
        {
            "drugs": len(labels),
            "log_loss": {name: float(loss) for name, loss in losses.items()},
            "reliability": _stated(labels, calls, home),
        },
    )


def count_bands(labels: np.ndarray, probabilities: np.ndarray) -> tuple[Band, ...]:
    """Calls of at least `LEAST` in bands, from low to high.

    From the most probable down, a band ends where it has `CALLS` calls and a tenth of all that is expected to be right:
    so they are narrow where it counts, and none is of a few calls.
    """
    p, right = probabilities.ravel(), np.asarray(labels).ravel() > 0
    p, right = p[p >= LEAST], right[p >= LEAST]
    order = np.argsort(-p, kind="stable")
    p, right = p[order], right[order]
    if len(p) < CALLS:
        return ()
    sums, ends, start = np.append(0, np.cumsum(p)), [], 0
    for k in range(len(p)):
        # Equal calls are in one band, and what is left after the last one must be a band too.
        edge = k + 1 == len(p) or p[k + 1] < p[k]
        enough = k + 1 - start >= CALLS and sums[k + 1] - sums[start] >= sums[-1] / 10
        if edge and enough and len(p) - k - 1 >= CALLS:
            ends.append(k + 1)
            start = k + 1
    ends.append(len(p))
    starts = [0, *ends[:-1]]
    lows = [*(float(p[end - 1]) for end in ends[:-1]), LEAST]
    bands = [
        Band(low, end - start, int(right[start:end].sum()))
        for low, start, end in zip(lows, starts, ends, strict=True)
    ]
    return tuple(bands[::-1])


def expected_false(ranking: Ranking, probabilities: Sequence[float]) -> np.ndarray:
    """[K] of calls sorted from the most probable on: the share of wrong ones to be expected down to each.

    By the precision of each call's band: the extreme probabilities of a model are the least sure ones. Below the bands,
    by the probability itself.
    """
    bands = [ranking.band(p) for p in probabilities]
    right = [p if band is None else band.precision for p, band in zip(probabilities, bands, strict=True)]
    return np.cumsum(1 - np.array(right, np.float64)) / np.arange(1, len(right) + 1)


def _calibrated(calibration: Calibration | None, probabilities: np.ndarray) -> np.ndarray:
    if calibration is None:
        return probabilities
    return np.asarray(calibration(np.asarray(probabilities, np.float64)))


def _cross_calibrated(labels: np.ndarray, probabilities: np.ndarray, home: np.ndarray) -> np.ndarray:
    found = np.array(probabilities, np.float64)
    for fold in np.unique(home):
        others = home != fold
        if others.any():
            calibration = fit_calibration(labels, probabilities, "temperature", np.flatnonzero(others))
            found[~others] = _calibrated(calibration, probabilities[~others])
    return found


def _stated(labels: np.ndarray, probabilities: np.ndarray, home: np.ndarray) -> list[dict[str, float]]:
    """Each fold's calls with the precision that the other folds' bands state, against what they were."""
    stated, right = [], []
    for fold in np.unique(home):
        there = home == fold
        bands = count_bands(labels[~there], probabilities[~there]) if (~there).any() else ()
        if not bands:
            continue
        p, y = probabilities[there].ravel(), labels[there].ravel()
        called = p >= LEAST
        place = np.searchsorted([band.low for band in bands], p[called], side="right") - 1
        stated.append(np.array([band.precision for band in bands])[place])
        right.append(y[called])
    if not stated:
        return []
    said, true = np.concatenate(stated), np.concatenate(right)
    edges = np.linspace(0, 1, BANDS + 1)[1:-1]
    number = np.searchsorted(edges, said, side="right")
    found = []
    for k in range(BANDS):
        here = number == k
        if here.any():
            band = Band(0.0, int(here.sum()), int(true[here].sum()))
            low, high = band.interval()
            found.append(
                {
                    "stated": float(said[here].mean()),
                    "calls": band.calls,
                    "right": band.right,
                    "low": low,
                    "high": high,
                }
            )
    return found
