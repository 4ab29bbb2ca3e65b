"""Training on JAX: whole steps compiled by XLA, and a batch that is one array over all devices."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import jax
import keras
import numpy as np
import tensorflow as tf

from moa_tf.config import Recipe
from moa_tf.errors import InputError
from moa_tf.training.strategy import Device, Placement, cpu

VERSIONS = {"jax": jax.__version__}
JIT_COMPILE = True
"""Without it each operation would be one by itself."""


def place(name: str, logical_devices: int | None) -> Placement:
    """`none`, or `mirrored` over all devices of this process, whatever their kind."""
    if name not in ("none", "mirrored"):
        raise InputError(
            f"--strategy {name}: is TensorFlow's; with --backend jax expected none, or mirrored, which takes all GPUs "
            "or TPU cores of this machine"
        )
    # Its part is tf.data, on the CPU. It would take all of a GPU's memory for itself.
    tf.config.set_visible_devices([], "GPU")
    try:
        if logical_devices is not None:
            jax.config.update("jax_platforms", "cpu")
            jax.config.update("jax_num_cpu_devices", logical_devices)
        devices = jax.devices()
    except RuntimeError as error:
        reason = " ".join(str(error).split())
        raise InputError(f"--backend jax: JAX cannot start on its devices ({reason})") from None
    if name == "none":
        return Placement(name, None)
    return Placement(name, keras.distribution.DataParallel(), replicas=len(devices))


def device(placement: Placement) -> Device:
    """See `Backend`. What bfloat16 does for XLA's programs on a CPU is not measured."""
    first = jax.devices()[0]
    if first.platform == "cpu":
        return cpu(measured=False)
    # Ampere and later; of other makers nothing is known.
    capable = float(getattr(first, "compute_capability", 0) or 0) >= 8
    return Device(first.platform, first.platform == "tpu" or capable)


def building(placement: Placement) -> contextlib.AbstractContextManager:
    """A copy of each variable on every device."""
    return contextlib.nullcontext() if placement.strategy is None else placement.strategy.scope()


def pretraining(placement: Placement) -> contextlib.AbstractContextManager:
    """One device: a last batch of any size cannot be split evenly."""
    return contextlib.nullcontext()


fitting = building


def most_at_once(placement: Placement) -> int:
    """One: JAX is called while it still computes the step before."""
    return 1


def training_model(
    network: keras.Model, output: Any, recipe: Recipe, placement: Placement, synchronise: bool
) -> keras.Model:
    """See `Backend`. Each step is an XLA program anyway, and batch statistics are those of the whole batch."""
    return keras.Model(network.input, output)


def settle(network: keras.Model) -> None:
    """Nothing: it is what it was."""


def inference(model: keras.Model) -> Callable[[dict[str, np.ndarray]], Any]:
    """A program for batches of each size."""

    @jax.jit
    def program(trainable: list[Any], other: list[Any], batch: dict[str, Any]) -> Any:
        return model.stateless_call(trainable, other, batch, training=False)[0]

    def run(batch: dict[str, np.ndarray]) -> Any:
        variables = (model.trainable_variables, model.non_trainable_variables)
        values = [[variable.value for variable in several] for several in variables]
        return jax.tree.map(np.asarray, program(*values, batch))

    return run
