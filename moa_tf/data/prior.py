"""The yardstick of every model: how often each target is positive, never taken to be never."""

from __future__ import annotations

import numpy as np

from moa_tf.data.storage import blocks

PRIOR_FLOOR = 1e-5
"""As if one row in a hundred thousand were positive. At 0 a single positive elsewhere would cost 34.5."""


def label_sums(targets: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """[T] float64: how often each of targets [N, T], 0 or 1, is positive in `rows`."""
    sums = np.zeros(targets.shape[1])
    for part in blocks(len(rows)):
        sums += targets[rows[part]].sum(axis=0, dtype=np.float64)
    return sums


def prior(targets: np.ndarray, rows: np.ndarray | None = None) -> np.ndarray:
    """Mean of each target over rows, clipped to [PRIOR_FLOOR, 1 − PRIOR_FLOOR].

    The networks' output bias begins here, and their figures stand beside the log loss of this. A target
    without a positive in the rows that a model is fitted on may have one in the rows that it is judged by; means
    without a floor pay so much for it that every model beside them looks good.

    Args:
        targets: [N, T], 0 or 1.
        rows: the treated rows that a model is fitted on; there may be none. By default all.

    Returns:
        [T] float64; the floor where there are no rows.
    """
    targets = np.asarray(targets)
    rows = np.arange(len(targets)) if rows is None else rows
    means = label_sums(targets, rows) / max(len(rows), 1)
    return np.clip(means, PRIOR_FLOOR, 1 - PRIOR_FLOOR)
