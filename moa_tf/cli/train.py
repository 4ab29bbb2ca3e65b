"""`moa-tf train`: cross-validate, then export."""

from __future__ import annotations

import dataclasses
import os
import shlex
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from moa_tf.atomic import check_directory
from moa_tf.cli.export import export_finished
from moa_tf.cli.loading import load
from moa_tf.cli.options import (
    LocalPath,
    backend_option,
    json_option,
    reference_option,
    storage_option,
    validation_options,
)
from moa_tf.cli.output import print_lines, print_table, write_json
from moa_tf.cli.startup import ask_determinism, import_tensorflow
from moa_tf.config import Recipe, override
from moa_tf.errors import InputError
from moa_tf.models.base import FAMILIES, get_family
from moa_tf.serving.versions import check_root

if TYPE_CHECKING:
    from moa_tf.training.run import Run


@click.command()
@click.option("--data", type=LocalPath(), help="Directory of tables. [default: a simulated sample]")
@click.option("--model", type=click.Choice(list(FAMILIES)), default="mlp", show_default=True)
@click.option("--preset", help="Named set of hyperparameters. [default: by the size of the table]")
@backend_option
@validation_options
@storage_option
@click.option(
    "--steer",
    type=click.Choice(["inner", "scored"]),
    help="What stops training early and chooses: rows held out of the training fold for that [default], or the scored "
    "ones, the competition's custom, which flatters.",
)
@click.option("--epochs", type=click.IntRange(1))
@click.option("--batch-size", type=click.IntRange(1), help="Global batch size, over all replicas.")
@click.option(
    "--set", "assignments", multiple=True, metavar="KEY=VALUE", help="Any hyperparameter; repeatable."
)
@click.option("--out", type=LocalPath(), help="Run directory. [default: runs/MODEL-DATE-TIME]")
@click.option(
    "--export",
    "root",
    type=LocalPath(exported=True),
    help="Export to here. [default: saved_models/MODEL, of whole runs]",
)
@reference_option
@click.option("--resume", is_flag=True, help="Go on with the run in --out.")
@click.option(
    "--refit", is_flag=True, help="Export networks trained on all rows, not the mean of the folds'."
)
@click.option(
    "--pretrain",
    is_flag=False,
    flag_value="features",
    type=click.Choice(["features", "nonscored"]),
    help="First learn to reconstruct the fold's training features (tabnet), or the nonscored targets.",
)
@click.option(
    "--pretrain-also",
    type=LocalPath(),
    metavar="FEATURES",
    help="With --pretrain: these unlabelled signatures too, such as test_features.csv.",
)
@click.option(
    "--stack",
    type=click.Choice(["nonscored"]),
    help="Predictions of the nonscored targets as further features, out-of-fold inside each fold.",
)
@click.option("--shuffle-labels", is_flag=True, help="Control: permute labels among drugs; export nothing.")
@json_option
def train(
    data: Path | None,
    model: str,
    preset: str | None,
    backend: str,
    strategy: str,
    logical_devices: int | None,
    split: str,
    folds: int,
    seeds: int,
    only_fold: int | None,
    steer: str | None,
    epochs: int | None,
    batch_size: int | None,
    assignments: tuple[str, ...],
    missing: bool,
    precision: str,
    seed: int,
    storage: str,
    out: Path | None,
    root: Path | None,
    reference: bool,
    resume: bool,
    refit: bool,
    pretrain: str | None,
    pretrain_also: Path | None,
    stack: str | None,
    shuffle_labels: bool,
    json_file: Path | None,
) -> None:
    """Cross-validate a model and export it.

    \b
    Examples
      moa-tf train                                            the simulated sample
      moa-tf train --data lish-moa --strategy mirrored        on all GPUs
      moa-tf train --data lish-moa --backend jax --strategy mirrored      on all TPU cores, or GPUs
      moa-tf train --data lish-moa --only-fold 0 --epochs 10 --set learning_rate=3e-3
      moa-tf train --data nci60 --missing median              viability alone, with gaps
      moa-tf train --data nci60 --missing median --split scaffold      by a column of train_drug
      moa-tf train --data lish-moa --pretrain nonscored       learn from train_targets_nonscored first
      moa-tf train --data lish-moa --out runs/a --resume      go on after a kill
    """
    if resume and out is None:
        raise InputError("--resume: expected --out with the directory of the run to go on with")
    if pretrain_also is not None and pretrain != "features":
        raise InputError("--pretrain-also: expected --pretrain with it, without labels")
    saved_models = root or Path("saved_models", model)
    for directory in (out or Path("runs"), *[saved_models] * (not shuffle_labels)):
        check_directory(directory)
    check_root(saved_models)
    started = time.monotonic()
    import_tensorflow(backend)
    from moa_tf.cli.progress import LiveReporter
    from moa_tf.data.read import read_features
    from moa_tf.training.cross_validation import Validation, cross_validate
    from moa_tf.training.network_learner import NetworkLearner
    from moa_tf.training.run import Run
    from moa_tf.training.strategy import make_placement

    placement = make_placement(strategy, logical_devices)
    family = get_family(model)
    ask_determinism(family.deterministic_on_gpu)
    with LiveReporter() as reporter:
        if strategy != "multi-worker" and os.environ.get("TF_CONFIG"):
            reporter.message(f"TF_CONFIG is set, and not used by --strategy {strategy}")
        dataset = load(data, seed, missing, reporter.message, storage, out or Path("runs"))
        chosen = preset or family.choose_preset(len(dataset))
        if chosen not in family.presets:
            raise InputError(f"--preset {chosen}: expected one of {', '.join(family.presets)}")
        options = {"epochs": epochs, "batch_size": batch_size, "steer": steer}
        given = [f"{key}={value}" for key, value in options.items() if value is not None]
        hyperparameters = override(family.presets[chosen], [*given, *assignments])
        ignored = _ignored([*given, *assignments], precision) if family.solve is not None else []
        if ignored:
            reporter.message(f"{model} is solved, not trained in epochs: ignored {', '.join(ignored)}")
        reporter.message(
            f"{model}, preset {chosen}{'' if preset else f' (by itself for {len(dataset)} signatures)'}, "
            f"{folds} folds by {split} × {seeds} seeds, {placement.replicas} replicas, by {backend}"
        )
        learner = NetworkLearner(
            family,
            hyperparameters,
            placement,
            chosen,
            precision,
            pretrain or "",
            stack or "",
            read_features(pretrain_also, dataset.signatures.spec, reporter.message)
            if pretrain_also
            else None,
        )
        run = Run(out or Path("runs", f"{model}-{time.strftime('%Y%m%d-%H%M%S')}"), fresh=out is None)
        metrics = cross_validate(
            dataset,
            learner,
            Validation(split, folds, seeds, seed, shuffle_labels),
            run,
            only_fold=only_fold,
            refit=refit,
            resume=resume,
            reporter=reporter,
        )
    if not placement.chief:
        return
    _print_metrics(metrics, chosen)
    print_lines(f"run          {run.directory}")
    version, note = _export(run, metrics, root, saved_models, reference)
    print_lines(f"SavedModel   {version if version else 'none'}{f' ({note})' if note else ''}")
    seconds = time.monotonic() - started
    print_lines(f"time         {seconds:.0f} s")
    if version is not None:
        _print_next(version.parent, data)
    if json_file is not None:
        figures = {
            **metrics,
            "run": run.directory,
            "saved_model": version,
            "preset": chosen,
            "seconds": seconds,
        }
        write_json(json_file, figures)


