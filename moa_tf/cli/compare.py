"""`moa-tf compare`: several models on the same folds, side by side."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import click

from moa_tf.api import compare as api
from moa_tf.atomic import check_directory
from moa_tf.cli.options import (
    LocalPath,
    backend_option,
    blend_options,
    json_option,
    storage_option,
    tensorboard_option,
    validation_options,
)
from moa_tf.cli.output import fixed, print_lines, print_table, write_json


@click.command()
@click.argument("data", type=LocalPath())
@click.option(
    "--models",
    default=",".join(api.USUAL),
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
@tensorboard_option
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
    tensorboard: Path | None,
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
    if root is not None:
        check_directory(root)
    from moa_tf.cli.progress import LiveReporter

    with LiveReporter() as reporter:
        compared = api.compare(
            data,
            out=out,
            models=models,
            backend=backend,
            strategy=strategy,
            logical_devices=logical_devices,
            split=split,
            folds=folds,
            seeds=seeds,
            only_fold=only_fold,
            missing="median" if missing else "refuse",
            precision=precision,
            seed=seed,
            storage=storage,
            blend=blend,
            space=space,
            per_target=per_target,
            calibrate=calibrate,
            controls=controls,
            tensorboard=tensorboard,
            callbacks=[reporter],
        )
    board, blended = compared.board, compared.blend
    if not board:  # a worker that does not write
        return
    _print(board, compared.simulated)
    if blended is not None:
        parts = [
            f"{part['weight']:.2f} {part['model']}" for part in blended["components"] if part["weight"] > 0
        ]
        print_lines(f"blend        {', '.join(parts)}")
    print_lines(f"page         {out / 'index.html'}", f"runs         {out}")
    version = None
    if root is not None:
        version = compared.export(root)
        print_lines(f"SavedModel   {version}")
    print_lines(f"time         {time.monotonic() - started:.0f} s")
    if json_file is not None:
        write_json(
            json_file, {**board, "controls": compared.controls, "blend": blended, "saved_model": version}
        )


def _print(board: dict[str, Any], simulated: bool) -> None:
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
    note = ", simulated data" if simulated else ""
    print_table(f"{board['treated_rows']} treated signatures of {board['drugs']} drugs{note}", columns, rows)
    print_lines(
        f"Column means: log loss {board['prior_log_loss_treated']:.5f}. In brackets, and for what a model has more "
        "than the best: 95 % intervals over drugs.\n"
    )
