"""The drugs that predictions come from, as a table that is written piece by piece."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from moa_tf.data.schema import Signatures


class NeighbourTable:
    """Writes `sig_id`, `mechanism` (the signature's top one), `rank` (from 1), `drug`, `similarity`, `mechanisms`.

    Args:
        path: .csv file to write.
        references: `drug` and `mechanisms`, R rows.
        targets: T names of mechanisms.
    """

    def __init__(self, path: Path, references: pd.DataFrame, targets: Sequence[str]) -> None:
        self.path, self.references = path, references
        self.targets = np.asarray(targets, object)

    def add(
        self, part: Signatures, probabilities: np.ndarray, neighbours: np.ndarray, similarity: np.ndarray
    ) -> None:
        """Appends B signatures: [B, T] probabilities, [B, K] places among the references, [B, K] similarities."""
        count = neighbours.shape[1]
        near = self.references.iloc[neighbours.ravel()]
        table = pd.DataFrame(
            {
                "sig_id": np.repeat(part.sig_id, count),
                "mechanism": np.repeat(self.targets[probabilities.argmax(axis=1)], count),
                "rank": np.tile(np.arange(1, count + 1), len(part)),
                "drug": near["drug"].to_numpy(),
                "similarity": similarity.ravel(),
                "mechanisms": near["mechanisms"].to_numpy(),
            }
        )
        table.to_csv(self.path, mode="a", header=not self.path.exists(), index=False)
