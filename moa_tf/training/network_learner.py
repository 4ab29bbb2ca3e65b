"""Keras families as learners: a preprocessing for each fold, a network for each seed."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import keras
import numpy as np
from threadpoolctl import threadpool_limits

from moa_tf.config import Recipe
from moa_tf.data.fingerprint import fingerprint_signatures
from moa_tf.data.schema import Dataset, Signatures
from moa_tf.errors import InputError
from moa_tf.models.base import Family, Hyperparameters, Task, families_with
from moa_tf.models.integrated_gradients import fit_baseline
from moa_tf.preprocessing.missing import dropped_features
from moa_tf.training import backends
from moa_tf.training.choice import Choice, choose, read_choice
from moa_tf.training.digests import digest_file, digest_models
from moa_tf.training.fold import ALL, Fold, adapting_rows, inner_folds
from moa_tf.training.follow import Course, probabilities, repeat
from moa_tf.training.inference import Inference
from moa_tf.training.learner import Learner
from moa_tf.training.members import BASELINE, NETWORK, PREPROCESSING
from moa_tf.training.network import NetworkData, train_network
from moa_tf.training.nonscored import FirstStage, as_task, copy_body
from moa_tf.training.precision import choose_precision
from moa_tf.training.pretraining import pretrain
from moa_tf.training.reporter import Reporter
from moa_tf.training.run import save, write_text
from moa_tf.training.strategy import Placement

CHOICE = "choice.json"
PRETRAINED = "pretrained.keras"
STACKED = "stacked.npy"
FIRST_STAGE = "nonscored"


@dataclass(frozen=True)
class Prepared:
    """What a fold's networks share: their data, what the recipe left open, and where they start."""

    data: NetworkData
    choice: Choice
    start: keras.Model | None = None


