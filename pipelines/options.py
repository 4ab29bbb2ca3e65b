"""From a call's options to the pipeline's settings."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from moa_tf.config import override
from moa_tf.data.fingerprint import fingerprint_signatures
from moa_tf.data.read import read_features
from moa_tf.data.schema import Dataset
from moa_tf.errors import InputError
from moa_tf.models.base import get_family
from pipelines.examples import Panel
from pipelines.pipeline import Settings


def make_settings(
    dataset: Dataset,
    name: str,
    root: Path,
    data: Path,
    destination: Path,
    worse: float,
    beam: Sequence[str],
    runs: Path,
    training: dict[str, Any],
) -> Settings:
    """The pipeline of a call's options, without a schema's file.

    Args:
        dataset: the training tables.
        name: the pipeline's.
        root: its directory.
        data: directory of the tables, as the components see it.
        destination: where blessed models are pushed to.
        worse: see `Settings`.
        beam: flags as KEY=VALUE.
        runs: where the Trainer keeps its runs.
        training: `train`'s options by name.

    Raises:
        InputError: a preset, hyperparameter or flag that is none.
    """
    family = get_family(training["model"])
    preset = training["preset"]
    if preset is not None and preset not in family.presets:
        raise InputError(f"--preset {preset}: expected one of {', '.join(family.presets)}")
    given = {"epochs": training["epochs"], "batch_size": training["batch_size"]}
    assignments = [f"{key}={value}" for key, value in given.items() if value is not None]
    assignments += training["assignments"]
    # Wrong ones are found now.
    override(family.presets[preset or family.choose_preset(len(dataset))], assignments)
    odd = [flag for flag in beam if "=" not in flag]
    if odd:
        raise InputError(f"--beam {odd[0]}: expected KEY=VALUE")
    keys = ("model", "preset", "only_fold", "refit", "strategy", "logical_devices", "precision")
    trainer = {
        **{key: training[key] for key in keys},
        "settings": assignments,
        "validation": {
            **{key: training[key] for key in ("split", "folds", "seeds", "seed")},
            "shuffle_labels": False,
        },
        "runs": str(runs),
    }
    return Settings(
        name,
        str(root / "artifacts"),
        data,
        dataclasses.replace(Panel.of(dataset), source=str(data)),
        dataset.fingerprint,
        Path(),
        trainer,
        str(destination),
        worse=worse,
        beam=tuple(f"--{flag.lstrip('-')}" for flag in beam),
    )


def with_prediction(
    settings: Settings, features: Path, root: Path, dataset: Dataset, tell: Callable[[str], None]
) -> Settings:
    """The same, with a features table to be predicted to `predictions.parquet` in `root`.

    Raises:
        InputError: a fault of that table.
    """
    signatures = read_features(features, dataset.signatures.spec, tell)
    return dataclasses.replace(
        settings,
        predict=features,
        predict_digest=fingerprint_signatures(signatures),
        predictions=root / "predictions.parquet",
    )
