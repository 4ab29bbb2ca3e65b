"""Folds × seeds of a learner into a run directory: members, out-of-fold predictions, metrics."""

from __future__ import annotations

import dataclasses
import gc
import json
import platform
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

import moa_tf
from moa_tf.config import LARGEST_SEED, Config, require
from moa_tf.data.fingerprint import fingerprint_names
from moa_tf.data.folds import assign_folds
from moa_tf.data.groups import find_groups, remarks
from moa_tf.data.schema import SPLITS, Dataset
from moa_tf.data.storage import gigabytes
from moa_tf.training import backends
from moa_tf.training.cost import measured
from moa_tf.training.fold import ALL, Fold, check_fold, make_fold
from moa_tf.training.learner import Learner
from moa_tf.training.reporter import Reporter
from moa_tf.training.run import FoldParts, Part, Run, save, write_text
from moa_tf.training.scoring import score_members

SHARED = LARGEST_SEED
"""Stands in a stream's key where a member's number would: what a fold's members share has a stream of its own."""


def stream(seed: int, fold: int, part: int) -> int:
    """The seed of a member, or of what the members share (`SHARED`), in a fold by its number."""
    # Hashed together, so that neighbouring folds and seeds share no stream.
    return int(np.random.SeedSequence([seed, fold, part]).generate_state(1)[0] >> 1)


@dataclass(frozen=True)
class Validation(Config):
    """How a learner is validated.

    Attributes:
        split: `drug`, `row`, `kaggle` (see `moa_tf.data.folds`), or a column of `train_drug` (`moa_tf.data.groups`).
        folds: number of folds.
        seeds: members of each fold.
        seed: of everything random.
        shuffle_labels: give each drug another drug's labels, as a control: a figure above chance then
            would show a leak.
    """

    split: str = "drug"
    folds: int = 5
    seeds: int = 1
    seed: int = 0
    shuffle_labels: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.seeds >= 1, "seeds", self.seeds, "at least 1")
        require(0 <= self.seed <= LARGEST_SEED, "seed", self.seed, f"0 to {LARGEST_SEED}")


def cross_validate(
    dataset: Dataset,
    learner: Learner,
    validation: Validation,
    run: Run,
    *,
    only_fold: int | None = None,
    refit: bool = False,
    resume: bool = False,
    reporter: Reporter | None = None,
) -> dict[str, Any]:
    """Fits what is not there yet, and scores it.

    Args:
        dataset: training signatures with labels.
        learner: what to fit.
        validation: on which folds.
        run: where to keep it.
        only_fold: fit this fold alone. With `resume`, what the run holds of other folds counts all the same.
        refit: also fit `seeds` members on all rows, for the export.
        resume: go on with the run that is there.
        reporter: told of the progress.

    Returns:
        What `metrics.json` holds: `overall` and `folds`, see `moa_tf.evaluation.metrics.evaluate`, over those folds
        that are finished. Each row is predicted by members that never saw it, nor its drug if `split` is `drug`,
        nor its group if that is a column, which `groups` is then about (see `moa_tf.data.groups.count_groups`).
        AUROC and average precision of `overall` rank within folds; `intervals` are over drugs. `reliability` (see
        `moa_tf.evaluation.calibration`), and `mechanisms`, of each its `drugs`, `auroc` and `average_precision`, are
        over treated rows. Empty for a worker that does not write.

    Raises:
        InputError: settings that do not fit data or machine; a run that cannot be resumed, or that another process
            holds. Before anything is written, as far as it can be known by then.
    """
    reporter = reporter or Reporter()
    require(
        only_fold is None or 0 <= only_fold < validation.folds,
        "only_fold",
        only_fold,
        f"0 to {validation.folds - 1}",
    )
    if validation.shuffle_labels:
        dataset = with_shuffled_labels(dataset, validation.seed)
    folds = make_folds(dataset, validation, learner.train_on_controls)
    for line in [*remarks(dataset, validation.split), *learner.remarks, *_copies(dataset, learner)]:
        reporter.message(line)
    nothing = np.zeros(len(dataset), bool)
    unit = _units(dataset, validation.split)
    every: dict[int | str, Fold] = {
        **folds,
        ALL: make_fold(ALL, dataset, nothing, learner.train_on_controls, unit),
    }
    plan = {
        "folds": list(folds) if only_fold is None else [only_fold],
        "seeds": validation.seeds,
        "refit": refit,
        "shared": list(learner.shared),
        "files": list(learner.files),
    }
    for name in [*plan["folds"], *[ALL] * refit]:
        check_fold(every[name], dataset)
    learner.check(dataset, [every[name] for name in plan["folds"]])
    description = describe(learner.name, learner.settings(), learner.inputs(), dataset, validation)
    held = run.held(description, plan, resume, reporter.message) if learner.writes else nullcontext()
    with held:
        reporter.settings(description)
        training = _Training(dataset, learner, validation, reporter)
        # The state at the start: every worker sees the same, whatever the chief has written since.
        states = [_State(parts, reporter) for parts in run.parts(run.joined(plan))]
        reporter.start(sum(state.missing for state in states))
        for state in states:
            if state.name != ALL:
                training.fold(every[state.name], state)
        histories = [history for results in training.results.values() for _, history in results]
        for state in states:
            if state.name == ALL:
                training.learner = learner.refit(histories)
                training.fold(every[ALL], state)
        if not learner.writes:
            return {}
        metrics = score_members(dataset, validation, run, folds, training.results, learner.caveat)
    reporter.metrics(metrics)
    return metrics


