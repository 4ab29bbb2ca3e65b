"""Two mechanisms' mean signatures over a DeepInsight map, in memory that does not grow with the table."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from moa_tf.data.read import Targets
from moa_tf.data.schema import Signatures
from moa_tf.errors import InputError


class MeanImages:
    """Sums the scaled features of the signatures of two mechanisms, piece by piece.

    Args:
        pair: the two mechanisms' names.
        targets: T names of the mechanisms that the model knows.
        known: the labels that say which signatures have them; None takes those for which the model holds the
            mechanism to be the most probable.

    Raises:
        InputError: the same name twice, or one that is in neither place.
    """

    def __init__(self, pair: Sequence[str], targets: Sequence[str], known: Targets | None = None) -> None:
        self.pair = tuple(pair)
        self.known = known
        names = list(targets if known is None else known.names)
        for name in self.pair:
            if name not in names:
                place = "the model's mechanisms" if known is None else "the columns of --targets"
                raise InputError(f"--compare {name}: is not among {place}")
        if len(set(self.pair)) != 2:
            raise InputError(f"--compare {' '.join(self.pair)}: expected two different mechanisms")
        self._columns = [names.index(name) for name in self.pair]
        self._sums: np.ndarray | None = None
        self._counts = np.zeros(2, int)

    def add(self, part: Signatures, probabilities: np.ndarray, features: np.ndarray) -> None:
        """Adds [B, F] scaled features; controls count in no mechanism."""
        if self.known is None:
            has = probabilities.argmax(axis=1)[:, None] == self._columns
        else:
            missing = ~np.isin(part.sig_id, self.known.sig_id)
            if missing.any():
                raise InputError(
                    f"--targets: no row for {part.sig_id[missing][0]}, one of {missing.sum()} signatures without"
                )
            has = self.known.at(part.sig_id)[:, self._columns] > 0.5
        has = has & ~part.control[:, None]
        self._counts += has.sum(axis=0)
        sums = has.T.astype(np.float64) @ features
        self._sums = sums if self._sums is None else self._sums + sums

    def draw(self, pixels: np.ndarray, image_size: int, path: Path) -> None:
        """Writes the picture.

        Raises:
            InputError: no signature has one of the mechanisms.
        """
        from moa_tf.explanation.feature_map_plots import plot_mechanisms
        from moa_tf.explanation.figures import save_figure

        for name, count in zip(self.pair, self._counts, strict=True):
            if count == 0:
                raise InputError(f"--compare {name}: no signature of the table has it")
        assert self._sums is not None
        means = dict(zip(self.pair, self._sums / self._counts[:, None], strict=True))
        save_figure(plot_mechanisms(pixels, image_size, means, self._counts.tolist()), path)
