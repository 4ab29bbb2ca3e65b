"""`moa-tf explore`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import click

from moa_tf.cli.options import LocalPath, json_option, missing_option
from moa_tf.cli.output import fixed, print_lines, print_table, progress_console, write_json
from moa_tf.config import LARGEST_SEED


@click.command()
@click.argument("directory", metavar="DATA", type=LocalPath())
@click.argument("out", type=LocalPath())
@missing_option
@click.option(
    "--seed",
    type=click.IntRange(0, LARGEST_SEED),
    default=0,
    show_default=True,
    help="Of the pairs of signatures that are drawn to be compared.",
)
@json_option
def explore(directory: Path, out: Path, missing: bool, seed: int, json_file: Path | None) -> None:
    """Shows what a table of signatures holds, as a page.

    DATA is a directory in the competition's layout, as for train. OUT is a new directory: index.html, a page in one
    file that needs no network, and the tables behind it as .csv. It holds counts and treatment, distributions,
    labels and which targets go together, viability by mechanism, principal components and what they go with (batches,
    if train_drug has columns of them), replicates against different drugs, near-duplicates, and missing values.

    \b
    Examples:
      moa-tf explore lish-moa explored
      moa-tf explore nci60 explored --missing median
    """
    from moa_tf.atomic import check_directory, sync, sync_tree, temporary_directory
    from moa_tf.data.read import read_dataset
    from moa_tf.errors import InputError
    from moa_tf.evaluation.exploration.report import PAGE
    from moa_tf.evaluation.exploration.report import explore as look

    if out.exists():
        raise InputError(f"{out}: is there already, expected the name of a new directory")
    check_directory(out)
    os.environ["MPLBACKEND"] = "agg"  # pictures go to files, and a name that it does not know is an error
    with progress_console().status(f"reading {directory}") as status:
        dataset = read_dataset(directory, missing)
        for warning in dataset.notes["warnings"]:
            click.echo(warning, err=True)
        found = look(dataset, seed, lambda subject: status.update(f"exploring: {subject}"))
    with temporary_directory(out.parent, out) as temporary:
        results = temporary / "results"
        results.mkdir()
        found.write(results)
        sync_tree(results)
        try:
            results.rename(out)
        except OSError as error:  # someone else has made it by now
            raise InputError(f"{out}: cannot be written ({error.strerror})") from error
        sync(out.parent)
    title = f"{directory}{' (simulated)' * dataset.simulated}"
    print_table(title, ("what", "number"), _summary(found.figures))
    print_lines(f"page   {out / PAGE}")
    if json_file:
        write_json(json_file, {**found.figures, "out": out})


def _summary(figures: Any) -> list[tuple[str, str]]:
    rows = [(name.replace("_", " "), value) for name, value in figures["overview"].items() if value]
    rows.append(("missing values", figures["missing"]))
    alike = figures.get("replicates", {})
    names = {
        "replicates": "of replicates",
        "mechanism": "of drugs that share a target",
        "different": "of different drugs",
    }
    rows += [
        (f"median correlation {name}", fixed(alike[key], 3)) for key, name in names.items() if key in alike
    ]
    if "near_duplicates" in figures:
        rows.append(("pairs of near-duplicates", figures["near_duplicates"]["pairs"]))
    return [(name, str(value)) for name, value in rows]
