"""`moa-tf predict`."""

from __future__ import annotations

from pathlib import Path

import click

from moa_tf.cli.options import LocalPath, json_option
from moa_tf.cli.output import print_table, row_progress, write_json
from moa_tf.cli.startup import import_tensorflow


@click.command()
@click.argument("saved_model", type=LocalPath())
@click.argument("features", type=LocalPath())
@click.argument("out", type=LocalPath())
@click.option(
    "--batch-size",
    type=click.IntRange(min=1),
    help="Signatures computed at once; memory grows with it. [default: by the model's widest layer]",
)
@json_option
def predict(
    saved_model: Path, features: Path, out: Path, batch_size: int | None, json_file: Path | None
) -> None:
    """Writes the probability of every mechanism of action for every signature of a table.

    SAVED_MODEL is an exported version, or the directory of several, of which the latest is taken. FEATURES
    and OUT are .csv, .csv.gz or .parquet files of any length; they are read and written piece by piece.
    Columns of FEATURES are found by name; further ones are not used, which is said. OUT has sig_id and a
    column per target, as sample_submission has. An OUT that exists is replaced, but only once the new one is
    complete.

    \b
    Example:
      moa-tf predict saved_models/mlp test_features.csv predictions.csv
    """
    import time
    from functools import partial

    from moa_tf.serving.predict import check_paths, load_model, predict_table
    from moa_tf.serving.versions import load_metadata

    # Before TensorFlow takes its seconds.
    check_paths(features, out)
    load_metadata(saved_model)
    import_tensorflow()
    model = load_model(saved_model)
    start = time.perf_counter()
    with row_progress("predicting") as progress:
        counts = predict_table(
            model, features, out, batch_size=batch_size, progress=progress, tell=partial(click.echo, err=True)
        )
    seconds = time.perf_counter() - start
    figures = {
        **counts,
        "targets": len(model.target_names),
        "seconds": seconds,
        "signatures_per_second": counts["signatures"] / seconds,
        "model": str(model.path),
        "networks": model.metadata["networks"],
        "simulated": model.metadata.get("simulated"),
        "predictions": str(out),
    }
    rows = [
        ["model", f"{model.path} ({model.metadata['networks']} networks)"],
        ["predictions", out],
        ["signatures", counts["signatures"]],
        ["of these controls, predicted 0", counts["controls"]],
        ["targets", len(model.target_names)],
        ["signatures/s", f"{figures['signatures_per_second']:,.0f}"],
    ]
    if figures["simulated"]:
        rows.append(["trained on", "simulated data"])
    print_table("Predictions", ["", ""], rows)
    if json_file:
        write_json(json_file, figures)
