"""Recurrent networks that read a signature as a sequence: features that go together, side by side."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from types import MappingProxyType
from typing import Any

import keras
import numpy as np

from moa_tf.config import Recipe, require
from moa_tf.data.schema import Signatures
from moa_tf.layers import ByteDropout
from moa_tf.models.base import Family, Hyperparameters, output_bias
from moa_tf.models.tabular import SMALL_SCALING, SMALL_TABLE, TabularConfig, apply, fit_parts, join
from moa_tf.preprocessing import CorrelationOrder


@dataclass(frozen=True)
class RecurrentConfig(TabularConfig):
    """A bidirectional recurrent network over steps of features.

    Attributes:
        step_size: most features of a step. The features are dealt into as few steps as that allows, all of the same
            size, the last filled up with zeros.
        embedding: width to which each step's features are mapped, by a matrix of the step's own.
        units: of each direction.
        layers: how many recurrent layers lie on each other.
        dropout: rate before the embedding and before each further recurrent layer.
        output_dropout: rate before the output layer.
    """

    step_size: int = 32
    embedding: int = 128
    units: int = 256
    layers: int = 2
    dropout: float = 0.2
    output_dropout: float = 0.4

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("step_size", "embedding", "units", "layers"):
            require(getattr(self, name) >= 1, name, getattr(self, name), "at least 1")
        for name in ("dropout", "output_dropout"):
            require(0 <= getattr(self, name) < 1, name, getattr(self, name), "in [0, 1)")
        # The sequence is of them.
        require(self.keep_scaled, "keep_scaled", self.keep_scaled, "true for a recurrent network")


PRESETS = MappingProxyType(
    {
        "large": Hyperparameters(
            RecurrentConfig(gene_components=80, cell_components=10, row_statistics=True),
            Recipe(
                epochs=25,
                batch_size=256,
                optimizer="adam",
                learning_rate=2e-3,
                weight_decay=1e-5,
                clip_norm=1.0,
            ),
        ),
        "small": Hyperparameters(
            RecurrentConfig(embedding=64, units=64, layers=1, dropout=0.3, output_dropout=0.5, **SMALL_SCALING),
            Recipe(
                steps=400,
                batch_size=64,
                optimizer="adam",
                learning_rate=3e-3,
                weight_decay=1e-4,
                label_smoothing=0.0,
                early_stopping=8,
                clip_norm=1.0,
            ),
        ),
    }
)  # fmt: skip


def choose_preset(signatures: int) -> str:
    """The preset for a table of that many signatures, where the user names none."""
    return "small" if signatures < SMALL_TABLE else "large"


def fit_preprocessing(signatures: Signatures, config: RecurrentConfig, seed: int) -> keras.Model:
    """Fits the preprocessing on the training fold's rows, the order of the features too.

    A signature has no order of its own, and a recurrent network gives another result in every other one. Here scaled
    genes and cells are ordered by hierarchical clustering, see `CorrelationOrder`: those that rise and fall together
    over the training rows come one after another.

    Args:
        signatures: the training fold's rows, and no others.
        config: which layers.
        seed: unused, as nothing here is random.

    Returns:
        Keras model from the panel's inputs to `features` [B, G + C] float32 in that order and, if there is any of it,
        `context` [B, K] float32: components, statistics and treatment, which are not part of the sequence.

    Raises:
        InputError: no feature varies.
    """
    parts = fit_parts(signatures, config)
    order = CorrelationOrder(name="order")
    order.adapt(
        np.concatenate(
            [
                apply(parts.inputs[kind], scaled, getattr(signatures, kind))
                for kind, scaled in parts.scaled.items()
            ],
            axis=1,
        )
    )
    outputs = {"features": order(join(list(parts.scaled.values()), "scaled"))}
    if parts.derived:
        outputs["context"] = join(parts.derived, "context")
    return keras.Model(parts.inputs, outputs, name="preprocessing")


def build(
    preprocessing: keras.Model,
    config: RecurrentConfig,
    prior: np.ndarray,
    seed: int,
    *,
    cell: type[keras.layers.GRU] | type[keras.layers.LSTM],
) -> keras.Model:
    """The network.

        f₁ … f_P = the features, in steps
        e_p = A_p f_p + b_p                              [B, embedding]
        →h_p = cell(e_p, →h_{p−1}), ←h_p = cell(e_p, ←h_{p+1})      [B, units] each
        logits = V [→h_P, ←h_1, context]

    Other recurrent layers take [→h_p, ←h_p] for e_p. The output layer starts at zero.

    Args:
        preprocessing: gives `features` [B, F] and, if the panel has any, `context` [B, K]; only their shapes are used.
        config: sizes and rates.
        prior: [T] label means of the training fold, for the output bias.
        seed: of initial weights and dropout.
        cell: the recurrent layer.

    Returns:
        Keras model from `{"features": [B, F], "context": [B, K]}` to [B, T] float32 logits.

    Examples:
        >>> from moa_tf.data.simulate import simulate
        >>> data, config = simulate(100, genes=30, cells=8), RecurrentConfig(step_size=8, embedding=4, units=4)
        >>> preprocessing = GRU.fit_preprocessing(data.signatures, config, 0)
        >>> network = GRU.build(preprocessing, config, data.targets.mean(axis=0), 0)
        >>> inputs = {name: data.signatures.inputs()[name] for name in preprocessing.input}
        >>> tuple(network(preprocessing(inputs)).shape) == data.targets.shape
        True

    Source: Hochreiter & Schmidhuber 1997, Long Short-Term Memory; Cho et al. 2014, Learning Phrase Representations,
    section 2.3, for the GRU; Schuster & Paliwal 1997 for both directions.
    """
    keras.utils.set_random_seed(seed)
    inputs = {name: keras.Input(tensor.shape[1:], name=name) for name, tensor in preprocessing.output.items()}
    features = inputs["features"].shape[1]
    steps, size = steps_of(features, config.step_size)

    x = keras.layers.Reshape((features, 1), name="column")(inputs["features"])
    x = keras.layers.ZeroPadding1D((0, steps * size - features), name="filled_up")(x)
    x = keras.layers.Reshape((steps, size), name="steps")(x)
    x = _dropped(x, config.dropout, "dropout")
    x = keras.layers.EinsumDense("bps,pse->bpe", (steps, config.embedding), bias_axes="pe", name="embedding")(
        x
    )
    for layer in range(1, config.layers + 1):
        if layer > 1:
            x = _dropped(x, config.dropout, f"dropout_{layer}")
        # Without cuDNN: its operation has no CPU kernel, and a model that is exported where there is a GPU is to be
        # served where there is none.
        recurrent = cell(config.units, return_sequences=layer < config.layers, use_cudnn=False)
        x = keras.layers.Bidirectional(recurrent, name=f"recurrent_{layer}")(x)
    if "context" in inputs:
        x = keras.layers.Concatenate(name="with_context")([x, inputs["context"]])
    x = _dropped(x, config.output_dropout, "output_dropout")
    logits = keras.layers.Dense(
        len(prior),
        kernel_initializer="zeros",
        bias_initializer=keras.initializers.Constant(output_bias(prior)),
        dtype="float32",
        name="logits",
    )(x)
    return keras.Model(inputs, logits, name=cell.__name__.lower())


def steps_of(features: int, step_size: int) -> tuple[int, int]:
    """How many steps, and of how many features: the fewest steps of at most `step_size`, as even as can be."""
    steps = -(-features // step_size)
    return steps, -(-features // steps)


def _never_faster(kind: str, architecture: Any) -> bool:
    """The fused kernels of recurrent layers are for float32."""
    return False


def _dropped(x: keras.KerasTensor, rate: float, name: str) -> keras.KerasTensor:
    return ByteDropout(rate, name=name)(x) if rate else x


GRU, LSTM = (
    Family(
        name,
        PRESETS,
        choose_preset,
        fit_preprocessing,
        partial(build, cell=cell),
        joins="context",
        bfloat16=_never_faster,
    )
    for name, cell in (("gru", keras.layers.GRU), ("lstm", keras.layers.LSTM))
)
