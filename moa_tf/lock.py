"""One process at a time: a lock that a process cannot leave behind, however it dies."""

from __future__ import annotations

import fcntl
import os
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from moa_tf.errors import InputError


@contextmanager
def locked(file: Path, what: Path, doing: str, tell: Callable[[str], None]) -> Iterator[None]:
    """Holds `file`, which is made if need be, by the operating system's lock (flock), for the block.

    Args:
        file: says who holds it; stays behind, and holds nothing then.
        what: what is locked by it, to be named in messages.
        doing: what is done to that, a participle for the message to another process.
        tell: called with a line where the disk knows no locks; the block runs all the same.

    Raises:
        InputError: another process holds it, or the file cannot be written.
    """
    try:
        handle = os.open(file, os.O_RDWR | os.O_CREAT, 0o666)
    except OSError as error:
        raise InputError(f"{what}: cannot be written ({error.strerror})") from None
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.read(handle, 200).decode(errors="replace").strip() or "another process"
            raise InputError(f"{what}: is being {doing} by {holder}; wait for it or stop it") from None
        except OSError as error:
            tell(f"{what}: cannot be locked ({error.strerror}); expected no other process to work on it")
        os.truncate(handle, 0)
        os.write(handle, f"process {os.getpid()} on {socket.gethostname()}\n".encode())
        yield
    finally:
        os.close(handle)
