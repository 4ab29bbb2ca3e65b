"""Where arrays as long as the table are kept: in memory, or in files that are mapped into it.

Either way they are NumPy arrays, and whoever reads one need not know which. What is made of a table that is too large
for memory must go by blocks of rows, though: a copy of it would be as large.
"""

from __future__ import annotations

import math
import os
import shutil
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

import numpy as np

from moa_tf.atomic import writing
from moa_tf.errors import InputError

BLOCK = 8192
"""Rows that are looked at at once: 29 MB of 872 float32."""

ALIGNMENT = 64
"""Bytes. An array that begins at a multiple of it can be a tensor as it is."""

CHOICES = ("auto", "memory", "disk", "disk-bfloat16")
"""As in `--storage`, see `moa_tf.data.size.choose_storage`."""

Shape = tuple[int, ...]


def blocks(rows: int, size: int | None = None) -> Iterator[slice]:
    """Slices of at most `size` (`BLOCK`) that cover `rows` rows in their order."""
    size = size or BLOCK
    return (slice(start, min(start + size, rows)) for start in range(0, rows, size))


def read(values: np.ndarray, rows: slice | np.ndarray) -> np.ndarray:
    """`values[rows]`, in float32 where they are kept in bfloat16, with which NumPy computes little."""
    found = values[rows]
    return found.astype(np.float32) if is_bfloat16(found) else found


def is_bfloat16(values: np.ndarray) -> bool:
    """Whether it is the package ml_dtypes' kind of numbers, which NumPy itself has no name for."""
    return values.dtype.name == "bfloat16"


def whole_groups(starts: np.ndarray, rows: int) -> Iterator[tuple[slice, slice]]:
    """Slices of groups and of their rows, of at most `BLOCK` rows where no group has more.

    Args:
        starts: [K] where each group begins among rows that are sorted by group.
        rows: how many there are.
    """
    ends, first = np.append(starts[1:], rows), 0
    while first < len(starts):
        last = max(first + 1, int(np.searchsorted(ends, starts[first] + BLOCK, side="right")))
        yield slice(first, last), slice(int(starts[first]), int(ends[last - 1]))
        first = last


class Growing(ABC):
    """An array that grows at its end."""

    @abstractmethod
    def append(self, rows: np.ndarray) -> None:
        """Adds rows [n, ...]."""

    @abstractmethod
    def finish(self) -> np.ndarray | None:
        """All rows; None where nothing was added."""


class Storage(ABC):
    """Makes arrays.

    Attributes:
        on_disk: whether they may be larger than memory.
        features: the kind of numbers that networks' features are to be kept in, float32 or bfloat16.
    """

    on_disk = False
    features: np.dtype = np.dtype(np.float32)

    @abstractmethod
    def empty(self, shape: Shape, dtype: Any) -> np.ndarray:
        """An array of any contents, which begins at a multiple of `ALIGNMENT` bytes.

        Raises:
            InputError: there is no room for it on the disk.
        """

    @abstractmethod
    def growing(self) -> Growing:
        """An array of a length that is not known yet."""

    def take(self, values: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """`values[rows]`."""
        found = self.empty((len(rows), *values.shape[1:]), values.dtype)
        for part in blocks(len(rows)):
            found[part] = values[rows[part]]
        return found


class Memory(Storage):
    """In memory."""

    def empty(self, shape: Shape, dtype: Any) -> np.ndarray:
        size = math.prod(shape) * np.dtype(dtype).itemsize
        buffer = np.empty(size + ALIGNMENT, np.uint8)
        start = -buffer.ctypes.data % ALIGNMENT
        return buffer[start : start + size].view(dtype).reshape(shape)

    def growing(self) -> Growing:
        return _InMemory()


class _InMemory(Growing):
    """In place, as joining chunks would hold the matrix twice."""

    def __init__(self) -> None:
        self._array: np.ndarray | None = None

    def append(self, rows: np.ndarray) -> None:
        if self._array is None:
            self._array = np.array(rows, order="C")
            return
        done = len(self._array)
        self._array.resize((done + len(rows), *rows.shape[1:]), refcheck=False)
        self._array[done:] = rows

    def finish(self) -> np.ndarray | None:
        return self._array


class Disk(Storage):
    """In files of `directory` that have no name: they go with the arrays, and with the process, however it ends.

    Their pages are the system's to keep in memory, and to drop where others need it.

    Args:
        directory: on a disk with room for them.
        bfloat16: keep networks' features in it.
    """

    on_disk = True

    def __init__(self, directory: Path, bfloat16: bool = False) -> None:
        self.directory = directory
        if bfloat16:
            import ml_dtypes

            self.features = np.dtype(ml_dtypes.bfloat16)

    def require(self, size: int, what: str) -> None:
        """Finds now that there is no room for `size` bytes of `what`.

        Raises:
            InputError: one line.
        """
        free = shutil.disk_usage(self.directory).free
        if size > free:
            raise InputError(
                f"{self.directory}: {gigabytes(size)} are needed on this disk for {what}, and {gigabytes(free)} are "
                "free; expected more, an --out on another disk, or --storage memory"
            )

    def empty(self, shape: Shape, dtype: Any) -> np.ndarray:
        size = math.prod(shape) * np.dtype(dtype).itemsize
        if not size:
            return np.empty(shape, dtype)
        self.require(size, "an array")
        with self._file() as file, writing(self.directory):
            # A page of a file with holes that finds the disk full would end the process.
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(file.fileno(), 0, size)
            else:
                file.truncate(size)
            return _mapped(file, shape, dtype)

    def growing(self) -> Growing:
        return _OnDisk(self.directory, self._file())

    def _file(self) -> IO[bytes]:
        with writing(self.directory):
            return tempfile.TemporaryFile(dir=self.directory)


class _OnDisk(Growing):
    """Written as a file first, and then mapped."""

    def __init__(self, directory: Path, file: IO[bytes]) -> None:
        self._directory, self._file = directory, file
        self._rows, self._kind = 0, np.empty(0)

    def append(self, rows: np.ndarray) -> None:
        with writing(self._directory):
            self._file.write(np.ascontiguousarray(rows))
        self._rows += len(rows)
        self._kind = rows[:0]

    def finish(self) -> np.ndarray | None:
        with self._file, writing(self._directory):
            if not self._rows:
                return None
            self._file.flush()
            return _mapped(self._file, (self._rows, *self._kind.shape[1:]), self._kind.dtype)


def _mapped(file: IO[bytes], shape: Shape, dtype: Any) -> np.ndarray:
    if not math.prod(shape):
        return np.empty(shape, dtype)
    # A plain array, as what is computed from NumPy's kind of its own would be of that kind.
    return np.asarray(np.memmap(file, dtype, "r+", shape=shape))


def gigabytes(size: float) -> str:
    """In words."""
    return f"{size / 1e9:.1f} GB"


def available_memory() -> int | None:
    """Bytes that a process can still get, by the system or its control group's limit; None where neither says."""
    found = []
    with suppress(OSError, StopIteration, ValueError):
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        found.append(next(int(line.split()[1]) for line in lines if line.startswith("MemAvailable:")) * 1024)
    with suppress(OSError, ValueError):
        group = Path("/sys/fs/cgroup")
        limit, used = (
            int((group / name).read_text(encoding="ascii")) for name in ("memory.max", "memory.current")
        )
        found.append(limit - used)
    if not found:
        with suppress(AttributeError, OSError, ValueError):
            found.append(os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    return min(found, default=None)
