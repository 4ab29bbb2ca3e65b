"""`moa-tf blend`."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import click

from moa_tf.atomic import check_directory
from moa_tf.cli.options import LocalPath, blend_options, json_option
from moa_tf.cli.output import fixed, print_lines, print_table, write_json
from moa_tf.startup import import_tensorflow


@click.command()
@click.argument("runs", type=LocalPath(), nargs=-1, required=True, metavar="RUN...")
@click.option("--out", type=LocalPath(), required=True, help="Directory of the new run.")
@click.option("--export", "root", type=LocalPath(exported=True), help="Export it to here, too.")
@blend_options
@click.option(
    "--data", type=LocalPath(), help="The runs' data. [default: where it was when they were trained]"
)
@json_option
def blend(
    runs: tuple[Path, ...],
    out: Path,
    root: Path | None,
    space: str,
    per_target: bool,
    calibrate: str,
    data: Path | None,
    json_file: Path | None,
) -> None:
    """Blends finished runs of the same data and folds into one.

    Weights are not negative, sum to 1, and have the least log loss of the out-of-fold predictions of treated
    signatures. The score is that of weights which were fitted without the scored fold. OUT is a run that refers to
    the others, so keep them; exported, it is one SavedModel of them all.

    \b
    Examples:
      moa-tf blend runs/mlp runs/linear runs/connectivity --out runs/blend --export saved_models/blend
      moa-tf blend runs/mlp --calibrate temperature --out runs/calibrated
    """
    check_directory(out)
    if root is not None:
        check_directory(root)
    import_tensorflow()
    from moa_tf.ensemble.blend import blend_runs
    from moa_tf.ensemble.combination import BlendOptions
    from moa_tf.serving.run_export import export_run

    tell = partial(click.echo, err=True)
    metrics = blend_runs(runs, out, BlendOptions(space, per_target, calibrate), tell, data)
    _print_metrics(metrics)
    print_lines(f"run          {out}")
    version = None
    if root is not None and metrics["shuffled_labels"]:
        print_lines("SavedModel   none (a control is not exported)")
    elif root is not None:
        version = export_run(out, root)
        print_lines(f"SavedModel   {version}")
    if json_file:
        write_json(json_file, {**metrics, "run": out, "saved_model": version})


_COLUMNS = {
    "log_loss_treated": "log loss, treated",
    "macro_auroc": "macro AUROC",
    "macro_average_precision": "macro avg. precision",
}


def _print_metrics(metrics: dict[str, Any]) -> None:
    rows = [
        [part["run"], part["model"], fixed(part["weight"], 3), *(part[name] for name in _COLUMNS)]
        for part in metrics["components"]
    ]
    overall = metrics["overall"]
    rows.append(["blend", "", "", *(overall[name] for name in _COLUMNS)])
    notes = ["simulated data"] * metrics["simulated"] + ["shuffled labels"] * metrics["shuffled_labels"]
    notes += [metrics["caveat"]] * bool(metrics["caveat"])
    title = ", ".join(["Blend, scored by weights fitted without the scored fold", *notes])
    print_table(title, ["run", "model", "weight", *_COLUMNS.values()], rows)
    best = metrics["components"][metrics["best"]]["run"]
    rows = [
        [_COLUMNS[name], *(f"{value:+.5f}" for value in values)]
        for name, values in metrics["difference"].items()
    ]
    print_table(f"Difference from {best}, 95 % interval over drugs", ["", "blend", "from", "to"], rows)
