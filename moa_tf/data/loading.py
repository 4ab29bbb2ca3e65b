"""The data of a training, and what is to be said of it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from moa_tf.errors import InputError

if TYPE_CHECKING:
    from moa_tf.data.schema import Dataset

SAMPLE = 3000
"""Signatures of the simulated sample that stands in where no data is given."""


def load(
    data: Dataset | Path | None,
    seed: int,
    missing: bool,
    tell: Callable[[str], None],
    storage: str = "memory",
    scratch: Path = Path(),
) -> Dataset:
    """The tables in `data`, or where it is None a simulated sample; `tell` gets every line that the user should know.

    `storage` and `scratch` are as for `choose_storage`; a dataset stays where it is.

    Raises:
        InputError: one line for each fault of the files; or a dataset that was read without missing values.
    """
    if not isinstance(data, Path) and storage.startswith("disk"):
        tell(f"--storage {storage}: ignored, as what was not read from files is in memory already")
    if data is None:
        from moa_tf.data.simulate import simulate

        tell(
            f"No --data: training on {SAMPLE} simulated signatures. Their figures say nothing of real drugs."
        )
        return simulate(SAMPLE, seed)
    if isinstance(data, Path):
        from moa_tf.data.read import read_dataset
        from moa_tf.data.size import choose_storage

        dataset = read_dataset(data, missing, choose_storage(storage, data, scratch, tell))
    else:
        dataset = data
        if missing and not dataset.signatures.spec.missing:
            raise InputError(
                f"missing=median: {dataset.source} was read without, expected read_dataset(…, missing='median')"
            )
    for warning in dataset.notes.get("warnings", ()):
        tell(warning)
    if dataset.simulated:
        tell(f"{dataset.source}: simulated data. Its figures say nothing of real drugs.")
    if dataset.drug_id is None:
        tell(f"{dataset.source}: no train_drug, so every row is taken for a drug of its own.")
    return dataset
