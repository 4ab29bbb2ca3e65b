"""`moa-tf train` in several workers that Ray starts: `python -m pipelines.on_ray --workers 2 -- --data DATA …`.

Ray Train's TensorflowTrainer gives each worker its TF_CONFIG; the rest is `--strategy multi-worker` as anywhere else,
so the same number of workers trains the same weights.
"""

from __future__ import annotations

import io
import os
import platform
import sys
import tempfile
import threading
from collections.abc import Sequence
from contextlib import redirect_stderr, redirect_stdout
from typing import Any

import click

from moa_tf.atomic import writing
from moa_tf.cli.main import cli
from moa_tf.cli.train import train
from moa_tf.errors import InputError
from moa_tf.startup import import_tensorflow


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--workers", type=click.IntRange(1), default=2, show_default=True, help="Processes that train.")
@click.option(
    "--cpus", type=click.IntRange(1), help="Cores of each worker. [default: as many as there are for each]"
)
@click.option("--gpus", type=click.IntRange(0), default=0, show_default=True, help="GPUs of each worker.")
@click.argument("arguments", metavar="[-- TRAIN'S ARGUMENTS]", nargs=-1, type=click.UNPROCESSED)
def on_ray(workers: int, cpus: int | None, gpus: int, arguments: tuple[str, ...]) -> None:
    """Run moa-tf train in several workers on Ray: on this machine, or on the cluster that RAY_ADDRESS names.

    Every worker works in the directory where this is called, and reads and writes the same paths. On several
    machines that is a file system that they share.

    \b
    Examples
      python -m pipelines.on_ray --workers 2 -- --data lish-moa --out runs/ray
      RAY_ADDRESS=auto python -m pipelines.on_ray --workers 4 --gpus 1 -- --data lish-moa --out runs/ray
    """
    try:
        check(arguments)
        ray = import_ray()
        start(ray, workers)
        train_on(ray, workers, *fit(ray.cluster_resources(), workers, cpus, gpus), arguments)
    except InputError as error:
        for line in str(error).splitlines():
            click.echo(f"error: {line}", err=True)
        sys.exit(2)


def check(arguments: Sequence[str]) -> None:
    """Refuses what `train` would refuse in every worker, before there are any.

    Raises:
        InputError: another strategy than multi-worker, or another backend than TensorFlow.
        click.UsageError: a wrong call.
    """
    with train.make_context("train", list(arguments)) as context:
        strategy = context.params["strategy"]
        if strategy not in ("none", "multi-worker"):
            raise InputError(f"--strategy {strategy}: expected multi-worker, or none given, on Ray")
        backend = context.params["backend"]
        if backend != "tensorflow":
            raise InputError(f"--backend {backend}: expected tensorflow, which has multi-worker, on Ray")


