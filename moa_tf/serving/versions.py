"""Numbered versions of a SavedModel in one directory, and what each says of itself. No TensorFlow needed."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path
from typing import Any

from moa_tf.atomic import sync
from moa_tf.data.schema import SignatureSpec
from moa_tf.errors import InputError

METADATA = "metadata.json"
"""Name of the asset that `export` writes."""
REFERENCES = "references.csv"
"""Name of the asset that lists the drugs whose signatures a model holds: `drug`, and its `mechanisms`."""

PATTERN = "*?[\\"
"""What TensorFlow takes for a pattern when it looks for a SavedModel's weights: `m[9]` would be `m9`."""


def check_root(root: str | os.PathLike) -> None:
    """Finds before an export what would keep TensorFlow from loading it.

    The whole path counts, as TensorFlow Serving is given it: `*` and `?` may match another model's weights.

    Raises:
        InputError: a character of `PATTERN` is in the path of `root`.
    """
    path = os.path.abspath(root)
    if set(PATTERN) & set(path):
        where = "" if os.path.isabs(root) else f" (that is {path})"
        raise InputError(
            f"{root}{where}: TensorFlow takes * ? [ \\ for patterns and could not load a model from there, "
            "expected a path without them"
        )


def latest_version(path: Path) -> Path:
    """The SavedModel at `path`: itself if it is one, else its version with the highest number.

    Raises:
        InputError: neither.
    """
    path = Path(path)
    if (path / "saved_model.pb").is_file():
        return path
    if not path.is_dir():
        raise InputError(f"{path}: no such directory, expected a SavedModel or the directory of its versions")
    for _, directory in sorted(versions(path).items(), reverse=True):
        if (directory / "saved_model.pb").is_file():
            return directory
    raise InputError(
        f"{path}: holds no SavedModel, expected saved_model.pb or numbered directories that have one"
    )


def load_metadata(path: Path) -> dict[str, Any]:
    """What `export` wrote beside the model at `path` (see `latest_version`), without loading TensorFlow.

    Has at least `targets` (list of names), `spec` (see SignatureSpec.to_dict), `signatures` (list of names),
    `networks` (their number), `combination`, `batch_size` (a good one), `versions`, `created` (UTC), and what
    the exporter added.

    Raises:
        InputError: no SavedModel, or one that this project did not export.
    """
    asset = latest_version(path) / "assets" / METADATA
    try:
        metadata = json.loads(asset.read_text(encoding="utf-8"))
        SignatureSpec.from_dict(metadata["spec"])
        if not all(isinstance(name, str) for name in metadata["targets"]):
            raise ValueError("targets")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{asset}: expected the metadata that `moa-tf export` writes ({error})") from error
    return metadata


def publish(directory: Path, root: Path) -> Path:
    """Renames `directory`, which lies in `root`, to the number after the highest there, and returns that."""
    while True:
        version = root / str(max(versions(root), default=0) + 1)
        try:
            # Never replaces another exporter's version: rename fails on a directory that is not empty.
            directory.rename(version)
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
        else:
            sync(root)
            return version


def versions(root: Path) -> dict[int, Path]:
    """The numbered directories in `root`; none where it is not there."""
    if not root.is_dir():
        return {}
    return {int(path.name): path for path in root.iterdir() if path.name.isascii() and path.name.isdecimal()}
