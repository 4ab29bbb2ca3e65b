"""`moa-tf train`: cross-validate, then export."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import click

from moa_tf.cli.output import print_table, write_json
from moa_tf.cli.startup import import_tensorflow
from moa_tf.errors import InputError

MODELS = ("mlp", "tabnet", "deepinsight")
SAMPLE = 3000
"""Signatures of the simulated sample that stands in where no data is given."""


@click.command()
@click.option(
    "--data", type=click.Path(path_type=Path), help="Directory of tables. [default: a simulated sample]"
)
@click.option("--model", type=click.Choice(MODELS), default="mlp", show_default=True)
@click.option("--preset", help="Named set of hyperparameters. [default: by the size of the table]")
@click.option(
    "--strategy",
    type=click.Choice(["none", "mirrored", "multi-worker", "tpu"]),
    default="none",
    show_default=True,
    help="mirrored: all GPUs of this machine. multi-worker: as TF_CONFIG says.",
)
@click.option("--logical-devices", type=int, help="With mirrored: replicas on the CPU, for tests.")
@click.option("--split", type=click.Choice(["drug", "row", "kaggle"]), default="drug", show_default=True)
@click.option("--folds", type=click.IntRange(2), default=5, show_default=True)
@click.option("--seeds", type=click.IntRange(1), default=1, show_default=True, help="Networks in each fold.")
@click.option("--only-fold", type=click.IntRange(0), help="Train this fold alone, counted from 0.")
@click.option("--epochs", type=click.IntRange(1))
@click.option("--batch-size", type=click.IntRange(1), help="Global batch size, over all replicas.")
@click.option(
    "--set", "assignments", multiple=True, metavar="KEY=VALUE", help="Any hyperparameter; repeatable."
)
@click.option(
    "--precision",
    type=click.Choice(["float32", "mixed_bfloat16", "mixed_float16"]),
    default="float32",
    show_default=True,
)
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True)
@click.option("--out", type=click.Path(path_type=Path), help="Run directory. [default: runs/MODEL-DATE-TIME]")
@click.option("--export", "root", type=click.Path(path_type=Path), help="[default: saved_models/MODEL]")
@click.option("--resume", is_flag=True, help="Go on with the run in --out.")
@click.option(
    "--refit", is_flag=True, help="Export networks trained on all rows, not the mean of the folds'."
)
@click.option(
    "--pretrain", is_flag=True, help="tabnet: first learn to reconstruct the fold's training features."
)
@click.option(
    "--pretrain-also",
    type=click.Path(path_type=Path),
    metavar="FEATURES",
    help="With --pretrain: these unlabelled signatures too, such as test_features.csv.",
)
@click.option("--shuffle-labels", is_flag=True, help="Control: permute labels among drugs; export nothing.")
@click.option("--json", "json_file", type=click.Path(path_type=Path), help="Write the figures here.")
def train(
    data: Path | None,
    model: str,
    preset: str | None,
    strategy: str,
    logical_devices: int | None,
    split: str,
    folds: int,
    seeds: int,
    only_fold: int | None,
    epochs: int | None,
    batch_size: int | None,
    assignments: tuple[str, ...],
    precision: str,
    seed: int,
    out: Path | None,
    root: Path | None,
    resume: bool,
    refit: bool,
    pretrain: bool,
    pretrain_also: Path | None,
    shuffle_labels: bool,
    json_file: Path | None,
) -> None:
    """Cross-validate a model and export it.

    \b
    Examples
      moa-tf train                                            the simulated sample
      moa-tf train --data lish-moa --strategy mirrored        on all GPUs
      moa-tf train --data lish-moa --only-fold 0 --epochs 10 --set learning_rate=3e-3
      moa-tf train --data lish-moa --out runs/a --resume      go on after a kill
    """
    if resume and out is None:
        raise InputError("--resume: expected --out with the directory of the run to go on with")
    if pretrain_also is not None and not pretrain:
        raise InputError("--pretrain-also: expected --pretrain with it")
    started = time.monotonic()
    import_tensorflow()
    import tensorflow as tf

    from moa_tf.cli.progress import LiveReporter
    from moa_tf.data.read import read_features
    from moa_tf.models.base import get_family, override
    from moa_tf.training.cross_validation import Settings, cross_validate
    from moa_tf.training.strategy import make_placement

    placement = make_placement(strategy, logical_devices)
    # On a GPU the depthwise convolution's gradient has no deterministic kernel.
    if model != "deepinsight" or not tf.config.list_physical_devices("GPU"):
        tf.config.experimental.enable_op_determinism()
    with LiveReporter() as reporter:
        dataset = _load(data, seed, reporter.message)
        family = get_family(model)
        chosen = preset or family.choose_preset(len(dataset))
        if chosen not in family.presets:
            raise InputError(f"--preset {chosen}: expected one of {', '.join(family.presets)}")
        given = [f"epochs={epochs}"] * (epochs is not None) + [f"batch_size={batch_size}"] * (
            batch_size is not None
        )
        config = override(family.presets[chosen], [*given, *assignments])
        reporter.message(
            f"{model}, preset {chosen}{'' if preset else f' (by itself for {len(dataset)} signatures)'}, "
            f"{folds} folds by {split} × {seeds} seeds, {placement.replicas} replicas"
        )
        out = out or Path("runs", f"{model}-{time.strftime('%Y%m%d-%H%M%S')}")
        settings = Settings(
            model, chosen, config, split, folds, seeds, seed, precision, pretrain, shuffle_labels
        )
        unlabelled = read_features(pretrain_also, dataset.signatures.spec) if pretrain_also else None
        metrics = cross_validate(
            dataset,
            settings,
            placement,
            out,
            only_fold=only_fold,
            refit=refit,
            resume=resume,
            unlabelled=unlabelled,
            reporter=reporter,
        )
    if not placement.chief:
        return
    print_table(_title(metrics, chosen), ["rows", *_COLUMNS.values()], _rows(metrics))
    version = None
    if not shuffle_labels:
        from moa_tf.serving.run_export import export_run

        version = export_run(out, root or Path("saved_models", model))
    seconds = time.monotonic() - started
    print(f"run          {out}")
    if version is not None:
        print(f"SavedModel   {version}")
    print(f"time         {seconds:.0f} s")
    if version is not None:
        predict = f"moa-tf predict {version.parent}"
        tests = sorted(data.glob("test_features.*")) if data else []
        if data is None:
            print(
                f"\nNext: moa-tf data simulate sample && {predict} sample/test_features.csv predictions.csv"
            )
        else:
            print(f"\nNext: {predict} {tests[0] if tests else 'FEATURES.csv'} predictions.csv")
    if json_file is not None:
        write_json(
            json_file, {**metrics, "run": out, "saved_model": version, "preset": chosen, "seconds": seconds}
        )


_COLUMNS = {
    "log_loss_all": "log loss, all rows",
    "log_loss_treated": "log loss, treated",
    "prior_log_loss_treated": "column means, treated",
    "macro_auroc": "macro AUROC",
    "macro_average_precision": "macro avg. precision",
}


def _rows(metrics: dict[str, Any]) -> list[list[Any]]:
    rows = [[f"fold {fold['fold']}", *(fold[name] for name in _COLUMNS)] for fold in metrics["folds"]]
    overall = metrics["overall"]
    return [*rows, ["out of fold", *(overall[name] for name in _COLUMNS)]] if len(rows) > 1 else rows


def _title(metrics: dict[str, Any], preset: str) -> str:
    held_out = {"drug": "drugs held out", "row": "rows held out", "kaggle": "rare drugs held out"}
    what = held_out.get(metrics["split"], "signatures held out (no train_drug: every row is its own drug)")
    notes = ["simulated data"] * metrics["simulated"] + ["shuffled labels"] * metrics["shuffled_labels"]
    return ", ".join([f"preset {preset}", what, *notes])


def _load(data: Path | None, seed: int, tell: Any) -> Any:
    if data is None:
        from moa_tf.data.simulate import simulate

        tell(
            f"No --data: training on {SAMPLE} simulated signatures. Their figures say nothing of real drugs."
        )
        return simulate(SAMPLE, seed)
    from moa_tf.data.read import read_dataset

    dataset = read_dataset(data)
    for warning in dataset.notes.get("warnings", ()):
        tell(warning)
    if dataset.simulated:
        tell(f"{data}: simulated data. Its figures say nothing of real drugs.")
    if dataset.drug_id is None:
        tell(f"{data}: no train_drug, so every row is taken for a drug of its own.")
    return dataset
