"""Files and directories that appear whole or not at all, and what may stand in a JSON file."""

from __future__ import annotations

import errno
import math
import os
import re
import shutil
import stat
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from moa_tf.errors import InputError

PREFIX = ".tmp-"
"""How the name of what is not complete yet begins: hidden, and no number that a poller of versions takes."""

DISK_FAULTS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EROFS, errno.ESTALE)
"""What a disk answers that is full, read-only or gone. Inside a block all else is an error of the program."""


@contextmanager
def replacing(path: str | os.PathLike) -> Iterator[Path]:
    """Gives a temporary path, whose file takes the place of `path` when the block ends without an error.

    What was at `path` stays as it was until then, and stays for good if the block fails. Suffixes are kept,
    so that a writer which looks at them does the same for the temporary name. Parent directories are made.

    A file keeps its mode bits. Of a symbolic link what it leads to is replaced, the link stays. What is no
    plain file (a device, a FIFO, `/dev/stdout`, an open file under `/proc/self/fd`) is never replaced: the
    complete contents are written into it.

    Raises:
        InputError: `path` is a directory or a socket, or cannot be written: no permission, no space, a
            read-only disk, whether found here or by what is called in the block.
    """
    path = Path(path)
    with _reporting(path):
        target, through = _destination(path)
        folder = Path(tempfile.gettempdir()) if through else target.parent
        made = _make(folder)
    with ExitStack() as after:
        after.callback(_unmake, made)
        with _reporting(path):
            # Not the whole name: one of 255 letters has no room for a prefix.
            handle, name = tempfile.mkstemp(prefix=PREFIX, suffix=path.name[-32:], dir=folder)
            temporary = Path(name)
            after.callback(_remove, temporary)
            os.close(handle)
        with writing(path):
            yield temporary
        with _reporting(path):
            if through:
                _copy_into(temporary, target)
            else:
                _settle(temporary, target)
                _replace(temporary, target)
                for directory in (folder, *(directory.parent for directory in made)):
                    sync(directory)


@contextmanager
def temporary_directory(parent: Path, path: Path | None = None) -> Iterator[Path]:
    """A new directory in `parent`, removed when the block ends unless it was renamed.

    Its name starts with a dot and is no number, so a poller of numbered versions never takes it for one.

    Args:
        parent: made with its parents; those that were made and stay empty go again.
        path: what is being written there, to be named in messages; None names `parent`.

    Raises:
        InputError: it cannot be made or filled, see `writing`.
    """
    path = parent if path is None else path
    with _reporting(path):
        made = _make(parent)
    with ExitStack() as after:
        after.callback(_unmake, made)
        with _reporting(path):
            directory = Path(tempfile.mkdtemp(prefix=PREFIX, dir=parent))
            after.callback(shutil.rmtree, directory, ignore_errors=True)
            directory.chmod(0o777 & ~_umask())
        with writing(path):
            yield directory


@contextmanager
def publish_directory(path: Path) -> Iterator[Path]:
    """A directory to be filled, which then appears as `path`, whole or not at all.

    Raises:
        InputError: `path` cannot be written, or is there by then.
    """
    with temporary_directory(path.parent, path) as temporary:
        results = temporary / "results"
        results.mkdir()
        yield results
        sync_tree(results)
        try:
            results.rename(path)
        except OSError as error:  # someone else has made it by now
            raise InputError(f"{path}: cannot be written ({error.strerror})") from error
        sync(path.parent)


@contextmanager
def writing(path: str | os.PathLike | None = None) -> Iterator[None]:
    """Turns what a full, read-only or vanished disk raises in the block into one line that names `path`.

    Without `path` it names the file that the error itself names, if any.

    Whoever wrote: Python and pyarrow raise an `OSError` with its number, h5py and TensorFlow (`OpError`) have
    the reason in their text alone.

    Raises:
        InputError: one of `DISK_FAULTS`.
    """
    try:
        yield
    except InputError:
        raise
    except Exception as error:
        reason = _disk_fault(error)
        if reason is None:
            raise
        where = path or getattr(error, "filename", None) or "output"
        raise InputError(f"{where}: cannot be written ({reason})") from error


def check_file(path: str | os.PathLike) -> None:
    """Finds now what would keep `replacing` from writing `path` later. Nothing that it makes stays.

    Raises:
        InputError: `path` is a directory or a socket, its directory cannot be made or written, or the disk is
            full or read-only.
    """
    path = Path(path)
    with _reporting(path):
        target, through = _destination(path)
        if through:
            target.stat()  # what is no longer open
        else:
            _try(target.parent, path)
            _check_length(target)


