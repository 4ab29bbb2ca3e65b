"""Where the arithmetic runs: one device, all of them, several workers, a TPU."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

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
    task = read_tf_config(os.environ.get("TF_CONFIG", ""))
    # TensorFlow ends in a segmentation fault at a kind of task of which there is none, and does without no type.
    os.environ["TF_CONFIG"] = task.to_json()
    import tensorflow as tf

    return Placement("multi-worker", tf.distribute.MultiWorkerMirroredStrategy(), task.chief)


@dataclass(frozen=True)
class Task:
    """One process of several that train together.

    Attributes:
        cluster: addresses by kind of task, `chief` (one at most) and `worker`.
        kind: of this task.
        index: of this task among its kind.
    """

    cluster: dict[str, list[str]]
    kind: str
    index: int

    @property
    def chief(self) -> bool:
        """Whether this process writes the run: the task `chief`, or worker 0 where there is none."""
        return self.kind == "chief" if "chief" in self.cluster else self.index == 0

    def to_json(self) -> str:
        """As TF_CONFIG has it."""
        return json.dumps({"cluster": self.cluster, "task": {"type": self.kind, "index": self.index}})


def read_tf_config(text: str) -> Task:
    """Which process this is, by TF_CONFIG as Vertex AI, Kubeflow's TFJob and Ray set it, or a user.

    Args:
        text: JSON, {"cluster": {"chief": [address], "worker": [address, …]}, "task": {"type": …, "index": …}}; what
            else is there (Vertex AI's `job`, `environment`) says nothing about training.

    Raises:
        InputError: it names no cluster or no task of it, or a task that takes no part in training.
    """
    try:
        config = json.loads(text)
        cluster: dict[str, list[str]] = {
            kind: addresses for kind, addresses in config["cluster"].items() if addresses
        }
        kind, index = config["task"].get("type", "worker"), int(config["task"]["index"])
        if not all(isinstance(addresses, list) for addresses in cluster.values()):
            raise TypeError("addresses")
        if not {"chief", "worker"} & cluster.keys():
            raise KeyError("worker")
    except (ValueError, KeyError, TypeError, AttributeError):
        raise InputError(
            "--strategy multi-worker: the environment variable TF_CONFIG must name the cluster and this task, as in "
            '{"cluster": {"worker": ["host1:2222", "host2:2222"]}, "task": {"type": "worker", "index": 0}}'
        ) from None
    strange = sorted({kind, *cluster} - {"chief", "worker"})
    if strange:
        raise InputError(
            f"TF_CONFIG: {' and '.join(strange)}: expected tasks of type chief and worker alone, as all of them train "
            "the same model and the chief judges it"
        )
    chiefs, same = len(cluster.get("chief", [])), len(cluster.get(kind, []))
    if chiefs > 1:
        raise InputError(f"TF_CONFIG: {chiefs} chiefs, expected one at most")
    if not 0 <= index < same:
        raise InputError(f"TF_CONFIG: task {kind} {index} is not one of the cluster's {same} {kind}s")
    return Task(cluster, kind, index)


def _tpu() -> tf.distribute.Strategy:
    import tensorflow as tf

    try:
        resolver = tf.distribute.cluster_resolver.TPUClusterResolver.connect(tpu="")
        return tf.distribute.TPUStrategy(resolver)
    except Exception as error:
        # What TensorFlow raises here depends on how the TPU is missing; all of it means the same.
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise InputError(f"--strategy tpu: no TPU can be reached from here ({reason})") from None
