"""EfficientNet backbones from `keras.applications`: where their weights come from, and freezing them."""

from __future__ import annotations

from pathlib import Path
from types import MappingProxyType

import keras

from moa_tf.errors import InputError
from moa_tf.models.deepinsight.noisy_student import (
    fetch_noisy_student,
    load_noisy_student,
    one_line,
    set_normalization,
)

BACKBONES = MappingProxyType(
    {
        "b0": keras.applications.EfficientNetB0,
        "b3": keras.applications.EfficientNetB3,
        "b4": keras.applications.EfficientNetB4,
    }
)

WEIGHTS = ("none", "imagenet", "noisy-student")
"""What `weights` may name; anything else is the path of a file."""

_KERAS_DROP_CONNECT = 0.2
"""What `keras.applications` builds with, and has no argument for."""


def build_backbone(
    name: str, image_size: int, weights: str = "none", drop_connect: float = 0.2
) -> keras.Model:
    """An EfficientNet without pooling and head.

    Args:
        name: `b0`, `b3` or `b4`.
        image_size: pixels on a side.
        weights: `none` for random ones; `imagenet` and `noisy-student` download them on first use; else the
            path of an `.h5` file in the layout of the `efficientnet` package.
        drop_connect: probability with which the last block's residual branch is dropped for a signature; it
            rises from 0 in proportion to a block's place. The `efficientnet` package divides by 16 blocks
            whatever their number, so its 0.2 is 0.325 here for B3 and 0.4 for B4.

    Returns:
        Keras model from images [B, H, W, 3] of values in [0, 255] to maps [B, H/32, W/32, C]. The rescaling to
        [0, 1] and the normalisation that the weights were trained with are inside.

    Raises:
        InputError: weights that cannot be fetched or read, or that do not fit.

    Source: Tan & Le 2019, EfficientNet; Huang et al. 2016, Deep Networks with Stochastic Depth (drop-connect);
    Xie et al. 2020, Self-training with Noisy Student.
    """
    try:
        backbone = BACKBONES[name](
            include_top=False,
            weights="imagenet" if weights == "imagenet" else None,
            input_shape=(image_size, image_size, 3),
        )
    except Exception as error:
        if weights != "imagenet":
            raise
        raise InputError(f"weights=imagenet: cannot be fetched ({one_line(error)})") from error
    for layer in backbone.layers:
        if isinstance(layer, keras.layers.Dropout):
            layer.rate *= drop_connect / _KERAS_DROP_CONNECT
        elif isinstance(layer, keras.layers.BatchNormalization) and weights == "none":
            # With Keras's 0.99, a tenth of the made-up initial statistics is still there after 230 steps.
            layer.momentum = 0.9
    if weights == "noisy-student":
        load_noisy_student(backbone, fetch_noisy_student(name))
    elif weights == "none":
        set_normalization(backbone)
    elif weights != "imagenet":
        load_noisy_student(backbone, Path(weights))
    # Only now, as Keras makes the download's file name from it.
    backbone.name = "backbone"
    return backbone


class Unfreeze(keras.callbacks.Callback):
    """Keeps a layer frozen for the first epochs: no gradient is computed for it, its statistics stand still.

    The optimiser must have been built on all variables before, as `moa_tf.training` does. Then those of the
    frozen layer just wait, with moments of zero, and no state is lost when they join in.

    Args:
        layer: name of the model's layer.
        epochs: number of epochs to keep it frozen; training that is resumed later finds it thawed.

    Raises:
        InputError: Keras does not run on TensorFlow; other backends' `fit` needs all variables in each step.
    """

    def __init__(self, layer: str, epochs: int) -> None:
        super().__init__()
        if epochs and keras.backend.backend() != "tensorflow":
            raise InputError(
                f"freeze_epochs={epochs}: expected 0, as Keras runs on {keras.backend.backend()}"
            )
        self.layer = layer
        self.epochs = epochs

    def on_epoch_begin(self, epoch: int, logs: dict | None = None) -> None:
        layer = self.model.get_layer(self.layer)
        trainable = epoch >= self.epochs
        if layer.trainable != trainable:
            layer.trainable = trainable
            # The step was traced with the variables that were trainable before.
            self.model.make_train_function(force=True)

    def on_train_end(self, logs: dict | None = None) -> None:
        self.model.get_layer(self.layer).trainable = True