class NetworkLearner(Learner):
    """A family's networks.

    Args:
        family: what to build.
        hyperparameters: its architecture and recipe.
        placement: where to compute.
        preset: name of the preset that the hyperparameters began with, for the record.
        precision: Keras dtype policy of the networks; `auto` is settled here, see `choose_precision`.
        pretrain: each network on its fold's training rows, on their `features` without labels, or on their `nonscored`
            labels; see `moa_tf.training.pretraining` and `moa_tf.training.nonscored`.
        stack: add the predictions of the `nonscored` targets to the features.
        unlabelled: more signatures of the same panel, for pretraining alone.
        course: to repeat where the recipe steers by scored rows, see `train_network`.
    """

    shared = (PREPROCESSING, BASELINE, CHOICE)
    files = (NETWORK,)

    def __init__(
        self,
        family: Family,
        hyperparameters: Hyperparameters,
        placement: Placement,
        preset: str = "",
        precision: str = "float32",
        pretrain: Literal["", "features", "nonscored"] = "",
        stack: Literal["", "nonscored"] = "",
        unlabelled: Signatures | None = None,
        course: Course | None = None,
    ) -> None:
        self.family, self.hyperparameters, self.placement = family, hyperparameters, placement
        self.preset = preset
        self.precision, why = choose_precision(
            precision, family, hyperparameters.architecture, backends.current().device(placement)
        )
        if why:
            self.remarks = (f"{family.name}: {self.precision}, as {why}",)
        self.pretrain, self.stack, self.unlabelled, self.course = pretrain, stack, unlabelled, course
        kept = {PRETRAINED: pretrain == "nonscored", STACKED: bool(stack)}
        self.shared = (*self.shared, *(file for file, there in kept.items() if there))
        self.name = family.name
        self.kind = "deep" if family.solve is None else "shallow"
        # A batch at a time is what training in epochs reads.
        self.copies = family.solve is not None or pretrain == "features" or bool(stack)
        self.writes = placement.chief
        self.train_on_controls = hyperparameters.recipe.train_on_controls
        if hyperparameters.recipe.steer == "scored" and hyperparameters.recipe.steered:
            self.caveat = "steered by the scored rows, which flatters"

    def settings(self) -> dict[str, Any]:
        settings = {"preset": self.preset, **self.hyperparameters.to_dict()}
        for name in self.hyperparameters.architecture.files:
            # What is in a file decides, and stands among the inputs; not where it lies.
            settings["architecture"][name] = "file"
        return {**settings, "precision": self.precision, "pretrain": self.pretrain, "stack": self.stack}

    def inputs(self) -> dict[str, Any]:
        files = self.hyperparameters.architecture.files
        inputs: dict[str, Any] = {}
        for name, path in files.items():
            try:
                inputs[name] = digest_file(path)
            except OSError as error:
                raise InputError(f"{name}={path}: cannot be read ({error.strerror})") from None
        if self.unlabelled is not None:
            inputs["unlabelled"] = fingerprint_signatures(self.unlabelled)
            inputs["unlabelled_signatures"] = len(self.unlabelled)
        return inputs

    def check(self, dataset: Dataset, folds: Sequence[Fold]) -> None:
        recipe, replicas = self.hyperparameters.recipe, self.placement.replicas
        if recipe.batch_size % replicas:
            raise InputError(
                f"batch_size={recipe.batch_size}: expected a multiple of the {replicas} replicas "
                "(it is the global batch size)"
            )
        for fold in folds:
            if len(fold.train) < replicas:
                raise InputError(
                    f"fold {fold.name}: {len(fold.train)} training signatures for {replicas} replicas, expected at "
                    "least one for each"
                )
        # What a backend cannot do is told here, not when a network is due.
        self.family.callbacks(self.hyperparameters.architecture)
        if self.pretrain == "features" and self.family.reconstruction is None:
            names = " or ".join(families_with("reconstruction"))
            raise InputError(f"--pretrain: expected --model {names}, not {self.name}")
        if self.pretrain == "nonscored" and self.family.solve is not None:
            raise InputError(
                f"--pretrain nonscored: {self.name} is solved, which starts nowhere; expected another"
            )
        if self.stack and self.family.joins is None:
            names = ", ".join(families_with("joins"))
            raise InputError(f"--stack nonscored: expected --model {names}, not {self.name}")
        if self.stack and self.pretrain:
            raise InputError("--stack nonscored: expected no --pretrain with it")
        if (self.pretrain or self.stack) and self.placement.name == "multi-worker":
            what = "--pretrain" if self.pretrain else "--stack"
            raise InputError(f"{what}: expected another strategy than multi-worker")
        if "nonscored" in (self.pretrain, self.stack):
            for fold in folds:
                as_task(dataset, fold)

    def prepare(
        self, dataset: Dataset, fold: Fold, seed: int, directory: Path, saved: bool, reporter: Reporter
    ) -> tuple[Prepared, str]:
        path = directory / PREPROCESSING
        if saved:
            preprocessing = keras.saving.load_model(path, compile=False)
        else:
            adapting = adapting_rows(fold, seed)
            if len(adapting) < len(fold.train):
                reporter.message(
                    f"{_label(fold)}: preprocessing is fitted on {len(adapting):,} of the {len(fold.train):,} training "
                    "signatures, drawn at random"
                )
            rows = dataset.signatures.take(adapting)
            preprocessing = self.family.fit_preprocessing(rows, self.hyperparameters.architecture, seed)
            for line in dropped_features(preprocessing, dataset.signatures.spec):
                reporter.message(f"{_label(fold)}: {line}")
            if self.writes:
                save(path, preprocessing.save)
                save(directory / BASELINE, lambda name: np.savez(name, **fit_baseline(rows)))
        features = _features(preprocessing, dataset)
        data = NetworkData(preprocessing, features, dataset.targets, fold)
        first = None
        if "nonscored" in (self.pretrain, self.stack) and not saved:
            first = self._first_stage(dataset, data, seed, directory, reporter)
        if self.stack:
            if first is not None:
                preprocessing, own = first.join(self.family.joins)
                if self.writes:
                    save(directory / STACKED, lambda name: np.save(name, own, allow_pickle=False))
                    save(path, preprocessing.save)
            else:
                own = np.load(directory / STACKED, allow_pickle=False)
            features = _features(preprocessing, dataset)
            columns = features[self.family.joins][:, -own.shape[1] :]
            columns[fold.train] = np.where(np.isnan(own), columns[fold.train], own)
            data = dataclasses.replace(data, preprocessing=preprocessing, features=features)
        start = None
        if self.pretrain == "nonscored":
            if first is not None:
                start = first.network(fold)
                if self.writes:
                    save(directory / PRETRAINED, start.save)
            else:
                start = keras.saving.load_model(directory / PRETRAINED, compile=False)
        if saved:
            choice = read_choice(directory / CHOICE)
        else:
            begin = None if start is None else first.network
            choice = self._choose(dataset, data, seed, directory, reporter, begin)
            if self.writes:
                write_text(directory / CHOICE, choice.to_dict())
        models = [preprocessing] if start is None else [preprocessing, start]
        return Prepared(data, choice, start), digest_models(models, choice.to_dict())

    def fit(
        self,
        dataset: Dataset,
        prepared: Prepared,
        fold: Fold,
        seed: int,
        directory: Path,
        label: str,
        reporter: Reporter,
    ) -> tuple[np.ndarray, dict[str, Any]]:
        data = prepared.data
        network, history = self._fit(
            dataset,
            data,
            prepared.choice,
            seed,
            directory / "checkpoint.npz",
            label,
            reporter,
            prepared.start,
        )
        predicted = np.empty((0, dataset.targets.shape[1]), np.float32)
        if len(fold.held_out):
            predicted = probabilities(Inference(network), data.features, fold.held_out)
        if self.writes:
            save(directory / NETWORK, network.save)
            # What the fold's shared files were made of; they are sealed by now.
            shutil.rmtree(directory.parent / FIRST_STAGE, ignore_errors=True)
        return predicted, {**history, "parameters": network.count_params()}

    def _fit(
        self,
        dataset: Dataset,
        data: NetworkData,
        choice: Choice,
        seed: int,
        checkpoint: Path,
        label: str,
        reporter: Reporter,
        start: keras.Model | None = None,
    ) -> tuple[keras.Model, dict[str, Any]]:
        """A network, solved or trained by what was chosen."""
        if self.family.solve is None:
            recipe, course = choice.apply(self.hyperparameters.recipe), choice.course
            if recipe.steer == "scored":
                course = self.course
            network, history = self._train(data, recipe, course, seed, checkpoint, label, reporter, start)
            return network, {**history, "chosen": choice.to_dict()}
        reporter.member(label, 1, 1)
        architecture = self.hyperparameters.architecture
        network = self.family.build(data.preprocessing, architecture, data.fold.prior, seed)
        # Threads that wait for one another take several times as long as these products do.
        with threadpool_limits(1 if len(data.fold.train) < SMALL_PRODUCTS else None):
            history = {"chosen": self.family.solve(network, _task(dataset, data, seed), architecture)}
        reporter.batch()
        return network, history

    def _first_stage(
        self, dataset: Dataset, data: NetworkData, seed: int, directory: Path, reporter: Reporter
    ) -> FirstStage:
        def choose_of(dataset: Dataset, data: NetworkData, directory: Path) -> Choice:
            return self._choose(dataset, data, seed, directory, reporter)

        def fit(dataset: Dataset, data: NetworkData, choice: Choice, checkpoint: Path) -> keras.Model:
            reporter.more(1)
            label = f"{_label(data.fold)}, nonscored targets"
            return self._fit(dataset, data, choice, seed, checkpoint, label, reporter)[0]

        folds = self.hyperparameters.recipe.inner_folds
        return FirstStage(dataset, data, choose_of, fit, folds, seed, directory / FIRST_STAGE)

    def _choose(
        self,
        dataset: Dataset,
        data: NetworkData,
        seed: int,
        directory: Path,
        reporter: Reporter,
        begin: Callable[[Fold], keras.Model] | None = None,
    ) -> Choice:
        """What the recipe leaves open; `begin` gives the network that one for such training rows starts from."""
        recipe, fold = self.hyperparameters.recipe, data.fold
        nothing = Choice(recipe.weight_decay, Course())
        if self.family.solve is not None or recipe.steer == "scored" or not recipe.steered:
            return nothing
        inner = inner_folds(fold, dataset, recipe.inner_folds, seed)
        if not inner or len(inner[0].train) < self.placement.replicas:
            reporter.message(f"{_label(fold)}: {nothing.describe()}")
            return nothing
        steering = dataclasses.replace(data, fold=inner[0])
        start = None if begin is None else begin(inner[0])

        def train(one: Recipe, what: str, checkpoint: Path) -> dict[str, Any]:
            return self._train(steering, one, None, seed, checkpoint, what, reporter, start)[1]

        return choose(recipe, train, directory, _label(fold), reporter, self.writes)

    def _train(
        self,
        data: NetworkData,
        recipe: Recipe,
        course: Course | None,
        seed: int,
        checkpoint: Path,
        label: str,
        reporter: Reporter,
        start: keras.Model | None = None,
    ) -> tuple[keras.Model, dict[str, Any]]:
        initialise = None
        if self.pretrain == "features":
            initialise = self._initialiser(data, seed)
        elif start is not None:
            initialise = partial(copy_body, start)
        return train_network(
            self.family,
            data,
            dataclasses.replace(self.hyperparameters, recipe=recipe),
            seed,
            self.placement,
            self.precision,
            course,
            checkpoint=checkpoint,
            label=label,
            reporter=reporter,
            initialise=initialise,
        )

    def refit(self, histories: Sequence[dict[str, Any]]) -> NetworkLearner:
        course = None
        if self.family.solve is None and self.hyperparameters.recipe.steer == "scored":
            course = repeat(self.hyperparameters.recipe, histories)
        return NetworkLearner(
            self.family,
            self.hyperparameters,
            self.placement,
            self.preset,
            self.precision,
            self.pretrain,
            self.stack,
            self.unlabelled,
            course,
        )

    def _initialiser(self, data: NetworkData, seed: int) -> Callable[[keras.Model], None]:
        def initialise(network: keras.Model) -> None:
            features = data.at(data.fold.train)
            if self.unlabelled is not None:
                more = Inference(data.preprocessing)(self.unlabelled.inputs())
                features = {name: np.concatenate([values, more[name]]) for name, values in features.items()}
            pretrain(self.family, network, features, self.hyperparameters, seed).initialise(network)

        return initialise


SMALL_PRODUCTS = 3000
"""Training rows below which a solver has one thread."""

INNER_FOLDS = 5
"""For what is chosen by a solver, on all of them in turn."""


def _task(dataset: Dataset, data: NetworkData, seed: int) -> Task:
    rows = data.fold.train
    position = np.full(len(dataset), -1)
    position[rows] = np.arange(len(rows))
    drug = dataset.signatures.sig_id if dataset.drug_id is None else dataset.drug_id
    return Task(
        data.at(rows),
        data.targets[rows],
        drug[rows].astype(str),
        ~dataset.signatures.control[rows],
        [
            (position[inner.train], position[inner.judged])
            for inner in inner_folds(data.fold, dataset, INNER_FOLDS, seed)
        ],
    )


def _features(preprocessing: keras.Model, dataset: Dataset) -> dict[str, np.ndarray]:
    storage = dataset.storage
    return Inference(preprocessing)(dataset.signatures.inputs(), storage=storage, floats=storage.features)


def _label(fold: Fold) -> str:
    return "all rows" if fold.name == ALL else f"fold {fold.name}"
