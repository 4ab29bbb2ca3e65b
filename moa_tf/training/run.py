"""The run directory: everything about one training, where a kill at any moment loses nothing finished.

    run.json                     configuration, data fingerprint, versions
    fold-0/preprocessing.keras   fitted on the fold's training rows
    fold-0/seed-0/network.keras  trained network
    fold-0/seed-0/predictions.npy    probabilities of the fold's held-out rows
    fold-0/seed-0/history.json   loss and learning rate of each epoch
    oof.parquet                  out-of-fold predictions, averaged over seeds
    metrics.json                 figures for each fold and in all

Every file appears whole or not at all. `finished.json` beside the files of a part comes last and holds their
checksums: a part without it is trained again, and so is one whose files no longer match it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from moa_tf.atomic import replacing
from moa_tf.errors import InputError
from moa_tf.models.base import get_family

if TYPE_CHECKING:
    import keras

SEAL = "finished.json"
REFIT = "all"
"""Name of the fold that holds the models trained on all rows (`--refit`)."""


def write_text(path: Path, values: Any) -> None:
    """Writes `values` as JSON, whole or not at all."""
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(values, indent=2, allow_nan=True) + "\n", encoding="utf-8")


def save(path: Path, write: Callable[[str], Any]) -> None:
    """Calls `write` with a temporary name of the same suffix, which then takes the place of `path`."""
    with replacing(path) as temporary:
        write(str(temporary))


def seal(directory: Path, names: list[str]) -> None:
    """Marks the files `names` of a part as finished, by their checksums."""
    write_text(directory / SEAL, {name: _checksum(directory / name) for name in names})


def damage(directory: Path) -> list[str] | None:
    """What is wrong with a part: None if it was never finished, else the names of missing or changed files."""
    try:
        sums = json.loads((directory / SEAL).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (ValueError, OSError):
        return [SEAL]
    return [
        name
        for name, checksum in sums.items()
        if not (directory / name).is_file() or _checksum(directory / name) != checksum
    ]


def _checksum(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class Run:
    """One run directory.

    Args:
        directory: where it is or will be.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = Path(directory)

    def start(self, description: dict[str, Any], identity: tuple[str, ...], resume: bool) -> None:
        """Writes `run.json`, or with `resume` checks that what is there was started with the same settings.

        Args:
            description: for `run.json`.
            identity: the keys of it that must not differ when a run is resumed.
            resume: whether to go on with what is there.

        Raises:
            InputError: the directory holds a run and `resume` is false, or is not empty and holds none, or its
                settings differ.
        """
        path = self.directory / "run.json"
        if not path.exists():
            if self.directory.exists() and (not self.directory.is_dir() or any(self.directory.iterdir())):
                raise InputError(f"{self.directory}: not empty and no run; expected a new directory")
            write_text(path, description)
            return
        if not resume:
            raise InputError(
                f"{self.directory}: holds a run; give --resume to go on with it, or another --out"
            )
        there = self.description
        plain = json.loads(json.dumps(description))
        for key in identity:
            if there.get(key) != plain.get(key):
                raise InputError(f"{path}: {_difference(key, there.get(key), plain.get(key))}; cannot resume")

    @property
    def description(self) -> dict[str, Any]:
        """What `run.json` says.

        Raises:
            InputError: there is none, or it cannot be read.
        """
        path = self.directory / "run.json"
        try:
            return json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise InputError(
                f"{self.directory}: no run.json there; expected the directory of a run"
            ) from None
        except ValueError as error:
            raise InputError(f"{path}: damaged ({error})") from None

    def fold(self, fold: int | str) -> Path:
        return self.directory / f"fold-{fold}"

    def member(self, fold: int | str, seed: int) -> Path:
        return self.fold(fold) / f"seed-{seed}"

    def members(self) -> list[tuple[Path, list[Path]]]:
        """(fold directory, its finished seeds' directories), of the refitted models alone if there are any.

        Raises:
            InputError: a file is damaged, or nothing is finished.
        """
        folds = (
            [self.fold(REFIT)]
            if self.fold(REFIT).exists()
            else sorted(self.directory.glob("fold-*"), key=_number)
        )
        found = []
        for fold in folds:
            seeds = [seed for seed in sorted(fold.glob("seed-*"), key=_number) if damage(seed) is not None]
            for part in (fold, *seeds):
                if wrong := damage(part):
                    raise InputError(f"{part / wrong[0]}: damaged; train again with --resume")
            if seeds:
                found.append((fold, seeds))
        if not found:
            raise InputError(f"{self.directory}: no finished model there; train it further with --resume")
        return found


def load_members(directory: Path) -> list[tuple[keras.Model, list[keras.Model]]]:
    """The trained models of a run: (preprocessing, its networks) for each fold.

    Raises:
        InputError: no run, nothing finished, or a damaged file.
    """
    import keras

    run = Run(directory)
    get_family(run.description["model"])  # registers the layers that the files name
    return [
        (
            keras.saving.load_model(fold / "preprocessing.keras", compile=False),
            [keras.saving.load_model(seed / "network.keras", compile=False) for seed in seeds],
        )
        for fold, seeds in run.members()
    ]


def _number(path: Path) -> tuple[int, str]:
    number = path.name.partition("-")[2]
    return (int(number), "") if number.isdigit() else (1 << 30, number)


def _difference(key: str, there: Any, now: Any) -> str:
    if isinstance(there, dict) and isinstance(now, dict):
        for name in sorted(there.keys() | now.keys()):
            if there.get(name) != now.get(name):
                return _difference(f"{key}.{name}", there.get(name), now.get(name))
    return f"{key} was {there}, now {now}"
