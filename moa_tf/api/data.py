"""Reading of training tables, as a function."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Literal

from moa_tf.config import require
from moa_tf.paths import local_path

if TYPE_CHECKING:
    from moa_tf.data.schema import Dataset


def read_dataset(data: str | os.PathLike[str], *, missing: Literal["refuse", "median"] = "refuse") -> Dataset:
    """Reads the training tables of a directory, as every command does; see `moa_tf.data.read.read_dataset`.

    Args:
        data: the directory.
        missing: `median`: genes and cell lines may be missing.

    Returns:
        The dataset; `notes["warnings"]` is what a command would say of it, and `train` says.

    Raises:
        InputError: one line for each fault of the files. A ValueError.
    """
    from moa_tf.data.read import read_dataset as read

    require(missing in ("refuse", "median"), "missing", missing, "refuse or median")
    return read(local_path("data", data), missing == "median")
