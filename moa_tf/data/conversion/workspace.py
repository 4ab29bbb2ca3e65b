"""A directory that is filled piece by piece, over several calls if one is killed, and then appears whole."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from moa_tf.atomic import PREFIX, replacing, sync_tree, to_plain, writing
from moa_tf.errors import InputError
from moa_tf.lock import locked

PLAN = "conversion.json"
"""What is being converted, and how; stays in the finished directory."""
_LOCK = "lock"


def check_new(out: Path) -> None:
    """Raises InputError where `out` is there and not an empty directory."""
    if os.path.lexists(out) and (not out.is_dir() or any(out.iterdir())):
        raise InputError(f"{out}: exists, expected a new or empty directory")


@contextmanager
def workspace(out: Path, plan: dict[str, Any], tell: Callable[[str], None]) -> Iterator[Path]:
    """A hidden directory beside `out`, which takes the name `out` when the block ends without an error.

    A call that is killed leaves it behind, and the next one with the same plan gets it as it is; with another plan it
    is emptied first. Bad input leaves nothing, a full disk what is done.

    Raises:
        InputError: `out` exists and is not empty, cannot be written, or another process is writing it.
    """
    check_new(out)
    directory = out.parent / f"{PREFIX}{out.name}-converting"
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{out}: cannot be written ({error.strerror})") from None
    with locked(directory / _LOCK, out, "written", tell):
        try:
            with writing(out):
                _prepare(directory, plan, tell)
                yield directory
                sync_tree(directory)
                (directory / _LOCK).unlink()
                check_new(out)
                directory.rename(out)
        except InputError as error:
            if error.__cause__ is None:  # else the disk's fault, and what is done can be gone on with
                shutil.rmtree(directory, ignore_errors=True)
            raise


def _prepare(directory: Path, plan: dict[str, Any], tell: Callable[[str], None]) -> None:
    plan = json.loads(json.dumps(to_plain(plan)))
    there = None
    with suppress(OSError, ValueError):
        there = json.loads((directory / PLAN).read_text("utf-8"))
    if there == plan:
        tell("going on with an unfinished conversion of the same tables")
    for path in list(directory.iterdir()):
        if path.name != _LOCK and (there != plan or path.name.startswith(PREFIX)):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    if there != plan:
        if there is not None:
            tell("an unfinished conversion of other tables, or by other options, is removed")
        with replacing(directory / PLAN) as temporary:
            temporary.write_text(json.dumps(plan, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
