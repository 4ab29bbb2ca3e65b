"""Whether what is said to happen with probability p happens in that share of cases."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from moa_tf.data.storage import blocks

EDGES = np.array([0, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0])
"""Of the bands of probability. Most of what a model says lies below .01, where equal bands would not look."""


class Reliability(NamedTuple):
    """Of each band that holds a prediction.

    Attributes:
        count: [K] predictions.
        stated: [K] their mean.
        observed: [K] share of them that are true.
    """

    count: np.ndarray
    stated: np.ndarray
    observed: np.ndarray


def bands(probabilities: np.ndarray) -> np.ndarray:
    """[N, T] int8, which of the bands between `EDGES` each probability lies in; an edge belongs to the upper one."""
    return (np.searchsorted(EDGES[1:-1], probabilities, side="right")).astype(np.int8)


def reliability(
    targets: np.ndarray, probabilities: np.ndarray, rows: np.ndarray | None = None
) -> Reliability:
    """Stated and observed frequency in bands of probability, over all rows and targets together.

    Args:
        targets: [N, T], 0 or 1.
        probabilities: [N, T].
        rows: [M] which rows count; None is all.
    """
    rows = np.arange(len(targets)) if rows is None else rows
    count, (stated, observed) = np.zeros(len(EDGES) - 1, np.int64), np.zeros((2, len(EDGES) - 1))
    for part in blocks(len(rows)):
        p = probabilities[rows[part]]
        band = bands(p).ravel()
        count += np.bincount(band, minlength=len(count))
        # One after another, so that the sums are the same whatever the blocks.
        for sums, values in ((stated, p), (observed, targets[rows[part]])):
            np.add.at(sums, band, values.ravel().astype(np.float64))
    there = count > 0
    return Reliability(count[there], stated[there] / count[there], observed[there] / count[there])


def brier_per_row(targets: np.ndarray, probabilities: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """[M] mean over targets of each of the `rows`' squared differences."""
    found = np.empty(len(rows))
    for part in blocks(len(rows)):
        differences = probabilities[rows[part]].astype(np.float64) - targets[rows[part]]
        found[part] = np.square(differences).mean(axis=1)
    return found


def excess_per_row(
    targets: np.ndarray, probabilities: np.ndarray, rows: np.ndarray | None = None
) -> np.ndarray:
    """[M, K] by how much each row's predictions in a band are too high, its sum over targets divided by T.

    The expected calibration error is the sum over bands of the absolute mean over rows:

        ECE = Σ_k (n_k / n) |stated_k − observed_k| = Σ_k |mean over rows of this|.

    Source: Naeini, Cooper & Hauskrecht 2015, Obtaining Well Calibrated Probabilities Using Bayesian Binning.
    """
    rows = np.arange(len(targets)) if rows is None else rows
    found = np.empty((len(rows), len(EDGES) - 1))
    for part in blocks(len(rows)):
        p, y = probabilities[rows[part]], targets[rows[part]]
        cell = np.arange(len(p))[:, None] * found.shape[1] + bands(p)
        excess = np.asarray(p, np.float64) - y
        sums = np.bincount(cell.ravel(), excess.ravel(), minlength=found[part].size)
        found[part] = sums.reshape(len(p), -1) / targets.shape[1]
    return found


def expected_calibration_error(excess: np.ndarray) -> np.ndarray:
    """Of [..., K] means over rows of what `excess_per_row` gives."""
    return np.abs(excess).sum(axis=-1)
