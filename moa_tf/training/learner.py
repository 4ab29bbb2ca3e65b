"""What cross-validation drives, and knows nothing more of: something that is fitted on a fold's rows."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from moa_tf.data.schema import Dataset
from moa_tf.training.fold import Fold
from moa_tf.training.reporter import Reporter


class Learner(ABC):
    """A model that can be fitted on a fold and saves itself.

    A fold's `seeds` members share what `prepare` makes. Cross-validation decides which of them are missing, keeps
    their predictions, and seals what a member has saved.

    Attributes:
        name: as in `--model`.
        shared: names of the files that `prepare` saves in the fold's directory; may be empty.
        files: names of the files that `fit` saves in the member's directory.
        train_on_controls: whether vehicle controls are among the rows to fit on.
        kind: `shallow` or `deep`, for whoever draws them beside one another.
        caveat: what a reader of the figures must know; goes with them.
        remarks: lines for the user before training.
        copies: whether it is fitted on copies of its training rows in memory, wherever the tables are kept.
        writes: whether this process writes the run. Others of several workers only compute.
    """

    name: str
    shared: tuple[str, ...] = ()
    files: tuple[str, ...] = ()
    train_on_controls: bool = False
    kind: str = "shallow"
    caveat: str = ""
    remarks: tuple[str, ...] = ()
    copies: bool = False
    writes: bool = True

    @abstractmethod
    def settings(self) -> dict[str, Any]:
        """Everything that decides the result beside the data, as JSON values; part of a run's identity."""

    def inputs(self) -> dict[str, Any]:
        """What is read beside the dataset: name -> fingerprint; part of a run's identity."""
        return {}

    def check(self, dataset: Dataset, folds: Sequence[Fold]) -> None:  # noqa: B027
        """Finds before anything is written what would fail later.

        Raises:
            InputError: the settings do not fit the data or the machine.
        """

    def prepare(
        self, dataset: Dataset, fold: Fold, seed: int, directory: Path, saved: bool, reporter: Reporter
    ) -> tuple[Any, str]:
        """What a fold's members share.

        Args:
            dataset: all rows.
            fold: which of them are for what.
            seed: of what is random in it.
            directory: the fold's, where the files `shared` are (`saved`), or are to be written.
            saved: whether they are there, whole.
            reporter: told of the progress.

        Returns:
            For `fit`; and a digest of what was fitted, equal if and only if members that were fitted on it stay valid.
        """
        return None, ""

    @abstractmethod
    def fit(
        self,
        dataset: Dataset,
        prepared: Any,
        fold: Fold,
        seed: int,
        directory: Path,
        label: str,
        reporter: Reporter,
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Fits one member and saves it.

        Args:
            dataset: all rows.
            prepared: from `prepare`.
            fold: which rows are for what. Nothing of the held-out rows may reach the member, its choices included,
                unless `caveat` says so.
            seed: of what is random in it.
            directory: where to write `files`, each whole or not at all; what else lies there is the learner's own.
            label: what to call this member in messages.
            reporter: told of the progress.

        Returns:
            Probabilities [V, T] float32 of `fold.held_out`, and a history for `refit`, of JSON values; what was
            chosen inside the fold stands in it as `chosen`.
        """

    def refit(self, histories: Sequence[dict[str, Any]]) -> Learner:
        """The learner for all rows, which repeats what the folds did up to where they stopped.

        Args:
            histories: what `fit` gave for every member of every fold.
        """
        return self
