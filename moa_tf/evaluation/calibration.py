"""Whether what is said to happen with probability p happens in that share of cases."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

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


def reliability(targets: np.ndarray, probabilities: np.ndarray) -> Reliability:
    """Stated and observed frequency in bands of probability, over all rows and targets together.

    Args:
        targets: [N, T], 0 or 1.
        probabilities: [N, T].
    """
    band = bands(probabilities).ravel()
    count = np.bincount(band, minlength=len(EDGES) - 1)
    stated, observed = (
        np.bincount(band, np.asarray(values, np.float64).ravel(), minlength=len(count))
        for values in (probabilities, targets)
    )
    there = count > 0
    return Reliability(count[there], stated[there] / count[there], observed[there] / count[there])


def excess_per_row(targets: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    """[N, K] by how much each row's predictions in a band are too high, its sum over targets divided by T.

    The expected calibration error is the sum over bands of the absolute mean over rows:

        ECE = Σ_k (n_k / n) |stated_k − observed_k| = Σ_k |mean over rows of this|.

    Source: Naeini, Cooper & Hauskrecht 2015, Obtaining Well Calibrated Probabilities Using Bayesian Binning.
    """
    rows, columns = targets.shape
    excess = np.asarray(probabilities, np.float64) - targets
    cell = np.arange(rows)[:, None] * (len(EDGES) - 1) + bands(probabilities)
    sums = np.bincount(cell.ravel(), excess.ravel(), minlength=rows * (len(EDGES) - 1))
    return sums.reshape(rows, -1) / columns


def expected_calibration_error(excess: np.ndarray) -> np.ndarray:
    """Of [..., K] means over rows of what `excess_per_row` gives."""
    return np.abs(excess).sum(axis=-1)
