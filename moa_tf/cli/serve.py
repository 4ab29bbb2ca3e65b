"""`moa-tf serve`."""

from __future__ import annotations

import logging
import os
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click

from moa_tf.cli.options import LocalPath
from moa_tf.errors import InputError
from moa_tf.startup import import_tensorflow

if TYPE_CHECKING:
    from moa_tf.serving.server.policies import Policy

TOKEN = "MOA_TF_TOKEN"
OWN = ("threads", "batch_delay", "token_file", "allow_host", "max_body", "max_rows", "idle", "poll", "drain")
"""Parameters that are the embedded server's alone."""


@click.command()
@click.argument("root", type=LocalPath())
@click.option(
    "--port", type=click.IntRange(0, 65535), default=8501, show_default=True, help="Of REST and page."
)
@click.option("--grpc-port", type=click.IntRange(0, 65535), default=8500, show_default=True, help="Of gRPC.")
@click.option("--no-grpc", is_flag=True, help="REST and the page alone.")
@click.option(
    "--host",
    default="127.0.0.1",
    show_default=True,
    help="Address to listen on; 0.0.0.0 is reached from other machines, where --token-file is wanted.",
)
@click.option(
    "--engine",
    type=click.Choice(["auto", "tensorflow-serving", "docker", "embedded"]),
    default="auto",
    show_default=True,
    help="auto: the first that is there: tensorflow_model_server on the PATH, its image by Docker, embedded.",
)
@click.option(
    "--versions",
    default="latest:1",
    show_default=True,
    help="In service: latest:N, all, or numbers such as 3,4.",
)
@click.option(
    "--label", multiple=True, metavar="NAME=VERSION", help="A name for a version that is in service."
)
@click.option(
    "--config",
    type=LocalPath(),
    help="Models, versions and labels from a file of TensorFlow Serving's (ModelServerConfig); paths relative to ROOT.",
)
@click.option(
    "--threads", type=click.IntRange(min=1), help="Batches computed at once. [default: one a core, at most 4]"
)
@click.option(
    "--batch-delay",
    type=click.FloatRange(0, 1000),
    default=0.0,
    show_default=True,
    help="Milliseconds that a batch which is not full waits for more requests. At 0 they gather while others compute.",
)
@click.option(
    "--token-file", type=LocalPath(), help=f"Its first line is what clients must send. [env: {TOKEN}]"
)
@click.option(
    "--allow-host", multiple=True, help="A name in Host that is answered. [default on loopback: its own]"
)
@click.option(
    "--max-body", type=click.FloatRange(min=0.001), default=64.0, show_default=True, help="MB of a request."
)
@click.option(
    "--max-rows", type=click.IntRange(min=1), default=20_000, show_default=True, help="Rows of a request."
)
@click.option(
    "--timeout",
    type=click.FloatRange(min=0.1),
    default=30.0,
    show_default=True,
    help="Seconds for a body to arrive, and then to be computed.",
)
@click.option(
    "--idle",
    type=click.FloatRange(min=0.1),
    default=15.0,
    show_default=True,
    help="Seconds till a connection that asks nothing is closed.",
)
@click.option(
    "--poll",
    type=click.FloatRange(min=0.05),
    default=1.0,
    show_default=True,
    help="Seconds between two looks at ROOT.",
)
@click.option(
    "--drain",
    type=click.FloatRange(min=0.0),
    default=20.0,
    show_default=True,
    help="Seconds that running requests get after SIGTERM.",
)
@click.pass_context
def serve(
    context: click.Context,
    root: Path,
    port: int,
    grpc_port: int,
    no_grpc: bool,
    host: str,
    engine: str,
    versions: str,
    label: tuple[str, ...],
    config: Path | None,
    threads: int | None,
    batch_delay: float,
    token_file: Path | None,
    allow_host: tuple[str, ...],
    max_body: float,
    max_rows: int,
    timeout: float,
    idle: float,
    poll: float,
    drain: float,
) -> None:
    """Serves exported models by TensorFlow Serving's REST and gRPC calls, with a page to try them.

    ROOT is the directory of a model's versions, or one of several such. New versions are picked up, warmed up and
    swapped in while requests go on; models are called by their directory's name.

    The embedded server is for development: one process, with a page at / where a table can be dropped. What answers in
    production is TensorFlow Serving, see deploy/. With it, threads, batches and the limits below are its own matter.

    \b
    Examples:
      moa-tf serve saved_models
      moa-tf serve saved_models/mlp --versions latest:2 --label stable=3
      curl -d '{"instances": [{"genes": [0.1, …]}]}' http://127.0.0.1:8501/v1/models/mlp:predict
    """
    from moa_tf.serving.server.settings import Settings

    settings = Settings(
        host=host,
        port=port,
        grpc_port=None if no_grpc else grpc_port,
        token=_token(token_file),
        hosts=tuple(name.lower() for name in allow_host),
        body_limit=round(max_body * 1e6),
        row_limit=max_rows,
        timeout=timeout,
        idle=idle,
        drain=drain,
    )
    if not settings.local and not settings.token:
        click.echo(
            f"warning: {host} may be reached by others, and no token is asked for (--token-file)", err=True
        )
    _need_extra()
    from moa_tf.serving.server import external
    from moa_tf.serving.server.policies import check_labels, find_models, parse_labels, parse_versions

    latest, specific = parse_versions(versions)
    labels = parse_labels(label)
    if config is None:
        find_models(root)  # before TensorFlow takes its seconds
    engine = external.choose(engine)
    source = click.core.ParameterSource.COMMANDLINE
    given = [name for name in OWN if context.get_parameter_source(name) == source]
    if engine != external.EMBEDDED and given:
        names = ", ".join(f"--{name.replace('_', '-')}" for name in given)
        raise InputError(
            f"{names}: not with TensorFlow Serving, which does otherwise; expected --engine embedded with it"
        )
    # Else TensorFlow's C++ side writes some lines for each request that a model refuses.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    import_tensorflow()
    policies = _policies(root, config, latest, specific, labels)
    check_labels(policies)
    tell = partial(click.echo, err=True)
    if engine != external.EMBEDDED:
        raise click.exceptions.Exit(1 if external.run(engine, policies, settings, tell) else 0)
    from moa_tf.serving.server.embedded import Embedded

    logging.basicConfig(
        level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s", stream=sys.stderr, force=True
    )
    for name in ("absl", "tensorflow", "uvicorn"):
        logging.getLogger(name).setLevel(logging.ERROR)
    threads = threads or min(os.cpu_count() or 1, 4)
    Embedded(policies, settings, threads=threads, delay=batch_delay / 1000, poll=poll, tell=tell).run()


