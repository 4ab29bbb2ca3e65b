"""The one exception that means: the caller's input is at fault, not the program."""

from __future__ import annotations

from numbers import Integral
from typing import Any


class InputError(ValueError):
    """Bad input or a wrong call.

    The message is shown to the user as it is, on one line a fault, and the command exits with status 2.
    So it names the file, the column, the first offending rows and their count, and what was expected.
    """

    # Keras would else put the layer's arguments, several lines of them, around what a layer's call() raises.
    _keras_call_info_injected = True


def whole_number(name: str, value: Any, least: int = 1, optional: bool = False) -> Any:
    """A size or a seed as a plain int, from any whole number such as NumPy's, so that a config is JSON.

    Args:
        name: what the caller calls it.
        value: what the caller gave.
        least: the smallest that will do.
        optional: None will do too.

    Raises:
        InputError: it is no whole number, or below `least`.
    """
    if optional and value is None:
        return None
    whole = isinstance(value, Integral) and not isinstance(value, bool)
    if not whole or value < least:
        kind, either = "" if whole else "a whole number, ", ", or None" if optional else ""
        raise InputError(f"{name}={value}: expected {kind}at least {least}{either}")
    return int(value)
