"""Tensors of requests and answers: from JSON and `TensorProto` to NumPy arrays, and back.

JSON is worded as TensorFlow Serving's REST API has it (`tensorflow_serving/util/json_tensor.cc`).
"""

from __future__ import annotations

import base64
import binascii
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import orjson

from moa_tf.serving.server.errors import invalid
from moa_tf.serving.server.plain_json import read_plain

if TYPE_CHECKING:
    from tensorflow.core.framework.tensor_pb2 import TensorProto

Arrays = dict[str, np.ndarray]


@dataclass(frozen=True)
class Input:
    """What a signature takes under a name.

    Attributes:
        shape: without the batch axis.
        dtype: `float32` or `string`.
    """

    shape: tuple[int, ...]
    dtype: str

    @property
    def is_text(self) -> bool:
        return self.dtype == "string"


Inputs = Mapping[str, Input]


def read_json(body: bytes) -> dict[str, Any]:
    """A JSON object; `NaN`, `Infinity` and `-Infinity`, which JSON has not, are numbers here.

    Raises:
        Refused: something else.
    """
    try:
        value = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        if not (b"NaN" in body or b"Infinity" in body):
            raise invalid(f"JSON Parse error: {error}") from None
        try:
            value = json.loads(body)
        except (ValueError, RecursionError):
            raise invalid(f"JSON Parse error: {error}") from None
    if not isinstance(value, dict):
        raise invalid("JSON Parse error: expected an object")
    return value


def read_predict(
    body: bytes, default: str, inputs_of: Callable[[str], Inputs]
) -> tuple[str, Arrays, int, bool]:
    """A Predict request: the signature's name, its arrays, their number of rows, and whether they came by rows.

    Args:
        body: JSON.
        default: name of the signature where none is given.
        inputs_of: from that name to what is taken.

    Raises:
        Refused: as `read_json`, `predict_inputs` and `inputs_of` do.
    """
    if (plain := read_plain(body, default, inputs_of)) is not None:
        name, arrays, by_rows = plain
    else:
        asked = read_json(body)
        name = asked.get("signature_name") or default
        if not isinstance(name, str):
            raise invalid("'signature_name' key must be a string value")
        arrays, by_rows = predict_inputs(asked, inputs_of(name))
    return name, arrays, count_rows(arrays), by_rows


def predict_inputs(body: Mapping[str, Any], inputs: Inputs) -> tuple[Arrays, bool]:
    """Arrays, and whether the request has them by rows (`instances`), of a Predict request.

    Raises:
        Refused: both or none of `instances` and `inputs`, other names than the signature's, or values that do not fit.
    """
    if ("instances" in body) == ("inputs" in body):
        raise invalid(
            "Not formatted correctly expecting only one of 'inputs' or 'instances' keys to exist"
            if "inputs" in body
            else "Missing 'inputs' or 'instances' key"
        )
    by_rows = "instances" in body
    columns = (
        _columns_of_rows(body["instances"], inputs) if by_rows else _columns_by_name(body["inputs"], inputs)
    )
    arrays = {name: _array(name, values, inputs[name]) for name, values in columns.items()}
    return arrays, by_rows


def _columns_by_name(value: Any, inputs: Inputs) -> dict[str, Any]:
    if isinstance(value, dict) and not _is_bytes(value):
        for name in inputs:
            if name not in value:
                raise invalid(f"Missing named input: {name} in 'inputs' object.")
        strange = [name for name in value if name not in inputs]
        if strange:
            raise invalid(
                f"Unexpected input: {', '.join(map(repr, strange[:5]))}; expected {', '.join(inputs)}"
            )
        return {name: value[name] for name in inputs}
    if len(inputs) > 1:
        raise invalid(
            f"inputs is a plain value/list, but expecting an object with {', '.join(inputs)} as multiple input tensors"
        )
    return dict.fromkeys(inputs, value)


def _columns_of_rows(rows: Any, inputs: Inputs) -> dict[str, Any]:
    if not isinstance(rows, list):
        raise invalid("Expecting 'instances' to be an list/array")
    if not rows:
        return {name: [] for name in inputs}
    if isinstance(rows[0], dict) and not _is_bytes(rows[0]):
        names = set(inputs)
        for i, row in enumerate(rows):
            if not isinstance(row, dict) or row.keys() != names:
                raise invalid(
                    f"Failed to process element: {i} of 'instances' list. JSON object keys must be equal to: "
                    f"{','.join(sorted(names))}"
                )
        return {name: [row[name] for row in rows] for name in inputs}
    if len(inputs) > 1:
        raise invalid(f"instances is a plain list, but expecting a list of objects with {', '.join(inputs)}")
    return dict.fromkeys(inputs, rows)


