"""Comparison of several models, as a function."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from moa_tf.api.train import Backend, Missing, Storage, Strategy, all_of, check_choices, source
from moa_tf.atomic import check_directory, writing
from moa_tf.baselines import base as baselines
from moa_tf.baselines.base import BASELINES, get_baseline
from moa_tf.data.loading import load
from moa_tf.errors import InputError
from moa_tf.models import base as families
from moa_tf.models.base import FAMILIES, get_family
from moa_tf.paths import local_path
from moa_tf.startup import ask_determinism, start
from moa_tf.training.reporter import Reporter

if TYPE_CHECKING:
    import pandas as pd

    from moa_tf.data.schema import Dataset
    from moa_tf.ensemble.combination import BlendOptions
    from moa_tf.training.learner import Learner
    from moa_tf.training.strategy import Placement

USUAL = (*baselines.USUAL, *families.USUAL)
"""What is compared where the user names nothing."""


@dataclass(frozen=True)
class Comparison:
    """What a comparison has left.

    Attributes:
        directory: a run for each model, in a folder of its name, and the leaderboard's files.
        board: what `moa_tf.evaluation.leaderboard.leaderboard` gives: `models`, the best first, `pairs` and more;
            empty for a worker that does not write.
        controls: of each control `name`, `title` and its `models`' metrics.
        blend: the blend's metrics, if there is one.
        simulated: whether the data are.
    """

    directory: Path
    board: dict[str, Any]
    controls: list[dict[str, Any]]
    blend: dict[str, Any] | None
    simulated: bool

    def leaderboard(self) -> pd.DataFrame:
        """A row a model, the best first, with its figures as columns."""
        import pandas as pd

        rows = [
            {key: value for key, value in model.items() if not isinstance(value, (dict, list, tuple))}
            for model in self.board["models"]
        ]
        return pd.DataFrame(rows).set_index("name")

    @writing()
    def export(self, root: str | os.PathLike[str]) -> Path:
        """Exports the blend, or where there is none the best model that is of networks.

        Raises:
            InputError: no model is of networks; or as `moa_tf.serving.run_export.export_run`.
        """
        from moa_tf.serving.run_export import export_finished

        names = [model["name"] for model in self.board["models"] if model["name"] in FAMILIES]
        if self.blend is not None:
            names = ["blend"]
        if not names:
            raise InputError("--export: none of the models has Keras networks, expected one that does")
        return export_finished(self.directory / names[0], local_path("root", root))


@writing()
def compare(
    data: Dataset | str | os.PathLike[str],
    *,
    out: str | os.PathLike[str],
    models: str | Sequence[str] = USUAL,
    backend: Backend = "tensorflow",
    strategy: Strategy = "none",
    logical_devices: int | None = None,
    split: str = "drug",
    folds: int = 5,
    seeds: int = 1,
    only_fold: int | None = None,
    missing: Missing = "refuse",
    precision: str = "float32",
    seed: int = 0,
    storage: Storage = "auto",
    blend: bool = False,
    space: Literal["logit", "probability"] = "logit",
    per_target: bool = False,
    calibrate: Literal["none", "temperature", "isotonic"] = "none",
    controls: bool = False,
    tensorboard: str | os.PathLike[str] | None = None,
    callbacks: Sequence[Reporter] | None = None,
) -> Comparison:
    """Trains several models on the same folds, as `moa-tf compare` does; names and defaults are that command's.

    Called again, it goes on with what is in `out`: what is finished is not trained again, and further models join.

    Args:
        data: a dataset, or the directory of its tables.
        out: directory of the runs and the leaderboard.
        models: families and baselines; `families` and `baselines` stand for all of them.
        backend: see `train`, as the other arguments that are not listed here.
        strategy: see `train`.
        logical_devices: see `train`.
        split: see `train`.
        folds: see `train`.
        seeds: see `train`.
        only_fold: see `train`.
        missing: see `train`.
        precision: see `train`.
        seed: see `train`.
        storage: see `train`.
        blend: also blend them, by their out-of-fold predictions.
        space: the blend is a weighted mean of these.
        per_target: the blend has weights for each mechanism.
        calibrate: the blend's probabilities are calibrated so.
        controls: also train each with labels shuffled, on genes and viability alone, and with rows held out.
        tensorboard: see `train`.
        callbacks: see `train`.

    Returns:
        The leaderboard, and a way to export the best.

    Raises:
        InputError: one line for each fault of the call or the data. A ValueError.
    """
    directory = local_path("out", out)
    check_choices(missing, precision, storage)
    check_directory(directory)
    if blend and only_fold is not None:
        raise InputError("--blend: its weights are chosen on other folds, expected no --only-fold")
    names = _names(models)
    start(backend)
    from moa_tf.ensemble.combination import BlendOptions
    from moa_tf.evaluation.leaderboard import Entry, leaderboard
    from moa_tf.training.comparison import controls as find_controls
    from moa_tf.training.comparison import entry, read_rows, train_all
    from moa_tf.training.cross_validation import Validation
    from moa_tf.training.strategy import make_placement

    placement = make_placement(strategy, logical_devices)
    ask_determinism(all(get_family(name).deterministic_on_gpu for name in names if name in FAMILIES))
    validation = Validation(split, folds, seeds, seed)
    reporter = all_of(callbacks, tensorboard)
    dataset = load(source(data), seed, missing == "median", reporter.message, storage, directory)
    learners = [_learner(name, len(dataset), placement, precision) for name in names]

    def train(dataset: Dataset, validation: Validation, home: Path) -> dict[str, dict[str, Any]]:
        results = train_all(dataset, learners, validation, home, only_fold=only_fold, reporter=reporter)
        return {learner.name: metrics for learner, metrics in results}

    runs = train(dataset, validation, directory)
    trials = []
    for control in find_controls(dataset, validation) if controls else ():
        reporter.message(f"control: {control.title}")
        found = train(control.dataset, control.validation, directory / "controls" / control.name)
        trials.append({"name": control.name, "title": control.title, "models": found})
    if not placement.chief:
        return Comparison(directory, {}, [], None, dataset.simulated)
    directories = [directory / learner.name for learner in learners]
    blended = None
    if blend:
        options = BlendOptions(space, per_target, calibrate)
        blended = _blend(directories, directory / "blend", options, dataset, reporter.message)
    directories += [directory / "blend"] * (blended is not None)
    rows, predicted = read_rows(dataset, validation, directories)
    entries = [
        entry(learner, runs[learner.name], values)
        for learner, values in zip(learners, predicted, strict=False)
    ]
    if blended is not None:
        cost = {"seconds": sum(metrics["cost"]["seconds"] or 0 for metrics in runs.values())}
        entries.append(Entry("blend", "blend", predicted[-1], cost, blended["caveat"]))
    reporter.message("drawing drugs for the intervals")
    board = leaderboard(rows, entries, seed=seed)
    _write(directory, board, dataset, split, trials)
    return Comparison(directory, board, trials, blended, dataset.simulated)


def _names(models: str | Sequence[str]) -> list[str]:
    groups = {"families": list(FAMILIES), "baselines": list(BASELINES)}
    names: list[str] = []
    words = models.split(",") if isinstance(models, str) else models
    for word in (part.strip() for part in words if part.strip()):
        if word not in groups and word not in FAMILIES and word not in BASELINES:
            every = ", ".join([*groups, *FAMILIES, *BASELINES])
            raise InputError(f"--models {word}: expected one of {every}")
        names += [name for name in groups.get(word, [word]) if name not in names]
    if not names:
        raise InputError("--models: expected at least one")
    return names


def _learner(name: str, rows: int, placement: Placement, precision: str) -> Learner:
    from moa_tf.training.baseline_learner import BaselineLearner
    from moa_tf.training.network_learner import NetworkLearner

    if name in BASELINES:
        return BaselineLearner(get_baseline(name), writes=placement.chief)
    family = get_family(name)
    preset = family.choose_preset(rows)
    return NetworkLearner(family, family.presets[preset], placement, preset, precision)


def _blend(
    runs: Sequence[Path], out: Path, options: BlendOptions, dataset: Dataset, tell: Callable[[str], None]
) -> dict[str, Any]:
    """Blended anew each time, as there may be more runs than before; nothing but such a blend is replaced."""
    from moa_tf.ensemble.blend import blend_runs
    from moa_tf.ensemble.opening import COMPONENTS
    from moa_tf.training.run import Run

    if out.exists():
        if COMPONENTS not in Run(out).description:
            raise InputError(f"{out}: is no blend, expected another --out")
        shutil.rmtree(out)
    return blend_runs(runs, out, options, tell, dataset)


def _write(
    out: Path, board: dict[str, Any], dataset: Dataset, split: str, trials: list[dict[str, Any]]
) -> None:
    from moa_tf.evaluation.report import write_report

    notes = [f"Data: {dataset.source}.", f"Held out by {split}."]
    if dataset.simulated:
        notes.append("The data are simulated: these figures say nothing of real drugs.")
    notes += [f"* {model['name']}: {model['caveat']}." for model in board["models"] if model["caveat"]]
    name = Path(dataset.source).name
    title = f"Leaderboard: {name}" + (" (simulated)" if dataset.simulated else "")
    write_report(out, board, title, notes, trials)
