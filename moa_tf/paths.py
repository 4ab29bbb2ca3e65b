"""Paths on this machine's disks, as users name them."""

from __future__ import annotations

import os
import re
from pathlib import Path

from moa_tf.errors import InputError

_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:/")
"""`gs://bucket`, and `gs:/bucket`, as which `Path` writes it. No drive of Windows."""


def local_path(name: str, value: str | os.PathLike) -> Path:
    """A path on this machine's disks; what would become a folder of an odd name is refused.

    Args:
        name: what the caller calls it.
        value: what the caller gave.

    Raises:
        InputError: an address (`gs://…`), a `~` that the shell has left, a blank name, bytes that are no text.
    """
    text = os.fspath(value)
    fault = _fault(text)
    if fault:
        raise InputError(f"{name} {text!r}: {fault}".strip())
    return Path(text)


def _fault(path: str) -> str | None:
    if not path.strip():
        return "is blank, expected a path"
    if _ADDRESS.match(path.strip()):
        return "only local paths work here (a folder of that name is ./…)"
    if "\0" in path:
        return "holds a zero byte, expected a path"
    try:
        path.encode()
    except UnicodeEncodeError:
        return "is no text in UTF-8, expected a path that is"
    if path.startswith("~") and os.path.expanduser(path) != path:
        return f"~ was left by the shell, expected {os.path.expanduser(path)} (or ./~… for that name)"
    return None
