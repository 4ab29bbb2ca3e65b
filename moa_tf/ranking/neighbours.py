"""Which reference drugs a drug is like, and whether it is like any."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from moa_tf.data.schema import Dataset
from moa_tf.ranking.activity import Scale
from moa_tf.ranking.consensus import Sums

NEAREST = 3
OUTSIDE = 0.05
"""Share of the reference drugs that lie as far from their nearest other as a drug must to count as outside."""


@dataclass(frozen=True)
class Neighbour:
    """A reference drug.

    Attributes:
        drug: its name.
        similarity: correlation of the two drugs' mean signatures.
        mechanisms: of it.
    """

    drug: str
    similarity: float
    mechanisms: tuple[str, ...]


class Reference:
    """Drugs whose mechanisms are known.

    Args:
        dataset: their signatures and labels.
        scale: that signatures are brought to, as the drugs' that are compared.
    """

    def __init__(self, dataset: Dataset, scale: Scale) -> None:
        treated = dataset.signatures.take(~dataset.signatures.control)
        drug = dataset.signatures.sig_id if dataset.drug_id is None else dataset.drug_id
        drug, targets = drug[~dataset.signatures.control], dataset.targets[~dataset.signatures.control]
        sums, labels = Sums(len(scale.mean)), Sums(targets.shape[1])
        sums.add(list(drug), scale(treated))
        labels.add(list(drug), targets)
        names = np.asarray(dataset.target_names, object)
        self.names = [str(key) for key in sums.keys]
        self.mechanisms = [tuple(names[row > 0]) for row in labels.values[: len(self.names)]]
        self._directions = _directions(sums.means())
        similar = self._directions @ self._directions.T
        np.fill_diagonal(similar, -1)
        self.threshold = float(np.quantile(similar.max(axis=1), OUTSIDE)) if len(similar) > 1 else -1.0

    def nearest(self, names: Sequence[str], means: np.ndarray) -> list[list[Neighbour]]:
        """The most similar first; a drug is no neighbour of its own.

        Args:
            names: D drugs.
            means: [D, F] their mean scaled signatures.
        """
        place = {name: i for i, name in enumerate(self.names)}
        found = []
        for start in range(0, len(names), 512):
            similar = _directions(means[start : start + 512]) @ self._directions.T
            for name, row in zip(names[start : start + 512], similar, strict=True):
                if name in place:
                    row[place[name]] = -np.inf
                best = np.argsort(-row, kind="stable")[:NEAREST]
                found.append(
                    [
                        Neighbour(self.names[j], float(row[j]), self.mechanisms[j])
                        for j in best
                        if np.isfinite(row[j])
                    ]
                )
        return found


def _directions(means: np.ndarray) -> np.ndarray:
    centred = means - means.mean(axis=1, keepdims=True)
    return centred / np.maximum(np.linalg.norm(centred, axis=1, keepdims=True), 1e-12)
