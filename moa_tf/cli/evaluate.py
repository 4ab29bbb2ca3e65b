"""`moa-tf evaluate`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from moa_tf.cli.options import LocalPath, json_option
from moa_tf.cli.output import fixed, print_table, write_json

if TYPE_CHECKING:
    import numpy as np

    from moa_tf.data.read import Targets


@click.command()
@click.argument("predictions", type=LocalPath())
@click.argument("targets", type=LocalPath())
@click.option(
    "--features",
    type=LocalPath(),
    help="The signatures' table, whose cp_type tells the controls. Gives the figures of treated rows too.",
)
@click.option(
    "--drugs",
    type=LocalPath(),
    help="A table of sig_id and drug_id, such as train_drug. Gives the figures of drugs too.",
)
@json_option
def evaluate(
    predictions: Path, targets: Path, features: Path | None, drugs: Path | None, json_file: Path | None
) -> None:
    """Compares predicted probabilities with labels.

    PREDICTIONS and TARGETS are .csv, .csv.gz or .parquet tables of sig_id and a column per target, with the
    same ids and targets in any order. With --features, controls count as predicted 0, and the rank metrics
    are taken on treated rows. Beside the log loss stands that of the label means over these very rows
    (treated ones, where known), which is a little better than that of means from training data.

    With --drugs, each drug has the mean of its rows' probabilities, controls left out, and the figures are how far up
    its true mechanisms are in its list, with intervals over drugs; the JSON also has each mechanism's drugs, AUROC
    and average precision over drugs, with intervals, and enrichment.

    \b
    Examples:
      moa-tf evaluate predictions.csv train_targets_scored.csv --features train_features.csv
      moa-tf evaluate runs/a/oof.parquet train_targets_scored.csv --features train_features.csv --drugs train_drug.csv
    """
    from functools import partial

    import numpy as np

    from moa_tf.data.prior import prior
    from moa_tf.data.read import read_predictions, read_targets
    from moa_tf.evaluation.metrics import evaluate as compute

    tell = partial(click.echo, err=True)
    labels = read_targets(targets, tell)
    probabilities = _aligned(read_predictions(predictions, tell), labels, predictions, targets)
    control = None if features is None else _controls(features, labels.sig_id, tell)
    treated = np.ones(len(labels), bool) if control is None else ~control
    means = prior(labels.values[treated])
    figures = compute(labels.values, probabilities, control, prior=means, per_target=True)
    per_target = figures.pop("per_target")
    figures["per_target"] = {
        name: {key: values[i] for key, values in per_target.items()} for i, name in enumerate(labels.names)
    }
    kinds = ["all"] if control is None else ["all", "treated"]
    print_table(
        "Log loss",
        ["rows", "signatures", "predictions", "means of these labels"],
        [
            [
                kind,
                figures["rows" if kind == "all" else "treated_rows"],
                fixed(figures[f"log_loss_{kind}"], 6),
                fixed(figures[f"prior_log_loss_{kind}"], 6),
            ]
            for kind in kinds
        ],
    )
    ranked = f"{figures['targets_ranked']} of {figures['targets']}"
    print_table(
        f"Ranking, {kinds[-1]} rows",
        ["targets with both labels", "macro AUROC", "macro average precision"],
        [[ranked, fixed(figures["macro_auroc"], 4), fixed(figures["macro_average_precision"], 4)]],
    )
    for note in _undefined(figures, kinds[-1]):
        click.echo(f"note: {note}", err=True)
    if drugs is not None:
        figures["drugs"] = _of_drugs(labels, probabilities, treated, drugs, tell)
    if json_file:
        write_json(json_file, figures)


def _of_drugs(
    labels: Targets, probabilities: np.ndarray, treated: np.ndarray, file: Path, tell: Callable[[str], None]
) -> dict[str, Any]:
    """Prints the figures of the treated rows' drugs, and returns them."""
    import numpy as np

    from moa_tf.data.names import shorten
    from moa_tf.data.read import read_drugs
    from moa_tf.errors import InputError
    from moa_tf.evaluation.drugs import FIGURES, by_drug, judge

    table = read_drugs(file, tell)
    drug = dict(zip(table.sig_id, table.drug_id, strict=True))
    ids = labels.sig_id[treated]
    lost = [name for name in ids if name not in drug]
    if lost:
        raise InputError(
            f"{file.name}: column sig_id: {len(lost)} treated ids of the targets are missing ({shorten(lost, 3)}), "
            "expected each of them"
        )
    found = by_drug(
        np.array([drug[name] for name in ids], object), labels.values[treated], probabilities[treated]
    )
    figures = judge(found, labels.names)
    p_value = figures["permutation_p_value"]
    print_table(
        f"Drugs: {figures['labelled']} with a mechanism, of {figures['drugs']}",
        ["figure", "value", "95 % over drugs"],
        [
            [title, fixed(figures[name], 3), " to ".join(fixed(end, 3) for end in figures["intervals"][name])]
            for name, title in FIGURES.items()
        ],
    )
    click.echo(f"p-value of the mean average precision, lists permuted among drugs: {p_value:.2g}")
    return figures


