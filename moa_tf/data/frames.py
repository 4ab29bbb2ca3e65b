"""A DataFrame as a table of signatures, checked as a file would be."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pandas as pd
import pyarrow as pa

from moa_tf.data.faults import EXAMPLES, Faults
from moa_tf.data.names import shorten
from moa_tf.data.scan import load_features, scan_features
from moa_tf.data.schema import Signatures, SignatureSpec
from moa_tf.data.tables import ROWS, Table
from moa_tf.errors import InputError

NAME = "DataFrame"
"""What messages call it."""


class FrameTable(Table):
    """A DataFrame with a column `sig_id`, or else with the ids in its index; columns are known by their names as text.

    Attributes:
        data: the same as an Arrow table.

    Raises:
        InputError: a name that two columns have.
    """

    def __init__(self, frame: pd.DataFrame) -> None:
        names = [str(name) for name in frame.columns]
        arrays = [_to_arrow(frame.iloc[:, place]) for place in range(frame.shape[1])]
        if "sig_id" not in names:
            names, arrays = ["sig_id", *names], [_to_arrow(frame.index.to_series()), *arrays]
        self.data = pa.Table.from_arrays(arrays, names=names)
        super().__init__(Path(NAME), self.data.schema, NAME)
        if self.repeated:
            shown = shorten(self.repeated, EXAMPLES)
            raise InputError(
                f"{NAME}: {len(self.repeated)} column names occur more than once ({shown}), expected each once"
            )

    def _batches(self, columns: list[str], rows: int) -> Iterator[pa.RecordBatch]:
        # A generator, to be closed as the one that reads a file.
        yield from self.data.select(columns).combine_chunks().to_batches(max_chunksize=rows)


def iter_frame(
    frame: pd.DataFrame,
    spec: SignatureSpec | None = None,
    rows: int = ROWS,
    tell: Callable[[str], None] = lambda line: None,
    missing: bool = False,
) -> Iterator[Signatures]:
    """As `moa_tf.data.read.iter_features`, of a DataFrame.

    Args:
        frame: columns are found by name; the ids are its column `sig_id`, or its index.
        spec: as there.
        rows: as there.
        tell: as there.
        missing: as there.

    Raises:
        InputError: one line for each fault of the frame.
    """
    faults = Faults()
    table = FrameTable(frame)
    for chunk in scan_features(table, spec, faults, tell, rows, missing):
        if not faults:
            yield chunk
    faults.raise_if_any()


def read_frame(
    frame: pd.DataFrame,
    spec: SignatureSpec | None = None,
    tell: Callable[[str], None] = lambda line: None,
    missing: bool = False,
) -> Signatures:
    """As `moa_tf.data.read.read_features`, of a DataFrame; see `iter_frame` for the arguments.

    Raises:
        InputError: one line for each fault of the frame.
    """
    faults = Faults()
    signatures = load_features(FrameTable(frame), spec, faults, tell, missing)
    faults.raise_if_any()
    assert signatures is not None
    return signatures


def _to_arrow(values: pd.Series) -> pa.Array:
    try:
        array = pa.array(values, from_pandas=True)
    except pa.ArrowException:  # objects of several types
        array = pa.array(values.map(str, na_action="ignore"), from_pandas=True)
    return array.combine_chunks() if isinstance(array, pa.ChunkedArray) else array
