"""The state of a training between two epochs, in one file that tells whether it is whole."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import keras
import numpy as np

from moa_tf.atomic import replacing


def _variables(model: keras.Model) -> list[keras.Variable]:
    # Seed generators are among the model's variables, so dropout goes on with the masks it would have drawn.
    return [*model.variables, *model.optimizer.variables]


def save_checkpoint(
    path: Path, model: keras.Model, state: dict[str, Any], best: list[np.ndarray] | None
) -> None:
    """Writes weights, random seeds, optimiser and `state` to `path`, atomically.

    Args:
        path: an `.npz` file.
        model: compiled and built.
        state: plain JSON values.
        best: the best weights so far, where training will go back to them.
    """
    arrays = {f"variable_{i}": np.asarray(variable) for i, variable in enumerate(_variables(model))}
    arrays |= {f"best_{i}": array for i, array in enumerate(best or [])}
    with replacing(path) as temporary, temporary.open("wb") as file:
        np.savez(file, state=np.frombuffer(json.dumps(state).encode(), np.uint8), **arrays)


def load_checkpoint(path: Path, model: keras.Model) -> tuple[dict[str, Any], list[np.ndarray]] | None:
    """Puts what `save_checkpoint` wrote back into `model`.

    Returns:
        (state, best weights); None if there is no such file.

    Raises:
        ValueError: the file is damaged or belongs to another model; `model` is then unchanged.
    """
    if not path.exists():
        return None
    variables = _variables(model)
    try:
        # Reading an array checks its CRC; pickled objects are refused.
        with np.load(path, allow_pickle=False) as file:
            arrays = [file[f"variable_{i}"] for i in range(len(variables))]
            best = [file[f"best_{i}"] for i in range(sum(name.startswith("best_") for name in file.files))]
            state = json.loads(file["state"].tobytes())
    except Exception as error:
        # A flipped byte in the archive's own structure can raise almost anything, and all of it means the same.
        raise ValueError(str(error) or type(error).__name__) from error
    for variable, array in zip(variables, arrays, strict=True):
        if tuple(variable.shape) != array.shape:
            raise ValueError(f"{variable.path} has shape {tuple(variable.shape)}, the file {array.shape}")
    for variable, array in zip(variables, arrays, strict=True):
        variable.assign(array)
    return state, best
