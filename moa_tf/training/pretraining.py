"""Self-supervised pretraining of TabNet: reconstruct features that were hidden."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
from keras import ops

from moa_tf.errors import InputError
from moa_tf.layers import CategoryEmbedding, TabNetEncoder
from moa_tf.layers.tabnet_decoder import RandomGroupMask, ReconstructionError, TabNetDecoder
from moa_tf.models.tabnet import TabNetConfig
from moa_tf.training.compiled import CompiledModel
from moa_tf.training.optimizers import make_optimizer

PRETRAINED = (TabNetEncoder, CategoryEmbedding)


@dataclass(frozen=True)
class Pretrained:
    """What pretraining gives.

    Attributes:
        weights: name of a layer -> its weights, for the encoder and, where there is one, the embedding.
        loss: mean reconstruction error of each epoch; guessing each feature's mean costs about 1.
    """

    weights: dict[str, list[np.ndarray]]
    loss: tuple[float, ...]

    def initialise(self, network: keras.Model) -> None:
        """Copies the weights into a network of the same architecture; its head stays as it is.

        Raises:
            InputError: the network is of another architecture.
        """
        for name, weights in self.weights.items():
            layer = next((layer for layer in network.layers if layer.name == name), None)
            shapes = [] if layer is None else [tuple(weight.shape) for weight in layer.weights]
            if shapes != [weight.shape for weight in weights]:
                raise InputError(
                    f"pretrained weights: model {network.name} has no layer {name} of the same shapes; "
                    "expected the settings and features that were pretrained"
                )
            layer.set_weights(weights)


@keras.saving.register_keras_serializable(package="moa_tf")
class _Hidden(keras.layers.Layer):
    """Spreads hidden groups to their features: 1 where a feature is hidden."""

    def __init__(self, encoder: TabNetEncoder, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.encoder = encoder

    def call(self, groups: Any) -> Any:
        return ops.cast(self.encoder.spread(groups) > 0, self.compute_dtype)


def pretrain(
    network: keras.Model,
    features: Mapping[str, np.ndarray],
    config: TabNetConfig,
    seed: int,
    callbacks: tuple[keras.callbacks.Callback, ...] = (),
) -> Pretrained:
    """Trains a TabNet's encoder to reconstruct hidden features, without labels.

    Of each row a random share `config.pretrain_ratio` of the features (or groups) is set to 0 and barred
    from the first mask by the prior 1 - S; encoder and decoder then reconstruct it. The error is that of
    `ReconstructionError`.

    Args:
        network: a TabNet from `moa_tf.models.tabnet.build`; its encoder's weights are where pretraining
            starts, and are left unchanged.
        features: the preprocessing's outputs for N rows. Whether these include rows that are scored later is
            for the caller to decide.
        config: `pretrain_ratio`, `pretrain_epochs`, `batch_size`, `jit_compile` and the optimiser's settings are read.
        seed: of the decoder, of what is hidden and of the order of rows.
        callbacks: for `fit`.

    Returns:
        The encoder's weights, to be given to `initialise` of networks of the same architecture.

    Raises:
        InputError: the model is no TabNet, there are fewer than 2 rows, or the error is no longer finite.

    Source: Arik & Pfister, TabNet, arXiv 1908.07442, section 3.4.
    """
    rows = len(features["features"])
    if rows < 2:
        raise InputError(f"pretraining: {rows} rows, expected at least 2")
    if not any(isinstance(layer, TabNetEncoder) for layer in network.layers):
        raise InputError(f"pretraining: model {network.name} has no TabNet encoder")
    copy = keras.models.clone_model(network)
    copy.set_weights(network.get_weights())
    layers = {layer.name: layer for layer in copy.layers if isinstance(layer, PRETRAINED)}
    model = _reconstruction_model(copy, layers["encoder"], config, seed)
    keras.utils.set_random_seed(seed)
    model.compile(make_optimizer(config, config.learning_rate), _mean_output, jit_compile=False)
    history = model.fit(
        {name: features[name] for name in model.input},
        np.zeros(rows, "float32"),
        batch_size=min(config.batch_size, rows),
        epochs=config.pretrain_epochs,
        verbose=0,
        callbacks=list(callbacks),
    )
    loss = tuple(history.history["loss"])
    if not np.isfinite(loss).all():
        epoch = int(np.argmin(np.isfinite(loss)))
        raise InputError(
            f"pretraining: loss {loss[epoch]} in epoch {epoch + 1}; expected a lower learning_rate"
        )
    return Pretrained({name: layer.get_weights() for name, layer in layers.items()}, loss)


def _reconstruction_model(
    network: keras.Model, encoder: TabNetEncoder, config: TabNetConfig, seed: int
) -> keras.Model:
    """From the network's inputs to the reconstruction error of each row."""
    x = encoder.input
    x = x[0] if isinstance(x, list) else x
    groups = RandomGroupMask(encoder.n_groups, config.pretrain_ratio, seed, name="hidden_groups")(x)
    hidden = _Hidden(encoder, name="hidden_features")(groups)
    encoded = encoder(x * (1.0 - hidden), prior=1.0 - groups)
    decoder = TabNetDecoder(
        x.shape[-1],
        virtual_batch_size=encoder.virtual_batch_size,
        momentum=encoder.momentum,
        seed=seed,
        name="decoder",
    )
    errors = ReconstructionError(name="error", dtype="float32")(decoder(encoded["steps"]), x, hidden)
    kind = CompiledModel if config.jit_compile else keras.Model
    return kind(network.input, errors, name="pretraining")


def _mean_output(y_true: Any, errors: Any) -> Any:
    """The model's output is the loss already."""
    return ops.mean(errors)
