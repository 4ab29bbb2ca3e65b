"""`moa-tf data convert`."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from moa_tf.cli.options import LocalPath, json_option
from moa_tf.cli.output import print_table, progress_console, write_json
from moa_tf.errors import InputError

if TYPE_CHECKING:
    from moa_tf.data.conversion.source import Progress

_EVERY = 10.0
"""Seconds between the lines of progress in a log."""


@click.command()
@click.argument("source", type=LocalPath())
@click.argument("out", type=LocalPath())
@click.option("--signatures", type=LocalPath(), help="Table with a row a signature (LINCS siginfo_beta.txt).")
@click.option(
    "--compounds",
    type=LocalPath(),
    help="Table of drugs and mechanisms (LINCS compoundinfo_beta.txt, Drug Repurposing Hub).",
)
@click.option("--genes", type=LocalPath(), help="Table of genes and symbols (LINCS geneinfo_beta.txt).")
@click.option("--landmarks", is_flag=True, help="Keep the 978 landmark genes only.")
@click.option(
    "--as", "kind", type=click.Choice(["genes", "viability"]), default="genes", show_default=True,
    help="What the features are: expression of genes (g-*) or viability of cell lines (c-*).",
)  # fmt: skip
@click.option(
    "--min-drugs", type=click.IntRange(min=1), default=1, show_default=True,
    help="Drop mechanisms of fewer drugs; their drugs stay.",
)  # fmt: skip
@click.option("--types", help="Keep signatures of these types only: trt_cp,ctl_vehicle.  [default: all]")
@click.option(
    "--quality", multiple=True, metavar="RULE",
    help="Keep treated signatures only where a field is 1 (is_hiq) or in bounds (tas>0.2). May be repeated.",
)  # fmt: skip
@click.option(
    "--rename", multiple=True, metavar="NEW=OLD",
    help="Take the field OLD, of any of the tables, for NEW. May be repeated.",
)  # fmt: skip
@json_option
def convert(
    source: Path,
    out: Path,
    signatures: Path | None,
    compounds: Path | None,
    genes: Path | None,
    landmarks: bool,
    kind: str,
    min_drugs: int,
    types: str | None,
    quality: tuple[str, ...],
    rename: tuple[str, ...],
    json_file: Path | None,
) -> None:
    """Writes a table of another kind in the competition's layout, into the new or empty directory OUT.

    SOURCE is GCT #1.2 or #1.3 (gzipped or not), GCTX, CSV or Parquet with a row a signature; its bytes say which, not
    its name. OUT gets train_features, train_targets_scored, train_drug, test_features and test_drug, as Parquet; large
    tables as a directory of Parquet files, which appear one by one: a call that was killed goes on when it is
    repeated. -666, NA, NaN and empty cells are missing values.

    Mechanisms come from --compounds, by the first 13 characters of a Broad id or by the drug's name, or from a field
    moa; several are split at | and at a comma with a blank. A drug whose mechanism is not known is no negative: its
    signatures go to test_features, to be predicted. Without any mechanism all signatures do. Controls are trained on.

    Fields that are understood: sig_id, pert_id, pert_iname or cmap_name, pert_type (ctl_... are controls, all trt_...
    are treated), pert_time and pert_dose with their units, or pert_itime and pert_idose, cell_id or cell_iname, moa,
    gene_id, gene_symbol; --rename for tables that call them otherwise. Doses become numbers in uM where all of them
    are molar. By default nothing is dropped.

    \b
    Examples:
      moa-tf data convert plate.gctx plate
      moa-tf data convert level5_beta_trt_cp_n720216x12328.gctx lincs --landmarks --min-drugs 5 \\
        --signatures siginfo_beta.txt --compounds compoundinfo_beta.txt --genes geneinfo_beta.txt \\
        --quality is_hiq --quality "tas>0.2"
      moa-tf data convert screen.csv screen --as viability --rename sig_id=row --rename pert_iname=compound
    """
    from moa_tf.data.conversion.convert import Options, convert

    options = Options(
        signatures, compounds, genes, landmarks, kind, min_drugs,
        tuple(name.strip() for name in types.split(",")) if types is not None else (), quality, _parse(rename),
    )  # fmt: skip
    start = time.perf_counter()
    with _progress() as progress:
        figures = convert(source, out, options, partial(click.echo, err=True), progress)
    figures["seconds"] = time.perf_counter() - start
    figures["out"] = str(out)
    print_table(f"{source} ({figures['kind']}) as {out}", ("what", "count"), _summary(figures))
    if json_file:
        write_json(json_file, figures)


def _parse(rename: tuple[str, ...]) -> dict[str, str]:
    names: dict[str, str] = {}
    for text in rename:
        new, equals, old = (part.strip() for part in text.partition("="))
        if not equals or not new or not old or old in names:
            raise InputError(f"--rename {text!r}: expected NEW=OLD, each OLD once")
        names[old] = new
    return names


def _summary(figures: dict[str, Any]) -> list[tuple[str, Any]]:
    train, test, dropped = figures["train"], figures["test"], figures["dropped"]
    rows = [("signatures in the source", figures["signatures"])]
    rows += [(f"  dropped by {what}", dropped[what]) for what in dropped if what.startswith("--")]
    rows += [("to train, treated", train["treated"]), ("to train, controls", train["controls"])]
    rows += [("to predict", test["signatures"]), ("  of these controls", test["controls"])]
    rows += [(f"features ({', '.join(figures['first_features'])}, …)", figures["features"])]
    rows += [("  dropped", dropped["features"]), ("  missing values", figures["missing_values"])]
    if figures["drugs"]:
        rows += [
            ("drugs to train", figures["drugs"]["train"]),
            ("drugs to predict", figures["drugs"]["test"]),
        ]
    return [*rows, ("mechanisms", figures["mechanisms"]), ("  dropped by --min-drugs", dropped["mechanisms"])]


@contextmanager
def _progress() -> Iterator[Progress]:
    """On a terminal a moving line, in a log a line every ten seconds."""
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    console = progress_console()
    columns = (
        TextColumn("{task.description}: {task.completed:,} of {task.total:,}", markup=False), BarColumn(bar_width=20),
        TimeRemainingColumn(),
    )  # fmt: skip
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task, last = bar.add_task("reading", total=1), time.monotonic()

        def show(what: str, done: int, of: int) -> None:
            nonlocal last
            bar.update(task, description=what, completed=done, total=of or done)
            if not console.is_terminal and time.monotonic() - last > _EVERY:
                last = time.monotonic()
                console.print(f"{what}: {done:,}" + (f" of {of:,}" if of else ""), soft_wrap=True)

        yield show
