"""DeepInsight: signatures drawn as images, read by a pretrained EfficientNet."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Literal

import keras
import numpy as np

from moa_tf.config import Recipe, require
from moa_tf.data.schema import Signatures
from moa_tf.models.base import Family, Hyperparameters, ModelConfig, output_bias
from moa_tf.models.deepinsight.efficientnet import WEIGHTS, Unfreeze, build_backbone
from moa_tf.models.deepinsight.grad_cam import VARYING, explainer
from moa_tf.models.tabular import fill_missing
from moa_tf.preprocessing import VarianceThreshold
from moa_tf.preprocessing.feature_map import FeatureMap
from moa_tf.preprocessing.image import FeatureImage, SwapNoise
from moa_tf.preprocessing.image_scaling import MinMaxScaling, Norm2Scaling
from moa_tf.preprocessing.inputs import make_inputs

MIN_IMAGE_SIZE = 32
"""EfficientNet halves the image five times."""


@dataclass(frozen=True)
class DeepInsightConfig(ModelConfig):
    """Genes and cells as an image, then an EfficientNet. Dose and time are not used.

    Attributes:
        backbone: which EfficientNet.
        weights: `none`, `imagenet`, `noisy-student`, or the path of an `.h5` file; see `build_backbone`.
        image_size: pixels on a side.
        scaling: `norm-2` keeps features comparable, `min-max` gives each its own range; see
            `moa_tf.preprocessing.image_scaling`.
        embedding: what lays the features out in the plane; `umap` needs the extra moa-tf[umap].
        perplexity: of t-SNE.
        rectangle: `pydeepinsight` for the pixels of that package; see `align_to_rectangle`.
        discretization: how places become pixels; see `to_pixels`.
        channels: `mean-min-max` or `grey`; see `FeatureImage`.
        swap_rate: probability that a signature gets features of another one in training.
        swap_portion: the part of its features that it then gets.
        dropout: before the output layer.
        drop_connect: of the backbone's last block; see `build_backbone`.
        freeze_epochs: first epochs in which the backbone is frozen and only the output layer learns.
    """

    backbone: Literal["b0", "b3", "b4"] = "b3"
    weights: str = "noisy-student"
    image_size: int = 300
    scaling: Literal["norm-2", "min-max"] = "norm-2"
    embedding: Literal["tsne", "umap", "pca", "kernel-pca"] = "tsne"
    perplexity: float = 5.0
    rectangle: Literal["minimum", "pydeepinsight"] = "minimum"
    discretization: Literal["round", "quantile", "assignment"] = "round"
    channels: Literal["mean-min-max", "grey"] = "mean-min-max"
    swap_rate: float = 0.1
    swap_portion: float = 0.15
    dropout: float = 0.3
    drop_connect: float = 0.2
    freeze_epochs: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        require(
            self.image_size >= MIN_IMAGE_SIZE, "image_size", self.image_size, f"at least {MIN_IMAGE_SIZE}"
        )
        require(self.perplexity > 0, "perplexity", self.perplexity, "above 0")
        for name in ("swap_rate", "swap_portion"):
            require(0 <= getattr(self, name) <= 1, name, getattr(self, name), "in [0, 1]")
        for name in ("dropout", "drop_connect"):
            require(0 <= getattr(self, name) < 1, name, getattr(self, name), "in [0, 1)")
        require(self.freeze_epochs >= 0, "freeze_epochs", self.freeze_epochs, "at least 0")

    def check(self, recipe: Recipe) -> None:
        fits = self.freeze_epochs < recipe.epochs
        require(fits, "freeze_epochs", self.freeze_epochs, f"below epochs={recipe.epochs}")

    @property
    def files(self) -> dict[str, Path]:
        return {} if self.weights in WEIGHTS else {"weights": Path(self.weights)}


# lish-moa's first place. Its RAdam is AdamW here: Keras has none, and its warm-up matters early only.
_FIRST_PLACE = Recipe(
    epochs=35, batch_size=64, learning_rate=3.5e-4, schedule="cosine", train_on_controls=True
)

PRESETS = MappingProxyType(
    {
        "first-place": Hyperparameters(DeepInsightConfig(), _FIRST_PLACE),
        # 'Drug Discovery With Neural Networks', figures 10 and 11.
        "article": Hyperparameters(
            DeepInsightConfig(backbone="b4", image_size=380), dataclasses.replace(_FIRST_PLACE, batch_size=32)
        ),
        "small": Hyperparameters(
            DeepInsightConfig(backbone="b0", weights="none", image_size=64, drop_connect=0.1),
            Recipe(epochs=20, batch_size=64, learning_rate=1e-3),
        ),
    }
)

SMALL_TABLE = 5000
"""Below this many training signatures the preset `small` is taken by itself."""


def choose_preset(signatures: int) -> str:
    """The preset for a table of that many signatures, where the user names none."""
    return "small" if signatures < SMALL_TABLE else "first-place"


def fit_preprocessing(signatures: Signatures, config: DeepInsightConfig, seed: int) -> keras.Model:
    """Fits the scaling and the map from features to pixels.

    Args:
        signatures: the training fold's rows, and no others.
        config: which scaling and which map.
        seed: of the embedding.

    Returns:
        Keras model from the panel's inputs to `{"features": [B, F] in [0, 1]}`, genes before cells; where values may
        be missing, those that vary. Its layer `feature_map` has the features' `pixels`.

    Raises:
        InputError: the features cannot be laid out in the plane; see `FeatureMap.adapt`.
    """
    inputs = make_inputs(signatures.spec, ("genes", "cells"))
    kinds = list(inputs)
    filled = {name: fill_missing(inputs[name], signatures, name, config) for name in kinds}
    values = np.concatenate([filled[name][0] for name in kinds], axis=1)
    scale = (Norm2Scaling if config.scaling == "norm-2" else MinMaxScaling)(name="scaling", dtype="float32")
    raw = [filled[name][1] for name in kinds]
    joined = raw[0] if len(raw) == 1 else keras.layers.Concatenate(name="raw", dtype="float32")(raw)
    if signatures.spec.missing:
        # What is not used would lie in a heap on the map, and be drawn over what is.
        keep = VarianceThreshold(name=VARYING, dtype="float32")
        keep.adapt(values)
        values, joined = values[:, keep.columns], keep(joined)
    scale.adapt(values)
    place = FeatureMap(
        config.image_size,
        config.embedding,
        config.rectangle,
        config.discretization,
        config.perplexity,
        seed,
        name="feature_map",
        dtype="float32",
    )
    place.adapt(scale(values))
    return keras.Model(inputs, {"features": place(scale(joined))}, name="preprocessing")


def build(preprocessing: keras.Model, config: DeepInsightConfig, prior: np.ndarray, seed: int) -> keras.Model:
    """The network: swap noise, image, EfficientNet, mean over the image, dropout, logits.

    Args:
        preprocessing: as `fit_preprocessing` gives it; the image is drawn by its layer `feature_map`.
        config: sizes, rates and weights.
        prior: [T] label means of the training fold, for the output bias.
        seed: of initial weights, noise and dropout.

    Returns:
        Keras model from `{"features": [B, F]}` to [B, T] float32 logits. Its layer `backbone` can be frozen,
        and `pool` and `logits` are what `moa_tf.models.deepinsight.grad_cam` reads.

    Raises:
        InputError: weights that cannot be fetched or do not fit.

    Source: Sharma et al. 2019, DeepInsight; Tan & Le 2019, EfficientNet; first place of the Mechanisms of
    Action competition.
    """
    keras.utils.set_random_seed(seed)
    pixels = preprocessing.get_layer("feature_map").pixels
    inputs = keras.Input((len(pixels),), name="features")
    x = SwapNoise(config.swap_rate, config.swap_portion, seed, name="swap_noise", dtype="float32")(inputs)
    # The backbone expects bytes' range. Scaling a thousand features costs less than scaling their image.
    x = keras.layers.Rescaling(255.0, name="to_bytes", dtype="float32")(x)
    x = FeatureImage(pixels, config.image_size, config.channels, name="image")(x)
    x = build_backbone(config.backbone, config.image_size, config.weights, config.drop_connect)(x)
    x = keras.layers.GlobalAveragePooling2D(name="pool")(x)
    x = keras.layers.Dropout(config.dropout, name="dropout")(x)
    logits = keras.layers.Dense(
        len(prior),
        bias_initializer=keras.initializers.Constant(output_bias(prior)),
        # Mixed precision ends here: the loss wants all the digits.
        dtype="float32",
        name="logits",
    )(x)
    return keras.Model({"features": inputs}, logits, name="deepinsight")


def callbacks(config: DeepInsightConfig) -> list[keras.callbacks.Callback]:
    """What training with this configuration needs beside the loop that every family shares."""
    return [Unfreeze("backbone", config.freeze_epochs)] if config.freeze_epochs else []


FAMILY = Family(
    "deepinsight",
    PRESETS,
    choose_preset,
    fit_preprocessing,
    build,
    explain=explainer,
    callbacks=callbacks,
    joins=None,
    synchronise=False,
    # The depthwise convolution's gradient has none.
    deterministic_on_gpu=False,
)
