"""Models of one target each, side by side."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import numpy as np
from joblib import cpu_count
from threadpoolctl import threadpool_limits

Model = TypeVar("Model")


def for_each_target(fit: Callable[[np.ndarray], Model], targets: np.ndarray) -> list[Model]:
    """Calls `fit` with each column [M] of `targets` [M, T]; as many at a time as there are cores.

    Each is to use one thread: many small models so use the cores better than one after another with all of them, and
    one thread adds in one order, so that the same seed gives the same model.
    """
    # Libraries silence warnings for a while, which in threads that overlap leaves them as the last one had them.
    with (
        warnings.catch_warnings(),
        threadpool_limits(1, "blas"),
        ThreadPoolExecutor(cpu_count()) as pool,
    ):
        return list(pool.map(fit, np.ascontiguousarray(targets.T)))
