"""Folds × seeds into a run directory: trained members, out-of-fold predictions, metrics."""

from __future__ import annotations

import dataclasses
import json
import platform
import statistics
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pandas as pd

import moa_tf
from moa_tf.data.folds import assign_folds
from moa_tf.data.input import Inference
from moa_tf.data.schema import Dataset, Signatures
from moa_tf.errors import InputError
from moa_tf.evaluation.metrics import evaluate
from moa_tf.models.base import Family, ModelConfig, get_family
from moa_tf.training.fold import FoldData, probabilities, train_network
from moa_tf.training.pretraining import pretrain
from moa_tf.training.reporter import Reporter
from moa_tf.training.run import REFIT, Run, damage, save, seal, write_text
from moa_tf.training.strategy import Placement


@dataclass(frozen=True)
class Settings:
    """What decides a run's result, together with the data.

    Attributes:
        model: family.
        preset: preset that `config` began with, for the record.
        config: hyperparameters.
        split: `drug`, `row` or `kaggle`; see `moa_tf.data.folds`.
        folds: number of folds.
        seeds: networks in each fold.
        seed: of everything random.
        precision: Keras dtype policy.
        pretrain: pretrain each network on its fold's training rows, without labels.
        shuffle_labels: give each drug another drug's labels, as a control: a figure above chance then
            would show a leak.
    """

    model: str
    preset: str
    config: ModelConfig
    split: str = "drug"
    folds: int = 5
    seeds: int = 1
    seed: int = 0
    precision: str = "float32"
    pretrain: bool = False
    shuffle_labels: bool = False

    def to_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)


def cross_validate(
    dataset: Dataset,
    settings: Settings,
    placement: Placement,
    out: Path,
    *,
    only_fold: int | None = None,
    refit: bool = False,
    resume: bool = False,
    unlabelled: Signatures | None = None,
    reporter: Reporter | None = None,
) -> dict[str, Any]:
    """Trains what is not there yet, and scores it.

    Args:
        dataset: training signatures with labels.
        settings: see `Settings`.
        placement: where to compute.
        out: run directory.
        only_fold: train and score this fold alone.
        refit: also train `seeds` networks on all rows, for the export.
        resume: go on with the run in `out`.
        unlabelled: more signatures of the same panel, for pretraining alone.
        reporter: told of the progress.

    Returns:
        What `metrics.json` holds: `overall` and `folds`, see `moa_tf.evaluation.metrics.evaluate`. Each row
        is predicted by models that never saw it, nor its drug if `split` is `drug`. Empty for a worker that is
        not the chief.

    Raises:
        InputError: settings that do not fit data or replicas; a run that cannot be resumed.
    """
    reporter = reporter or Reporter()
    if only_fold is not None and not 0 <= only_fold < settings.folds:
        raise InputError(f"--only-fold {only_fold}: expected 0 to {settings.folds - 1}")
    if settings.pretrain and settings.model != "tabnet":
        raise InputError(f"--pretrain: expected --model tabnet, not {settings.model}")
    if settings.pretrain and placement.name == "multi-worker":
        raise InputError("--pretrain: expected another strategy than multi-worker")
    if settings.shuffle_labels:
        dataset = _with_shuffled_labels(dataset, settings.seed)
    fold_of_row = assign_folds(
        dataset.targets, dataset.drug_id, settings.split, settings.folds, settings.seed
    )
    run = Run(out)
    if placement.chief:
        run.start(_describe(dataset, settings, unlabelled), ("settings", "data", "panel", "targets"), resume)
    training = _Training(dataset, settings, placement, run, reporter, unlabelled)
    folds = range(settings.folds) if only_fold is None else [only_fold]
    reporter.start(sum(training.missing(fold) for fold in folds) + (training.missing(REFIT) if refit else 0))

    control = dataset.signatures.control
    predicted = np.zeros(dataset.targets.shape, np.float32)
    prior = np.zeros(dataset.targets.shape, np.float32)
    scored = np.zeros(len(dataset), bool)
    histories = []
    for fold in folds:
        held_out = fold_of_row == fold
        train = np.flatnonzero(~held_out & (settings.config.train_on_controls | ~control))
        rows = np.flatnonzero(held_out)
        blocks, history = training.fold(fold, train, rows, settings.config)
        histories += history
        # The mean is the ensemble's prediction; controls get 0, as from the exported model.
        predicted[rows] = np.mean(blocks, axis=0, dtype=np.float64)
        predicted[rows[control[rows]]] = 0.0
        prior[rows] = dataset.targets[np.flatnonzero(~held_out & ~control)].mean(axis=0)
        scored |= held_out
    if refit:
        everything = np.flatnonzero(settings.config.train_on_controls | ~control)
        training.fold(REFIT, everything, np.empty(0, np.int64), _without_held_out(settings.config, histories))
    if not placement.chief:
        return {}

    table = pd.DataFrame(predicted[scored], columns=list(dataset.target_names))
    table.insert(0, "fold", fold_of_row[scored].astype(np.int32))
    table.insert(0, "sig_id", dataset.signatures.sig_id[scored])
    save(run.directory / "oof.parquet", lambda name: table.to_parquet(name, index=False))

    def figures(rows: np.ndarray) -> dict[str, Any]:
        return evaluate(dataset.targets[rows], predicted[rows], control[rows], prior=prior[rows])

    metrics = {
        "overall": figures(scored),
        "folds": [{"fold": fold, **figures(fold_of_row == fold)} for fold in folds],
        "split": settings.split if dataset.drug_id is not None or settings.split == "row" else "signature",
        "simulated": dataset.simulated,
        "shuffled_labels": settings.shuffle_labels,
    }
    write_text(run.directory / "metrics.json", metrics)
    return metrics


