"""The yardstick of every model: how often each target is positive, never taken to be never."""

from __future__ import annotations

import numpy as np

PRIOR_FLOOR = 1e-5
"""As if one row in a hundred thousand were positive. At 0 a single positive elsewhere would cost 34.5."""


def prior(targets: np.ndarray) -> np.ndarray:
    """Mean of each target over rows, clipped to [PRIOR_FLOOR, 1 − PRIOR_FLOOR].

    The networks' output bias begins here, and their figures stand beside the log loss of this. A target
    without a positive in the rows that a model is fitted on may have one in the rows that it is judged by; means
    without a floor pay so much for it that every model beside them looks good.

    Args:
        targets: [N, T], 0 or 1, of the treated rows that a model is fitted on; N may be 0.

    Returns:
        [T] float64; the floor where there are no rows.
    """
    targets = np.asarray(targets)
    means = targets.mean(axis=0, dtype=np.float64) if len(targets) else np.zeros(targets.shape[1])
    return np.clip(means, PRIOR_FLOOR, 1 - PRIOR_FLOOR)
