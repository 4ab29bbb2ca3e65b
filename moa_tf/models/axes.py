"""Principal axes of a table, of whatever is fewer: its rows or its columns."""

from __future__ import annotations

import numpy as np


def principal_axes(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The axes in which the rows' products are diagonal.

    Args:
        x: [N, F] float64, centred.

    Returns:
        Squared lengths [K] of the columns of x V, longest first, and V [F, K], orthonormal; K ≤ min(N, F). Axes without
        length are left out.
    """
    wide = x.shape[1] > len(x)
    squares, axes = np.linalg.eigh(x @ x.T if wide else x.T @ x)
    kept = np.flatnonzero(squares > 1e-10 * max(squares[-1], 1e-30))[::-1]
    squares, axes = squares[kept], axes[:, kept]
    return squares, x.T @ axes / np.sqrt(squares) if wide else axes