def _undefined(figures: dict[str, Any], kind: str) -> list[str]:
    """Says why figures are missing."""
    if kind == "treated" and not figures["treated_rows"]:
        return ["figures of treated rows are not defined: all rows are controls"]
    if not figures["targets_ranked"]:
        rows = "all rows" if kind == "all" else f"{kind} rows"
        return [f"AUROC and average precision are not defined: no target has both labels in {rows}"]
    return []


def _aligned(predictions: Targets, labels: Targets, file: Path, labels_file: Path) -> np.ndarray:
    """[N, T] probabilities in the order of the labels' rows and columns."""
    from moa_tf.data.faults import Faults

    faults = Faults()
    have, want = set(predictions.sig_id), set(labels.sig_id)
    for lost, what in (
        ([value for value in labels.sig_id if value not in have], f"ids of {labels_file.name} are missing"),
        ([value for value in predictions.sig_id if value not in want], f"ids are not in {labels_file.name}"),
    ):
        if lost:
            faults.add_ids(file.name, what, lost, f"the ids of {labels_file.name}")
    for lost, what in (
        (
            [name for name in labels.names if name not in predictions.names],
            f"of {labels_file.name} are missing",
        ),
        ([name for name in predictions.names if name not in labels.names], f"are not in {labels_file.name}"),
    ):
        if lost:
            shown = ", ".join(lost[:3]) + (", …" if len(lost) > 3 else "")
            faults.add(file.name, f"{len(lost)} target columns {what} ({shown}), expected the same targets")
    faults.raise_if_any()
    column = {name: i for i, name in enumerate(predictions.names)}
    return predictions.at(labels.sig_id)[:, [column[name] for name in labels.names]]


def _controls(features: Path, sig_id: np.ndarray, tell: Callable[[str], None]) -> np.ndarray:
    """[N] bool, whether each signature is a control."""
    import numpy as np

    from moa_tf.data.read import iter_features
    from moa_tf.errors import InputError

    control: dict[str, bool] = {}
    for chunk in iter_features(features, tell=tell, missing=True):
        if chunk.cp_type is None:
            raise InputError(f"{features.name}: column cp_type is missing, expected it to tell the controls")
        control.update(zip(chunk.sig_id, chunk.control, strict=True))
    lost = [value for value in sig_id if value not in control]
    if lost:
        shown = ", ".join(lost[:3]) + (", …" if len(lost) > 3 else "")
        raise InputError(
            f"{features.name}: column sig_id: {len(lost)} ids of the targets are missing ({shown}), "
            "expected each of them"
        )
    return np.array([control[value] for value in sig_id], bool)
