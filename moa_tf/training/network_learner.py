"""Keras families as learners: a preprocessing for each fold, a network for each seed."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np
from threadpoolctl import threadpool_limits

from moa_tf.config import Recipe
from moa_tf.data.fingerprint import fingerprint_signatures
from moa_tf.data.schema import Dataset, Signatures, SignatureSpec
from moa_tf.errors import InputError
from moa_tf.models.base import Family, Hyperparameters, Member, Task, families_with, get_family
from moa_tf.models.integrated_gradients import fit_baseline
from moa_tf.preprocessing import MedianImputation
from moa_tf.training.choice import Choice, choose, read_choice
from moa_tf.training.fold import ALL, Fold, inner_folds
from moa_tf.training.follow import Course, probabilities, repeat
from moa_tf.training.inference import Inference
from moa_tf.training.learner import Learner
from moa_tf.training.network import NetworkData, train_network
from moa_tf.training.pretraining import pretrain
from moa_tf.training.reporter import Reporter
from moa_tf.training.run import Run, save, write_text
from moa_tf.training.strategy import Placement

PREPROCESSING = "preprocessing.keras"
BASELINE = "baseline.npz"
CHOICE = "choice.json"
NETWORK = "network.keras"


@dataclass(frozen=True)
class Prepared:
    """What a fold's networks share: their data, and what the recipe left open."""

    data: NetworkData
    choice: Choice


