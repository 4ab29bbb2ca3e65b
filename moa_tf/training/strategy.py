"""Where the arithmetic runs: one device, all of them, several workers, a TPU."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from moa_tf.errors import InputError

if TYPE_CHECKING:
    import tensorflow as tf

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
    import tensorflow as tf

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
    import tensorflow as tf

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
    chief = is_chief(os.environ.get("TF_CONFIG", ""))
    import tensorflow as tf

    return Placement("multi-worker", tf.distribute.MultiWorkerMirroredStrategy(), chief)


def is_chief(tf_config: str) -> bool:
    """Whether this process writes the run, by TF_CONFIG: the task `chief`, or worker 0 where there is none.

    Args:
        tf_config: JSON, {"cluster": {"chief": [address], "worker": [address, …]}, "task": {"type": …, "index": …}}.

    Raises:
        InputError: it names no cluster or no task of it, or a task that takes no part in training.
    """
    try:
        config = json.loads(tf_config)
        cluster: dict[str, Any] = {kind: list(addresses) for kind, addresses in config["cluster"].items()}
        kind, index = config["task"].get("type", "worker"), int(config["task"]["index"])
        sizes = {kind: len(addresses) for kind, addresses in cluster.items()}
        if not sizes.get("worker") and not sizes.get("chief"):
            raise KeyError("worker")
    except (ValueError, KeyError, TypeError, AttributeError):
        raise InputError(
            "--strategy multi-worker: the environment variable TF_CONFIG must name the cluster and this task, as in "
            '{"cluster": {"worker": ["host1:2222", "host2:2222"]}, "task": {"type": "worker", "index": 0}}'
        ) from None
    strange = sorted({kind, *(name for name, size in sizes.items() if size)} - {"chief", "worker"})
    if strange:
        raise InputError(
            f"TF_CONFIG: {' and '.join(strange)}: expected tasks of type chief and worker alone, as all of them train "
            "the same model and the chief judges it"
        )
    if sizes.get("chief", 0) > 1:
        raise InputError(f"TF_CONFIG: {sizes['chief']} chiefs, expected one at most")
    if not 0 <= index < sizes.get(kind, 0):
        raise InputError(
            f"TF_CONFIG: task {kind} {index} is not one of the cluster's {sizes.get(kind, 0)} {kind}s"
        )
    return kind == "chief" if sizes.get("chief") else index == 0


def _tpu() -> tf.distribute.Strategy:
    import tensorflow as tf

    try:
        resolver = tf.distribute.cluster_resolver.TPUClusterResolver.connect(tpu="")
        return tf.distribute.TPUStrategy(resolver)
    except Exception as error:
        # What TensorFlow raises here depends on how the TPU is missing; all of it means the same.
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise InputError(f"--strategy tpu: no TPU can be reached from here ({reason})") from None
