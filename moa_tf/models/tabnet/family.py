"""The TabNet family: its configuration, its preprocessing, and its network."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

import keras
import numpy as np

from moa_tf.config import Recipe, require
from moa_tf.data.schema import CONDITIONS, Signatures
from moa_tf.layers import NearestIndex
from moa_tf.layers.tabnet_encoder import check_architecture
from moa_tf.models import tabular
from moa_tf.models.base import Family, Hyperparameters, output_bias
from moa_tf.models.space import Choice, Range, Space, training_space
from moa_tf.models.tabnet.masks import ensemble_explainer
from moa_tf.models.tabnet.network import TabNet
from moa_tf.models.tabnet.reconstruction import reconstruction_model
from moa_tf.models.tabular import SMALL_SCALING, TabularConfig
from moa_tf.preprocessing.inputs import make_inputs


@dataclass(frozen=True)
class TabNetConfig(TabularConfig):
    """TabNet's architecture; the defaults are those that won in the competition.

    Attributes:
        n_d: width of a step's decision.
        n_a: width of a step's attention.
        n_steps: number of decision steps.
        gamma: relaxation, at least 1: 1 lets a feature be used in one step only.
        n_shared: GLU layers of a feature transformer whose kernels all steps share.
        n_independent: GLU layers of a feature transformer of its own.
        mask_type: what makes masks sparse.
        lambda_sparse: weight of the masks' entropy in the loss.
        virtual_batch_size: rows that are normalised together; at most the recipe's batch_size.
        momentum: of the moving statistics, in Keras's sense; pytorch-tabnet's is 1 minus this.
        groups: positions in the feature vector that are attended to as one, joined by +, as in `0+1+2,7+8`.
        embed_treatment: feed dose, time and cell line as embedded categories, not as numbers.
        embedding_dim: width of each of those embeddings.
        pretrain_ratio: share of the features that self-supervised pretraining masks.
    """

    n_d: int = 32
    n_a: int = 32
    n_steps: int = 1
    gamma: float = 1.3
    n_shared: int = 2
    n_independent: int = 2
    mask_type: Literal["sparsemax", "entmax"] = "entmax"
    lambda_sparse: float = 0.0
    virtual_batch_size: int = 128
    momentum: float = 0.98
    groups: tuple[str, ...] = ()
    embed_treatment: bool = False
    embedding_dim: int = 2
    pretrain_ratio: float = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        check_architecture(
            self.n_d,
            self.n_a,
            self.n_steps,
            self.gamma,
            self.n_shared,
            self.n_independent,
            self.mask_type,
            self.lambda_sparse,
        )
        require(self.virtual_batch_size >= 1, "virtual_batch_size", self.virtual_batch_size, "at least 1")
        require(0 <= self.momentum < 1, "momentum", self.momentum, "in [0, 1)")
        require(self.embedding_dim >= 1, "embedding_dim", self.embedding_dim, "at least 1")
        require(0 < self.pretrain_ratio < 1, "pretrain_ratio", self.pretrain_ratio, "between 0 and 1")
        positions: list[str] = []
        for group in self.groups:
            parts = group.split("+")
            numbers = all(part.strip().isdecimal() for part in parts)
            require(numbers, "groups", group, "positions joined by +, as in 0+1+2,7+8")
            positions += [str(int(part)) for part in parts]
        twice = sorted({position for position in positions if positions.count(position) > 1}, key=int)
        require(not twice, "groups", ",".join(self.groups), f"groups that share no feature, not {twice}")

    def check(self, recipe: Recipe) -> None:
        batch = f"1 to batch_size={recipe.batch_size}"
        fits = self.virtual_batch_size <= recipe.batch_size
        require(fits, "virtual_batch_size", self.virtual_batch_size, batch)

    @property
    def group_indices(self) -> tuple[tuple[int, ...], ...]:
        """`groups` as numbers."""
        return tuple(tuple(int(part) for part in group.split("+")) for group in self.groups)


def fit_preprocessing(signatures: Signatures, config: TabNetConfig, seed: int) -> keras.Model:
    """Fits the preprocessing on the training fold's rows.

    Args:
        signatures: the training fold's rows, and no others.
        config: which layers.
        seed: unused, as nothing here is random.

    Returns:
        Keras model from the panel's inputs to `features` [B, F] float32 and, if the treatment is embedded and
        the panel has it, `categories` [B, K] int32.
    """
    if not config.embed_treatment:
        return tabular.fit_preprocessing(signatures, config, seed)
    numeric = tabular.fit_preprocessing(signatures, dataclasses.replace(config, treatment=False), seed)
    spec = signatures.spec
    inputs = numeric.input | make_inputs(spec, CONDITIONS)
    columns = []
    if "cp_time" in inputs:
        times = np.unique(np.asarray(signatures.cp_time))
        columns.append(NearestIndex(times, name="time_category")(inputs["cp_time"]))
    if "cp_dose" in inputs:
        doses = np.asarray(signatures.cp_dose)
        known = range(len(spec.doses)) if spec.doses else np.unique(doses[np.isfinite(doses)])
        columns.append(NearestIndex(known, name="dose_category")(inputs["cp_dose"]))
    if "cp_cell" in inputs:
        # The first one is for cell lines that the training rows do not have.
        seen = np.unique(np.append(-1, signatures.cp_cell))
        columns.append(NearestIndex(seen, name="cell_category")(inputs["cp_cell"]))
    if not columns:
        return numeric
    categories = columns[0] if len(columns) == 1 else keras.layers.Concatenate(name="categories")(columns)
    outputs = {"features": numeric.output["features"], "categories": categories}
    return keras.Model(inputs, outputs, name="preprocessing")


def category_layers(preprocessing: keras.Model) -> list[NearestIndex]:
    """The layers that make the columns of `categories`, in their order."""
    return [layer for layer in preprocessing.layers if isinstance(layer, NearestIndex)]


def build(preprocessing: keras.Model, config: TabNetConfig, prior: np.ndarray, seed: int) -> keras.Model:
    """The network for this preprocessing's outputs.

    Args:
        preprocessing: from `fit_preprocessing`, fitted or loaded.
        config: the architecture.
        prior: [T] label means of the training fold, for the output bias.
        seed: of the initial values; equal seeds give equal networks.

    Returns:
        Keras model from `features` (and `categories`) to [B, T] float32 logits.

    Raises:
        InputError: groups that name a feature which the preprocessing does not give.
    """
    return TabNet(
        preprocessing.output["features"].shape[-1],
        len(prior),
        n_d=config.n_d,
        n_a=config.n_a,
        n_steps=config.n_steps,
        gamma=config.gamma,
        n_shared=config.n_shared,
        n_independent=config.n_independent,
        mask_type=config.mask_type,
        lambda_sparse=config.lambda_sparse,
        virtual_batch_size=config.virtual_batch_size,
        momentum=config.momentum,
        groups=config.group_indices,
        category_sizes=[len(layer.values) for layer in category_layers(preprocessing)],
        embedding_dim=config.embedding_dim,
        output_bias=output_bias(prior),
        seed=seed,
    )


# The recipe that won in the competition.
_WINNERS = Recipe(
    epochs=200,
    batch_size=1024,
    optimizer="adam",
    learning_rate=2e-2,
    schedule="plateau",
    plateau_factor=0.9,
    plateau_patience=5,
    early_stopping=30,
    weight_decay=1e-5,
    decay_all=True,
    adam_epsilon=1e-8,
    clip_norm=1.0,
    jit_compile=True,
)

PRESETS = MappingProxyType(
    {
        "winners": Hyperparameters(TabNetConfig(), _WINNERS),
        # Some dozen steps an epoch: the moving statistics have to follow faster, and the weights more slowly.
        "small": Hyperparameters(
            TabNetConfig(virtual_batch_size=64, n_d=16, n_a=16, momentum=0.9, **SMALL_SCALING),
            dataclasses.replace(
                _WINNERS,
                steps=800,
                batch_size=256,
                schedule="one-cycle",
                early_stopping=8,
                learning_rate=5e-3,
                weight_decay=1e-3,
            ),
        ),
    }
)


def space(hyperparameters: Hyperparameters) -> Space:
    """Beside what is tried of every family, how many steps there are and how freely they share features."""
    more = {"n_steps": Choice(("1", "2", "3", "5")), "gamma": Range(1.0, 2.0)}
    return {**training_space(hyperparameters), **more}


FAMILY = Family(
    name="tabnet",
    presets=PRESETS,
    choose_preset=lambda rows: "winners" if rows >= 8192 else "small",
    fit_preprocessing=fit_preprocessing,
    build=build,
    space=space,
    explain=ensemble_explainer,
    reconstruction=reconstruction_model,
    joins=None,  # Masks and groups are of the preprocessing's own columns.
    bfloat16=lambda kind, architecture: kind == "tpu",  # On an H100 it was no faster than TensorFloat-32.
)
