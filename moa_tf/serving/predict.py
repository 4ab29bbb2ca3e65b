"""Probabilities for a whole table of signatures, in memory that does not grow with it."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np

from moa_tf.atomic import check_file, replacing
from moa_tf.data.schema import Signatures, SignatureSpec
from moa_tf.errors import InputError
from moa_tf.serving.versions import PATTERN, latest_version, load_metadata

CHUNK = 4096
"""Rows that are read and written at once, in whole batches."""

BATCHES = 32
"""The most batches in a chunk: where batches are small, computing is slow, and progress should be seen."""

GZIP_LEVEL = 3
"""Of digits, level 9 saves a few per cent for many times the work."""

Item = TypeVar("Item")


class Model(Protocol):
    """What `predict_table` needs of a model; see `ServedModel` for its attributes."""

    @property
    def spec(self) -> SignatureSpec: ...

    @property
    def target_names(self) -> tuple[str, ...]: ...

    @property
    def batch_size(self) -> int: ...

    def predict(self, signatures: Signatures, batch_size: int | None = None) -> np.ndarray: ...


@dataclass(frozen=True)
class ServedModel:
    """An exported model in memory.

    Attributes:
        path: the version's directory.
        spec: the panel that it takes.
        target_names: T names.
        metadata: see `load_metadata`.
        loaded: what `tf.saved_model.load` gave; the signatures are functions of it.
    """

    path: Path
    spec: SignatureSpec
    target_names: tuple[str, ...]
    metadata: dict[str, Any]
    loaded: Any

    @property
    def batch_size(self) -> int:
        """How many signatures to compute at once, as the exporter found."""
        return self.metadata.get("batch_size", 256)

    def predict(self, signatures: Signatures, batch_size: int | None = None) -> np.ndarray:
        """[N, T] float32 probabilities, computed `batch_size` signatures at a time."""
        serve, size = self.loaded.signatures["serving_default"], batch_size or self.batch_size
        parts = [np.empty((0, len(self.target_names)), np.float32)]
        for start in range(0, len(signatures), size):
            part = signatures.take(slice(start, start + size)) if len(signatures) > size else signatures
            parts.append(serve(**raw_inputs(part))["probabilities"].numpy())
        return np.concatenate(parts) if len(parts) > 2 else parts[-1]


def load_model(path: str | Path) -> ServedModel:
    """Loads an exported model, the latest version if `path` is the directory of several.

    Raises:
        InputError: no SavedModel, or one that this project did not export.
    """
    directory = latest_version(Path(path))
    if set(PATTERN) & set(str(directory)):
        raise InputError(f"{directory}: TensorFlow takes * ? [ \\ for patterns, expected a path without them")
    metadata = load_metadata(directory)
    import tensorflow as tf

    try:
        loaded = tf.saved_model.load(str(directory))
    except (OSError, ValueError, tf.errors.OpError) as error:
        reason = str(error).partition("\n")[0]
        raise InputError(f"{directory}: cannot be loaded as a SavedModel ({reason})") from error
    spec = SignatureSpec.from_dict(metadata["spec"])
    return ServedModel(directory, spec, tuple(metadata["targets"]), metadata, loaded)


def raw_columns(signatures: Signatures) -> dict[str, np.ndarray]:
    """The named inputs of `serving_default`: numbers, and of the codes the words of the table, as bytes objects."""
    # The code −1, for a word that the panel does not know, is the last one.
    words = {
        name: np.array([word.encode() for word in (*known, "")], object)
        for name, known in signatures.spec.codes.items()
    }
    return {
        name: words[name][values] if name in words else values for name, values in signatures.inputs().items()
    }


def raw_inputs(signatures: Signatures) -> dict[str, Any]:
    """`raw_columns` as tensors."""
    import tensorflow as tf

    return {name: tf.constant(values) for name, values in raw_columns(signatures).items()}


def predict_table(
    model: Model,
    features: str | Path,
    out: str | Path,
    *,
    batch_size: int | None = None,
    progress: Callable[[int], None] = lambda rows: None,
    tell: Callable[[str], None] = lambda line: None,
) -> dict[str, int]:
    """Reads a features table, writes `sig_id` and a column per target, in the model's order.

    Reading, computing and writing overlap, with a few batches between them.

    Args:
        model: from `load_model`, or a `RemoteModel`.
        features: `.csv`, `.csv.gz` or `.parquet`, the last a file or a directory of such files.
        out: a file of any of these formats; replaced only when all is written.
        batch_size: signatures computed at once; None takes the model's own.
        progress: is called with the number of rows just written.
        tell: as for `moa_tf.data.read.iter_features`.

    Returns:
        `signatures`, `controls`: numbers of rows.

    Raises:
        InputError: one line for each fault of the table; `out` is then as it was.
    """
    from moa_tf.data.read import iter_features

    features, out = Path(features), Path(out)
    size = model.batch_size if batch_size is None else batch_size
    if size < 1:
        raise InputError(f"batch size {size}: expected at least 1")
    rows = size * max(1, min(CHUNK // size, BATCHES))
    check_paths(features, out)
    counts = {"signatures": 0, "controls": 0}
    with (
        replacing(out) as temporary,
        table_writer(temporary, model.target_names) as write,
        ahead(iter_features(features, model.spec, rows=rows, tell=tell)) as read,
        ahead((part, model.predict(part, size)) for part in read) as computed,
    ):
        for part, probabilities in computed:
            write(part.sig_id, probabilities)
            counts["signatures"] += len(part)
            counts["controls"] += int(part.control.sum())
            progress(len(part))
    return counts


def check_paths(features: Path, out: Path) -> None:
    """Finds early what would fail late.

    Raises:
        InputError: there is no table `features`, `out` has another suffix or cannot be written, is that table or
            lies within it.
    """
    from moa_tf.data.opening import check_table
    from moa_tf.data.tables import SUFFIXES

    check_table(features)
    if not out.name.endswith(SUFFIXES):
        raise InputError(f"{out}: expected a name that ends in {', '.join(SUFFIXES)}")
    if out.exists() and out.samefile(features):
        raise InputError(f"{out}: is the features table itself, expected another file")
    if features.is_dir() and features.resolve() in out.resolve().parents:
        raise InputError(f"{out}: is within the features table, expected a file elsewhere")
    check_file(out)


@contextmanager
def ahead(items: Iterable[Item], size: int = 2) -> Iterator[Iterator[Item]]:
    """Gives the same items, worked out in a thread of their own, at most `size` ahead of their reader.

    An error in `items` comes out where they are read. When the block ends, the thread has ended too.
    """
    results: queue.Queue[tuple[bool, Any]] = queue.Queue(size)
    stopped = threading.Event()

    def put(last: bool, value: Any) -> None:
        while not stopped.is_set():
            try:
                return results.put((last, value), timeout=0.1)
            except queue.Full:
                continue

    def work() -> None:
        try:
            for item in items:
                put(False, item)
                if stopped.is_set():
                    return
            put(True, None)
        except BaseException as error:  # Whatever it is, it belongs to the reader's thread.
            put(True, error)

    def take() -> Iterator[Item]:
        while True:
            last, value = results.get()
            if last and value is not None:
                raise value
            if last:
                return
            yield value

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    try:
        yield take()
    finally:
        stopped.set()
        thread.join()


@contextmanager
def table_writer(
    path: Path, target_names: tuple[str, ...]
) -> Iterator[Callable[[np.ndarray, np.ndarray], None]]:
    """Gives a function that appends ([n] ids, [n, T] float32) to a table in the format of `path`'s name."""
    import pyarrow as pa
    from pyarrow import csv, parquet

    names = ["sig_id", *target_names]
    schema = pa.schema([("sig_id", pa.string()), *((name, pa.float32()) for name in target_names)])

    def batch(ids: np.ndarray, probabilities: np.ndarray) -> pa.RecordBatch:
        columns = np.asfortranarray(probabilities)
        return pa.record_batch([pa.array(ids, pa.string()), *columns.T], schema=schema)

    if path.name.endswith(".parquet"):
        with parquet.ParquetWriter(path, schema, compression="zstd", use_dictionary=False) as writer:
            yield lambda ids, probabilities: writer.write_batch(batch(ids, probabilities))
        return
    with _open_text(path) as file:
        file.write(",".join(map(_quote, names)).encode() + b"\n")

        def write(ids: np.ndarray, probabilities: np.ndarray) -> None:
            # "needed" puts quotes around every text, which sample_submission has not.
            style = "needed" if any(_quote(value) != value for value in ids) else "none"
            options = csv.WriteOptions(include_header=False, quoting_style=style)
            csv.write_csv(batch(ids, probabilities), file, options)

        yield write


def _open_text(path: Path) -> Any:
    import gzip

    return gzip.open(path, "wb", GZIP_LEVEL) if path.name.endswith(".gz") else path.open("wb")


def _quote(name: str) -> str:
    return '"' + name.replace('"', '""') + '"' if any(c in name for c in ',"\r\n') else name
