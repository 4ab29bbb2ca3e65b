"""`moa-tf predict`."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import click

from moa_tf.cli.options import LocalPath, json_option
from moa_tf.cli.output import part_progress, print_lines, print_table, row_progress, write_json
from moa_tf.errors import InputError
from moa_tf.startup import import_tensorflow


@click.command()
@click.argument("saved_model", type=LocalPath())
@click.argument("features", type=LocalPath())
@click.argument("out", type=LocalPath())
@click.option(
    "--batch-size",
    type=click.IntRange(min=1),
    help="Signatures computed at once; memory grows with it. [default: by the model's widest layer]",
)
@click.option(
    "--server",
    metavar="URL",
    help="A server that has the model computes: http://HOST:8501 (REST) or grpc://HOST:8500; needs moa-tf[serving].",
)
@click.option(
    "--runner",
    type=click.Choice(["direct", "dask", "flink", "spark", "dataflow"]),
    help="Predict the parts of FEATURES side by side, by Apache Beam on this engine; needs moa-tf[beam].",
)
@click.option(
    "--workers",
    type=click.IntRange(min=1),
    help="With --runner direct, or dask without a cluster: processes on this machine. [default: one a core] With "
    "--server: requests under way at once. [default: 4]",
)
@click.option(
    "--beam",
    metavar="KEY=VALUE",
    multiple=True,
    help="With --runner: an option of Beam's, such as dask_client_address=HOST:PORT or flink_master=HOST:PORT.",
)
@json_option
def predict(
    saved_model: Path,
    features: Path,
    out: Path,
    batch_size: int | None,
    server: str | None,
    runner: str | None,
    workers: int | None,
    beam: tuple[str, ...],
    json_file: Path | None,
) -> None:
    """Writes the probability of every mechanism of action for every signature of a table.

    SAVED_MODEL is an exported version, or the directory of several, of which the latest is taken. FEATURES
    and OUT are .csv, .csv.gz or .parquet files of any length; they are read and written piece by piece.
    Columns of FEATURES are found by name; further ones are not used, which is said. OUT has sig_id and a
    column per target, as sample_submission has. An OUT that exists is replaced, but only once the new one is
    complete.

    With --runner FEATURES is a directory .parquet of many files, and OUT becomes one, with a file for each.
    A call that was ended, by whatever, goes on when it is repeated: finished parts stay. Model, FEATURES and
    OUT must lie where every worker finds them by the same path.

    With --server the model's own files are read for the panel alone. The server's model is the one of the same name
    and version, unless the URL ends in /v1/models/NAME, perhaps with /versions/N or /labels/L. What a server refuses
    because it is busy, or loses, is sent again. A token for it is taken from MOA_TF_TOKEN.

    \b
    Examples:
      moa-tf predict saved_models/mlp test_features.csv predictions.csv
      moa-tf predict saved_models/mlp features.csv predictions.csv --server grpc://127.0.0.1:8500
      moa-tf predict saved_models/mlp features.parquet predictions.parquet --runner direct --workers 8
      moa-tf predict saved_models/mlp features.parquet predictions.parquet --runner dask \\
        --beam dask_client_address=tcp://scheduler:8786
    """
    if server is not None and runner is not None:
        raise InputError("--server, --runner: expected one of them")
    if beam and runner is None:
        raise InputError("--beam: expected --runner with it, as nothing is shared out without")
    if workers and server is None and runner is None:
        raise InputError("--workers: expected --runner or --server with it, as nothing is shared out without")
    if server is not None:
        figures, rows = _predict_there(saved_model, features, out, batch_size, server, workers or 4)
    elif runner is None:
        figures, rows = _predict_here(saved_model, features, out, batch_size)
    else:
        figures, rows = _predict_parts(saved_model, features, out, batch_size, runner, workers, beam)
    if figures["simulated"]:
        rows.append(["trained on", "simulated data"])
    print_table("Predictions", ["", ""], rows)
    if figures.pop("ranks"):
        print_lines(f"Next, a card for each drug: moa-tf rank {saved_model} {features} DIR")
    if json_file:
        write_json(json_file, figures)


def _predict_here(
    saved_model: Path, features: Path, out: Path, batch_size: int | None
) -> tuple[dict[str, Any], list[list[Any]]]:
    """In this process; gives the figures, and the rows of the table that shows them."""
    import time

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
    return _describe(model.path, model.metadata, out, counts, counts["signatures"], seconds)


def _predict_there(
    saved_model: Path, features: Path, out: Path, batch_size: int | None, server: str, connections: int
) -> tuple[dict[str, Any], list[list[Any]]]:
    """By a server."""
    import os
    import time

    from moa_tf.data.schema import SignatureSpec
    from moa_tf.serving.client import RemoteModel, ServerError, parse_address
    from moa_tf.serving.predict import check_paths, predict_table
    from moa_tf.serving.versions import latest_version, load_metadata

    check_paths(features, out)
    metadata, path = load_metadata(saved_model), latest_version(saved_model).resolve()
    numbered = path.name.isdecimal()
    address = parse_address(
        server, path.parent.name if numbered else path.name, path.name if numbered else ""
    )
    try:
        import orjson  # noqa: F401
    except ImportError:
        raise InputError("--server: orjson is not installed: pip install 'moa-tf[serving]'") from None
    if address.scheme.startswith("grpc"):
        import_tensorflow()  # its protos
    spec, names = SignatureSpec.from_dict(metadata["spec"]), tuple(metadata["targets"])
    tell = partial(click.echo, err=True)
    start = time.perf_counter()
    try:
        with (
            row_progress("predicting") as progress,
            RemoteModel(address, spec, names, os.environ.get("MOA_TF_TOKEN", ""), connections, tell) as model,
        ):
            counts = predict_table(model, features, out, batch_size=batch_size, progress=progress, tell=tell)
    except ServerError as error:
        click.echo(f"error: {error}", err=True)
        raise click.exceptions.Exit(1) from None
    figures, rows = _describe(path, metadata, out, counts, counts["signatures"], time.perf_counter() - start)
    figures["server"] = server
    return figures, [*rows, ["server", server]]


def _predict_parts(
    saved_model: Path,
    features: Path,
    out: Path,
    batch_size: int | None,
    runner: str,
    workers: int | None,
    flags: tuple[str, ...],
) -> tuple[dict[str, Any], list[list[Any]]]:
    """By Beam; the seconds count the start of its workers too."""
    import os
    import sys
    import time

    from moa_tf.serving.versions import latest_version, load_metadata

    try:
        import apache_beam  # noqa: F401
    except ImportError as error:
        raise InputError(
            f"--runner {runner}: Apache Beam cannot be imported ({error}): pip install 'moa-tf[beam]'"
        ) from None
    from pipelines.inference import EngineError, predict_parts

    start = time.perf_counter()
    try:
        with part_progress("predicting") as progress:
            counts = predict_parts(
                saved_model,
                features,
                out,
                runner=runner,
                workers=workers,
                flags=flags,
                batch_size=batch_size,
                progress=progress,
                tell=partial(click.echo, err=True),
            )
    except EngineError as error:
        print(f"error: {error}", file=sys.stderr, flush=True)
        sys.stdout.flush()
        os._exit(1)  # threads of Beam that wait for a lost worker would keep the interpreter from ending
    seconds = time.perf_counter() - start
    path, predicted = latest_version(saved_model), counts["predicted"]
    figures, rows = _describe(path, load_metadata(path), out, counts, predicted, seconds)
    figures["runner"] = runner
    where = f"{runner}, {counts['workers']} workers" if counts["workers"] else runner
    return figures, [*rows, ["parts", counts["parts"]], ["runner", where]]


def _describe(
    path: Path, metadata: dict[str, Any], out: Path, counts: dict[str, Any], predicted: int, seconds: float
) -> tuple[dict[str, Any], list[list[Any]]]:
    """Figures and rows of a prediction, of which `predicted` signatures took `seconds`."""
    rate = predicted / seconds if predicted else None
    figures = {
        **counts,
        "targets": len(metadata["targets"]),
        "seconds": seconds,
        "signatures_per_second": rate,
        "model": str(path),
        "networks": metadata["networks"],
        "simulated": metadata.get("simulated"),
        "ranks": bool(metadata.get("ranking")),
        "predictions": str(out),
    }
    rows = [
        ["model", f"{path} ({metadata['networks']} networks)"],
        ["predictions", out],
        ["signatures", counts["signatures"]],
        ["of these controls, predicted 0", counts["controls"]],
        ["targets", len(metadata["targets"])],
        ["signatures/s", rate and f"{rate:,.0f}"],
    ]
    return figures, rows
