"""A matrix of signatures with the fields of its rows and columns, whatever file it comes from."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

MISSING = -666
"""CMap's number for a missing value."""

Progress = Callable[[str, int, int], None]
"""Called with what is being done, how much of it is done, and how much there is."""


@dataclass(frozen=True)
class Source:
    """N signatures of F features.

    Attributes:
        kind: what the file is, in words.
        sig_id: [N] ids.
        feature_id: [F] ids.
        fields: [N] fields of the signatures, text, '' where missing.
        features: [F] fields of the features, the same.
        read: from a start and a stop to the [stop − start, F] numbers of these signatures, float32 or
            float64; NaN where one is missing.
        stride: as many signatures are best read together, or a multiple.
    """

    kind: str
    sig_id: np.ndarray
    feature_id: np.ndarray
    fields: pd.DataFrame
    features: pd.DataFrame
    read: Callable[[int, int], np.ndarray]
    stride: int = 1


class Scratch:
    """A matrix of float32 in a temporary file, for sources whose signatures cannot be read by themselves.

    Written line after line, then read by blocks of signatures, with plain reads: a memory map of it would count as
    memory of the process.

    Args:
        path: the file, which is replaced.
        by_feature: whether a line holds a feature (of all signatures), or a signature (all features).
        length: numbers a line.
    """

    def __init__(self, path: Path, by_feature: bool, length: int) -> None:
        self._file = path.open("w+b")
        self._by_feature, self._length = by_feature, length
        self.lines = 0

    def write(self, lines: np.ndarray) -> None:
        """Adds lines [n, length]."""
        self._file.write(np.ascontiguousarray(lines, np.float32))
        self.lines += len(lines)

    def read(self, start: int, stop: int) -> np.ndarray:
        """[stop − start, F] numbers of signatures."""
        self._file.flush()
        if not self._by_feature:
            return self._read(start * self._length, (stop - start) * self._length).reshape(-1, self._length)
        values = np.empty((stop - start, self.lines), np.float32)
        for line in range(self.lines):
            values[:, line] = self._read(line * self._length + start, stop - start)
        return values

    def close(self) -> None:
        self._file.close()
        os.unlink(self._file.name)

    def _read(self, start: int, count: int) -> np.ndarray:
        return np.frombuffer(os.pread(self._file.fileno(), 4 * count, 4 * start), np.float32)