def _copies(dataset: Dataset, learner: Learner) -> list[str]:
    if not (learner.copies and dataset.storage.on_disk):
        return []
    size = 4 * len(dataset) * (len(dataset.signatures.spec.features) + dataset.targets.shape[1])
    return [
        f"{learner.name}: is fitted on copies of its training rows, so it needs memory all the same, at least some "
        f"{gigabytes(size)}"
    ]


def make_folds(dataset: Dataset, validation: Validation, train_on_controls: bool) -> dict[int, Fold]:
    """The folds by their numbers; the same arguments give the same ones."""
    unit = _units(dataset, validation.split)
    fold_of_row = assign_folds(
        dataset.targets,
        find_groups(dataset, validation.split),
        validation.split,
        validation.folds,
        validation.seed,
        control=dataset.signatures.control,
    )
    return {
        number: make_fold(number, dataset, fold_of_row == number, train_on_controls, unit)
        for number in range(validation.folds)
    }


def _units(dataset: Dataset, split: str) -> np.ndarray | None:
    return dataset.signatures.sig_id if split == "row" else find_groups(dataset, split)


class _State:
    """What is there of a fold, and what is to be made."""

    def __init__(self, parts: FoldParts, reporter: Reporter) -> None:
        self.name, self.parts = parts.name, parts
        # A checksum of every file: asked once.
        self.shared = parts.shared is None or self._whole(parts.shared, "is fitted again", reporter)
        self.members = [self._whole(member, "is trained again", reporter) for member in parts.members]
        for member, whole in zip(parts.members, self.members, strict=True):
            if whole:
                (member.directory / "checkpoint.npz").unlink(missing_ok=True)

    @staticmethod
    def _whole(part: Any, what: str, reporter: Reporter) -> bool:
        wrong = part.damage()
        if wrong:
            reporter.message(f"{part.directory / wrong[0]}: damaged; it {what}")
        return wrong == []

    @property
    def missing(self) -> int:
        return self.members.count(False)


