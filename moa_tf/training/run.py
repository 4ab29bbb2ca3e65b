"""The run directory: everything about one training, where a kill at any moment loses nothing finished.

    run.json                     settings, data fingerprints, versions, and the plan: which parts there are to be
    lock                         held by the process that trains
    fold-0/preprocessing.keras   what the fold's members share, fitted on its training rows
    fold-0/baseline.npz          their median signature, which explanation starts from
    fold-0/choice.json           what was chosen on an inner fold of these rows; trial-….json, by which trainings
    fold-0/seed-0/network.keras  a member
    fold-0/seed-0/predictions.npy    its probabilities of the fold's held-out rows
    fold-0/seed-0/history.json   loss and learning rate of each epoch
    fold-all/…                   the same for all rows (`--refit`)
    …/cost.json                  seconds and memory that a part took
    oof.parquet                  out-of-fold predictions, averaged over seeds
    metrics.json                 figures for each fold and in all

A blend (`moa_tf.ensemble`) is a run without parts of its own: its `run.json` names the runs that it is made of.

Every file appears whole or not at all. `finished.json` beside the files of a part comes last and holds their
checksums: a part without it is made again, and so is one whose files no longer match it. What a run must hold and
in which state each part is, is asked of `Run` alone.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from moa_tf.atomic import replacing, to_plain
from moa_tf.errors import InputError
from moa_tf.lock import locked
from moa_tf.training.digests import digest_file
from moa_tf.training.fold import ALL

SEAL = "finished.json"
LOCK = "lock"
DESCRIPTION = "run.json"
RANKING = "ranking.json"
MEMBER = ("predictions.npy", "history.json")
"""What cross-validation keeps of every member, beside the learner's own files."""


def write_text(path: Path, values: Any) -> None:
    """Writes `values` as strict JSON, whole or not at all; what is not finite becomes null."""
    with replacing(path) as temporary:
        text = json.dumps(to_plain(values), indent=2, allow_nan=False)
        temporary.write_text(text + "\n", encoding="utf-8")


def save(path: Path, write: Callable[[str], Any]) -> None:
    """Calls `write` with a temporary name of the same suffix, which then takes the place of `path`."""
    with replacing(path) as temporary:
        write(str(temporary))


@dataclass(frozen=True)
class Part:
    """Files of a run that are finished together.

    Attributes:
        directory: where they are.
        files: their names.
    """

    directory: Path
    files: tuple[str, ...]

    def seal(self, content: str = "") -> None:
        """Marks the part as finished, by its files' checksums and a digest of what they hold."""
        sums = {name: _checksum(self.directory / name) for name in self.files}
        write_text(self.directory / SEAL, {"files": sums, "content": content})

    def damage(self) -> list[str] | None:
        """What is wrong with the part: None if it was never finished, else the names of missing or changed files."""
        sealed = self.sealed()
        if sealed is None:
            return None if not (self.directory / SEAL).exists() else [SEAL]
        sums = sealed["files"]
        return [name for name in self.files if sums.get(name) != _checksum(self.directory / name)]

    @property
    def finished(self) -> bool:
        return self.damage() == []

    @property
    def content(self) -> str | None:
        """The digest that the part was sealed with; None where there is no whole seal."""
        sealed = self.sealed()
        return None if sealed is None else sealed["content"]

    def sealed(self) -> dict[str, Any] | None:
        """What the part was sealed with, `files` (name -> checksum) and `content`; None where no whole seal is."""
        try:
            sealed = json.loads((self.directory / SEAL).read_text(encoding="utf-8"))
            return (
                sealed if {*sealed["files"]} >= {*self.files} and isinstance(sealed["content"], str) else None
            )
        except (OSError, ValueError, KeyError, TypeError):
            return None


def _checksum(path: Path) -> str | None:
    try:
        return digest_file(path)
    except OSError:
        return None


@dataclass(frozen=True)
class FoldParts:
    """What a run holds, or is to hold, of one fold: what its members share (or None), and the members."""

    name: int | str
    shared: Part | None
    members: tuple[Part, ...]

    @property
    def parts(self) -> Iterator[Part]:
        if self.shared is not None:
            yield self.shared
        yield from self.members