class _Training:
    """What the folds of one run share."""

    def __init__(
        self,
        dataset: Dataset,
        settings: Settings,
        placement: Placement,
        run: Run,
        reporter: Reporter,
        unlabelled: Signatures | None,
    ) -> None:
        self.dataset, self.settings, self.placement = dataset, settings, placement
        self.run, self.reporter, self.unlabelled = run, reporter, unlabelled
        self.family: Family = get_family(settings.model)

    def missing(self, fold: int | str) -> int:
        """How many of the fold's networks are not there yet."""
        return sum(damage(self.run.member(fold, seed)) != [] for seed in range(self.settings.seeds))

    def fold(
        self, fold: int | str, train: np.ndarray, held_out: np.ndarray, config: ModelConfig
    ) -> tuple[list[np.ndarray], list[dict]]:
        """Trains the fold's missing networks; gives each one's predictions [V, T] and history."""
        data = None
        predictions, histories = [], []
        for seed in range(self.settings.seeds):
            directory = self.run.member(fold, seed)
            wrong = damage(directory)
            if wrong:
                self.reporter.message(f"{directory / wrong[0]}: damaged; this network is trained again")
            if wrong != []:
                data = data or self._prepare(fold, train, held_out)
                predicted, history = self._train(fold, seed, data, config)
            else:
                predicted = np.load(directory / "predictions.npy", allow_pickle=False)
                history = json.loads((directory / "history.json").read_text(encoding="utf-8"))
            predictions.append(predicted)
            histories.append(history)
        return predictions, histories

    def _prepare(self, fold: int | str, train: np.ndarray, held_out: np.ndarray) -> FoldData:
        directory = self.run.fold(fold)
        wrong = damage(directory)
        if wrong:
            self.reporter.message(f"{directory / wrong[0]}: damaged; the preprocessing is fitted again")
        if wrong == []:
            preprocessing = keras.saving.load_model(directory / "preprocessing.keras", compile=False)
        else:
            preprocessing = self.family.fit_preprocessing(
                self.dataset.signatures.take(train), self.settings.config, self._seed(fold)
            )
            if self.placement.chief:
                save(directory / "preprocessing.keras", preprocessing.save)
                seal(directory, ["preprocessing.keras"])
        features = Inference(preprocessing)(self.dataset.signatures.inputs())
        return FoldData(preprocessing, features, self.dataset.targets, train, held_out)

    def _train(
        self, fold: int | str, seed: int, data: FoldData, config: ModelConfig
    ) -> tuple[np.ndarray, dict[str, Any]]:
        directory = self.run.member(fold, seed)
        network, history = train_network(
            self.family,
            data,
            config,
            self._seed(fold, seed),
            self.placement,
            self.settings.precision,
            checkpoint=directory / "checkpoint.npz",
            label=f"fold {fold} seed {seed}",
            reporter=self.reporter,
            initialise=self._pretrainer(data, config, self._seed(fold, seed)),
        )
        held_out = {name: values[data.held_out] for name, values in data.features.items()}
        predicted = np.empty((0, data.targets.shape[1]), np.float32)
        if len(data.held_out):
            predicted = probabilities(Inference(network), held_out)
        if self.placement.chief:
            save(directory / "network.keras", network.save)
            save(directory / "predictions.npy", lambda name: np.save(name, predicted, allow_pickle=False))
            write_text(directory / "history.json", history)
            seal(directory, ["network.keras", "predictions.npy", "history.json"])
            (directory / "checkpoint.npz").unlink(missing_ok=True)
        return predicted, history

    def _pretrainer(
        self, data: FoldData, config: ModelConfig, seed: int
    ) -> Callable[[keras.Model], None] | None:
        if not self.settings.pretrain:
            return None
        features = {name: values[data.train] for name, values in data.features.items()}
        if self.unlabelled is not None:
            more = Inference(data.preprocessing)(self.unlabelled.inputs())
            features = {name: np.concatenate([values, more[name]]) for name, values in features.items()}

        def initialise(network: keras.Model) -> None:
            pretrain(network, features, config, seed).initialise(network)

        return initialise

    def _seed(self, fold: int | str, *parts: int) -> int:
        # Hashed together, so that neighbouring folds and seeds share no stream.
        number = self.settings.folds if fold == REFIT else int(fold)
        return int(np.random.SeedSequence([self.settings.seed, number, *parts]).generate_state(1)[0] >> 1)