def check_directory(path: str | os.PathLike) -> None:
    """Finds now what would keep a directory `path` with files in it from being made, or filled, later.

    Raises:
        InputError: `path` is no directory, it or its parent cannot be written, or the disk is full or
            read-only.
    """
    path = Path(path)
    with _reporting(path):
        if os.path.lexists(path) and not path.is_dir():
            raise InputError(f"{path}: is no directory, expected one or the name of a new one")
        _try(path, path)


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
    except OSError as error:
        # Some network file systems do not know it of directories.
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
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


@contextmanager
def _reporting(path: Path) -> Iterator[None]:
    """Where the program does nothing but write: every `OSError` is the disk's or the path's fault."""
    try:
        yield
    except OSError as error:
        raise InputError(f"{path}: cannot be written ({error.strerror or error})") from error


def _disk_fault(error: BaseException | None) -> str | None:
    """The reason, if `error` or what led to it is one of `DISK_FAULTS`."""
    while error is not None:
        for number in DISK_FAULTS:
            reason = os.strerror(number)
            if getattr(error, "errno", None) == number or reason in str(error):
                return reason
        error = error.__cause__ or error.__context__
    return None


def _destination(path: Path) -> tuple[Path, bool]:
    """Where the file of this name lies, with links followed, and whether it is to be written through."""
    target = path
    for _ in range(40):
        parent = Path(os.path.realpath(target.parent))
        target = parent / target.name
        if _DESCRIPTOR.fullmatch(str(target)):
            return target, True
        if not target.is_symlink():
            break
        target = parent / os.readlink(target)
    else:
        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
    try:
        mode = target.stat().st_mode
    except FileNotFoundError:
        return target, False
    if stat.S_ISDIR(mode):
        raise InputError(f"{path}: is a directory, expected the name of a file to write")
    if stat.S_ISSOCK(mode):
        raise InputError(f"{path}: is a socket, expected the name of a file to write")
    if not os.access(target, os.W_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    return target, not stat.S_ISREG(mode)


_DESCRIPTOR = re.compile(r"/proc/(?P<process>\d+)(/task/\d+)?/fd/(?P<number>\d+)|/dev/fd/\d+")
"""What is open already: it may be a pipe or a socket, and writing goes on where the last writer stopped."""


def _copy_into(source: Path, target: Path) -> None:
    open_file = _DESCRIPTOR.fullmatch(str(target))
    if open_file and open_file["process"] == str(os.getpid()):
        sys.stdout.flush()
        handle = os.dup(int(open_file["number"]))
    else:
        handle = os.open(target, os.O_WRONLY | os.O_TRUNC | os.O_NOCTTY)
    # A reader that leaves has read enough.
    with suppress(BrokenPipeError), open(handle, "wb") as file, source.open("rb") as contents:
        shutil.copyfileobj(contents, file)


def _settle(temporary: Path, target: Path) -> None:
    """Gives the new file the mode (and to root, the owner) of the old one, and has it reach the disk."""
    handle = os.open(temporary, os.O_RDONLY)
    try:
        if target.exists():
            before = target.stat()
            with suppress(OSError):
                os.fchown(handle, before.st_uid, before.st_gid)
            os.fchmod(handle, stat.S_IMODE(before.st_mode))
        else:
            os.fchmod(handle, 0o666 & ~_umask())  # mkstemp makes it private
        os.fsync(handle)
    finally:
        os.close(handle)


def _replace(temporary: Path, target: Path) -> None:
    try:
        temporary.replace(target)
    except OSError as error:
        if error.errno != errno.EBUSY:
            raise
        # A file that is mounted by itself, as into a container, can be written but not replaced.
        _copy_into(temporary, target)


def _make(directory: Path) -> list[Path]:
    """Makes a directory and its parents; gives those that were not there, outermost first."""
    missing = [folder for folder in (directory, *directory.parents) if not os.path.lexists(folder)][::-1]
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError:
        _unmake(missing)
        raise
    return missing


def _unmake(directories: list[Path]) -> None:
    for directory in reversed(directories):
        with suppress(OSError):  # what was written is in it, or someone else's file
            directory.rmdir()


def _remove(temporary: Path) -> None:
    with suppress(OSError):  # it has its name by now, or the disk is gone
        temporary.unlink()


def _try(directory: Path, path: Path) -> None:
    """Writes a block in the nearest directory that exists, as the mode bits tell root nothing."""
    while not os.path.lexists(directory):
        _check_length(directory)
        directory = directory.parent
    if not directory.is_dir():
        raise InputError(f"{path}: cannot be written ({directory} is no directory)")
    with tempfile.TemporaryDirectory(prefix=PREFIX, dir=directory) as folder:
        Path(folder, "block").write_bytes(bytes(4096))


def _check_length(path: Path) -> None:
    # Where the parent is missing, the system does not get as far as to say it.
    if len(os.fsencode(path.name)) > 255:
        raise OSError(errno.ENAMETOOLONG, os.strerror(errno.ENAMETOOLONG))


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
