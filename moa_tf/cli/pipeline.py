"""`moa-tf pipeline run`, `status` and `compile`: the TFX pipeline."""

from __future__ import annotations

import importlib.util
import re
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from moa_tf.atomic import check_directory
from moa_tf.cli.options import LocalPath, json_option, validation_options
from moa_tf.cli.output import print_lines, print_table, write_json
from moa_tf.data.loading import load
from moa_tf.errors import InputError
from moa_tf.models.base import DEFAULT, FAMILIES
from moa_tf.serving.server.external import has_docker
from moa_tf.startup import import_tensorflow

if TYPE_CHECKING:
    from pipelines.pipeline import Settings

NEEDED = ("tfx", "tfx_bsl", "tensorflow_data_validation", "tensorflow_model_analysis", "ml_metadata")
"""What the extra brings; TFX itself starts without some of them, and then does nothing."""

INSTALL = "uv pip install 'moa-tf[tfx]' --override pipelines/overrides.txt"

_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,127}")


@click.group()
def pipeline() -> None:
    """From a table to a model in service, by TensorFlow Extended (TFX).

    \b
    Examples
      moa-tf pipeline run --data lish-moa
      moa-tf pipeline status pipeline_runs/mlp
      moa-tf pipeline compile --data lish-moa --in-container /gcs/bucket --image IMAGE pipeline.json
    """


def _training_options(command: Callable[..., None]) -> Callable[..., None]:
    options = (
        click.option("--data", type=LocalPath(), required=True, help="Directory of the training tables."),
        click.option("--model", type=click.Choice(list(FAMILIES)), default=DEFAULT, show_default=True),
        click.option("--preset", help="Named set of hyperparameters. [default: by the size of the table]"),
        validation_options,
        click.option("--epochs", type=click.IntRange(1)),
        click.option("--batch-size", type=click.IntRange(1), help="Global batch size, over all replicas."),
        click.option(
            "--set", "assignments", multiple=True, metavar="KEY=VALUE", help="Any hyperparameter; repeatable."
        ),
        click.option("--refit", is_flag=True, help="Export networks trained on all training rows."),
        click.option("--name", help="The pipeline's name. [default: the model's]"),
        click.option(
            "--worse",
            type=click.FloatRange(0),
            default=0.01,
            show_default=True,
            help="By which part a model's log loss may be above the last blessed one's.",
        ),
        click.option(
            "--beam",
            multiple=True,
            metavar="KEY=VALUE",
            help="A flag of Beam, as runner=DirectRunner or direct_num_workers=2; repeatable.",
        ),
    )
    for option in reversed(options):
        command = option(command)
    return command


