"""TabM: k multilayer perceptrons that share their matrices, trained side by side."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from types import MappingProxyType

import keras
import numpy as np

from moa_tf.config import Recipe, require
from moa_tf.layers import BatchEnsembleBlocks, EnsembleDense, MeanProbability
from moa_tf.models.base import Family, Hyperparameters, output_bias
from moa_tf.models.tabular import SMALL_SCALING, SMALL_TABLE, TabularConfig, fit_preprocessing


@dataclass(frozen=True)
class TabMConfig(TabularConfig):
    """k members of blocks linear, ReLU, dropout, and a head of each member's own.

    Attributes:
        hidden: units of each block.
        dropout: rate of each block, applied to its output.
        k: members that are trained.
        keep: members that the trained network keeps and predicts by; 0 for all. The rest have still helped: their
            gradients shaped what all share.
    """

    hidden: tuple[int, ...] = (512, 512, 512)
    dropout: float = 0.1
    k: int = 32
    keep: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        require(len(self.hidden) > 0, "hidden", self.hidden, "at least one size")
        require(min(self.hidden, default=1) >= 1, "hidden", self.hidden, "sizes of at least 1")
        require(0 <= self.dropout < 1, "dropout", self.dropout, "in [0, 1)")
        require(self.k >= 1, "k", self.k, "at least 1")
        require(0 <= self.keep <= self.k, "keep", self.keep, f"from 0 (all) to k={self.k}")


RECIPE = Recipe(
    epochs=10,
    learning_rate=2e-3,
    weight_decay=3e-4,
    clip_norm=1.0,
    label_smoothing=0.0,
)

PRESETS = MappingProxyType(
    {
        # The authors' package's own sizes.
        "full": Hyperparameters(TabMConfig(), RECIPE),
        "small": Hyperparameters(
            TabMConfig(hidden=(256, 256), dropout=0.3, **SMALL_SCALING),
            dataclasses.replace(RECIPE, steps=600, batch_size=64, early_stopping=8),
        ),
    }
)


def choose_preset(signatures: int) -> str:
    """The preset for a table of that many signatures, where the user names none."""
    return "small" if signatures < SMALL_TABLE else "full"


def build(preprocessing: keras.Model, config: TabMConfig, prior: np.ndarray, seed: int) -> keras.Model:
    """The network: k members of L blocks that share their matrices W.

    h₀ = x;  h_l = dropout(relu(((h_{l−1} · r_l) W_l) · s_l + b_l)),  l = 1 … L;  z = h_L V + c

    r, s, b, V and c are each member's own. What is trained is the mean of the members' losses, each of its own z (see
    `training_output`); what is predicted is the mean of their probabilities σ(z).

    Args:
        preprocessing: gives `features` [B, F]; only its shape is used.
        config: sizes, rate, members.
        prior: [T] label means of the training fold, for the bias c of every member.
        seed: of initial weights and dropout.

    Returns:
        Keras model from `{"features": [B, F]}` to [B, T] float32 logits of the mean of the probabilities of the members
        that are to be kept.

    Source: Gorishniy et al. 2025, TabM: Advancing Tabular Deep Learning with Parameter-Efficient Ensembling (ICLR),
    sections 3.2 and 3.3; held to their package `tabm` 0.0.3. There c starts as V does, uniform in ±1/√units.

    Examples:
        >>> inputs = keras.Input((876,), name="features")
        >>> network = build(keras.Model(inputs, {"features": inputs}), TabMConfig(), np.full(206, 0.004), seed=0)
        >>> network({"features": np.zeros((2, 876), "float32")}).shape
        TensorShape([2, 206])
    """
    keras.utils.set_random_seed(seed)
    inputs = keras.Input(preprocessing.output["features"].shape[1:], name="features")
    x = BatchEnsembleBlocks(config.hidden, config.k, config.dropout, name="blocks")(inputs)
    # Mixed precision ends at the logits: the loss wants all the digits.
    members = EnsembleDense(
        len(prior),
        config.k,
        bias_initializer=keras.initializers.Constant(output_bias(prior)),
        dtype="float32",
        name="members",
    )(x)
    logits = MeanProbability(config.keep or None, dtype="float32", name="logits")(members)
    return keras.Model({"features": inputs}, logits, name="tabm")


def training_output(network: keras.Model) -> keras.KerasTensor:
    """[B, k, T] logits of the members: the loss is the mean of theirs."""
    return network.get_layer("members").output


def keep_members(network: keras.Model, config: TabMConfig) -> keras.Model:
    """The network without the members beyond the first `config.keep`: any are as good, as they only differ by chance.

    Source: Gorishniy et al. 2025, TabM, section 5.3, where few members of many do better than as few trained alone.
    """
    if config.keep in (0, config.k):
        return network

    def fewer(layer: keras.layers.Layer) -> keras.layers.Layer:
        settings = layer.get_config()
        return type(layer).from_config(settings | {"k": config.keep} if "k" in settings else settings)

    kept = keras.models.clone_model(network, clone_function=fewer)
    for small, large in zip(kept.weights, network.weights, strict=True):
        # What is each member's own has the members first.
        small.assign(large if small.shape == large.shape else large[: config.keep])
    return kept


FAMILY = Family(
    "tabm",
    PRESETS,
    choose_preset,
    fit_preprocessing,
    build,
    training_output=training_output,
    finish=keep_members,
    bfloat16=lambda kind, architecture: True,
)