class Run:
    """One run directory.

    Args:
        directory: where it is or will be. With `fresh`, another name with a number after it where that is taken.
        fresh: choose a name that nothing has yet.
    """

    def __init__(self, directory: Path, fresh: bool = False) -> None:
        self.directory = Path(directory)
        self._fresh = fresh

    @contextmanager
    def held(
        self, description: dict[str, Any], plan: dict[str, Any], resume: bool, tell: Callable[[str], None]
    ) -> Iterator[None]:
        """Holds the run for this process, after writing `run.json`, or checking that what is there is the same.

        Args:
            description: for `run.json`; see `identity` for what must not differ when a run is resumed.
            plan: `folds` (numbers), `seeds`, `refit`, and the names `shared` and `files` of a learner's files. A run
                that is resumed is to hold what it was to hold before, and this.
            resume: whether to go on with what is there.
            tell: called with a line that the user should know.

        Raises:
            InputError: the directory holds a run and `resume` is false, or is not empty and holds none; its settings,
                data or versions differ; another process holds it; or it cannot be written.
        """
        self._make_directory()
        with locked(self.directory / LOCK, self.directory, "trained", tell):
            self._sweep()
            if not (self.directory / DESCRIPTION).exists():
                if resume:
                    tell(f"--resume: {self.directory} holds no run yet; a new one is started")
            elif not resume:
                raise InputError(
                    f"{self.directory}: holds a run; give --resume to go on with it, or another --out"
                )
            else:
                there = self.description
                _compare(self.directory / DESCRIPTION, there, json.loads(json.dumps(to_plain(description))))
                if there["plan"]["refit"] and not plan["refit"]:
                    tell(f"{self.directory}: was started with --refit, which is finished too")
                plan = self.joined(plan)
            write_text(self.directory / DESCRIPTION, {**description, "plan": plan})
            yield

    def _make_directory(self) -> None:
        path, number = self.directory, 1
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            while self._fresh:
                try:
                    path.mkdir()
                    self._fresh, self.directory = False, path
                except FileExistsError:
                    number += 1
                    path = self.directory.with_name(f"{self.directory.name}-{number}")
            path.mkdir(exist_ok=True)
            # What a kill may leave before there is a run.json is no one's.
            names = [entry.name for entry in path.iterdir()]
        except OSError as error:
            raise InputError(f"{path}: cannot be written ({error.strerror})") from None
        strange = [name for name in names if name != LOCK and not name.startswith(".tmp-")]
        if strange and DESCRIPTION not in names:
            raise InputError(f"{path}: not empty and no run; expected a new directory")

    def _sweep(self) -> None:
        """Removes what killed processes left half written; they are dead, as this one holds the run."""
        for path in self.directory.rglob(".tmp-*"):
            path.unlink(missing_ok=True)

    @property
    def description(self) -> dict[str, Any]:
        """What `run.json` says.

        Raises:
            InputError: there is none, or it cannot be read.
        """
        path = self.directory / DESCRIPTION
        try:
            description = json.loads(path.read_text(encoding="utf-8"))
            plan = description["plan"]
            if not all(key in plan for key in ("folds", "seeds", "refit", "shared", "files")):
                raise KeyError("plan")
            return description
        except FileNotFoundError:
            raise InputError(
                f"{self.directory}: no run.json there; expected the directory of a run"
            ) from None
        except NotADirectoryError:
            raise InputError(f"{self.directory}: is a file, expected the directory of a run") from None
        except OSError as error:
            raise InputError(f"{path}: cannot be read ({error.strerror})") from None
        except KeyError as error:
            raise InputError(f"{path}: has no {error}; was it written by another version?") from None
        except (ValueError, TypeError) as error:
            raise InputError(f"{path}: damaged ({error})") from None

    def joined(self, plan: dict[str, Any]) -> dict[str, Any]:
        """`plan`, and what an earlier process was to make here; this reads only, so every worker can ask it."""
        try:
            before = self.description["plan"]
        except InputError:
            return plan
        folds = sorted({*before["folds"], *plan["folds"]})
        return {**plan, "folds": folds, "refit": before["refit"] or plan["refit"]}

    def parts(self, plan: dict[str, Any] | None = None) -> list[FoldParts]:
        """Everything that the run is to hold, by its plan: the folds, then `ALL` if it is refitted."""
        plan = plan or self.description["plan"]
        return [self._fold(name, plan) for name in [*plan["folds"], *[ALL] * plan["refit"]]]

    def _fold(self, name: int | str, plan: dict[str, Any]) -> FoldParts:
        directory = self.directory / f"fold-{name}"
        shared = Part(directory, tuple(plan["shared"])) if plan["shared"] else None
        files = (*plan["files"], *MEMBER)
        members = tuple(Part(directory / f"seed-{seed}", files) for seed in range(plan["seeds"]))
        return FoldParts(name, shared, members)

    def digest(self) -> str:
        """Equal for two states of a run if and only if the same models are in it.

        Of all seals, and of what `run.json` says that the run is made of beside its own parts, where it is a blend.
        """
        description = self.description
        made_of = [description[key] for key in ("components", "combination") if key in description]
        state = hashlib.sha256(json.dumps(made_of, sort_keys=True).encode() if made_of else b"")
        for fold in self.parts(description["plan"]):
            for part in fold.parts:
                state.update(f"{part.directory.relative_to(self.directory)}\n".encode())
                state.update(json.dumps(part.sealed(), sort_keys=True).encode())
        return state.hexdigest()

    def finished_models(self) -> list[FoldParts]:
        """The folds' parts, or those of the models trained on all rows alone if the run is refitted.

        Raises:
            InputError: a part is damaged or not finished.
        """
        folds = self.parts()
        for part in (part for fold in folds for part in fold.parts):
            wrong = part.damage()
            if wrong:
                raise InputError(f"{part.directory / wrong[0]}: damaged; train again with --resume")
            if wrong is None:
                raise InputError(f"{part.directory}: not finished yet; train it further with --resume")
        refitted = [fold for fold in folds if fold.name == ALL]
        return refitted or folds

    def ranking(self) -> dict[str, Any] | None:
        """What `ranking.json` says, see `moa_tf.ranking.ranking`; None of a run from before there was one.

        Raises:
            InputError: it is damaged.
        """
        path = self.directory / RANKING
        try:
            return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None
        except (OSError, ValueError):
            raise InputError(f"{path}: damaged; finish the run with --resume") from None

    def metrics(self) -> dict[str, Any]:
        """What `metrics.json` says of the models that are in the run now.

        Raises:
            InputError: it is missing, damaged, or of another state of the run.
        """
        path = self.directory / "metrics.json"
        try:
            metrics = json.loads(path.read_text(encoding="utf-8"))
            if metrics["models"] != self.digest():
                raise KeyError
            return metrics
        except (OSError, ValueError, KeyError, TypeError):
            raise InputError(
                f"{path}: not there, or not of these models; finish the run with --resume"
            ) from None


