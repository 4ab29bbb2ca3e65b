"""When two names are one: blanks around them, missing ones, and those that only look like what is expected."""

from __future__ import annotations

import difflib
import re
import unicodedata
from collections.abc import Collection, Iterable, Sequence

import numpy as np

_BLANKS = (
    "\t\n\v\f\r\x1c\x1d\x1e\x1f \x85\xa0\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a"
    "\u2028\u2029\u202f\u205f\u3000"  # What str.isspace knows.
    "\0\u180e\u200b\u200c\u200d\u200e\u200f\u2060\ufeff"  # What takes no room.
)
_BLANK = re.compile(f"[{_BLANKS}]+")
_MISSING = {
    *("", "na", "n/a", "#n/a", "<na>", "nan", "-nan", "nat", "null", "none", "-666", "-666.0")  # LINCS: -666
}
_WHOLE = re.compile(r"(-?\d+)\.0+")
_PUNCTUATION = re.compile(r"[\W_]+")
_NUMBERED = re.compile(r"[gc]\d+")


def clean(name: str) -> str:
    """Without the blanks around it, composed (NFC), so that what looks the same is the same."""
    name = name.strip(_BLANKS)
    return name if name.isascii() else unicodedata.normalize("NFC", name)


def is_missing(name: object) -> bool:
    """Whether this is how a missing value is written."""
    return clean(str(name)).lower() in _MISSING


def spelling_key(name: str) -> str:
    """The same for names that differ in case, in blanks, or as `12` and `12.0` do."""
    key = _BLANK.sub("", unicodedata.normalize("NFKC", name).casefold())
    whole = _WHOLE.fullmatch(key)
    return whole[1] if whole else key


def find_spellings(names: np.ndarray) -> list[dict[str, int]]:
    """The names that are spelled in several ways: for each of them its spellings, with their numbers of rows."""
    spellings: dict[str, dict[str, int]] = {}
    for name, rows in zip(*np.unique(names.astype(str), return_counts=True), strict=True):
        spellings.setdefault(spelling_key(str(name)), {})[str(name)] = int(rows)
    return [group for group in spellings.values() if len(group) > 1]


def find_near_misses(columns: Sequence[str], known: Collection[str], panel: bool = False) -> dict[str, str]:
    """Columns that are probably meant to be others: `CP_TYPE`, `cp-type` or `cp_types` for `cp_type`.

    Args:
        columns: the names that a table has.
        known: the names that it should or may have.
        panel: whether any `g-*` and `c-*` are known too; then `g_12` is meant to be `g-12`.

    Returns:
        Column -> the known name that it looks like.
    """
    squashed = {_squash(name): name for name in known}
    absent = {
        key: name for key, name in squashed.items() if name not in columns and not _NUMBERED.fullmatch(key)
    }
    misses = {}
    for column in columns:
        if column in known or (panel and column.startswith(("g-", "c-"))):
            continue
        key = _squash(column)
        if key in squashed:
            misses[column] = squashed[key]
        elif panel and (_NUMBERED.fullmatch(key) or column.startswith(("G-", "C-"))):
            misses[column] = f"{key[0]}-{key[1:] if _NUMBERED.fullmatch(key) else column[2:]}"
        elif close := difflib.get_close_matches(key, absent, n=1, cutoff=0.9):
            misses[column] = absent[close[0]]
    return misses


def same_stem(name: str, stem: str) -> bool:
    """Whether the name of a file, up to its first dot, is `stem` but for case and punctuation."""
    return _squash(name.partition(".")[0]) == _squash(stem)


def shorten(names: Iterable[str], most: int) -> str:
    """`a, b, …`: the first ones."""
    names = list(names)
    return ", ".join(names[:most]) + (", …" if len(names) > most else "")


def _squash(name: str) -> str:
    return _PUNCTUATION.sub("", unicodedata.normalize("NFKC", name).casefold())
