"""An exported model, to be called with DataFrames."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import numpy as np

from moa_tf.config import require
from moa_tf.errors import InputError
from moa_tf.paths import local_path
from moa_tf.startup import start
from moa_tf.training.reporter import log

if TYPE_CHECKING:
    from pathlib import Path

    import pandas as pd

    from moa_tf.data.schema import SignatureSpec
    from moa_tf.serving.predict import ServedModel


class LoadedModel:
    """An exported model in memory.

    Args:
        served: what `moa_tf.serving.predict.load_model` gave.

    Attributes:
        served: the same.
    """

    def __init__(self, served: ServedModel) -> None:
        self.served = served

    @property
    def path(self) -> Path:
        """The version's directory."""
        return self.served.path

    @property
    def targets(self) -> tuple[str, ...]:
        """Names of the mechanisms, in the order of the columns of `predict`."""
        return self.served.target_names

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the columns that a table of signatures must have; further ones are not used."""
        return self.served.spec.columns

    @property
    def spec(self) -> SignatureSpec:
        """The panel."""
        return self.served.spec

    def predict(self, signatures: pd.DataFrame, batch_size: int | None = None) -> pd.DataFrame:
        """The probability of every mechanism of action, as `moa-tf predict` writes it.

        Args:
            signatures: a row a signature, with the model's `columns`, found by name. The ids are its column `sig_id`,
                or else its index; either must be unique.
            batch_size: signatures computed at once; by default the model's own.

        Returns:
            A float32 column for each target, with the index of `signatures`, and its column `sig_id` in front where
            it has one. Controls get 0.

        Raises:
            InputError: one line for each fault of the table. A ValueError.
        """
        import pandas as pd

        from moa_tf.data.frames import iter_frame

        if not isinstance(signatures, pd.DataFrame):
            raise InputError(f"signatures: {type(signatures).__name__}, expected a DataFrame")
        require(batch_size is None or batch_size >= 1, "batch_size", batch_size, "at least 1")
        parts = [
            self.served.predict(part, batch_size) for part in iter_frame(signatures, self.spec, tell=log)
        ]
        values = np.concatenate(parts)
        predicted = pd.DataFrame(values, index=signatures.index, columns=list(self.targets))
        if "sig_id" in signatures.columns:
            predicted.insert(0, "sig_id", signatures["sig_id"])
        return predicted


def load_model(path: str | os.PathLike[str]) -> LoadedModel:
    """Loads an exported model, the latest version if `path` is the directory of several.

    Raises:
        InputError: no SavedModel, or one that this project did not export. A ValueError.
    """
    from moa_tf.serving.predict import load_model as load
    from moa_tf.serving.versions import load_metadata

    directory = local_path("path", path)
    load_metadata(directory)  # before TensorFlow takes its seconds
    start_tensorflow()
    return LoadedModel(load(directory))


def start_tensorflow() -> None:
    """TensorFlow, whatever Keras runs on where it runs already: a SavedModel needs no Keras."""
    import sys

    if "keras" not in sys.modules:
        start()