class NetworkLearner(Learner):
    """A family's networks.

    Args:
        family: what to build.
        hyperparameters: its architecture and recipe.
        placement: where to compute.
        preset: name of the preset that the hyperparameters began with, for the record.
        precision: Keras dtype policy of the networks.
        pretrain: pretrain each network on its fold's training rows, without labels.
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
        pretrain: bool = False,
        unlabelled: Signatures | None = None,
        course: Course | None = None,
    ) -> None:
        self.family, self.hyperparameters, self.placement = family, hyperparameters, placement
        self.preset, self.precision = preset, precision
        self.pretrain, self.unlabelled, self.course = pretrain, unlabelled, course
        self.name = family.name
        self.writes = placement.chief
        self.train_on_controls = hyperparameters.recipe.train_on_controls
        if hyperparameters.recipe.steer == "scored" and hyperparameters.recipe.steered:
            self.caveat = "steered by the scored rows, which flatters"

    def settings(self) -> dict[str, Any]:
        settings = {"preset": self.preset, **self.hyperparameters.to_dict()}
        for name in self.hyperparameters.architecture.files:
            # What is in a file decides, and stands among the inputs; not where it lies.
            settings["architecture"][name] = "file"
        return {**settings, "precision": self.precision, "pretrain": self.pretrain}

    def inputs(self) -> dict[str, Any]:
        files = self.hyperparameters.architecture.files
        inputs: dict[str, Any] = {name: _file_digest(name, path) for name, path in files.items()}
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
        if self.pretrain and self.family.reconstruction is None:
            names = " or ".join(families_with("reconstruction"))
            raise InputError(f"--pretrain: expected --model {names}, not {self.name}")
        if self.pretrain and self.placement.name == "multi-worker":
            raise InputError("--pretrain: expected another strategy than multi-worker")

    def prepare(
        self, dataset: Dataset, fold: Fold, seed: int, directory: Path, saved: bool, reporter: Reporter
    ) -> tuple[Prepared, str]:
        path = directory / PREPROCESSING
        if saved:
            preprocessing = keras.saving.load_model(path, compile=False)
        else:
            rows = dataset.signatures.take(fold.train)
            preprocessing = self.family.fit_preprocessing(rows, self.hyperparameters.architecture, seed)
            for line in dropped_features(preprocessing, dataset.signatures.spec, fold):
                reporter.message(line)
            if self.writes:
                save(path, preprocessing.save)
                save(directory / BASELINE, lambda name: np.savez(name, **fit_baseline(rows)))
        features = Inference(preprocessing)(dataset.signatures.inputs())
        data = NetworkData(preprocessing, features, dataset.targets, fold)
        if saved:
            choice = read_choice(directory / CHOICE)
        else:
            choice = self._choose(dataset, data, seed, directory, reporter)
            if self.writes:
                write_text(directory / CHOICE, choice.to_dict())
        return Prepared(data, choice), _digest(preprocessing, choice)

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
        if self.family.solve is None:
            recipe, course = prepared.choice.apply(self.hyperparameters.recipe), prepared.choice.course
            if recipe.steer == "scored":
                course = self.course
            network, history = self._train(
                data, recipe, course, seed, directory / "checkpoint.npz", label, reporter
            )
            history["chosen"] = prepared.choice.to_dict()
        else:
            reporter.member(label, 1, 1)
            architecture = self.hyperparameters.architecture
            network = self.family.build(data.preprocessing, architecture, fold.prior, seed)
            # Threads that wait for one another take several times as long as these products do.
            with threadpool_limits(1 if len(fold.train) < SMALL_PRODUCTS else None):
                history = {"chosen": self.family.solve(network, _task(dataset, data, seed), architecture)}
            reporter.batch()
        predicted = np.empty((0, dataset.targets.shape[1]), np.float32)
        if len(fold.held_out):
            predicted = probabilities(Inference(network), data.at(fold.held_out))
        if self.writes:
            save(directory / NETWORK, network.save)
        return predicted, history

    def _choose(
        self, dataset: Dataset, data: NetworkData, seed: int, directory: Path, reporter: Reporter
    ) -> Choice:
        recipe, fold = self.hyperparameters.recipe, data.fold
        nothing = Choice(recipe.weight_decay, Course())
        if self.family.solve is not None or recipe.steer == "scored" or not recipe.steered:
            return nothing
        label = "all rows" if fold.name == ALL else f"fold {fold.name}"
        inner = inner_folds(fold, dataset, recipe.inner_folds, seed)
        if not inner or len(inner[0].train) < self.placement.replicas:
            reporter.message(f"{label}: {nothing.describe()}")
            return nothing
        steering = dataclasses.replace(data, fold=inner[0])

        def train(one: Recipe, what: str, checkpoint: Path) -> dict[str, Any]:
            return self._train(steering, one, None, seed, checkpoint, what, reporter)[1]

        return choose(recipe, train, directory, label, reporter, self.writes)

    def _train(
        self,
        data: NetworkData,
        recipe: Recipe,
        course: Course | None,
        seed: int,
        checkpoint: Path,
        label: str,
        reporter: Reporter,
    ) -> tuple[keras.Model, dict[str, Any]]:
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
            initialise=self._initialiser(data, seed) if self.pretrain else None,
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


def load_members(directory: Path) -> list[Member]:
    """The trained models of a run, those of each fold, or of all rows alone.

    Raises:
        InputError: no run, a run of something else than networks, a part that is not finished, or a damaged file.
    """
    run = Run(directory)
    description = run.description
    if PREPROCESSING not in description["plan"]["shared"] or NETWORK not in description["plan"]["files"]:
        raise InputError(f"{directory}: a run of {description['model']}, which has no Keras networks")
    get_family(description["model"])  # registers the layers that the files name
    return [
        Member(
            keras.saving.load_model(fold.shared.directory / PREPROCESSING, compile=False),
            [keras.saving.load_model(member.directory / NETWORK, compile=False) for member in fold.members],
            # Runs of version 0.1.0 have none.
            _load_baseline(fold.shared.directory) if BASELINE in description["plan"]["shared"] else {},
        )
        for fold in run.finished_models()
        if fold.shared is not None
    ]


def _load_baseline(directory: Path) -> dict[str, np.ndarray]:
    with np.load(directory / BASELINE, allow_pickle=False) as file:
        return dict(file)


def dropped_features(preprocessing: keras.Model, spec: SignatureSpec, fold: Fold) -> Iterator[str]:
    """A line for each kind of which features are not used, as too much of them is missing in the training rows."""
    names = {"genes_filled": spec.genes, "cells_filled": spec.cells}
    for layer in preprocessing.layers:
        if isinstance(layer, MedianImputation) and len(layer.dropped):
            lost = [names[layer.name][place] for place in layer.dropped]
            shown = ", ".join(lost[:5]) + (", …" if len(lost) > 5 else "")
            yield (
                f"fold {fold.name}: {len(lost)} of {len(names[layer.name])} {layer.name.removesuffix('_filled')} are "
                f"not used, as over {layer.max_missing:.0%} of their training values are missing ({shown})"
            )


def _digest(model: keras.Model, choice: Choice) -> str:
    """Of what was chosen, and of what a model computes: its configuration and its weights, bit by bit."""
    digest = hashlib.sha256(model.to_json().encode() + json.dumps(choice.to_dict()).encode())
    for weight in model.weights:
        digest.update(np.ascontiguousarray(np.asarray(weight)))
    return digest.hexdigest()


def _file_digest(name: str, path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise InputError(f"{name}={path}: cannot be read ({error.strerror})") from None