@pipeline.command()
@_training_options
@click.option("--root", type=LocalPath(), help="The pipeline's directory. [default: pipeline_runs/NAME]")
@click.option(
    "--export",
    "destination",
    type=LocalPath(exported=True),
    help="Push to here. [default: saved_models/NAME]",
)
@click.option("--schema", type=LocalPath(), help="A schema of your own. [default: schema.pbtxt in the root]")
@click.option(
    "--predict", "features", type=LocalPath(), help="Also predict this table, with the blessed model."
)
@json_option
def run(
    data: Path,
    root: Path | None,
    destination: Path | None,
    schema: Path | None,
    features: Path | None,
    name: str | None,
    worse: float,
    beam: tuple[str, ...],
    missing: bool,
    json_file: Path | None,
    **training: Any,
) -> None:
    """Checks a table, trains on it, judges the model, and puts it into service if it is blessed.

    A fifth of the drugs is held out to judge the model. What has not changed since an earlier run comes from the
    cache; after a kill, the next run goes on with what was finished, the folds of the training too. The first run
    writes the table's schema to the pipeline's directory, to be read and changed by hand; later tables are held to it,
    and to the table that was accepted last. A table that is refused, and a model that is not blessed, end with status
    2 and the reason.

    \b
    Examples
      moa-tf pipeline run --data lish-moa
      moa-tf pipeline run --data nci60 --missing median --model connectivity
      moa-tf pipeline run --data lish-moa --strategy mirrored --set learning_rate=3e-3
      moa-tf pipeline run --data lish-moa --predict lish-moa/test_features.csv
      moa-tf pipeline run --data lish-moa --beam direct_num_workers=2 --beam direct_running_mode=multi_processing
    """
    name = _check_name(name or training["model"])
    root = (root or Path("pipeline_runs", name)).absolute()
    destination = (destination or Path("saved_models", name)).absolute()
    for directory in (root, destination):
        check_directory(directory)
    started = time.monotonic()
    _require_tfx()
    _import_tfx()
    from pipelines import METADATA, local
    from pipelines.options import make_settings, with_prediction
    from pipelines.schema import keep_schema, write_schema
    from pipelines.status import read_runs

    tell = _tell
    dataset = load(data, training["seed"], missing, tell)
    root.mkdir(parents=True, exist_ok=True)
    settings = make_settings(
        dataset, name, root, data.absolute(), destination, worse, beam, runs=root / "runs", training=training
    )
    if not (schema or root / "schema.pbtxt").exists():
        if schema is not None:
            raise InputError(f"--schema {schema}: no such file")
        write_schema(root / "schema.pbtxt", dataset)
        tell(f"{root / 'schema.pbtxt'}: written from this table; later ones are held to it")
    settings = replace(
        settings, schema=keep_schema(schema or root / "schema.pbtxt", root), infra=has_docker()
    )
    if not settings.infra:
        tell("InfraValidator: left out, as no Docker engine answers here")
    if (root / METADATA).exists():
        pushed = {each.pushed for each in read_runs(root, None)} - {""}
        settings = replace(settings, gone=tuple(sorted(path for path in pushed if not Path(path).is_dir())))
    if features is not None:
        settings = with_prediction(settings, features.absolute(), root, dataset, tell)
    seconds = _run(local, settings, root, tell)
    result = read_runs(root, 1)[0]
    _report(result)
    print_lines(f"time        {time.monotonic() - started:.0f} s")
    if json_file is not None:
        write_json(json_file, _figures(result) | {"component_seconds": seconds})
    if not result.pushed:
        raise InputError("\n".join(f"{name}: {reason}" for reason in result.reasons or [result.outcome]))


@pipeline.command()
@click.argument("root", type=LocalPath())
@click.option("--last", type=click.IntRange(1), default=10, show_default=True, help="How many runs.")
@click.option("--html", type=LocalPath(), help="Page to write. [default: status.html in ROOT]")
@json_option
def status(root: Path, last: int, html: Path | None, json_file: Path | None) -> None:
    """The last runs of the pipeline in ROOT: components, artifacts, blessed or refused and why.

    \b
    Examples:
      moa-tf pipeline status pipeline_runs/mlp
    """
    _require_tfx()
    from pipelines import METADATA

    if not (root / METADATA).is_file():
        raise InputError(f"{root}: no {METADATA}, expected the directory of a pipeline that has run")
    _import_tfx()
    from pipelines.status import read_runs, write_page

    runs = read_runs(root, last)
    print_table(
        f"Pipeline runs in {root}",
        ["started (UTC)", "outcome", "log loss", "by column means", "macro AUROC"],
        [
            [
                f"{each.started:%Y-%m-%d %H:%M:%S}",
                each.outcome,
                *(each.figures.get(key) for key in ("log_loss", "log_loss_by_column_means", "macro_auroc")),
            ]
            for each in runs
        ],
    )
    if runs:
        _report(runs[0])
    html = html or root / "status.html"
    write_page(runs, root, html)
    print_lines(f"page        {html}")
    if json_file is not None:
        write_json(json_file, {"runs": [_figures(each) for each in runs]})


