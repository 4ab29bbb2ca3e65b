"""Writes the tables of the competition's layout as Parquet, block by block."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from moa_tf.atomic import PREFIX, replacing
from moa_tf.data.conversion.source import Progress, Source
from moa_tf.errors import InputError

BLOCK = 1 << 25
"""Bytes of float32 a block; it takes some six times as much while it is converted."""
_MISSING = b"missing values"


@dataclass(frozen=True)
class Layout:
    """What goes where.

    Attributes:
        source: N signatures.
        columns: name -> [N] values that stand before the features, `sig_id` first.
        features: [K] indices of the features to write.
        names: [K] their names.
        tables: stem of a table -> [N] whether a signature belongs to it.
    """

    source: Source
    columns: Mapping[str, np.ndarray]
    features: np.ndarray
    names: Sequence[str]
    tables: Mapping[str, np.ndarray]


def write_features(directory: Path, layout: Layout, progress: Progress) -> int:
    """Writes the feature tables, one file a block in `STEM.parquet/`, or one file `STEM.parquet` if there is one block.

    Blocks that are there already are not made again: each appears whole.

    Returns:
        The number of missing values.

    Raises:
        InputError: a value is infinite, or the disk is full.
    """
    source, missing = layout.source, 0
    signatures = len(source.sig_id)
    rows = max(BLOCK // (4 * max(len(source.feature_id), 1)), 1)
    rows = -(-rows // source.stride) * source.stride
    starts = range(0, signatures, rows)
    tables = {
        stem: [start for start in starts if member[start : start + rows].any()]
        for stem, member in layout.tables.items()
    }
    for start in starts:
        stop = min(start + rows, signatures)
        values = None
        for stem, blocks in tables.items():
            if start not in blocks:
                continue
            single = len(blocks) == 1
            path = directory / f"{stem}.parquet"
            if not single:
                path.mkdir(exist_ok=True)
                path /= f"part-{start // rows:05d}.parquet"
            if not path.exists():
                if values is None:
                    values = _read(layout, start, stop)
                inside = layout.tables[stem][start:stop]
                _write_block(path, layout, np.flatnonzero(inside) + start, values[inside])
            missing += int(pq.read_schema(path).metadata[_MISSING])
        progress("converting signatures", stop, signatures)
    for folder in directory.glob("*.parquet/"):
        for left in folder.glob(f"{PREFIX}*"):
            left.unlink()
    return missing


def write_rows(path: Path, columns: Mapping[str, np.ndarray]) -> None:
    """Writes a small table."""
    with replacing(path) as temporary:
        pq.write_table(
            pa.table({name: _text_or_number(values) for name, values in columns.items()}), temporary
        )


def write_labels(
    path: Path, sig_id: np.ndarray, names: Sequence[str], matrix: np.ndarray, row: np.ndarray
) -> None:
    """Writes labels: `sig_id`, then 0 or 1 for each of `names`, in memory that does not grow with the signatures.

    Args:
        path: the file.
        sig_id: [N] ids.
        names: T mechanisms.
        matrix: [D, T] int8, labels of drugs.
        row: [N] the drug's row, −1 for none.
    """
    schema = pa.schema([("sig_id", pa.string()), *((name, pa.int8()) for name in names)])
    rows = max(BLOCK // max(len(names), 1), 1)
    with replacing(path) as temporary, pq.ParquetWriter(temporary, schema) as writer:
        for start in range(0, len(row), rows):
            of = row[start : start + rows]
            block = np.where(of[:, None] >= 0, matrix[of], 0).astype(np.int8)
            arrays = [pa.array(sig_id[start : start + rows]), *map(pa.array, np.ascontiguousarray(block.T))]
            writer.write_table(pa.Table.from_arrays(arrays, schema=schema))


def _read(layout: Layout, start: int, stop: int) -> np.ndarray:
    """[n, K] float32, with NaN for missing values."""
    source = layout.source
    values = source.read(start, stop)
    if len(layout.features) < values.shape[1] or (np.diff(layout.features) != 1).any():
        values = values[:, layout.features]
    with np.errstate(over="ignore"):
        values = values.astype(np.float32, copy=False)
    if np.isinf(values).any():
        i, j = np.argwhere(np.isinf(values))[0]
        where = f"signature {source.sig_id[start + i]}, {layout.names[j]}"
        count = int(np.isinf(values).sum())
        raise InputError(
            f"{count} values are infinite, or too large for float32 ({where}; …), expected finite ones"
        )
    return values


def _write_block(path: Path, layout: Layout, rows: np.ndarray, values: np.ndarray) -> None:
    missing = int(np.isnan(values).sum())
    features = np.ascontiguousarray(values.T)
    columns = [_text_or_number(column[rows]) for column in layout.columns.values()]
    if missing:
        columns += [pa.array(column, from_pandas=True) for column in features]
    else:
        columns += map(pa.array, features)
    table = pa.Table.from_arrays(columns, names=[*layout.columns, *layout.names])
    with replacing(path) as temporary:
        # Numbers that hardly repeat: a dictionary of them would only take time.
        pq.write_table(
            table.replace_schema_metadata({_MISSING: str(missing)}),
            temporary,
            use_dictionary=list(layout.columns),
        )


def _text_or_number(values: np.ndarray) -> pa.Array:
    if values.dtype == object:
        return pa.array(values, pa.string())
    return pa.array(values, from_pandas=True)