def _without_held_out(config: ModelConfig, histories: Iterable[dict[str, Any]]) -> ModelConfig:
    """The config for training on all rows, where nothing is held out to say when to stop."""
    if not config.early_stopping:
        return config
    epochs = statistics.median_high(history["best_epoch"] + 1 for history in histories)
    return dataclasses.replace(config, early_stopping=0, epochs=epochs)


def _with_shuffled_labels(dataset: Dataset, seed: int) -> Dataset:
    """Each treated drug gets another's labels, all of its rows the same: what a model can learn is then noise."""
    treated = np.flatnonzero(~dataset.signatures.control)
    ids = dataset.signatures.sig_id if dataset.drug_id is None else dataset.drug_id
    _, first, drug = np.unique(ids[treated].astype(str), return_index=True, return_inverse=True)
    other = np.random.default_rng(seed).permutation(len(first))
    targets = dataset.targets.copy()
    targets[treated] = dataset.targets[treated[first[other]]][drug]
    return dataclasses.replace(dataset, targets=targets)


def _describe(dataset: Dataset, settings: Settings, unlabelled: Signatures | None) -> dict[str, Any]:
    import tensorflow as tf

    return {
        "model": settings.model,
        "settings": settings.to_dict(),
        "data": {
            "source": str(dataset.source),
            "fingerprint": dataset.fingerprint,
            "signatures": len(dataset),
            "simulated": dataset.simulated,
            "unlabelled": 0 if unlabelled is None else len(unlabelled),
        },
        "panel": dataset.signatures.spec.to_dict(),
        "targets": list(dataset.target_names),
        "versions": {
            "moa-tf": moa_tf.__version__,
            "tensorflow": tf.__version__,
            "keras": keras.__version__,
            "python": platform.python_version(),
        },
    }