class _Training:
    """What the folds of one run share."""

    def __init__(
        self, dataset: Dataset, learner: Learner, validation: Validation, reporter: Reporter
    ) -> None:
        self.dataset, self.learner, self.validation, self.reporter = dataset, learner, validation, reporter
        self.results: dict[int | str, list[tuple[np.ndarray, dict[str, Any]]]] = {}

    def fold(self, fold: Fold, state: _State) -> None:
        """Fits the fold's missing members; keeps each one's predictions [V, T] and history."""
        prepared = None
        if state.missing or not state.shared:
            prepared = self._prepare(fold, state)
        results = []
        for seed, (part, whole) in enumerate(zip(state.parts.members, state.members, strict=True)):
            if whole:
                predicted = _predictions(part)
                history = json.loads((part.directory / "history.json").read_text(encoding="utf-8"))
            else:
                with measured(part.directory, self.learner.writes):
                    predicted, history = self.learner.fit(
                        self.dataset,
                        prepared,
                        fold,
                        self._seed(fold, seed),
                        part.directory,
                        f"{'all rows' if fold.name == ALL else f'fold {fold.name}'} seed {seed}",
                        self.reporter,
                    )
                if self.learner.writes:
                    predicted = _keep(part, predicted, history)
            results.append((predicted, history))
        self.results[fold.name] = results
        del prepared
        if self.dataset.storage.on_disk:
            # The fold's models refer to one another, and so hold its features until they are looked for.
            gc.collect()

    def _prepare(self, fold: Fold, state: _State) -> Any:
        directory = state.parts.members[0].directory.parent
        saved = state.shared and state.parts.shared is not None
        with measured(directory, self.learner.writes and not saved):
            prepared, content = self.learner.prepare(
                self.dataset, fold, self._seed(fold, SHARED), directory, state.shared, self.reporter
            )
        shared = state.parts.shared
        if shared is None or state.shared:
            return prepared
        if any(state.members) and shared.content != content:
            self.reporter.message(
                f"{directory}: what was fitted again is not what it was; its members are too"
            )
            state.members = [False] * len(state.members)
        if self.learner.writes:
            shared.seal(content)
        return prepared

    def _seed(self, fold: Fold, part: int) -> int:
        number = self.validation.folds if fold.name == ALL else int(fold.name)
        return stream(self.validation.seed, number, part)


def _keep(part: Part, predicted: np.ndarray, history: dict[str, Any]) -> np.ndarray:
    """Saves a member's predictions and history, and gives the former as they lie on the disk."""
    directory = part.directory
    save(directory / "predictions.npy", lambda name: np.save(name, predicted, allow_pickle=False))
    write_text(directory / "history.json", history)
    part.seal()
    (directory / "checkpoint.npz").unlink(missing_ok=True)
    return _predictions(part)


def _predictions(part: Part) -> np.ndarray:
    return np.load(part.directory / "predictions.npy", mmap_mode="r", allow_pickle=False)


def with_shuffled_labels(dataset: Dataset, seed: int) -> Dataset:
    """Each treated drug gets another's labels, all of its rows the same: what a model can learn is then noise."""
    treated = np.flatnonzero(~dataset.signatures.control)
    if not len(treated):
        return dataset
    ids = dataset.signatures.sig_id if dataset.drug_id is None else dataset.drug_id
    _, first, drug = np.unique(ids[treated].astype(str), return_index=True, return_inverse=True)
    other = np.random.default_rng(seed).permutation(len(first))
    source = treated[first[other]][drug]

    of_row = np.arange(len(dataset))
    of_row[treated] = source

    def shuffled(labels: np.ndarray) -> np.ndarray:
        return dataset.storage.take(labels, of_row)

    # Both kinds from the same drug: what the scored ones have to do with the nonscored stays, and so would a leak.
    nonscored = None if dataset.nonscored is None else shuffled(dataset.nonscored)
    return dataclasses.replace(dataset, targets=shuffled(dataset.targets), nonscored=nonscored)


def describe(
    name: str,
    settings: dict[str, Any],
    inputs: dict[str, Any],
    dataset: Dataset,
    validation: Validation,
) -> dict[str, Any]:
    """What `run.json` says beside the plan, see `moa_tf.training.run.identity`."""
    split = validation.split
    groups = {} if split in SPLITS else {"groups": {split: fingerprint_names(dataset.groups[split])}}
    return {
        "model": name,
        "backend": keras.backend.backend(),
        "settings": {"model": name, **validation.to_dict(), **settings},
        "data": {
            "source": str(dataset.source),
            "fingerprint": dataset.fingerprint,
            "signatures": len(dataset),
            "simulated": dataset.simulated,
            "features": dataset.storage.features.name,
            "inputs": inputs,
            **groups,
        },
        "panel": dataset.signatures.spec.to_dict(),
        "targets": list(dataset.target_names),
        "versions": {
            "moa-tf": moa_tf.__version__,
            **backends.current().VERSIONS,
            "keras": keras.__version__,
            "python": platform.python_version(),
        },
    }