def import_ray() -> Any:
    """Ray, set to send no statistics of its use.

    Raises:
        InputError: it is not installed.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ["RAY_TRAIN_V2_ENABLED"] = "1"
    # A worker without a GPU is told so by `work`; Ray would warn of that.
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    try:
        import ray

        import_tensorflow()  # as the next line does, but in silence
        import ray.train.tensorflow
        import ray.util.queue
    except ImportError as error:
        raise InputError(f"Ray cannot be imported ({error}): pip install 'moa-tf[ray]'") from None
    return ray


def start(ray: Any, workers: int) -> None:
    """Starts Ray here, or joins the cluster that RAY_ADDRESS names.

    Raises:
        InputError: no such cluster.
    """
    address = os.environ.get("RAY_ADDRESS") or "local"
    # Cores are Ray's way to count: it starts no more workers than there are.
    here = {"num_cpus": max(workers, os.cpu_count() or 1)} if address == "local" else {}
    try:
        ray.init(address, include_dashboard=False, log_to_driver=False, logging_level="ERROR", **here)
    except (ConnectionError, ValueError, RuntimeError) as error:
        reason = str(error).strip().splitlines()[0]
        raise InputError(f"RAY_ADDRESS={address}: no cluster can be reached there ({reason})") from None


def fit(resources: dict[str, float], workers: int, cpus: int | None, gpus: int) -> tuple[int, int]:
    """Cores and GPUs of each worker: those asked for, or as many cores as there are for each.

    Raises:
        InputError: Ray has too few of them, and would wait for more without an end.
    """
    cores = int(resources.get("CPU", 0))
    cpus = cpus or max(1, cores // workers)
    for name, has, needed in (("cores", cores, cpus), ("GPUs", int(resources.get("GPU", 0)), gpus)):
        if has < workers * needed:
            raise InputError(f"{workers} workers of {needed} {name} each: Ray has {has}")
    return cpus, gpus


class Words(io.TextIOBase):
    """A text stream in a worker that comes out where Ray was called.

    Args:
        queue: of Ray.
        name: `stdout` or `stderr`, where what is written comes out.
    """

    encoding = "utf-8"

    def __init__(self, queue: Any, name: str) -> None:
        self.queue, self.name = queue, name

    def write(self, text: str) -> int:
        self.queue.put((self.name, text))
        return len(text)


def train_on(ray: Any, workers: int, cpus: int, gpus: int, arguments: Sequence[str]) -> None:
    """Trains, and says here what the worker that writes the run says.

    Raises:
        InputError: what a worker raised.
        ray.train.TrainingFailedError: any other end.
    """
    queue = ray.util.queue.Queue(actor_options={"num_cpus": 0})
    failures: list[Exception] = []

    def wait() -> None:
        # No worker keeps anything there; Ray would else leave a folder in the user's home.
        try:
            with tempfile.TemporaryDirectory() as storage:
                ray.train.tensorflow.TensorflowTrainer(
                    work,
                    train_loop_config={
                        "arguments": list(arguments),
                        "directory": os.getcwd(),
                        "cpus": cpus,
                        "gpus": gpus,
                        "queue": queue,
                    },
                    scaling_config=ray.train.ScalingConfig(
                        num_workers=workers,
                        use_gpu=gpus > 0,
                        resources_per_worker={"CPU": cpus} | ({"GPU": gpus} if gpus else {}),
                        placement_strategy="SPREAD",
                    ),
                    run_config=ray.train.RunConfig(storage_path=storage),
                ).fit()
        except Exception as error:
            failures.append(error)
        finally:
            queue.put(None)

    # In a thread: in the main one Ray answers Ctrl-C itself, with status 0.
    threading.Thread(target=wait, daemon=True).start()
    for name, text in iter(queue.get, None):
        stream = getattr(sys, name)
        stream.write(text)
        stream.flush()
    for error in failures:
        raise _input_error(error) or error


def work(config: dict[str, Any]) -> None:
    """What each worker does, in Ray's process: `moa-tf train`.

    Raises:
        InputError: as `moa-tf train`, or the directory is not there.
    """
    from moa_tf.training.strategy import read_tf_config

    os.environ.pop("TF_USE_LEGACY_KERAS", None)  # Ray sets it, for Keras 2
    os.environ["TF_NUM_INTRAOP_THREADS"] = str(config["cpus"])
    if not config["gpus"]:
        os.environ["CUDA_VISIBLE_DEVICES"] = "-1"
    try:
        os.chdir(config["directory"])
    except OSError as error:
        raise InputError(
            f"{config['directory']}: not there on {platform.node()} ({error.strerror}); expected the same paths on "
            "every machine, on a file system that they share"
        ) from None
    arguments = ["train", *config["arguments"], "--strategy", "multi-worker"]
    out, err = (Words(config["queue"], name) for name in ("stdout", "stderr"))
    if not read_tf_config(os.environ["TF_CONFIG"]).chief:
        out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err), writing():
        cli(arguments, standalone_mode=False)


def _input_error(error: Exception) -> InputError | None:
    """What the caller is to know, where a worker ended by that: the first worker's word."""
    failures = getattr(error, "worker_failures", {})
    for _, failure in sorted(failures.items()):
        # Ray wraps what a worker raises, and has no public name for it.
        cause = getattr(failure, "_base_exc", failure)
        if isinstance(cause, InputError):
            return cause
    return None


if __name__ == "__main__":
    on_ray()