def _policies(
    root: Path, config: Path | None, latest: int, specific: tuple[int, ...], labels: dict[str, int]
) -> dict[str, Policy]:
    from moa_tf.serving.server.errors import Refused
    from moa_tf.serving.server.policies import Policy, find_models, policies_of, read_config

    if config is None:
        found = find_models(root)
        if labels and len(found) > 1:
            raise InputError("--label: expected ROOT to be one model's, or --config with labels for each")
        return {name: Policy(path, latest, specific, labels) for name, path in found.items()}
    if labels or specific or latest != 1:
        raise InputError(
            "--config: has versions and labels of its own, expected no --versions and --label with it"
        )
    try:
        return policies_of(read_config(config), base=root)
    except Refused as error:
        raise InputError(f"{config}: {error.message}") from None


def _token(file: Path | None) -> str:
    if file is None:
        return os.environ.get(TOKEN, "")
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"--token-file {file}: cannot be read ({error})") from None
    if not lines or len(lines[0].strip()) < 16:
        raise InputError(f"--token-file {file}: expected a first line of at least 16 characters")
    return lines[0].strip()


def _need_extra() -> None:
    try:
        import fastapi  # noqa: F401
        import grpc_health  # noqa: F401
        import orjson  # noqa: F401
        import prometheus_client  # noqa: F401
        import uvicorn  # noqa: F401
    except ImportError as error:
        raise InputError(
            f"moa-tf serve: {error.name} is not installed: pip install 'moa-tf[serving]'"
        ) from None
