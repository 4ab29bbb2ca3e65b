"""The weight-normalised multilayer perceptron: the article's network and a quicker one."""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Literal

import keras
import numpy as np

from moa_tf.config import Recipe, require
from moa_tf.layers import ByteDropout, FastBatchNormalization, WeightNormDense
from moa_tf.models.base import Family, Hyperparameters, output_bias
from moa_tf.models.tabular import SMALL_SCALING, SMALL_TABLE, TabularConfig, fit_preprocessing


@dataclass(frozen=True)
class MLPConfig(TabularConfig):
    """An MLP of blocks BatchNorm, Dropout, weight-normalised Dense, activation.

    Attributes:
        hidden: units of each block.
        dropout: rate of each block, applied to its input; one value serves all blocks.
        output_dropout: rate before the output layer.
        activation: after each block's Dense.
        batch_norm: whether blocks and output begin with batch normalisation.
        weight_norm: whether Dense layers are weight-normalised. Without it the output layer starts at zero, so
            that the untrained network predicts the prior.
        skip: add a linear map of the features, after their own dropout, to the logits. With L2 decay
            (`optimizer=adam`) the network then contains a ridge logistic regression, which few rows ask for.
    """

    hidden: tuple[int, ...] = (2048, 2048, 2048)
    dropout: tuple[float, ...] = (0.15, 0.3, 0.25)
    output_dropout: float = 0.25
    activation: Literal["relu", "leaky_relu"] = "leaky_relu"
    batch_norm: bool = True
    weight_norm: bool = True
    skip: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        require(min(self.hidden, default=1) >= 1, "hidden", self.hidden, "sizes of at least 1")
        require(
            len(self.dropout) in (1, len(self.hidden)),
            "dropout",
            self.dropout,
            f"one rate, or one for each of the {len(self.hidden)} blocks",
        )
        for rate in (*self.dropout, self.output_dropout):
            require(0 <= rate < 1, "dropout", rate, "in [0, 1)")


PRESETS = MappingProxyType(
    {
        # lish-moa's first place, "simple NN", with more dropout.
        "one-cycle": Hyperparameters(
            MLPConfig(
                dropout=(0.3, 0.5, 0.5),
                output_dropout=0.5,
                gene_components=90,
                cell_components=50,
                row_statistics=True,
            ),
            Recipe(epochs=25, optimizer="adam", learning_rate=3e-3, weight_decay=1e-5),
        ),
        # 'Drug Discovery With Neural Networks'.
        "article": Hyperparameters(
            MLPConfig(
                hidden=(2048, 2048, 1048, 1048),
                dropout=(0.2, 0.5, 0.5, 0.1),
                output_dropout=0.0,
                activation="relu",
                gene_components=80,
                cell_components=10,
            ),
            Recipe(
                epochs=50,
                batch_size=128,
                optimizer="adam",
                learning_rate=1e-3,
                schedule="plateau",
                plateau_factor=0.1,
                plateau_patience=5,
            ),
        ),
        # Settled on folds of LINCS, NCI-60 and GDSC: a ridge regression and a small block beside it.
        "small": Hyperparameters(
            MLPConfig(
                hidden=(128,),
                dropout=(0.5,),
                output_dropout=0.5,
                activation="relu",
                batch_norm=False,
                weight_norm=False,
                skip=True,
                **SMALL_SCALING,
            ),
            Recipe(
                steps=1000,
                batch_size=128,
                optimizer="adam",
                learning_rate=2e-3,
                decays=(3e-4, 1e-3, 3e-3),
                early_stopping=8,
                label_smoothing=0.0,
            ),
        ),
    }
)


def choose_preset(signatures: int) -> str:
    """The preset for a table of that many signatures, where the user names none."""
    return "small" if signatures < SMALL_TABLE else "one-cycle"


def build(preprocessing: keras.Model, config: MLPConfig, prior: np.ndarray, seed: int) -> keras.Model:
    """The network.

    Args:
        preprocessing: gives `features` [B, F]; only its shape is used.
        config: sizes and rates.
        prior: [T] label means of the training fold, for the output bias.
        seed: of initial weights and dropout.

    Returns:
        Keras model from `{"features": [B, F]}` to [B, T] float32 logits.

    Source: 'Drug Discovery With Neural Networks'; Salimans & Kingma (2016) for the weight normalisation.
    """
    keras.utils.set_random_seed(seed)
    inputs = keras.Input(preprocessing.output["features"].shape[1:], name="features")
    rates = config.dropout * len(config.hidden) if len(config.dropout) == 1 else config.dropout
    x = inputs
    for block, (units, rate) in enumerate(zip(config.hidden, rates, strict=True), start=1):
        x = _normalised(x, config.batch_norm, rate, block)
        x = _dense(config, units, f"dense_{block}", kernel_initializer="he_normal")(x)
        x = keras.layers.Activation(config.activation, name=f"activation_{block}")(x)
    x = _normalised(x, config.batch_norm, config.output_dropout, len(config.hidden) + 1)
    # Mixed precision ends at the logits: the loss wants all the digits.
    logits = _dense(
        config,
        len(prior),
        "logits",
        kernel_initializer="glorot_uniform" if config.weight_norm else "zeros",
        bias_initializer=keras.initializers.Constant(output_bias(prior)),
        dtype="float32",
    )(x)
    if config.skip:
        linear = keras.layers.Dense(
            len(prior), use_bias=False, kernel_initializer="zeros", dtype="float32", name="skip"
        )
        logits = keras.layers.Add(dtype="float32", name="sum")(
            [logits, linear(keras.layers.Dropout(rates[0] if rates else 0.0, name="dropout_skip")(inputs))]
        )
    return keras.Model({"features": inputs}, logits, name="mlp")


def _dense(config: MLPConfig, units: int, name: str, **options: Any) -> keras.layers.Layer:
    kind = WeightNormDense if config.weight_norm else keras.layers.Dense
    return kind(units, name=name, **options)


def _normalised(x: keras.KerasTensor, batch_norm: bool, rate: float, block: int) -> keras.KerasTensor:
    if batch_norm:
        # A linear layer follows, so the first block does without γ and β: then nothing asks for the gradient with
        # respect to the features, one matrix product of ten.
        affine = block > 1
        x = FastBatchNormalization(
            momentum=0.9, epsilon=1e-5, center=affine, scale=affine, name=f"norm_{block}"
        )(x)
    return ByteDropout(rate, name=f"dropout_{block}")(x) if rate else x


FAMILY = Family(
    "mlp",
    PRESETS,
    choose_preset,
    fit_preprocessing,
    build,
    # On a CPU casts cost more than small products save. On an H100 its step is too short for products to matter.
    bfloat16=lambda kind, architecture: (
        kind == "tpu" or (kind == "cpu" and min(architecture.hidden, default=0) >= 1024)
    ),
)
