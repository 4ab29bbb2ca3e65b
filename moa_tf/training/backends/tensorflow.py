"""Training on TensorFlow: `tf.distribute`, and XLA where a recipe asks for it."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from moa_tf.config import Recipe
from moa_tf.errors import InputError
from moa_tf.training.compiled import CompiledModel
from moa_tf.training.multi_worker import MultiWorkerModel
from moa_tf.training.strategy import Device, Placement, cpu, read_tf_config

VERSIONS = {"tensorflow": tf.__version__}
JIT_COMPILE = False
"""Keras's own way to XLA fails under a strategy; CompiledModel goes another."""


def place(name: str, logical_devices: int | None) -> Placement:
    """One of `STRATEGIES`."""
    if logical_devices is not None:
        cpu = tf.config.list_physical_devices("CPU")[0]
        parts = [tf.config.LogicalDeviceConfiguration()] * logical_devices
        try:
            tf.config.set_logical_device_configuration(cpu, parts)
        except RuntimeError as error:
            raise InputError(f"--logical-devices {logical_devices}: {error}") from None
    if name == "none":
        return Placement(name, None)
    if name == "mirrored":
        return _placement(name, _mirrored(logical_devices))
    if name == "multi-worker":
        return _multi_worker()
    return _placement(name, _tpu())


def _placement(name: str, strategy: tf.distribute.Strategy, chief: bool = True) -> Placement:
    return Placement(name, strategy, chief, strategy.num_replicas_in_sync)


def _mirrored(logical_devices: int | None) -> tf.distribute.Strategy:
    gpus = [] if logical_devices else tf.config.list_logical_devices("GPU")
    if len(gpus) > 1:
        return tf.distribute.MirroredStrategy()
    devices = gpus or tf.config.list_logical_devices("CPU")
    # The default collective can be set up only once in a process; between CPU devices, adding up in one place
    # is as fast and has no such limit.
    return tf.distribute.MirroredStrategy(
        [device.name for device in devices], cross_device_ops=tf.distribute.ReductionToOneDevice()
    )


def _multi_worker() -> Placement:
    task = read_tf_config(os.environ.get("TF_CONFIG", ""))
    # TensorFlow ends in a segmentation fault at a kind of task of which there is none, and does without no type.
    os.environ["TF_CONFIG"] = task.to_json()
    return _placement("multi-worker", tf.distribute.MultiWorkerMirroredStrategy(), task.chief)


def _tpu() -> tf.distribute.Strategy:
    try:
        resolver = tf.distribute.cluster_resolver.TPUClusterResolver.connect(tpu="")
        return tf.distribute.TPUStrategy(resolver)
    except Exception as error:
        # What TensorFlow raises here depends on how the TPU is missing; all of it means the same.
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise InputError(f"--strategy tpu: no TPU can be reached from here ({reason})") from None


def device(placement: Placement) -> Device:
    """See `Backend`."""
    if placement.name == "tpu":
        return Device("tpu", True)
    gpus = tf.config.list_physical_devices("GPU")
    if placement.strategy is not None and "GPU" not in placement.strategy.extended.worker_devices[0]:
        gpus = []
    if not gpus:
        return cpu()
    details = tf.config.experimental.get_device_details(gpus[0])
    return Device("gpu", details.get("compute_capability", (0, 0)) >= (8, 0))  # Ampere and later


def building(placement: Placement) -> contextlib.AbstractContextManager:
    """The strategy's scope."""
    return contextlib.nullcontext() if placement.strategy is None else placement.strategy.scope()


pretraining = building


def fitting(placement: Placement) -> contextlib.AbstractContextManager:
    """Anywhere: a model knows the strategy that it was built under."""
    return contextlib.nullcontext()


def most_at_once(placement: Placement) -> int:
    """A few, so that progress is seen and an interruption is heard; one for several workers, where Keras fails at more.

    On a TPU nothing was tried.
    """
    return 5 if placement.name in ("none", "mirrored") else 1


def training_model(
    network: keras.Model, output: Any, recipe: Recipe, placement: Placement, synchronise: bool
) -> keras.Model:
    """See `Backend`."""
    model = _model_class(recipe, placement)(network.input, output)
    if synchronise and placement.replicas > 1:
        _synchronise(network, True)
        if isinstance(model, CompiledModel) and any(_batch_normalizations(network)):
            raise InputError(
                f"jit_compile=true: expected false with {placement.replicas} replicas, as their batch "
                "statistics are taken together, which an XLA program cannot do"
            )
    return model


def _model_class(recipe: Recipe, placement: Placement) -> type[keras.Model]:
    if placement.name == "multi-worker":
        return MultiWorkerModel
    # A TPU's steps are XLA programs anyway.
    return CompiledModel if recipe.jit_compile and placement.name != "tpu" else keras.Model


def settle(network: keras.Model) -> None:
    """Batch statistics are those of the batch at hand again, as elsewhere than in training."""
    _synchronise(network, False)


def _batch_normalizations(network: keras.Model) -> Iterator[keras.layers.BatchNormalization]:
    kind = keras.layers.BatchNormalization
    return (layer for layer in network._flatten_layers() if isinstance(layer, kind))


def _synchronise(network: keras.Model, on: bool) -> None:
    for layer in _batch_normalizations(network):
        layer.synchronized = on


def inference(model: keras.Model) -> Callable[[dict[str, np.ndarray]], Any]:
    """One graph for batches of every size."""
    signature = {name: tf.TensorSpec(tensor.shape, tensor.dtype) for name, tensor in model.input.items()}
    graph = tf.function(lambda batch: model(batch, training=False), input_signature=[signature])

    def run(batch: dict[str, np.ndarray]) -> Any:
        outputs = graph({name: tf.convert_to_tensor(values) for name, values in batch.items()})
        return tf.nest.map_structure(lambda tensor: tensor.numpy(), outputs)

    return run