def _array(name: str, values: Any, expected: Input) -> np.ndarray:
    """[B, *shape] of what JSON has of an input.

    Raises:
        Refused: of other values, or another shape.
    """
    if expected.is_text:
        array = _texts(name, values)
    else:
        try:
            array = np.asarray(values)
        except ValueError:
            raise invalid(f"{name}: expected lists of one length, of the shape {_shape(expected)}") from None
        if array.dtype.kind not in "iuf":
            raise invalid(f"{name}: expected numbers, of the shape {_shape(expected)}")
        with np.errstate(over="ignore"):  # then infinite, which the model refuses
            array = array.astype(np.float32, copy=False)
    if array.size == 0 and array.ndim and len(array) == 0:
        return array.reshape(0, *expected.shape)
    check_shape(name, array.shape, expected)
    return array


def _texts(name: str, values: Any) -> np.ndarray:
    """[B] bytes objects."""
    if not isinstance(values, list):
        raise invalid(f"{name}: expected a list of texts")
    return np.array([_bytes(name, value) for value in values], object)


def _bytes(name: str, value: Any) -> bytes:
    if isinstance(value, str):
        return value.encode("utf-8", "surrogatepass")
    if _is_bytes(value):
        try:
            return base64.b64decode(value["b64"], validate=True)
        except (binascii.Error, ValueError):
            raise invalid(f"{name}: Unable to base64 decode") from None
    raise invalid(f"{name}: expected texts, or bytes as an object with 'b64'")


def _is_bytes(value: Any) -> bool:
    return isinstance(value, dict) and list(value) == ["b64"] and isinstance(value["b64"], str)


def _shape(expected: Input) -> str:
    return f"[{', '.join(map(str, ('B', *expected.shape)))}]"


def check_shape(name: str, shape: Sequence[int], expected: Input) -> None:
    """Raises `Refused` if `shape` is not [B, *expected.shape]."""
    if len(shape) != 1 + len(expected.shape) or tuple(shape[1:]) != expected.shape:
        raise invalid(f"{name}: expected the shape {_shape(expected)}, got {list(shape)}")


def count_rows(arrays: Arrays) -> int:
    """How many rows all of them have.

    Raises:
        Refused: not all the same number.
    """
    (first, array), *others = arrays.items()
    for name, other in others:
        if len(other) != len(array):
            raise invalid(f"{name}: expected as many rows as {first} has, {len(array)}, got {len(other)}")
    return len(array)


def classify_inputs(body: Mapping[str, Any]) -> Arrays:
    """`inputs` [B] serialised `tf.Example` from the `examples`, with the `context` in each, of a Classify request."""
    examples = body.get("examples")
    if not isinstance(examples, list):
        raise invalid("When method is classify, key 'examples' is expected to be a list/array")
    if not examples:
        raise invalid("'examples' value is an empty array")
    context = body.get("context", {})
    for part in (context, *examples):
        if not isinstance(part, dict):
            raise invalid("Example must be JSON object")
    return {"inputs": np.array([_example({**context, **example}) for example in examples], object)}


def _example(features: Mapping[str, Any]) -> bytes:
    import tensorflow as tf

    example = tf.train.Example()
    for name, value in features.items():
        values = value if isinstance(value, list) else [value]
        feature = example.features.feature[name]
        # A number that happens to be whole is an int in JSON: with others, all are floats.
        numbers = [type(item) for item in values]
        try:
            if all(kind in (int, bool) for kind in numbers) and not isinstance(value, list):
                feature.int64_list.value.extend(values)
            elif all(kind in (int, float) for kind in numbers):
                feature.float_list.value.extend(values)
            else:
                feature.bytes_list.value.extend(_bytes(f"Feature: {name}", item) for item in values)
        except (ValueError, TypeError, OverflowError):
            raise invalid(f"Feature: {name} has an element out of range") from None
    return example.SerializeToString()


