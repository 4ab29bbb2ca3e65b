"""Digests that tell whether what a run holds is what it was made with."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import keras


def digest_file(path: Path) -> str:
    """sha256 of a file's bytes.

    Raises:
        OSError: it cannot be read.
    """
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def digest_models(models: Sequence[keras.Model], chosen: dict[str, Any]) -> str:
    """Of what was chosen, JSON values, and of what models compute: their configuration and weights, bit by bit."""
    digest = hashlib.sha256(json.dumps(chosen).encode())
    for model in models:
        digest.update(model.to_json().encode())
        for weight in model.weights:
            digest.update(np.ascontiguousarray(np.asarray(weight)))
    return digest.hexdigest()
