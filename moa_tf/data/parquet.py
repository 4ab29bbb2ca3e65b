"""Parquet files as a stream of batches of bounded size, and their columns as text."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from decimal import Decimal
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

TALL = 50_000
"""A row group with more rows is copied to temporary files, as large as its columns in memory are."""

BLOCK = 64
"""Columns of such a row group that are decoded at once."""

_STRINGS = ("string", "large_string", "binary", "large_binary")
_TEXT = (*_STRINGS, "string_view", "binary_view", "null")
_EXACT = {16: 2**11, 32: 2**24, 64: 2**53}
"""Bits of a float -> up to where it holds every whole number."""


def is_plain(kind: pa.DataType) -> bool:
    """Whether pandas has numbers or truth values of such a column by itself."""
    return pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind)


def is_text(kind: pa.DataType) -> bool:
    """Whether `to_text` reads such a column: text, bytes, numbers, and dictionaries of these."""
    if pa.types.is_dictionary(kind):
        return is_text(kind.value_type)
    number = pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind)
    return number or pa.types.is_fixed_size_binary(kind) or str(kind) in _TEXT


def to_text(array: pa.Array) -> np.ndarray:
    """[n] str objects, '' where there is none: bytes as UTF-8, whole numbers without a point."""
    kind = array.type.value_type if pa.types.is_dictionary(array.type) else array.type
    exact = _EXACT[kind.bit_width] if pa.types.is_floating(kind) else None

    def show(value: object) -> str:
        match value:
            case None:
                return ""
            case str():
                return value
            case bytes():
                return value.decode("utf-8", "replace")
            case float() if value != value:
                return ""
            case float() if value.is_integer() and exact is not None and abs(value) <= exact:
                return str(int(value))
            case Decimal() if value == value.to_integral_value():
                return str(int(value))
        return str(value)

    if pa.types.is_dictionary(array.type):
        array = array.dictionary_decode()
    if str(kind) in _STRINGS:
        array = array.cast(pa.large_binary())
        try:  # Casting checks that it is UTF-8, which a file's text need not be.
            return array.cast(pa.large_string()).fill_null("").to_numpy(zero_copy_only=False)
        except pa.ArrowInvalid:
            pass
    return np.array([show(value) for value in array.to_pylist()], object)


def read_batches(path: Path, columns: list[str], rows: int) -> Iterator[pa.RecordBatch]:
    """Streams columns of a file, at most `rows` rows at a time, in bounded memory."""
    with pq.ParquetFile(path, buffer_size=1 << 14, pre_buffer=False) as file:
        for group in range(file.num_row_groups):
            size = file.metadata.row_group(group).num_rows
            # A column being read holds a page and its dictionary: 2 MB in a tall group, 2 GB for the table.
            tall = size > TALL and len(columns) > BLOCK
            read = _tall_batches if tall else _plain_batches
            yield from read(file, group, columns, rows)


def _plain_batches(
    file: pq.ParquetFile, group: int, columns: list[str], rows: int
) -> Iterator[pa.RecordBatch]:
    yield from file.iter_batches(batch_size=rows, row_groups=[group], columns=columns)


def _tall_batches(
    file: pq.ParquetFile, group: int, columns: list[str], rows: int
) -> Iterator[pa.RecordBatch]:
    """Goes by way of temporary files with a few columns each, which are then read side by side."""
    with tempfile.TemporaryDirectory(prefix="moa-tf-") as directory, ExitStack() as stack:
        readers = []
        for start in range(0, len(columns), BLOCK):
            block = columns[start : start + BLOCK]
            copy = str(Path(directory, f"{start}.arrow"))
            with pa.OSFile(copy, "wb") as sink, ExitStack() as writing:
                writer = None
                for batch in _plain_batches(file, group, block, rows):
                    writer = writer or writing.enter_context(pa.ipc.new_stream(sink, batch.schema))
                    writer.write_batch(batch)
            readers.append(pa.ipc.open_stream(stack.enter_context(pa.OSFile(copy))))
        for parts in zip(*readers, strict=True):
            arrays = [array for part in parts for array in part.columns]
            batch = pa.RecordBatch.from_arrays(arrays, names=columns)
            batch.validate()
            yield batch
