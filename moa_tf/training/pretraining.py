"""Self-supervised pretraining: a family's own way to learn from features without labels."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
from keras import ops

from moa_tf.errors import InputError
from moa_tf.models.base import Family, Hyperparameters
from moa_tf.training import backends
from moa_tf.training.optimizers import make_optimizer
from moa_tf.training.strategy import Placement


@dataclass(frozen=True)
class Pretrained:
    """What pretraining gives.

    Attributes:
        weights: name of a layer -> its weights, for each of the network's layers that pretraining trains.
        loss: mean reconstruction error of each epoch; guessing each feature's mean costs about 1.
    """

    weights: dict[str, list[np.ndarray]]
    loss: tuple[float, ...]

    def initialise(self, network: keras.Model) -> None:
        """Copies the weights into a network of the same architecture; its other layers stay as they are.

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


def pretrain(
    family: Family,
    network: keras.Model,
    features: Mapping[str, np.ndarray],
    hyperparameters: Hyperparameters,
    seed: int,
) -> Pretrained:
    """Trains a copy of the network's layers by the family's `reconstruction`.

    Args:
        family: one that has a reconstruction.
        network: from `family.build`; its layers are where pretraining starts, and are left unchanged.
        features: the preprocessing's outputs for N rows. Whether these include rows that are scored later is
            for the caller to decide.
        hyperparameters: the architecture; of the recipe `pretrain_epochs`, `batch_size`, `jit_compile` and the
            optimiser's settings are read.
        seed: of what is random in the reconstruction, and of the order of rows.

    Returns:
        The layers' weights, to be given to `initialise` of networks of the same architecture.

    Raises:
        InputError: the family or the network has no reconstruction, there are fewer than 2 rows, or the error is no
            longer finite.
    """
    if family.reconstruction is None:
        raise InputError(f"pretraining: {family.name} has no self-supervised pretraining")
    rows, recipe = len(next(iter(features.values()))), hyperparameters.recipe
    if rows < 2:
        raise InputError(f"pretraining: {rows} rows, expected at least 2")
    copy = keras.models.clone_model(network)
    copy.set_weights(network.get_weights())
    model = family.reconstruction(copy, hyperparameters.architecture, seed)
    layers = [layer for layer in copy.layers if layer.weights and layer in model.layers]
    backend = backends.current()
    model = backend.training_model(model, model.output, recipe, Placement("none", None), False)
    keras.utils.set_random_seed(seed)
    model.compile(make_optimizer(recipe, recipe.learning_rate), _mean_output, jit_compile=backend.JIT_COMPILE)
    history = model.fit(
        {name: features[name] for name in model.input},
        np.zeros(rows, "float32"),
        batch_size=min(recipe.batch_size, rows),
        epochs=recipe.pretrain_epochs,
        verbose=0,
    )
    loss = tuple(history.history["loss"])
    if not np.isfinite(loss).all():
        epoch = int(np.argmin(np.isfinite(loss)))
        raise InputError(
            f"pretraining: loss {loss[epoch]} in epoch {epoch + 1}; expected a lower learning_rate"
        )
    return Pretrained({layer.name: layer.get_weights() for layer in layers}, loss)


def _mean_output(y_true: Any, errors: Any) -> Any:
    """The model's output is the loss already."""
    return ops.mean(errors)
