"""What training needs of Keras's backend beside Keras itself: a module for each one, with the same functions.

`tensorflow` has strategies, XLA in a part of the step, and statistics that replicas agree on; `jax` compiles whole
steps, and splits a batch over devices as one array. Everything else in this package is written once for both.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, Protocol, cast

from moa_tf.errors import InputError

if TYPE_CHECKING:
    import keras

    from moa_tf.config import Recipe
    from moa_tf.training.strategy import Device, Placement

BACKENDS = ("tensorflow", "jax")
"""As in `--backend`."""


class Backend(Protocol):
    """What each of the modules has.

    Attributes:
        VERSIONS: name -> version of what computes, for the record.
        JIT_COMPILE: for Keras's `compile`.
    """

    VERSIONS: dict[str, str]
    JIT_COMPILE: bool

    def place(self, name: str, logical_devices: int | None) -> Placement:
        """See `moa_tf.training.strategy.make_placement`, which has checked the arguments."""

    def device(self, placement: Placement) -> Device:
        """What `placement` computes on."""

    def building(self, placement: Placement) -> AbstractContextManager:
        """Where the variables of a training are created."""

    def pretraining(self, placement: Placement) -> AbstractContextManager:
        """Where another training runs, which gives them their first values."""

    def fitting(self, placement: Placement) -> AbstractContextManager:
        """Where `fit` is called."""

    def most_at_once(self, placement: Placement) -> int:
        """How many steps a call of the backend's may hold: between calls Python costs a millisecond or two."""

    def training_model(
        self, network: keras.Model, output: Any, recipe: Recipe, placement: Placement, synchronise: bool
    ) -> keras.Model:
        """Another model of the same layers, to be compiled and fitted.

        Args:
            network: whose inputs it has.
            output: a symbolic tensor of the network.
            recipe: `jit_compile` is read.
            placement: where.
            synchronise: take batch statistics over all replicas, until `settle` is called.

        Raises:
            InputError: the recipe cannot be had there.
        """

    def settle(self, network: keras.Model) -> None:
        """Makes a trained network what it is anywhere else."""

    def inference(self, model: keras.Model) -> Callable[[dict[str, Any]], Any]:
        """A function of a batch, name -> [B, ...] arrays, to the model's outputs in inference, NumPy arrays."""


def current() -> Backend:
    """The module for the backend that Keras runs on.

    Raises:
        InputError: there is none.
    """
    import keras

    name = keras.backend.backend()
    if name not in BACKENDS:
        raise InputError(f"Keras's backend {name}: expected KERAS_BACKEND={' or '.join(BACKENDS)} to train")
    return cast(Backend, importlib.import_module(f"{__name__}.{name}"))
