"""Prediction of a table of many Parquet parts by Apache Beam: `moa-tf predict --runner …`.

    the table's parts ▸ Reshuffle ▸ RunInference(SavedModelHandler) ▸ OUT/part-00000.parquet, …

An element is a part. A worker reads it, computes it and writes it whole or not at all, by the code that predicts a
table on one machine, so that one that is tried again replaces its own file: nothing is lost or doubled.
"""

from __future__ import annotations

import functools
import hashlib
import json
import logging
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import apache_beam as beam
from apache_beam.ml.inference.base import ModelHandler, RunInference
from apache_beam.options.pipeline_options import PipelineOptions

from moa_tf.atomic import check_directory, replacing
from moa_tf.data.faults import Faults
from moa_tf.data.opening import check_table, open_table
from moa_tf.errors import InputError
from moa_tf.serving.predict import ServedModel, load_model, predict_table
from moa_tf.serving.versions import latest_version, load_metadata
from pipelines import find_input_error

RUNNERS = {
    # Beam's DirectRunner may hand over to Prism, which it downloads.
    "direct": "apache_beam.runners.portability.fn_api_runner.fn_runner.FnApiRunner",
    "dask": "apache_beam.runners.dask.dask_runner.DaskRunner",
    "flink": "FlinkRunner",
    "spark": "SparkRunner",
    "dataflow": "DataflowRunner",
}
NOTES = "_prediction"
"""Directory in OUT with a file for each finished part; a name with _ is no part of a table to Spark, Dask and Arrow."""

LOOK_SECONDS = 0.5


class EngineError(Exception):
    """The engine ended before all parts were done; those that are stay."""


