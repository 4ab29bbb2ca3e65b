"""`moa-tf data check` and `moa-tf data simulate`; `moa-tf data convert` is in a module of its own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from moa_tf.cli.convert import convert
from moa_tf.cli.options import LocalPath, json_option, missing_option
from moa_tf.cli.output import print_table, write_json
from moa_tf.config import LARGEST_SEED


@click.group()
def data() -> None:
    """Simulate, check or convert tables of signatures."""


data.add_command(convert)


@data.command()
@click.argument("directory", metavar="DATA", type=LocalPath())
@missing_option
@json_option
def check(directory: Path, missing: bool, json_file: Path | None) -> None:
    """Prints what DATA holds, or every fault of its tables.

    DATA is a directory in the competition's layout: train_features and train_targets_scored, and, if there,
    train_targets_nonscored, train_drug and test_features, each .csv, .csv.gz or .parquet. Each fault is one
    line on stderr, and the exit status is 2. What is odd but no fault, and what is not used, is a warning there.
    """
    from moa_tf.data.check import check

    figures = check(directory, missing)
    print_table(f"{directory}{' (simulated)' * figures['simulated']}", ("what", "count"), _summary(figures))
    labels = figures["targets"]["positives_per_target"]
    ranked = sorted(labels.items(), key=lambda item: -item[1])
    shown = ranked if len(ranked) <= 10 else [*ranked[:5], *ranked[-5:]]
    title = "Positives per target" + (f": first and last 5 of {len(ranked)}" if len(ranked) > 10 else "")
    print_table(title, ("target", "positives"), shown)
    for note in _notes(figures):
        click.echo(note, err=True)
    if json_file:
        write_json(json_file, figures)


@data.command()
@click.argument("out", type=LocalPath())
@click.option("--signatures", default=None, type=int, help="Training signatures.  [default: 3000]")
@click.option(
    "--seed",
    type=click.IntRange(0, LARGEST_SEED),
    default=0,
    show_default=True,
    help="The same seed gives the same tables.",
)
@json_option
def simulate(out: Path, signatures: int | None, seed: int, json_file: Path | None) -> None:
    """Writes simulated tables, whose labels can be learnt, into the new or empty directory OUT."""
    from moa_tf.data.simulate import SIGNATURES, write_simulation

    signatures = SIGNATURES if signatures is None else signatures
    write_simulation(out, signatures, seed)
    files = sorted(path for path in out.iterdir() if path.is_file())
    rows = [(path.name, f"{path.stat().st_size / 1e6:.1f} MB") for path in files]
    print_table(f"{out}: {signatures} signatures, simulated with seed {seed}", ("file", "size"), rows)
    if json_file:
        write_json(json_file, {"out": str(out), "signatures": signatures, "seed": seed})


def _summary(figures: dict[str, Any]) -> list[tuple[str, Any]]:
    panel, train, test, drugs = (figures[key] for key in ("panel", "train", "test", "drugs"))
    rows = [("signatures", train["rows"]), ("  controls", train["controls"])]
    for name, counts in train.items():
        if isinstance(counts, dict):
            unit = " h" if name == "cp_time" else ""
            if len(counts) > 12:
                rows.append((f"  {name}, different values", len(counts)))
                continue
            rows += [(f"  {name} {value}{unit}", count) for value, count in counts.items()]
    if "missing" in train:
        rows.append(("  missing values", train["missing"]))
    rows += [("genes", panel["genes"]), ("cell lines", panel["cells"])]
    if drugs:
        rows += [("drugs", drugs["drugs"])]
        rows += [("  rows a drug, median", drugs["median_rows"]), ("  rows a drug, most", drugs["most_rows"])]
    for column, counts in figures["splits"].items():
        rows += [(f"groups of {column}, for --split {column}", counts["groups"])]
        rows += [("  drugs in several of them", counts["drugs_in_several_groups"])]
        if counts["without_group"]:
            rows += [("  treated signatures in none: refused", counts["without_group"])]
    for key, what in (("targets", "scored targets"), ("nonscored", "nonscored targets")):
        labels = figures[key]
        if labels:
            rows += [(what, labels["targets"]), ("  positives", labels["positives"])]
            rows += [("  targets without a positive", len(labels["all_zero"]))]
            rows += [(f"  rows with {k} labels", n) for k, n in labels["rows_with_labels"].items()]
    if test:
        rows += [("test signatures", test["rows"]), ("  controls", test["controls"])]
    return rows


def _notes(figures: dict[str, Any]) -> list[str]:
    notes = [f"warning: {warning}" for warning in figures["warnings"]]
    if figures["drugs"] is None:
        notes.append("note: no train_drug, so every row counts as a drug of its own")
    return notes