def _ignored(assignments: Sequence[str], precision: str) -> list[str]:
    """Which settings say nothing to a family with a solver: those of the recipe, but which rows there are."""
    recipe = {each.name for each in dataclasses.fields(Recipe)} - {"train_on_controls"}
    given = [each for each in assignments if each.partition("=")[0] in recipe]
    return given + [f"precision={precision}"] * (precision not in ("float32", "auto"))


def _export(
    run: Run, metrics: dict[str, Any], root: Path | None, default: Path, reference: bool
) -> tuple[Path | None, str]:
    """Exports the run, unless that would put something into service that was not asked for.

    Returns:
        The version's directory, or None; and why it is not a new one.
    """
    from moa_tf.serving.run_export import exported_version

    if metrics["shuffled_labels"]:
        return None, "a control is not exported"
    trained, planned = len(metrics["folds"]), metrics["folds_planned"]
    if root is None and trained < planned:
        return None, f"{trained} of {planned} folds; give --export to export them all the same"
    version = exported_version(run.directory, default, reference)
    if version is not None:
        return version, "exported before, of the same models"
    try:
        return export_finished(run.directory, default, reference), ""
    except InputError as error:
        again = shlex.join(
            ["moa-tf", "export", str(run.directory), str(default), *["--no-reference"] * (not reference)]
        )
        raise InputError(f"{error}\nThe run is finished. Export it with: {again}") from error


def _print_next(root: Path, data: Path | None) -> None:
    def predict(features: str) -> str:
        return shlex.join(["moa-tf", "predict", str(root), features, "predictions.csv"])

    if data is None:
        print_lines(f"\nNext: moa-tf data simulate sample && {predict('sample/test_features.csv')}")
        return
    tests = sorted(data.glob("test_features.*"))
    print_lines(f"\nNext: {predict(str(tests[0]) if tests else 'FEATURES.csv')}")


_COLUMNS = {
    "log_loss_all": "log loss, all rows",
    "log_loss_treated": "log loss, treated",
    "prior_log_loss_treated": "column means, treated",
    "macro_auroc": "macro AUROC",
    "macro_average_precision": "macro avg. precision",
}


def _print_metrics(metrics: dict[str, Any], preset: str) -> None:
    overall = metrics["overall"]
    print_table(_title(metrics, preset), ["rows", *_COLUMNS.values()], _rows(metrics))
    low, high = overall["intervals"]["macro_auroc"]
    if overall["targets_ranked"]:
        print_lines(
            f"AUROC and average precision rank within folds. Macro AUROC over {overall['targets_ranked']} of "
            f"{overall['targets']} targets, 95 % interval over drugs: {low:.3f} to {high:.3f}\n"
        )
    else:
        print_lines(
            "No target has both a positive and a negative: AUROC and average precision are not defined.\n"
        )


def _rows(metrics: dict[str, Any]) -> list[list[Any]]:
    rows = [[f"fold {fold['fold']}", *(fold[name] for name in _COLUMNS)] for fold in metrics["folds"]]
    overall = metrics["overall"]
    return [*rows, ["out of fold", *(overall[name] for name in _COLUMNS)]] if len(rows) > 1 else rows


def _title(metrics: dict[str, Any], preset: str) -> str:
    held_out = {"drug": "drugs held out", "row": "rows held out", "kaggle": "rare drugs held out"}
    what = held_out.get(metrics["split"], "signatures held out (no train_drug: every row is its own drug)")
    if "groups" in metrics:
        what = f"groups of {metrics['split']} held out"
    notes = ["simulated data"] * metrics["simulated"] + ["shuffled labels"] * metrics["shuffled_labels"]
    notes += [metrics["caveat"]] * bool(metrics["caveat"])
    return ", ".join([f"preset {preset}", what, *notes])