def identity(description: dict[str, Any]) -> dict[str, Any]:
    """What makes two trainings the same: backend, settings, the data's fingerprints, panel, targets and versions.

    Not the data's path, nor the name of a preset, whose values are among the settings.
    """
    data = description["data"]
    return {
        # Older runs are all of TensorFlow.
        "backend": description.get("backend", "tensorflow"),
        "settings": {key: value for key, value in description["settings"].items() if key != "preset"},
        "data": {
            "fingerprint": data["fingerprint"],
            "features": data.get("features", "float32"),
            **{key: data.get(key, {}) for key in ("inputs", "groups")},
        },
        "panel": description["panel"],
        "targets": description["targets"],
        "versions": {key: value for key, value in description["versions"].items() if key != "python"},
    }


def _compare(path: Path, there: dict[str, Any], now: dict[str, Any]) -> None:
    try:
        before, after = identity(there), identity(now)
    except (KeyError, TypeError, AttributeError):
        raise InputError(f"{path}: damaged, or written by another version; cannot resume") from None
    for key in before:
        if before[key] != after[key]:
            raise InputError(f"{path}: {_difference(key, before[key], after[key])}; cannot resume")


def _difference(key: str, there: Any, now: Any) -> str:
    if isinstance(there, dict) and isinstance(now, dict):
        for name in sorted(there.keys() | now.keys()):
            if there.get(name) != now.get(name):
                return _difference(f"{key}.{name}", there.get(name), now.get(name))
    shown = [str(value) if len(str(value)) <= 80 else f"{str(value)[:77]}…" for value in (there, now)]
    return f"{key} was {shown[0]}, now {shown[1]}"
