"""The networks that a run holds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras
import numpy as np

from moa_tf.errors import InputError
from moa_tf.models.base import Member, get_family
from moa_tf.training.run import Run

PREPROCESSING = "preprocessing.keras"
BASELINE = "baseline.npz"
NETWORK = "network.keras"


def has_networks(description: dict[str, Any]) -> bool:
    """Whether a run holds Keras networks, by its `run.json`."""
    plan = description["plan"]
    return PREPROCESSING in plan["shared"] and NETWORK in plan["files"]


def check_networks(run: Run) -> None:
    """Refuses a run without Keras networks."""
    description = run.description
    if not has_networks(description):
        raise InputError(f"{run.directory}: a run of {description['model']}, which has no Keras networks")


def load_members(directory: Path) -> list[Member]:
    """The trained models of a run, those of each fold, or of all rows alone.

    Raises:
        InputError: no run, a run of something else than networks, a part that is not finished, or a damaged file.
    """
    run = Run(directory)
    description = run.description
    check_networks(run)
    get_family(description["model"])  # registers the layers that the files name
    return [
        Member(
            keras.saving.load_model(fold.shared.directory / PREPROCESSING, compile=False),
            [keras.saving.load_model(member.directory / NETWORK, compile=False) for member in fold.members],
            # Runs of version 0.1.0 have none.
            _load_baseline(fold.shared.directory) if BASELINE in description["plan"]["shared"] else {},
        )
        for fold in run.finished_models()
        if fold.shared is not None
    ]


def _load_baseline(directory: Path) -> dict[str, np.ndarray]:
    with np.load(directory / BASELINE, allow_pickle=False) as file:
        return dict(file)
