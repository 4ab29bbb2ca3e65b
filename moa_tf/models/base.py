"""What every model family gives, and where the families are listed."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from moa_tf.config import Config, Recipe, require
from moa_tf.data.prior import PRIOR_FLOOR
from moa_tf.data.schema import SignatureSpec
from moa_tf.errors import InputError
from moa_tf.models.space import Space, training_space

if TYPE_CHECKING:
    import keras

    from moa_tf.data.schema import Signatures

Tensors = dict[str, Any]
Explainer = Callable[[Tensors], Tensors]


class Member(NamedTuple):
    """A fold's models.

    Attributes:
        preprocessing: fitted on the training rows.
        networks: on top of it, one for each seed.
        baseline: the signature that explanation starts from, name -> [...] as in `spec.inputs`, `cp_type` apart;
            see `fit_baseline`. Empty where nothing was kept.
    """

    preprocessing: keras.Model
    networks: Sequence[keras.Model]
    baseline: Mapping[str, np.ndarray] = MappingProxyType({})


def explain_by_gradients(members: Sequence[Member]) -> Explainer:
    """How a family explains itself that brings nothing better: see `integrated_gradients.explainer`."""
    from moa_tf.models.integrated_gradients import explainer

    return explainer(members)


@dataclass(frozen=True)
class ModelConfig(Config):
    """An architecture's hyperparameters; each family has its own.

    Attributes:
        max_missing: with `--missing median`, the largest share of missing values among the training rows with which a
            feature is still used.
    """

    max_missing: float = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        require(0 <= self.max_missing <= 1, "max_missing", self.max_missing, "in [0, 1]")

    def check(self, recipe: Recipe) -> None:
        """Refuses a recipe that does not suit this architecture.

        Raises:
            InputError: one line.
        """

    @property
    def files(self) -> dict[str, Path]:
        """Settings whose values are paths of files that are read: what is in them decides, not their names."""
        return {}


@dataclass(frozen=True)
class Hyperparameters:
    """What a preset holds: an architecture, and the recipe of its training.

    Raises:
        InputError: the two do not go together.
    """

    architecture: ModelConfig
    recipe: Recipe = field(default_factory=Recipe)

    def __post_init__(self) -> None:
        self.architecture.check(self.recipe)

    def to_dict(self) -> dict[str, Any]:
        return {"architecture": self.architecture.to_dict(), "recipe": self.recipe.to_dict()}


@dataclass(frozen=True)
class Task:
    """What a family with a solver of its own is fitted on: the fold's training rows, and no others.

    Attributes:
        features: name -> [M, ...], the network's inputs.
        targets: [M, T] float32.
        drug: [M] str, the drug of each row, or its own id where drugs are not known.
        treated: [M] bool, the rows that figures are taken on.
        inner: (fitted on, judged) indices into the M rows, to choose by: drugs are held out there too. Empty where
            there are too few drugs to hold any out.
    """

    features: dict[str, np.ndarray]
    targets: np.ndarray
    drug: np.ndarray
    treated: np.ndarray
    inner: Sequence[tuple[np.ndarray, np.ndarray]]


class References(NamedTuple):
    """Drugs whose signatures a model holds: their ids, R of them, and their mechanisms [R, T] bool."""

    ids: tuple[str, ...]
    labels: np.ndarray


@dataclass(frozen=True)
class Family:
    """One kind of model, as training, export and explanation see it.

    A model is preprocessing ∘ network. `fit_preprocessing` gets the training fold's rows alone and returns a
    Keras model from `spec.inputs` (see SignatureSpec) to a dict of named features; its outputs are computed
    once a fold and kept where the table is, in memory or in a mapped file. `build` returns the network: a Keras
    model whose inputs carry the names and shapes of the preprocessing's outputs, and whose output is [B, T] float32
    logits.

    Attributes:
        name: as in `--model`.
        presets: name -> hyperparameters.
        choose_preset: number of training rows -> preset name, used when the user names none.
        fit_preprocessing: (signatures, architecture, seed) -> keras.Model.
        build: (preprocessing, architecture, prior, seed) -> keras.Model. `prior` is [T] float, the label means of
            the training fold, for the output bias; its length is the number of targets.
        explain: members -> explainer, a function from the tensors of `spec.inputs` to named tensors, made of Keras
            operations only, so that it can become the `explain` signature of an export. It gives `importance`
            [B, R], not negative, of the columns that `importance_columns` lists (those at the end that it does
            not read may be left out), and `target` [B] int32, each signature's top mechanism, or the one that a
            further input `target` [B] int32 asks for. Importance is for that one alone, unless there are
            `probabilities` [B, T]: then it is for all, in these parts. A family that draws signatures as images also
            gives `pixels` [F, 2], `image_size`, the scaled `features` [B, F], `columns` [F], which of the R these are,
            and the `grid` [2] of cells that importance is read from. By default integrated gradients.
        reconstruction: (network, architecture, seed) -> keras.Model, for self-supervised pretraining: from the
            network's inputs to the reconstruction error of each row, by way of layers of `network` itself, which
            so are trained. None where the family has none.
        training_output: network -> the symbolic tensor inside it that the loss is taken of, [B, T] logits, or
            [B, k, T] of k members that are trained side by side; by default the network's output.
        finish: (network, architecture) -> the network that is kept, called once after training; by default the
            same.
        solve: (network, task, architecture) -> JSON values that say what was chosen. Fits the weights without
            epochs, where the family has a way of its own, such as a convex solver; None trains by the recipe.
        references: members -> the drugs whose signatures the networks hold; the explainer then also gives `neighbours`
            [B, K] int32, places among these, of most weight first, and their `similarity` [B, K]. None where they hold
            none.
        joins: name of the preprocessing's output that a second stage's further features are joined to, as its last
            columns; None where the network can read none.
        callbacks: architecture -> Keras callbacks that its training needs beside what every family's does.
        space: hyperparameters -> what `moa-tf tune` tries beside them; see `moa_tf.models.space`.
        bfloat16: (kind of device, `cpu`, `gpu` or `tpu`, architecture) -> whether training is faster in bfloat16
            where the device multiplies matrices in it.
        synchronise: take batch statistics over all replicas. TensorFlow walks the whole graph for each of these
            sums when it traces a step, which is nothing for ten layers and many minutes for an EfficientNet.
        deterministic_on_gpu: whether each of its operations has a deterministic kernel there.
    """

    name: str
    presets: Mapping[str, Hyperparameters]
    choose_preset: Callable[[int], str]
    fit_preprocessing: Callable[[Signatures, Any, int], keras.Model]
    build: Callable[[keras.Model, Any, np.ndarray, int], keras.Model]
    explain: Callable[[Sequence[Member]], Explainer] = explain_by_gradients
    reconstruction: Callable[[keras.Model, Any, int], keras.Model] | None = None
    training_output: Callable[[keras.Model], keras.KerasTensor] = lambda network: network.output
    finish: Callable[[keras.Model, Any], keras.Model] = lambda network, architecture: network
    solve: Callable[[keras.Model, Task, Any], dict[str, Any]] | None = None
    references: Callable[[Sequence[Member]], References] | None = None
    joins: str | None = "features"
    callbacks: Callable[[Any], list[keras.callbacks.Callback]] = lambda architecture: []
    space: Callable[[Hyperparameters], Space] = training_space
    bfloat16: Callable[[str, Any], bool] = lambda kind, architecture: kind != "cpu"
    synchronise: bool = True
    deterministic_on_gpu: bool = True


FAMILIES: Mapping[str, str] = MappingProxyType(
    {
        "mlp": "moa_tf.models.mlp",
        "linear": "moa_tf.models.linear",
        "connectivity": "moa_tf.models.connectivity",
        "tabm": "moa_tf.models.tabm",
        "resnet": "moa_tf.models.resnet",
        "cnn1d": "moa_tf.models.cnn1d",
        "gru": "moa_tf.models.recurrent:GRU",
        "lstm": "moa_tf.models.recurrent:LSTM",
        "tabnet": "moa_tf.models.tabnet",
        "deepinsight": "moa_tf.models.deepinsight",
    }
)
"""Name -> module, and after a colon what it calls the family, if not FAMILY."""
DEFAULT = "mlp"
"""What is trained where nobody names a family."""
USUAL = ("linear", "connectivity", DEFAULT, "tabm")
"""What is compared where nobody names any: a few minutes on a small table."""


def get_family(name: str) -> Family:
    """The family called `name`; its module is imported only now, and with it Keras."""
    if name not in FAMILIES:
        raise InputError(f"--model {name}: expected one of {', '.join(FAMILIES)}")
    module, _, attribute = FAMILIES[name].partition(":")
    return getattr(importlib.import_module(module), attribute or "FAMILY")


def families_with(ability: str) -> list[str]:
    """Names of the families whose attribute `ability` is set, to be named where another was asked for it."""
    return [name for name in FAMILIES if getattr(get_family(name), ability) is not None]


def importance_columns(spec: SignatureSpec) -> tuple[str, ...]:
    """The columns that importance is given for: genes, cells, then the panel's treatment, `cp_type` apart."""
    return spec.features + tuple(name for name in spec.treatment if name != "cp_type")


def output_bias(prior: np.ndarray) -> np.ndarray:
    """[T] logits of the label means, kept as far from 0 and 1 as any prior is."""
    prior = np.clip(np.asarray(prior, np.float64), PRIOR_FLOOR, 1 - PRIOR_FLOOR)
    return np.log(prior / (1 - prior)).astype(np.float32)
