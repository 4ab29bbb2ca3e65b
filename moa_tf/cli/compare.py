"""`moa-tf compare`: several models on the same folds, side by side."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from moa_tf.atomic import check_directory
from moa_tf.cli.export import export_finished
from moa_tf.cli.loading import load
from moa_tf.cli.options import (
    LocalPath,
    backend_option,
    blend_options,
    json_option,
    storage_option,
    validation_options,
)
from moa_tf.cli.output import fixed, print_lines, print_table, write_json
from moa_tf.cli.startup import ask_determinism, import_tensorflow
from moa_tf.errors import InputError
from moa_tf.models.base import FAMILIES, get_family

if TYPE_CHECKING:
    from moa_tf.data.schema import Dataset
    from moa_tf.ensemble.combination import BlendOptions
    from moa_tf.training.learner import Learner

USUAL = ("prior", "knn", "linear", "connectivity", "mlp", "tabm")
"""What is compared where the user names nothing: what needs no further library and a few minutes on a small table."""


@click.command()
@click.argument("data", type=LocalPath())
@click.option(
    "--models",
    default=",".join(USUAL),
    show_default=True,
    metavar="A,B,…",
    help="Families and baselines; `families` and `baselines` stand for all of them.",
)
@click.option("--out", type=LocalPath(), required=True, help="Directory of the runs and the leaderboard.")
@backend_option
@validation_options
@storage_option
@click.option("--blend", is_flag=True, help="Also blend them, by their out-of-fold predictions.")
@blend_options
@click.option(
    "--controls",
    is_flag=True,
    help="Also train each with labels shuffled, on genes and viability alone, and with rows held out.",
)
@click.option(
    "--export",
    "root",
    type=LocalPath(exported=True),
    help="Export the best model that can be, the blend with --blend.",
)
@json_option
def compare(
    data: Path,
    models: str,
    out: Path,
    backend: str,
    strategy: str,
    logical_devices: int | None,
    split: str,
    folds: int,
    seeds: int,
    only_fold: int | None,
    missing: bool,
    precision: str,
    seed: int,
    storage: str,
    blend: bool,
    space: str,
    per_target: bool,
    calibrate: str,
    controls: bool,
    root: Path | None,
    json_file: Path | None,
) -> None:
    """Train models on the same folds and set their figures side by side.

    OUT gets a run for each model, in a folder of its name, which every other command takes; leaderboard.csv, .json and
    .png, mechanisms.csv, and index.html, a page that explains itself. Called again, it goes on with what is there: what
    is finished is not trained again, and further models join.

    \b
    Examples
      moa-tf compare lish-moa --out comparison
      moa-tf compare nci60 --missing median --out comparison --blend --controls
      moa-tf compare lish-moa --models families,lightgbm --only-fold 0 --out trial
      moa-tf compare nci60 --missing median --models mlp,tabm --blend --out c --export saved_models/blend
    """
    started = time.monotonic()
    check_directory(out)
    if root is not None:
        check_directory(root)
    if blend and only_fold is not None:
        raise InputError("--blend: its weights are chosen on other folds, expected no --only-fold")
    names = _names(models)
    import_tensorflow(backend)
    from moa_tf.cli.progress import LiveReporter
    from moa_tf.ensemble.combination import BlendOptions
    from moa_tf.evaluation.leaderboard import Entry, leaderboard
    from moa_tf.training.comparison import controls as find_controls
    from moa_tf.training.comparison import entry, read_rows, train_all
    from moa_tf.training.cross_validation import Validation
    from moa_tf.training.strategy import make_placement

    placement = make_placement(strategy, logical_devices)
    ask_determinism(all(get_family(name).deterministic_on_gpu for name in names if name in FAMILIES))
    validation = Validation(split, folds, seeds, seed)
    with LiveReporter() as reporter:
        dataset = load(data, seed, missing, reporter.message, storage, out)
        learners = [_learner(name, len(dataset), placement, precision) for name in names]
        runs: dict[str, dict[str, Any]] = {}
        for learner, metrics in train_all(
            dataset, learners, validation, out, only_fold=only_fold, reporter=reporter
        ):
            runs[learner.name] = metrics
        trials = []
        for control in find_controls(dataset, validation) if controls else ():
            reporter.message(f"control: {control.title}")
            home = out / "controls" / control.name
            found = {
                learner.name: metrics
                for learner, metrics in train_all(
                    control.dataset,
                    learners,
                    control.validation,
                    home,
                    only_fold=only_fold,
                    reporter=reporter,
                )
            }
            trials.append({"name": control.name, "title": control.title, "models": found})
        if not placement.chief:
            return
        directories = [out / learner.name for learner in learners]
        blended = None
        if blend:
            options = BlendOptions(space, per_target, calibrate)
            blended = _blend(directories, out / "blend", options, dataset, reporter.message)
        directories += [out / "blend"] * (blended is not None)
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
        _write(out, board, dataset, validation.split, trials)
    _print(board, dataset)
    if blended is not None:
        parts = [
            f"{part['weight']:.2f} {part['model']}" for part in blended["components"] if part["weight"] > 0
        ]
        print_lines(f"blend        {', '.join(parts)}")
    print_lines(f"page         {out / 'index.html'}", f"runs         {out}")
    version = None
    if root is not None:
        version = _export(out, board, blended is not None, root)
        print_lines(f"SavedModel   {version}")
    print_lines(f"time         {time.monotonic() - started:.0f} s")
    if json_file is not None:
        write_json(json_file, {**board, "controls": trials, "blend": blended, "saved_model": version})


def _names(models: str) -> list[str]:
    from moa_tf.baselines.base import BASELINES

    groups = {"families": list(FAMILIES), "baselines": list(BASELINES)}
    names: list[str] = []
    for word in (part.strip() for part in models.split(",") if part.strip()):
        if word not in groups and word not in FAMILIES and word not in BASELINES:
            every = ", ".join([*groups, *FAMILIES, *BASELINES])
            raise InputError(f"--models {word}: expected one of {every}")
        names += [name for name in groups.get(word, [word]) if name not in names]
    if not names:
        raise InputError("--models: expected at least one")
    return names


def _learner(name: str, rows: int, placement: Any, precision: str) -> Learner:
    from moa_tf.baselines.base import BASELINES, get_baseline
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


def _export(out: Path, board: dict[str, Any], blended: bool, root: Path) -> Path:
    """The blend, or the best model that is of networks."""
    names = (
        ["blend"] if blended else [model["name"] for model in board["models"] if model["name"] in FAMILIES]
    )
    if not names:
        raise InputError("--export: none of the models has Keras networks, expected one that does")
    return export_finished(out / names[0], root)


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


def _print(board: dict[str, Any], dataset: Dataset) -> None:
    best = board["models"][0]
    pairs = {pair["b"]: pair["log_loss_treated"] for pair in board["pairs"] if pair["a"] == best["name"]}
    rows = []
    for model in board["models"]:
        low, high = model["intervals"]["log_loss_treated"]
        pair = pairs.get(model["name"])
        seconds = model["cost"].get("seconds")
        rows.append(
            [
                model["name"],
                f"{model['log_loss_treated']:.5f} ({low:.5f} to {high:.5f})",
                "" if pair is None else f"{-pair['high']:+.5f} to {-pair['low']:+.5f}",
                fixed(model["macro_auroc"], 3),
                fixed(model["macro_average_precision"], 3),
                fixed(model["precision_at_1"], 3),
                fixed(model["mean_average_precision"], 3),
                None if seconds is None else round(seconds),
            ]
        )
    columns = [
        "model",
        "log loss",
        "more than the best",
        "AUROC",
        "avg. prec.",
        "prec. at 1",
        "mAP",
        "seconds",
    ]
    simulated = ", simulated data" if dataset.simulated else ""
    print_table(
        f"{board['treated_rows']} treated signatures of {board['drugs']} drugs{simulated}", columns, rows
    )
    print_lines(
        f"Column means: log loss {board['prior_log_loss_treated']:.5f}. In brackets, and for what a model has more "
        "than the best: 95 % intervals over drugs.\n"
    )
