"""Predict requests in JSON as plain as most are, read without a Python object for each number.

A request of 64 signatures of 772 genes is half a megabyte of JSON. Read into Python's floats and then into an array it
takes 6 ms, three times as long as simdjson needs to fill the array itself.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import simdjson

if TYPE_CHECKING:
    from moa_tf.serving.server.tensors import Arrays, Input, Inputs

NAME = "signature_name"


class _NotPlain(Exception):
    """Something that the general way has to look at."""


def read_plain(
    body: bytes, default: str, inputs_of: Callable[[str], Inputs]
) -> tuple[str, Arrays, bool] | None:
    """The signature's name, its arrays, and whether the request has them by rows.

    Args:
        body: JSON.
        default: name of the signature where none is given.
        inputs_of: from that name to what is taken; what it raises is passed on.

    Returns:
        None where anything is not as it is mostly: so `tensors.predict_inputs` alone knows what else is taken, and what
        is refused with which words.
    """
    try:
        # Of bytes before the object only blanks are JSON, and simdjson would let a byte order mark pass.
        if body[:1] != b"{":
            return None
        asked = simdjson.Parser().parse(body)
        keys = set(asked.keys())
        (kind,) = keys - {NAME}
        name = asked[NAME] if NAME in keys else default
        if len(asked) != len(keys) or not isinstance(name, str):
            return None
    except (ValueError, RuntimeError, AttributeError):  # no JSON, no numbers of 64 bits, or no object
        return None
    inputs = inputs_of(name or default)
    if any(len(expected.shape) > (not expected.is_text) for expected in inputs.values()):
        return None
    # Lists that are nested otherwise than the signature has it would be read as if they were flat.
    lists = body.count(b"[")
    try:
        with np.errstate(over="ignore"):  # what is infinite then the model refuses
            if kind == "instances":
                return name or default, _of_rows(asked[kind], inputs, lists), True
            if kind == "inputs":
                return name or default, _of_columns(asked[kind], inputs, lists), False
    except (_NotPlain, TypeError, ValueError, KeyError, AttributeError):
        pass
    return None


def _of_rows(rows: Any, inputs: Inputs, lists: int) -> Arrays:
    """Of `[{input: value}, …]`."""
    size, wide = len(rows), [name for name, expected in inputs.items() if expected.shape]
    _check(isinstance(rows, simdjson.Array) and size and lists == 1 + size * len(wide))
    columns: Arrays = {
        name: np.empty((size, *expected.shape), object if expected.is_text else np.float32)
        for name, expected in inputs.items()
    }
    for i, row in enumerate(rows):
        _check(len(row) == len(inputs))
        for name, expected in inputs.items():
            value = row[name]
            if expected.shape:
                value = _numbers(value, expected.shape[0])
            columns[name][i] = value if expected.shape else _single(value, expected)
    return columns


def _of_columns(asked: Any, inputs: Inputs, lists: int) -> Arrays:
    """Of `{input: [value, …]}`."""
    _check(isinstance(asked, simdjson.Object) and len(asked) == len(inputs))
    columns: Arrays = {}
    nested = 0
    for name, expected in inputs.items():
        values = asked[name]
        _check(isinstance(values, simdjson.Array) and len(values))
        if expected.shape:
            nested += len(values)
            columns[name] = np.stack([_numbers(value, expected.shape[0]) for value in values])
        elif expected.is_text:
            columns[name] = np.array([_single(value, expected) for value in values], object)
        else:
            columns[name] = _numbers(values, len(values))
    _check(lists == len(inputs) + nested)
    return columns


def _numbers(values: Any, size: int) -> np.ndarray:
    """[size], float32."""
    array = np.frombuffer(values.as_buffer(of_type="d"), np.float64)
    _check(len(array) == size)
    return array.astype(np.float32)


def _single(value: Any, expected: Input) -> Any:
    if expected.is_text:
        _check(type(value) is str)
        return value.encode()
    _check(type(value) in (int, float))
    return value


def _check(plain: Any) -> None:
    if not plain:
        raise _NotPlain