@dataclass(frozen=True)
class Part:
    """One file of the table.

    Attributes:
        features: its path.
        out: the file that its predictions become.
        key: of its content and of the model; equal keys mean equal predictions.
    """

    features: str
    out: str
    key: str

    @property
    def note(self) -> Path:
        """Where a finished part is noted."""
        out = Path(self.out)
        return out.parent / NOTES / f"{out.stem}.json"

    def counts(self) -> dict[str, int] | None:
        """`signatures` and `controls` of a part that is finished; None of one that is not."""
        try:
            note = json.loads(self.note.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        return note["counts"] if note.get("key") == self.key and Path(self.out).is_file() else None


class SavedModelHandler(ModelHandler[Part, dict, ServedModel]):
    """An exported model for RunInference.

    Beam's own handler for TensorFlow calls `tf.keras.models.load_model`, which Keras 3 refuses for a SavedModel.

    Args:
        path: the version's directory, as every worker sees it.
        batch_size: signatures computed at once; None takes the model's own.
    """

    def __init__(self, path: str, batch_size: int | None) -> None:
        super().__init__()
        self.path, self.batch_size = path, batch_size

    def __setstate__(self, state: dict[str, Any]) -> None:
        # In a worker: what goes wrong there is raised, and what Beam else tells is of no use to the user.
        self.__dict__.update(state)
        logging.getLogger().setLevel(logging.CRITICAL)

    def load_model(self) -> ServedModel:
        """The model, once for each process."""
        return _load(self.path)

    def run_inference(
        self, batch: Sequence[Part], model: ServedModel, inference_args: dict[str, Any] | None = None
    ) -> Iterator[dict[str, int]]:
        """Predicts parts; gives the numbers of their rows."""
        for part in batch:
            counts = predict_table(model, part.features, part.out, batch_size=self.batch_size)
            with replacing(part.note) as temporary:
                temporary.write_text(json.dumps({"key": part.key, "counts": counts}), encoding="utf-8")
            yield counts


@functools.lru_cache(maxsize=1)
def _load(path: str) -> ServedModel:
    from moa_tf.startup import import_tensorflow

    import_tensorflow()
    return load_model(path)


def predict_parts(
    saved_model: Path,
    features: Path,
    out: Path,
    *,
    runner: str,
    workers: int | None,
    flags: Sequence[str],
    batch_size: int | None,
    progress: Callable[[int, int, int], None],
    tell: Callable[[str], None],
) -> dict[str, Any]:
    """Predicts what is not finished of a table's parts.

    Args:
        saved_model: an exported model, or the directory of several versions.
        features: a directory `.parquet`, or one file.
        out: the directory `.parquet` that is written, with a file for each part, in their order.
        runner: a key of `RUNNERS`.
        workers: processes on this machine, for `direct`, and `dask` without a cluster; None: one a core.
        flags: Beam's options, as `KEY=VALUE`.
        batch_size: signatures computed at once; None takes the model's own.
        progress: is called with the parts that are done, all parts, and signatures done.
        tell: gets a line for what the user should know.

    Returns:
        `signatures`, `controls`, `parts`; `predicted`, the signatures that were not there before; `workers`, None where
        the engine has its own.

    Raises:
        InputError: one line for each fault of the table, or a wrong option.
        EngineError: the engine failed.
    """
    model = latest_version(saved_model)
    metadata = load_metadata(model)
    parts = _list_parts(features.absolute(), out.absolute(), _digest(model, metadata, batch_size))
    options = _options(runner, flags)
    here = runner == "direct" or (
        runner == "dask" and not _has(flags, "dask_client_address", "dask_scheduler_file")
    )
    if workers is not None and not here:
        raise InputError(
            f"--workers {workers}: the engine's own number counts, expected none with --runner {runner}"
        )
    workers = (workers or os.cpu_count() or 1) if here else None
    _prepare(out, parts)
    waiting = [part for part in parts if part.counts() is None]
    if len(waiting) < len(parts):
        tell(f"{out}: {len(parts) - len(waiting)} of {len(parts)} parts are finished")
    before = _count(parts)["signatures"]
    if waiting:
        with ExitStack() as stack:
            if here:
                workers = min(workers, len(waiting))
                options += stack.enter_context(_workers(runner, workers))
            stack.enter_context(_watching(parts, progress))
            _run(waiting, SavedModelHandler(str(model.absolute()), batch_size), runner, options)
    left = [part for part in parts if part.counts() is None]
    if left:
        raise EngineError(f"{len(left)} of {len(parts)} parts are not finished; repeat the call to go on")
    counts = _count(parts)
    return {**counts, "parts": len(parts), "predicted": counts["signatures"] - before, "workers": workers}


def _list_parts(features: Path, out: Path, model: str) -> list[Part]:
    check_table(features)
    faults = Faults()
    table = open_table(features, faults)
    faults.raise_if_any()
    if features.suffix != ".parquet" or out.suffix != ".parquet":
        raise InputError(f"{features}, {out}: with --runner expected names that end in .parquet")
    if out == features or features in out.parents:
        raise InputError(f"{out}: is, or is within, the features table, expected a directory elsewhere")
    parts = []
    for number, file in enumerate(table.files):
        status = file.stat()
        key = f"{model} {file} {status.st_size} {status.st_mtime_ns}"
        target = out / f"part-{number:05d}.parquet"
        parts.append(Part(str(file), str(target), hashlib.sha256(key.encode()).hexdigest()))
    return parts


def _digest(model: Path, metadata: dict[str, Any], batch_size: int | None) -> str:
    graph = hashlib.sha256((model / "saved_model.pb").read_bytes()).hexdigest()
    variables = sorted((file.name, file.stat().st_size) for file in (model / "variables").glob("*"))
    return json.dumps([metadata, graph, variables, batch_size], sort_keys=True)


def _options(runner: str, flags: Sequence[str]) -> list[str]:
    for flag in flags:
        if "=" not in flag or flag.lstrip("-").startswith("runner="):
            raise InputError(f"--beam {flag}: expected KEY=VALUE, another key than runner")
    return [f"--runner={RUNNERS[runner]}", *(f"--{flag.lstrip('-')}" for flag in flags)]


def _has(flags: Sequence[str], *names: str) -> bool:
    return any(flag.lstrip("-").partition("=")[0] in names for flag in flags)


def _prepare(out: Path, parts: Sequence[Part]) -> None:
    """Makes OUT, and takes out of it what an earlier table had more than this one.

    Raises:
        InputError: OUT is something else, or cannot be written.
    """
    if out.exists() and not (out.is_dir() and ((out / NOTES).is_dir() or not any(out.iterdir()))):
        raise InputError(f"{out}: exists and holds no prediction by parts, expected another place")
    check_directory(out)
    (out / NOTES).mkdir(parents=True, exist_ok=True)
    expected = {Path(part.out).name for part in parts}
    for file in out.glob("part-*.parquet"):
        if file.name not in expected:
            (out / NOTES / f"{file.stem}.json").unlink(missing_ok=True)
            file.unlink()


def _count(parts: Sequence[Part]) -> dict[str, int]:
    finished = [counts for counts in (part.counts() for part in parts) if counts is not None]
    return {name: sum(counts[name] for counts in finished) for name in ("signatures", "controls")}


@contextmanager
def _workers(runner: str, workers: int) -> Iterator[list[str]]:
    """Processes on this machine, and Beam's options for them; each computes with its share of the cores."""
    os.environ.setdefault("TF_NUM_INTRAOP_THREADS", str(max(1, (os.cpu_count() or 1) // workers)))
    if runner == "direct":
        mode = "multi_processing" if workers > 1 else "in_memory"
        yield [f"--direct_num_workers={workers}", f"--direct_running_mode={mode}"]
        return
    from dask.distributed import LocalCluster

    with LocalCluster(
        n_workers=workers, threads_per_worker=1, dashboard_address=None, silence_logs=logging.CRITICAL
    ) as cluster:
        yield [f"--dask_client_address={cluster.scheduler_address}"]


@contextmanager
def _watching(parts: Sequence[Part], progress: Callable[[int, int, int], None]) -> Iterator[None]:
    """Looks for finished parts, which every engine has, where not every engine has counters."""
    stop = threading.Event()

    def look() -> None:
        while not stop.wait(LOOK_SECONDS):
            done = sum(part.counts() is not None for part in parts)
            progress(done, len(parts), _count(parts)["signatures"])

    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def _run(parts: Sequence[Part], handler: SavedModelHandler, runner: str, options: Sequence[str]) -> None:
    # What workers print is what they raise, which comes here anyway.
    logging.getLogger().setLevel(logging.CRITICAL)
    failures: list[BaseException] = []
    ended = threading.Event()

    def work() -> None:
        try:
            _run_pipeline(parts, handler, runner, options)
        except BaseException as error:
            failures.append(error)
        finally:
            ended.set()

    def lose(failed: threading.ExceptHookArgs) -> None:
        failures.append(EngineError("a worker ended before its work was done; repeat the call to go on"))
        ended.set()

    # In a thread, as Beam itself waits for a lost worker for ever: of that, only a thread of its own hears.
    before, threading.excepthook = threading.excepthook, lose
    try:
        threading.Thread(target=work, daemon=True).start()
        ended.wait()
    finally:
        threading.excepthook = before
    for error in failures[:1]:
        if isinstance(error, EngineError):
            raise error
        found = find_input_error(error)
        if found is not None:
            raise found
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise EngineError(f"{runner}: {reason[-1]}; repeat the call to go on") from error


def _run_pipeline(
    parts: Sequence[Part], handler: SavedModelHandler, runner: str, options: Sequence[str]
) -> None:
    if runner == "dask":
        # A partition is a task there, and Create's are as large as it is told.
        options = [*options, "--dask_partition_size=1"]
    pipeline = beam.Pipeline(options=PipelineOptions(list(options)))
    # A part is many batches, and the Dask runner would lose what a batching step holds at its end.
    elements = pipeline | beam.Create([[part] for part in parts], reshuffle=False)
    if runner != "dask":
        elements = elements | beam.Reshuffle()
    _ = elements | RunInference(handler.with_no_batching())
    result = pipeline.run()
    try:
        result.wait_until_finish()
    finally:
        if runner == "dask":
            result.client.close()  # Beam leaves it open, and it would look for its cluster for another 30 s
