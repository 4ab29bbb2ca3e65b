"""GCTX: HDF5 with the matrix [samples, genes] at /0/DATA/0/matrix and a data set a field in /0/META/ROW and COL.

Source: Enache et al. 2019, The GCTx format and cmap{Py, R, M, J} packages, Bioinformatics 35:1427.
"""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

import h5py
import numpy as np
import pandas as pd

from moa_tf.data.conversion.fields import Renaming, check_ids, tidy
from moa_tf.data.conversion.source import MISSING, Progress, Scratch, Source
from moa_tf.errors import InputError

MATRIX = "0/DATA/0/matrix"
_LARGEST = 1 << 28
"""Bytes of the chunks that hold one signature, above which the matrix is not read by signatures."""


def open_gctx(path: Path, scratch: Path, renaming: Renaming, progress: Progress, stack: ExitStack) -> Source:
    """Reads ids and fields; the matrix is read later, by blocks of signatures.

    Args:
        path: the file.
        scratch: where a file may be put if the matrix is stored in chunks of few genes and very many signatures.
        renaming: which fields to read, and what they are called here.
        progress: told of that.
        stack: closes the files.

    Raises:
        InputError: it is no HDF5 file that can be read, no GCTX, or its parts do not fit together.
    """
    try:
        file = stack.enter_context(h5py.File(path, "r"))
        _check_version(path, file)
        matrix = file.get(MATRIX)
        if not isinstance(matrix, h5py.Dataset):
            raise InputError(f"{path}: HDF5 without a matrix at /{MATRIX}, expected a GCTX file")
        sig_id, fields = _read_fields(path, file, "COL", "signatures", renaming)
        feature_id, features = _read_fields(path, file, "ROW", "genes", renaming)
        _check_matrix(path, matrix, len(sig_id), len(feature_id))
    except (OSError, RuntimeError, KeyError, ValueError) as error:
        raise _unreadable(path, error) from None
    chunk = matrix.chunks or (1, 1)

    def read(start: int, stop: int, matrix: h5py.Dataset = matrix) -> np.ndarray:
        return _read(path, matrix, slice(start, stop), slice(None))

    if chunk[0] * matrix.shape[1] * matrix.dtype.itemsize > _LARGEST and chunk[1] < matrix.shape[1]:
        copy = Scratch(scratch, by_feature=True, length=matrix.shape[0])
        stack.callback(copy.close)
        for first in range(0, matrix.shape[1], chunk[1]):
            copy.write(_read(path, matrix, slice(None), slice(first, first + chunk[1])).T)
            progress("reading genes", min(first + chunk[1], matrix.shape[1]), matrix.shape[1])
        read, chunk = copy.read, (1, 1)
    layout = "contiguous" if matrix.chunks is None else f"chunked, {matrix.compression or 'not compressed'}"
    kind = f"GCTX, {matrix.dtype}, {layout}"
    return Source(kind, sig_id, feature_id, fields, features, read, chunk[0])


def _check_version(path: Path, file: h5py.File) -> None:
    for value in np.ravel(file.attrs.get("version", "GCTX1.0")):
        text = value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)
        if not text.startswith("GCTX1"):
            raise InputError(f"{path}: version {text[:40]!r}, expected GCTX1.0")


def _read_fields(
    path: Path, file: h5py.File, side: str, what: str, renaming: Renaming
) -> tuple[np.ndarray, pd.DataFrame]:
    group = file.get(f"0/META/{side}")
    names = list(group) if isinstance(group, h5py.Group) else []
    if "id" not in names:
        raise InputError(f"{path}: no ids of {what} at /0/META/{side}/id, expected one for each")
    where = f"{path}: /0/META/{side}"
    ids = tidy(_read_field(where, group, "id"))
    check_ids(where, what, ids)
    columns = {
        name: _read_field(where, group, name) for name in names if name != "id" and renaming.wanted(name)
    }
    for name, values in columns.items():
        if values.shape != ids.shape:
            raise InputError(f"{where}/{name}: {values.size} values, expected {len(ids)}, as there are ids")
    return ids, renaming.apply({name: tidy(values) for name, values in columns.items()}, len(ids), where)


def _read_field(where: str, group: h5py.Group, name: str) -> np.ndarray:
    data = group[name]
    if not isinstance(data, h5py.Dataset) or data.ndim != 1 or data.dtype.kind not in "SOUiufb":
        raise InputError(f"{where}/{name}: is no list of text or numbers, expected one")
    return data[...]


def _check_matrix(path: Path, matrix: h5py.Dataset, signatures: int, genes: int) -> None:
    if matrix.dtype.kind not in "fiu":
        raise InputError(f"{path}: /{MATRIX} holds {matrix.dtype}, expected numbers")
    if matrix.shape != (signatures, genes):
        shape = " × ".join(map(str, matrix.shape))
        expected = f"{signatures} signatures × {genes} genes, as there are ids"
        raise InputError(f"{path}: /{MATRIX} is {shape}, expected {expected}")
    if not matrix.size:
        raise InputError(f"{path}: the matrix is empty, expected at least one signature and one gene")
    # What was never written reads as zeros.
    if matrix.chunks is None:
        there, expected = int(matrix.id.get_storage_size() > 0), 1
    else:
        there = matrix.id.get_num_chunks()
        expected = int(np.prod([-(-n // c) for n, c in zip(matrix.shape, matrix.chunks, strict=True)]))
    if there < expected:
        raise InputError(f"{path}: {expected - there} of {expected} parts of the matrix were never written")


def _read(path: Path, matrix: h5py.Dataset, signatures: slice, genes: slice) -> np.ndarray:
    try:
        values = matrix[signatures, genes]
    except (OSError, RuntimeError) as error:
        raise _unreadable(path, error) from None
    if values.dtype not in (np.float32, np.float64):
        values = values.astype(np.float64)
    missing = values == MISSING
    if missing.any():
        values[missing] = np.nan
    return values


def _unreadable(path: Path, error: Exception) -> InputError:
    reason = str(error).strip("'\"").partition("\n")[0] or type(error).__name__
    return InputError(f"{path}: not a readable HDF5 file: {reason}; is it truncated?")