def predict_answer(outputs: Arrays, rows: int, of_rows: frozenset[str], by_rows: bool) -> bytes:
    """The JSON answer to a Predict request.

    Raises:
        Refused: by rows, where an output is not of the rows.
    """
    if not by_rows:
        values = {name: _plain(value) for name, value in outputs.items()}
        return _write({"outputs": values if len(values) > 1 else next(iter(values.values()))})
    for name in outputs:
        if name not in of_rows:
            raise invalid(
                f"Tensor name: {name} has inconsistent batch size, expecting: {rows}; ask by 'inputs' (columns)"
            )
    if len(outputs) == 1:
        return _write({"predictions": _plain(next(iter(outputs.values())))})
    # NumPy rows are written as they are; single values have to be Python's.
    columns = [
        list(value) if value.dtype != object and value.ndim > 1 else _plain_list(value)
        for value in outputs.values()
    ]
    return _write(
        {"predictions": [dict(zip(outputs, row, strict=True)) for row in zip(*columns, strict=True)]}
    )


def classify_answer(outputs: Arrays) -> bytes:
    """The JSON answer to a Classify request."""
    names = [[_text(name) for name in row] for row in outputs["classes"]]
    scores = outputs["scores"].tolist()
    return _write(
        {
            "results": [
                [list(pair) for pair in zip(*row, strict=True)] for row in zip(names, scores, strict=True)
            ]
        }
    )


def _write(value: Any) -> bytes:
    return orjson.dumps(value, option=orjson.OPT_SERIALIZE_NUMPY)


def _plain(value: np.ndarray) -> Any:
    return _plain_list(value) if value.dtype == object else np.ascontiguousarray(value)


def _plain_list(value: np.ndarray) -> Any:
    if value.dtype != object:
        return value.tolist()
    return _nested(value.tolist())


def _nested(value: Any) -> Any:
    return [_nested(item) for item in value] if isinstance(value, list) else _text(value)


def _text(value: bytes) -> Any:
    try:
        return value.decode()
    except UnicodeDecodeError:
        return {"b64": base64.b64encode(value).decode()}


def from_proto(name: str, proto: TensorProto, expected: Input, limit: int) -> np.ndarray:
    """[B, *shape] of a tensor; of numbers in `tensor_content` without a further copy.

    Raises:
        Refused: of another type or shape, more than `limit` rows, or with another number of values than its shape says.
    """
    from tensorflow.core.framework import types_pb2

    wanted = types_pb2.DT_STRING if expected.is_text else types_pb2.DT_FLOAT
    if proto.dtype != wanted:
        kinds = types_pb2.DataType.Name
        known = proto.dtype in types_pb2.DataType.values()
        raise invalid(f"{name}: expected {kinds(wanted)}, got {kinds(proto.dtype) if known else proto.dtype}")
    shape = [dim.size for dim in proto.tensor_shape.dim]
    if proto.tensor_shape.unknown_rank or any(size < 0 for size in shape):
        raise invalid(f"{name}: expected a tensor of a known shape")
    check_shape(name, shape, expected)
    check_limit(shape[0], limit)
    size = math.prod(shape)
    if expected.is_text:
        values: Any = np.array(list(proto.string_val), object)
    elif proto.tensor_content:
        content = proto.tensor_content
        if len(content) != 4 * size:
            raise invalid(f"{name}: expected {4 * size} bytes of content, got {len(content)}")
        return np.frombuffer(content, "<f4").reshape(shape)
    else:
        values = np.array(proto.float_val, np.float32)
    if len(values) == 1 and size > 1:
        values = np.repeat(values, size)  # a constant tensor is sent so
    if len(values) != size:
        raise invalid(f"{name}: expected {size} values for the shape {shape}, got {len(values)}")
    return values.reshape(shape)


def check_limit(rows: int, limit: int) -> None:
    """Raises `Refused` if there are more rows than a request may have."""
    if rows > limit:
        error = invalid(f"{rows} rows in one request, expected at most {limit}")
        error.status = 413
        raise error


def to_proto(value: np.ndarray, proto: TensorProto) -> None:
    """Fills `proto`: numbers as `tensor_content`, texts as `string_val`."""
    from tensorflow.core.framework import types_pb2

    for size in value.shape:
        proto.tensor_shape.dim.add().size = size
    if value.dtype == object:
        proto.dtype = types_pb2.DT_STRING
        proto.string_val.extend(value.ravel().tolist())
        return
    proto.dtype = {"f4": types_pb2.DT_FLOAT, "i4": types_pb2.DT_INT32, "i8": types_pb2.DT_INT64}[
        value.dtype.str[1:]
    ]
    proto.tensor_content = np.ascontiguousarray(value).tobytes()
