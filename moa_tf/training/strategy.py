"""Where the arithmetic runs: one device, all of them, several workers, a TPU."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass

import tensorflow as tf

from moa_tf.errors import InputError

STRATEGIES = ("none", "mirrored", "multi-worker", "tpu")


@dataclass(frozen=True)
class Placement:
    """A strategy, or None, and this process's part in it.

    Attributes:
        name: as in `--strategy`.
        strategy: the TensorFlow strategy; None trains on the default device.
        chief: whether this process writes the run; the other workers only compute.
    """

    name: str
    strategy: tf.distribute.Strategy | None
    chief: bool = True

    @property
    def replicas(self) -> int:
        return 1 if self.strategy is None else self.strategy.num_replicas_in_sync


def make_placement(name: str, logical_devices: int | None = None) -> Placement:
    """Resolves `--strategy`. Call it once in a process, before anything else touches TensorFlow's devices.

    Args:
        name: one of `STRATEGIES`.
        logical_devices: split the CPU into that many devices and mirror over these; for tests, and to see on a
            laptop what several GPUs would compute.

    Raises:
        InputError: no such strategy here, with the reason.
    """
    if name not in STRATEGIES:
        raise InputError(f"--strategy {name}: expected one of {', '.join(STRATEGIES)}")
    if logical_devices is not None:
        if name != "mirrored":
            raise InputError(f"--logical-devices {logical_devices}: expected only with --strategy mirrored")
        if logical_devices < 1:
            raise InputError(f"--logical-devices {logical_devices}: expected at least 1")
        cpu = tf.config.list_physical_devices("CPU")[0]
        parts = [tf.config.LogicalDeviceConfiguration()] * logical_devices
        try:
            tf.config.set_logical_device_configuration(cpu, parts)
        except RuntimeError as error:
            raise InputError(f"--logical-devices {logical_devices}: {error}") from None
    if name == "none":
        return Placement(name, None)
    if name == "mirrored":
        return Placement(name, _mirrored(logical_devices))
    if name == "multi-worker":
        return _multi_worker()
    return Placement(name, _tpu())


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
    text = os.environ.get("TF_CONFIG", "")
    try:
        task = json.loads(text)["task"]
        workers = json.loads(text)["cluster"]["worker"]
        index = int(task["index"])
    except (ValueError, KeyError, TypeError):
        raise InputError(
            "--strategy multi-worker: the environment variable TF_CONFIG must name the cluster and this task, as in "
            '{"cluster": {"worker": ["host1:2222", "host2:2222"]}, "task": {"type": "worker", "index": 0}}'
        ) from None
    if not 0 <= index < len(workers):
        raise InputError(f"TF_CONFIG: task index {index} is not one of the {len(workers)} workers")
    strategy = tf.distribute.MultiWorkerMirroredStrategy()
    return Placement("multi-worker", strategy, chief=index == 0)


def _tpu() -> tf.distribute.Strategy:
    try:
        resolver = tf.distribute.cluster_resolver.TPUClusterResolver.connect(tpu="")
        return tf.distribute.TPUStrategy(resolver)
    except Exception as error:
        # What TensorFlow raises here depends on how the TPU is missing; all of it means the same.
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise InputError(f"--strategy tpu: no TPU can be reached from here ({reason})") from None
