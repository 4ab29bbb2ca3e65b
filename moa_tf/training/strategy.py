"""Where the arithmetic runs: one device, all of them, several workers, a TPU."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from moa_tf.errors import InputError
from moa_tf.training import backends

STRATEGIES = ("none", "mirrored", "multi-worker", "tpu")


@dataclass(frozen=True)
class Placement:
    """Devices that train together, and this process's part in it.

    Attributes:
        name: as in `--strategy`.
        strategy: the backend's own, a `tf.distribute.Strategy` or a `keras.distribution.DataParallel`; None trains on
            the default device.
        chief: whether this process writes the run; the other workers only compute.
        replicas: over how many devices a batch is split.
    """

    name: str
    strategy: Any
    chief: bool = True
    replicas: int = 1


@dataclass(frozen=True)
class Device:
    """What computes.

    Attributes:
        kind: `cpu`, `gpu` or `tpu`.
        bfloat16: whether it multiplies matrices in bfloat16, faster than in float32.
    """

    kind: str
    bfloat16: bool

    def __str__(self) -> str:
        return f"this {self.kind.upper()}"


def cpu(measured: bool = True) -> Device:
    """The CPU; where its instructions were `measured` to pay it is asked for them, as Linux tells them."""
    try:
        flags = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace") if measured else ""
    except OSError:
        flags = ""
    return Device("cpu", not {"amx_bf16", "avx512_bf16"}.isdisjoint(flags.split()))


def make_placement(name: str, logical_devices: int | None = None) -> Placement:
    """Resolves `--strategy`. Call it once in a process, before anything else touches the backend's devices.

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
    return backends.current().place(name, logical_devices)


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
