"""Search for hyperparameters, on inner folds of a fold's training rows; what the fold holds out is never looked at."""

from __future__ import annotations

import json
import math
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from moa_tf.data.schema import Dataset
from moa_tf.errors import InputError
from moa_tf.evaluation.metrics import mean_log_loss
from moa_tf.lock import locked
from moa_tf.models.space import Range, Space
from moa_tf.training.cross_validation import SHARED, stream
from moa_tf.training.fold import Fold
from moa_tf.training.learner import Learner
from moa_tf.training.reporter import Reporter
from moa_tf.training.run import write_text

STUDY, DESCRIPTION, LOCK = "study.log", "tune.json", "lock"


@dataclass(frozen=True)
class Trial:
    """What was tried.

    Attributes:
        settings: name -> value as `--set` has it; none of the preset itself, which is tried first.
        log_loss: mean over the inner folds' treated rows; infinite where the training failed.
    """

    settings: Mapping[str, str]
    log_loss: float


def held_out_loss(
    learner: Learner, dataset: Dataset, folds: Sequence[Fold], seeds: int, seed: int, reporter: Reporter
) -> float:
    """Mean log loss of the treated rows that the folds hold out, by the mean of `seeds` members of each.

    Raises:
        InputError: settings that do not fit the data, or a loss that is no longer finite.
    """
    learner.check(dataset, folds)
    losses, rows = 0.0, 0
    for number, fold in enumerate(folds):
        with tempfile.TemporaryDirectory(prefix="moa-tf-") as folder:
            home = Path(folder)
            prepared, _ = learner.prepare(dataset, fold, stream(seed, number, SHARED), home, False, reporter)
            predicted = []
            for member in range(seeds):
                (home / f"seed-{member}").mkdir()
                values, _ = learner.fit(
                    dataset,
                    prepared,
                    fold,
                    stream(seed, number, member),
                    home / f"seed-{member}",
                    f"fold {fold.name} seed {member}",
                    reporter,
                )
                predicted.append(values)
        treated = ~dataset.signatures.control[fold.held_out]
        mean = np.mean(predicted, axis=0, dtype=np.float64)[treated]
        losses += mean_log_loss(dataset.targets[fold.held_out][treated], mean) * len(mean)
        rows += len(mean)
    return losses / rows


def search(
    objective: Callable[[Mapping[str, str]], float],
    space: Space,
    trials: int,
    directory: Path,
    description: Mapping[str, Any],
    seed: int,
    reporter: Reporter,
) -> list[Trial]:
    """Tries the preset and then what Optuna's tree-structured Parzen estimator suggests.

    The study is a file of JSON lines (Optuna's journal) in `directory`. What is finished stays: repeated, with more
    trials or after a kill, the search goes on to the same trials as one that was not ended.

    Args:
        objective: settings -> log loss.
        space: what to try.
        trials: how many in all, the preset among them.
        directory: where to keep them.
        description: what must be the same for the search to go on, JSON values.
        seed: of the suggestions.
        reporter: told of each trial.

    Returns:
        All trials in their order.

    Raises:
        InputError: `directory` holds another search, or something else; another process searches there; the preset
            itself cannot be trained.
    """
    import optuna
    from optuna.trial import TrialState

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    with _held(directory, description, reporter):
        backend = optuna.storages.journal.JournalFileBackend(str(directory / STUDY))
        study = optuna.create_study(
            storage=optuna.storages.JournalStorage(backend), study_name="moa-tf", load_if_exists=True
        )
        for ended in study.get_trials(deepcopy=False, states=[TrialState.RUNNING]):
            study.tell(ended.number, state=TrialState.FAIL)
        done = _read(study)
        while len(done) < trials:
            # By the number of finished trials: one that was ended is suggested again.
            study.sampler = optuna.samplers.TPESampler(seed=stream(seed, len(done), SHARED))
            trial = study.ask()
            settings = {name: _suggest(trial, name, kind) for name, kind in space.items()} if done else {}
            trial.set_user_attr("settings", settings)
            try:
                loss = objective(settings)
            except InputError as error:
                if not done:
                    raise
                reporter.message(f"trial {len(done)}: {error}")
                loss = math.inf
            failed = not math.isfinite(loss)
            study.tell(trial, None if failed else loss, TrialState.PRUNED if failed else None)
            done = _read(study)
            best = min(each.log_loss for each in done)
            said = " ".join(f"{name}={value}" for name, value in settings.items()) or "the preset"
            reporter.message(f"trial {len(done) - 1}: log loss {loss:.5f} (best {best:.5f}): {said}")
        return done


def _read(study: Any) -> list[Trial]:
    from optuna.trial import TrialState

    states = [TrialState.COMPLETE, TrialState.PRUNED]
    return [
        Trial(trial.user_attrs["settings"], math.inf if trial.value is None else trial.value)
        for trial in study.get_trials(deepcopy=False, states=states)
    ]


def _suggest(trial: Any, name: str, kind: Any) -> str:
    if not isinstance(kind, Range):
        return trial.suggest_categorical(name, kind.values)
    value = f"{trial.suggest_float(name, kind.low, kind.high, log=kind.log):.3g}"
    return ",".join([value] * kind.copies)


@contextmanager
def _held(directory: Path, description: Mapping[str, Any], reporter: Reporter) -> Iterator[None]:
    """Holds the directory for this process, and sees that it is of this search."""
    try:
        directory.mkdir(parents=True, exist_ok=True)
        names = {entry.name for entry in directory.iterdir()}
    except OSError as error:
        raise InputError(f"{directory}: cannot be written ({error.strerror})") from None
    with locked(directory / LOCK, directory, "searched", reporter.message):
        path, study = directory / DESCRIPTION, directory / STUDY
        if path.exists():
            there, now = json.loads(path.read_text(encoding="utf-8")), json.loads(json.dumps(description))
            for key in sorted({*there, *now}):
                if there.get(key) != now.get(key):
                    raise InputError(
                        f"{path}: {key} was {str(there.get(key))[:80]}, now {str(now.get(key))[:80]}; expected "
                        "another --out"
                    )
        elif names - {LOCK}:
            raise InputError(f"{directory}: not empty and no search; expected a new directory")
        write_text(path, description)
        # What a killed process may leave: half a line, and a lock that Optuna would wait for.
        (directory / f"{STUDY}.lock").unlink(missing_ok=True)
        if study.exists():
            os.truncate(study, study.read_bytes().rfind(b"\n") + 1)
        yield
