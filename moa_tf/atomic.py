"""Files and directories that appear whole or not at all, and what may stand in a JSON file."""

from __future__ import annotations

import math
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from moa_tf.errors import InputError


@contextmanager
def replacing(path: str | os.PathLike) -> Iterator[Path]:
    """Gives a temporary path beside `path`, which takes its place when the block ends without an error.

    What was at `path` stays as it was until then, and stays for good if the block fails. Suffixes are kept,
    so that a writer which looks at them does the same for the temporary name. Parent directories are made.

    Raises:
        InputError: `path` is a directory, or its directory cannot be made or written.
    """
    path = Path(path)
    if path.is_dir():
        raise InputError(f"{path}: is a directory, expected the name of a file to write")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=".tmp-", suffix=path.name, dir=path.parent)
    except OSError as error:
        raise InputError(f"{path}: cannot be written ({error.strerror})") from error
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        temporary.chmod(0o666 & ~_umask())  # mkstemp makes it private
        sync(temporary)
        temporary.replace(path)
        sync(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def temporary_directory(parent: Path) -> Iterator[Path]:
    """A new directory in `parent`, removed when the block ends unless it was renamed.

    Its name starts with a dot and is no number, so a poller of numbered versions never takes it for one.
    """
    directory = Path(tempfile.mkdtemp(prefix=".tmp-", dir=parent))
    directory.chmod(0o777 & ~_umask())
    try:
        yield directory
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def sync_tree(directory: Path) -> None:
    """Has every file and directory below `directory` reach the disk."""
    for folder, _, names in os.walk(directory):
        for name in names:
            sync(Path(folder, name))
        sync(Path(folder))


def sync(path: Path) -> None:
    """Has one file's contents, or one directory's entries, reach the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def to_plain(values: Any) -> Any:
    """`values` with what JSON knows only: mappings, sequences, NumPy values, paths, non-finite floats."""
    if isinstance(values, dict):
        return {str(key): to_plain(value) for key, value in values.items()}
    if hasattr(values, "tolist"):  # NumPy arrays and scalars, without importing NumPy here
        return to_plain(values.tolist())
    if isinstance(values, (list, tuple, set, frozenset)):
        return [to_plain(value) for value in values]
    if isinstance(values, float):
        return values if math.isfinite(values) else None
    if values is None or isinstance(values, (bool, int, str)):
        return values
    return str(values)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
