"""TabNet's self-supervised pretraining: reconstruct features that were hidden."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from moa_tf.errors import InputError
from moa_tf.layers import TabNetEncoder
from moa_tf.layers.tabnet_decoder import RandomGroupMask, ReconstructionError, TabNetDecoder


@keras.saving.register_keras_serializable(package="moa_tf")
class _Hidden(keras.layers.Layer):
    """Spreads hidden groups to their features: 1 where a feature is hidden."""

    def __init__(self, encoder: TabNetEncoder, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.encoder = encoder

    def call(self, groups: Any) -> Any:
        return ops.cast(self.encoder.spread(groups) > 0, self.compute_dtype)


def reconstruction_model(network: keras.Model, config: Any, seed: int) -> keras.Model:
    """The model by which a TabNet's encoder learns without labels to reconstruct hidden features.

    Of each row a random share `pretrain_ratio` of the features (or groups) is set to 0 and barred from the first
    mask by the prior 1 - S; encoder and decoder then reconstruct it.

    Args:
        network: a TabNet; its encoder and embedding become part of the model.
        config: its architecture, a `TabNetConfig`.
        seed: of the decoder and of what is hidden.

    Returns:
        Keras model from the network's inputs to the `ReconstructionError` [B] of each row; guessing each feature's
        mean costs about 1.

    Raises:
        InputError: the network is no TabNet.

    Source: Arik & Pfister, TabNet, arXiv 1908.07442, section 3.4.
    """
    encoder = next((layer for layer in network.layers if isinstance(layer, TabNetEncoder)), None)
    if encoder is None:
        raise InputError(f"pretraining: model {network.name} has no TabNet encoder")
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
    return keras.Model(network.input, errors, name="pretraining")
