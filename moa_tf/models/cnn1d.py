"""The 1D-CNN of lish-moa's second place: a Dense layer makes a sequence of channels, convolutions read it."""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType

import keras
import numpy as np

from moa_tf.config import Recipe, require
from moa_tf.layers import CELU, ByteDropout, FastBatchNormalization, WeightNormDense
from moa_tf.models.base import Family, Hyperparameters, output_bias
from moa_tf.models.tabular import SMALL_SCALING, SMALL_TABLE, TabularConfig, fit_preprocessing


@dataclass(frozen=True)
class CNN1DConfig(TabularConfig):
    """A Dense layer whose units are laid out as positions × channels, and four convolutions over the positions.

    Attributes:
        hidden: units of the Dense layer; a multiple of `channels`.
        channels: channels of each position; there are hidden / channels positions.
        filters: of every convolution.
        celu_alpha: α of the Dense layer's CELU.
        dropout: rate before the Dense layer and the first two convolutions.
        skip_dropout: rates before the two convolutions that the skip goes around; one value serves both.
        output_dropout: rate before the output layer.
    """

    hidden: int = 4096
    channels: int = 256
    filters: int = 512
    celu_alpha: float = 0.06
    dropout: float = 0.1
    skip_dropout: tuple[float, ...] = (0.3, 0.2)
    output_dropout: float = 0.2

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("channels", "filters"):
            require(getattr(self, name) >= 1, name, getattr(self, name), "at least 1")
        multiple = self.hidden >= 1 and self.hidden % self.channels == 0
        require(multiple, "hidden", self.hidden, f"a multiple of channels={self.channels}")
        require(self.celu_alpha > 0, "celu_alpha", self.celu_alpha, "above 0")
        require(len(self.skip_dropout) in (1, 2), "skip_dropout", self.skip_dropout, "one rate or two")
        for name, rates in (
            ("dropout", (self.dropout,)),
            ("skip_dropout", self.skip_dropout),
            ("output_dropout", (self.output_dropout,)),
        ):
            for rate in rates:
                require(0 <= rate < 1, name, rate, "in [0, 1)")


PRESETS = MappingProxyType(
    {
        # lish-moa's second place, in a quarter of its epochs: by the last of 24 it knows the training rows by heart.
        "second-place": Hyperparameters(
            CNN1DConfig(gene_components=50, cell_components=15),
            Recipe(
                epochs=6,
                batch_size=128,
                optimizer="adam",
                learning_rate=5e-3,
                weight_decay=1e-5,
                positive_weights="log",
            ),
        ),
        "small": Hyperparameters(
            CNN1DConfig(
                hidden=512,
                channels=64,
                filters=64,
                dropout=0.3,
                skip_dropout=(0.3,),
                output_dropout=0.5,
                **SMALL_SCALING,
            ),
            Recipe(
                steps=800,
                batch_size=32,
                optimizer="adam",
                learning_rate=4e-3,
                weight_decay=1e-4,
                label_smoothing=0.0,
                early_stopping=8,
            ),
        ),
    }
)


def choose_preset(signatures: int) -> str:
    """The preset for a table of that many signatures, where the user names none."""
    return "small" if signatures < SMALL_TABLE else "second-place"


def build(preprocessing: keras.Model, config: CNN1DConfig, prior: np.ndarray, seed: int) -> keras.Model:
    """The network.

        z = reshape(celu(W x))                  [B, P, channels], P = hidden / channels; x the features
        a = conv₃(mean₂(conv₅(z)))              [B, P/2, filters]; mean₂ the mean of two positions
        y = max₄(a ⊙ conv₅(conv₃(a)))           [B, P/4, filters]; max₄ the largest of four positions, every second time
        logits = V flatten(y)

    Each convₖ is a convolution of width k with relu; it, W and V have batch normalisation and dropout before them. The
    skip multiplies: what a holds is passed on as far as the two convolutions around it say. W and V are
    weight-normalised; the source's convolutions are too, these are not.

    Args:
        preprocessing: gives `features` [B, F]; only its shape is used.
        config: sizes and rates.
        prior: [T] label means of the training fold, for the output bias.
        seed: of initial weights and dropout.

    Returns:
        Keras model from `{"features": [B, F]}` to [B, T] float32 logits.

    Examples:
        >>> from moa_tf.data.simulate import simulate
        >>> data, config = simulate(100, genes=30, cells=8), CNN1DConfig(hidden=16, channels=4, filters=4)
        >>> preprocessing = FAMILY.fit_preprocessing(data.signatures, config, 0)
        >>> network = FAMILY.build(preprocessing, config, data.targets.mean(axis=0), 0)
        >>> inputs = {name: data.signatures.inputs()[name] for name in preprocessing.input}
        >>> tuple(network(preprocessing(inputs)).shape) == data.targets.shape
        True

    Source: lish-moa, second place, '1D-CNN'; Salimans & Kingma (2016) for the weight normalisation.
    """
    keras.utils.set_random_seed(seed)
    inputs = keras.Input(preprocessing.output["features"].shape[1:], name="features")
    around, end = config.skip_dropout * (2 // len(config.skip_dropout))

    x = _normalised(inputs, config.dropout, "dense")
    x = WeightNormDense(config.hidden, kernel_initializer="he_normal", name="dense")(x)
    x = CELU(config.celu_alpha, name="celu")(x)
    x = keras.layers.Reshape((config.hidden // config.channels, config.channels), name="positions")(x)
    x = _convolved(x, config.filters, 5, config.dropout, "conv_1")
    x = keras.layers.AveragePooling1D(2, padding="same", name="mean_pool")(x)
    skip = x = _convolved(x, config.filters, 3, config.dropout, "conv_2")
    x = _convolved(x, config.filters, 3, around, "conv_3")
    x = _convolved(x, config.filters, 5, end, "conv_4")
    x = keras.layers.Multiply(name="multiplicative_skip")([skip, x])
    x = keras.layers.MaxPooling1D(4, strides=2, padding="same", name="max_pool")(x)
    x = _normalised(keras.layers.Flatten(name="flat")(x), config.output_dropout, "logits")
    logits = WeightNormDense(
        len(prior),
        bias_initializer=keras.initializers.Constant(output_bias(prior)),
        dtype="float32",
        name="logits",
    )(x)
    return keras.Model({"features": inputs}, logits, name="cnn1d")


def _convolved(x: keras.KerasTensor, filters: int, width: int, rate: float, name: str) -> keras.KerasTensor:
    convolution = keras.layers.Conv1D(
        filters, width, padding="same", activation="relu", kernel_initializer="he_normal", name=name
    )
    return convolution(_normalised(x, rate, name))


def _normalised(x: keras.KerasTensor, rate: float, name: str) -> keras.KerasTensor:
    x = FastBatchNormalization(momentum=0.9, epsilon=1e-5, name=f"{name}_norm")(x)
    return ByteDropout(rate, name=f"{name}_dropout")(x) if rate else x


FAMILY = Family(
    "cnn1d",
    PRESETS,
    choose_preset,
    fit_preprocessing,
    build,
    bfloat16=lambda kind, architecture: kind != "cpu" or architecture.channels >= 256,
)
