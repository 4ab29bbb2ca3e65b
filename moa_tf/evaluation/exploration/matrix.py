"""All features of a table on one scale, as correlations and components take them."""

from __future__ import annotations

import numpy as np

from moa_tf.data.schema import Signatures

MOST_MISSING = 0.5
"""A feature of which more is missing tells nothing of how rows resemble each other."""

COLUMNS = 64
"""Columns that are copied in float64 at a time."""


def standardise(signatures: Signatures) -> np.ndarray:
    """Genes and cell lines, each with mean 0 and standard deviation 1 over the treated rows.

    A missing value becomes 0, the mean. Features that do not vary over the treated rows, or of which more than half is
    missing there, are left out.

    Args:
        signatures: N rows.

    Returns:
        [N, F] float32.
    """
    treated = ~signatures.control
    kinds = [values for values in (signatures.genes, signatures.cells) if values is not None]
    scaled = [np.empty((len(signatures), 0), np.float32)]
    for values in kinds:
        for start in range(0, values.shape[1], COLUMNS):
            scaled.append(_standardise(values[:, start : start + COLUMNS].astype(np.float64), treated))
    return np.concatenate(scaled, axis=1)


def unit_rows(matrix: np.ndarray) -> np.ndarray:
    """Rows with mean 0 and length 1, so that products of two are Pearson's correlation.

    Args:
        matrix: [N, F].

    Returns:
        [N, F] float32; NaN in the rows that do not vary.
    """
    centred = matrix - matrix.mean(1, keepdims=True)
    length = np.linalg.norm(centred, axis=1, keepdims=True)
    with np.errstate(invalid="ignore", divide="ignore"):
        centred /= np.where(length > 1e-6 * np.sqrt(matrix.shape[1]), length, np.nan)
    return centred.astype(np.float32, copy=False)


def _standardise(values: np.ndarray, treated: np.ndarray) -> np.ndarray:
    known = ~np.isnan(values)
    counted = known & treated[:, None]
    rows = counted.sum(0)
    filled = np.where(known, values, 0)
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = (filled * counted).sum(0) / rows
        centred = np.where(known, values - mean, 0)
        deviation = np.sqrt((centred**2 * counted).sum(0) / rows)
    # In float64 the deviation of a constant is rounding alone.
    used = (rows >= (1 - MOST_MISSING) * treated.sum()) & (deviation > 1e-9 * np.maximum(1, np.abs(mean)))
    return (centred[:, used] / deviation[used]).astype(np.float32)
