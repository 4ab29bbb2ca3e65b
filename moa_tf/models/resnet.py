"""The two-heads residual network of lish-moa's first place: some of the features come in twice."""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType

import keras
import numpy as np

from moa_tf.config import Recipe, require
from moa_tf.data.schema import Signatures
from moa_tf.layers import ByteDropout, FastBatchNormalization
from moa_tf.models.base import Family, Hyperparameters, output_bias
from moa_tf.models.tabular import SMALL_SCALING, SMALL_TABLE, TabularConfig, feature_vector, fit_parts, join
from moa_tf.preprocessing import MostVariable


@dataclass(frozen=True)
class ResNetConfig(TabularConfig):
    """A network of two heads and an output part.

    Attributes:
        selected: how many scaled genes and cells the second head reads too, beside what the first one made of all
            features; at most all.
        wide: units of each head's first layers.
        narrow: units of each head's last layers, which are averaged, and of the output part's.
        dropout: rates before the first head, the second head and the output part; one value serves all.
    """

    selected: int = 450
    wide: int = 512
    narrow: int = 256
    dropout: tuple[float, ...] = (0.2, 0.3, 0.0)

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("selected", "wide", "narrow"):
            require(getattr(self, name) >= 1, name, getattr(self, name), "at least 1")
        require(len(self.dropout) in (1, 3), "dropout", self.dropout, "one rate or three")
        for rate in self.dropout:
            require(0 <= rate < 1, "dropout", rate, "in [0, 1)")


PRESETS = MappingProxyType(
    {
        # The network is lish-moa's first place's, the recipe that of its simple network with fewer epochs and more
        # dropout: by 25 it knows the training rows by heart.
        "first-place": Hyperparameters(
            ResNetConfig(
                gene_components=80, cell_components=10, row_statistics=True, dropout=(0.3, 0.4, 0.2)
            ),
            Recipe(epochs=6, batch_size=128, optimizer="adam", learning_rate=2e-3, weight_decay=1e-5),
        ),
        "small": Hyperparameters(
            ResNetConfig(selected=100, wide=128, narrow=64, dropout=(0.4,), **SMALL_SCALING),
            Recipe(
                steps=800,
                batch_size=32,
                optimizer="adam",
                learning_rate=3e-3,
                weight_decay=1e-3,
                label_smoothing=0.0,
                early_stopping=8,
            ),
        ),
    }
)


def choose_preset(signatures: int) -> str:
    """The preset for a table of that many signatures, where the user names none."""
    return "small" if signatures < SMALL_TABLE else "first-place"


def fit_preprocessing(signatures: Signatures, config: ResNetConfig, seed: int) -> keras.Model:
    """Fits the preprocessing on the training fold's rows.

    The first place's list of features was made with the labels of all rows. Here the features are those of the largest
    variance before scaling, genes and cells together, which no label decides: signatures are measured against
    controls, so that noise has about the same variance in all features, and what is above it is response to drugs.

    Args:
        signatures: the training fold's rows, and no others.
        config: which layers.
        seed: unused, as nothing here is random.

    Returns:
        Keras model from the panel's inputs to `features` [B, F] and `selected` [B, min(config.selected, G + C)],
        float32.

    Raises:
        InputError: no feature varies.
    """
    parts = fit_parts(signatures, config)
    select = MostVariable(config.selected, name="most_variable")
    select.adapt(np.concatenate(list(parts.raw.values()), axis=1))
    selected = select(join(list(parts.scaled.values()), "scaled"))
    outputs = {"features": feature_vector(parts, config), "selected": selected}
    return keras.Model(parts.inputs, outputs, name="preprocessing")


def build(preprocessing: keras.Model, config: ResNetConfig, prior: np.ndarray, seed: int) -> keras.Model:
    """The network.

        h₁ = elu(N elu(N D x))                          [B, narrow]; x the features
        h₂ = elu(N relu(N elu(N relu(N D [s, h₁]))))    [B, narrow]; s the selected features
        logits = N selu(N selu(N D (h₁ + h₂)/2))

    N is batch normalisation and the Dense layer that follows it, D dropout. The Dense layers have `wide` units until
    the half of a head, then `narrow` ones; in the last line `narrow`, T and T. The output layer starts at zero.

    Args:
        preprocessing: gives `features` [B, F] and `selected` [B, S]; only their shapes are used.
        config: sizes and rates.
        prior: [T] label means of the training fold, for the output bias.
        seed: of initial weights and dropout.

    Returns:
        Keras model from `{"features": [B, F], "selected": [B, S]}` to [B, T] float32 logits.

    Examples:
        >>> from moa_tf.data.simulate import simulate
        >>> data, config = simulate(100, genes=30, cells=8), ResNetConfig(selected=10, wide=16, narrow=8)
        >>> preprocessing = FAMILY.fit_preprocessing(data.signatures, config, 0)
        >>> network = FAMILY.build(preprocessing, config, data.targets.mean(axis=0), 0)
        >>> inputs = {name: data.signatures.inputs()[name] for name in preprocessing.input}
        >>> tuple(network(preprocessing(inputs)).shape) == data.targets.shape
        True

    Source: guitarmind/kaggle_moa_winner_hungry_for_gold, '2heads-ResNest'; its training, which unfreezes the network
    on the rows that it is judged by, is not followed.
    """
    keras.utils.set_random_seed(seed)
    inputs = {
        name: keras.Input(preprocessing.output[name].shape[1:], name=name)
        for name in ("features", "selected")
    }
    before_first, before_second, before_output = config.dropout * (3 // len(config.dropout))

    x = _dropped(inputs["features"], before_first, "head_1_dropout")
    x = _dense(x, config.wide, "elu", "head_1_dense_1")
    first = _dense(x, config.narrow, "elu", "head_1_dense_2")

    x = keras.layers.Concatenate(name="skip_concatenation")([inputs["selected"], first])
    x = _dropped(x, before_second, "head_2_dropout")
    x = _dense(x, config.wide, "relu", "head_2_dense_1")
    x = _dense(x, config.wide, "elu", "head_2_dense_2")
    x = _dense(x, config.narrow, "relu", "head_2_dense_3")
    second = _dense(x, config.narrow, "elu", "head_2_dense_4")

    x = keras.layers.Average(name="average")([first, second])
    x = _dropped(x, before_output, "output_dropout")
    x = _dense(x, config.narrow, "selu", "output_dense")
    x = _dense(x, len(prior), "selu", "output_targets")
    logits = keras.layers.Dense(
        len(prior),
        kernel_initializer="zeros",
        bias_initializer=keras.initializers.Constant(output_bias(prior)),
        dtype="float32",
        name="logits",
    )(_normalised(x, "logits"))
    return keras.Model(inputs, logits, name="resnet")


def _dense(x: keras.KerasTensor, units: int, activation: str, name: str) -> keras.KerasTensor:
    initializer = "lecun_normal" if activation == "selu" else "he_normal"
    return keras.layers.Dense(units, activation, kernel_initializer=initializer, name=name)(
        _normalised(x, name)
    )


def _normalised(x: keras.KerasTensor, name: str) -> keras.KerasTensor:
    return FastBatchNormalization(momentum=0.9, epsilon=1e-5, name=f"{name}_norm")(x)


def _dropped(x: keras.KerasTensor, rate: float, name: str) -> keras.KerasTensor:
    return ByteDropout(rate, name=name)(x) if rate else x


FAMILY = Family("resnet", PRESETS, choose_preset, fit_preprocessing, build)
