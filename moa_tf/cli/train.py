"""`moa-tf train`: cross-validate, then export."""

from __future__ import annotations

import shlex
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from moa_tf.api import train as api
from moa_tf.atomic import check_directory
from moa_tf.cli.options import (
    LocalPath,
    backend_option,
    json_option,
    reference_option,
    storage_option,
    tensorboard_option,
    validation_options,
)
from moa_tf.cli.output import print_lines, print_table, write_json
from moa_tf.errors import InputError
from moa_tf.models.base import DEFAULT, FAMILIES
from moa_tf.serving.versions import check_root

if TYPE_CHECKING:
    from moa_tf.api.train import TrainedRun


@click.command()
@click.option("--data", type=LocalPath(), help="Directory of tables. [default: a simulated sample]")
@click.option("--model", type=click.Choice(list(FAMILIES)), default=DEFAULT, show_default=True)
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
@tensorboard_option
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
    tensorboard: Path | None,
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
    saved_models = root or Path("saved_models", model)
    if not shuffle_labels:
        check_directory(saved_models)
    check_root(saved_models)
    started = time.monotonic()
    from moa_tf.cli.progress import LiveReporter

    with LiveReporter() as reporter:
        trained = api.train(
            data,
            model=model,
            preset=preset,
            settings=assignments,
            backend=backend,
            strategy=strategy,
            logical_devices=logical_devices,
            split=split,
            folds=folds,
            seeds=seeds,
            only_fold=only_fold,
            steer=steer,
            epochs=epochs,
            batch_size=batch_size,
            missing="median" if missing else "refuse",
            precision=precision,
            seed=seed,
            storage=storage,
            out=out,
            resume=resume,
            refit=refit,
            pretrain=pretrain,
            pretrain_also=pretrain_also,
            stack=stack,
            shuffle_labels=shuffle_labels,
            tensorboard=tensorboard,
            callbacks=[reporter],
        )
    metrics = trained.metrics
    if not metrics:  # a worker that does not write
        return
    _print_metrics(metrics, trained.preset)
    print_lines(f"run          {trained.directory}")
    version, note = _export(trained, root, saved_models, reference)
    print_lines(f"SavedModel   {version if version else 'none'}{f' ({note})' if note else ''}")
    seconds = time.monotonic() - started
    print_lines(f"time         {seconds:.0f} s")
    if version is not None:
        _print_next(version.parent, data)
    if json_file is not None:
        figures = {
            **metrics,
            "run": trained.directory,
            "saved_model": version,
            "preset": trained.preset,
            "seconds": seconds,
        }
        write_json(json_file, figures)


def _export(
    trained: TrainedRun, root: Path | None, default: Path, reference: bool
) -> tuple[Path | None, str]:
    """Exports the run, unless that would put something into service that was not asked for.

    Returns:
        The version's directory, or None; and why it is not a new one.
    """
    from moa_tf.serving.run_export import exported_version

    metrics = trained.metrics
    if metrics["shuffled_labels"]:
        return None, "a control is not exported"
    done, planned = len(metrics["folds"]), metrics["folds_planned"]
    if root is None and done < planned:
        return None, f"{done} of {planned} folds; give --export to export them all the same"
    version = exported_version(trained.directory, default, reference)
    if version is not None:
        return version, "exported before, of the same models"
    try:
        return trained.export(default, reference), ""
    except InputError as error:
        again = shlex.join(
            ["moa-tf", "export", str(trained.directory), str(default), *["--no-reference"] * (not reference)]
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