@pipeline.command("compile")
@click.argument("out", type=LocalPath())
@_training_options
@click.option(
    "--in-container",
    "mounted",
    required=True,
    metavar="DIR",
    help="Directory as the containers see it, as /gcs/BUCKET/moa: with data/, schema.pbtxt, and what is made.",
)
@click.option(
    "--pipeline-root", metavar="URI", help="Where artifacts go. [default: artifacts in that directory]"
)
@click.option("--image", required=True, help="Container image with moa-tf[tfx].")
@json_option
def compile_(
    out: Path,
    data: Path,
    mounted: str,
    pipeline_root: str | None,
    image: str,
    name: str | None,
    worse: float,
    beam: tuple[str, ...],
    missing: bool,
    json_file: Path | None,
    **training: Any,
) -> None:
    """Writes the pipeline as a file for Kubeflow Pipelines or Vertex AI, and checks it by their schema.

    --data is a copy of the tables on this machine, which the panel and the schema are read from; the containers read
    DIR/data. The schema is written beside OUT, to be copied to DIR.

    \b
    Examples:
      moa-tf pipeline compile --data lish-moa --in-container /gcs/bucket/moa --image europe-docker.pkg.dev/p/r/moa-tf
          pipeline.json
    """
    name = _check_name(name or training["model"])
    if out.suffix != ".json":
        raise InputError(f"{out}: expected a name that ends in .json")
    _require_tfx()
    _import_tfx()
    from pipelines.kubeflow import compile_pipeline
    from pipelines.options import make_settings
    from pipelines.schema import write_schema

    dataset = load(data, training["seed"], missing, _tell)
    root = Path(mounted)
    settings = make_settings(
        dataset, name, root, root / "data", root / "saved_models" / name, worse, beam, root / "runs", training
    )
    settings = replace(settings, plain=True, schema=root / "schema.pbtxt")
    if pipeline_root is not None:
        settings = replace(settings, root=pipeline_root)
    compiled = compile_pipeline(settings, image, out)
    write_schema(out.with_name("schema.pbtxt"), dataset)
    tasks = compiled["pipelineSpec"]["root"]["dag"]["tasks"]
    print_lines(f"pipeline    {out} ({len(tasks)} tasks, schema {compiled['pipelineSpec']['schemaVersion']})")
    print_lines(f"schema      {out.with_name('schema.pbtxt')}, expected at {settings.schema}")
    if json_file is not None:
        write_json(json_file, {"pipeline": out, "tasks": sorted(tasks)})


def _require_tfx() -> None:
    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        raise InputError(
            f"moa-tf pipeline needs {', '.join(missing)}: {INSTALL} (in an environment of its own)"
        )


def _import_tfx() -> None:
    """Imports TensorFlow, then TFX, which must come before TFDV; their native parts must be there.

    Raises:
        InputError: a native library cannot be loaded. TFX would put stand-ins in its place, which do nothing.
    """
    import_tensorflow()
    try:
        import tfx.components  # noqa: F401
        from tensorflow_data_validation.pywrap import tensorflow_data_validation_extension  # noqa: F401
        from tfx_bsl.cc import tfx_bsl_extension  # noqa: F401
    except ImportError as error:
        raise InputError(f"moa-tf pipeline: TFX cannot start ({error}); install it by: {INSTALL}") from None


def _check_name(name: str) -> str:
    if not _NAME.fullmatch(name):
        raise InputError(f"--name {name!r}: expected lower-case letters, digits and hyphens")
    return name


def _tell(line: str) -> None:
    click.echo(line, err=True)


def _run(local: Any, settings: Settings, root: Path, tell: Callable[[str], None]) -> dict[str, float]:
    from pipelines import find_input_error

    try:
        return local.run(settings, root, tell)
    except Exception as error:
        raise find_input_error(error) or error from None


def _report(result: Any) -> None:
    print_table(
        f"{result.started:%Y-%m-%d %H:%M:%S} UTC: {result.outcome}",
        ["component", "state", "seconds", "artifacts"],
        [
            [each.name, each.state, "" if each.seconds is None else f"{each.seconds:.1f}", _artifacts(each)]
            for each in result.components
        ],
    )
    for name, value in result.figures.items():
        if name in ("log_loss", "log_loss_by_column_means", "macro_auroc", "macro_average_precision"):
            print_lines(f"{name.replace('_', ' '):26}{value:.4f}")
    print_lines(f"blessed     {'–' if result.blessed is None else 'yes' if result.blessed else 'no'}")
    print_lines(f"pushed      {result.pushed or 'no'}")


def _artifacts(component: Any) -> str:
    places = [(kind, Path(uri)) for _, kind, uri in component.artifacts]
    return "; ".join(f"{kind} {place.parent.parent.name}/…/{place.name}" for kind, place in places)


def _figures(result: Any) -> dict[str, Any]:
    return {
        "started": result.started.isoformat(),
        "outcome": result.outcome,
        "blessed": result.blessed,
        "pushed": result.pushed or None,
        "reasons": result.reasons,
        "figures": result.figures,
        "components": [vars(each) for each in result.components],
        "statistics": result.statistics,
        "evaluation": result.evaluation,
    }
