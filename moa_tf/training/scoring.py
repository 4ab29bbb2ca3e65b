"""Out-of-fold predictions into a run's table and metrics, whoever made them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from moa_tf.atomic import to_plain
from moa_tf.data.groups import count_groups
from moa_tf.data.schema import SPLITS, Dataset
from moa_tf.data.storage import blocks
from moa_tf.evaluation.calibration import excess_per_row, expected_calibration_error, reliability
from moa_tf.evaluation.intervals import bootstrap, interval
from moa_tf.evaluation.metrics import evaluate, zero_controls
from moa_tf.ranking.consensus import conditions
from moa_tf.ranking.ranking import fit_ranking
from moa_tf.training.cost import total
from moa_tf.training.fold import ALL, Fold
from moa_tf.training.run import RANKING, Run, save, write_text

FIGURES = {
    "log_loss": "log_loss_treated",
    "macro_auroc": "macro_auroc",
    "macro_average_precision": "macro_average_precision",
}
"""What models are compared by: the name that `bootstrap` gives it -> the name in the metrics."""

ROW_GROUP = 1 << 16
"""Rows of the out-of-fold table that are written at once."""

if TYPE_CHECKING:
    from moa_tf.training.cross_validation import Validation


def score(
    dataset: Dataset,
    validation: Validation,
    run: Run,
    predicted: np.ndarray,
    fold_of_row: np.ndarray,
    prior: np.ndarray,
    caveat: str = "",
    chosen: Mapping[int, Sequence[Any]] = MappingProxyType({}),
    rival: np.ndarray | None = None,
    more: Mapping[str, Any] = MappingProxyType({}),
) -> dict[str, Any]:
    """Writes a run's out-of-fold table, its metrics, and what its calls on drugs are worth.

    Args:
        dataset: all rows.
        validation: on which folds.
        run: where; its models are there.
        predicted: [N, T] probabilities by models that have not seen the row; controls count as 0, as in an export.
        fold_of_row: [N] the fold of each row, −1 where it is not predicted.
        prior: [N, T] label means of each row's training fold.
        caveat: what a reader of the figures must know.
        chosen: what was chosen inside each fold, JSON values.
        rival: [N, T] other predictions of these rows, to be compared with.
        more: goes along, JSON values.

    Returns:
        What `metrics.json` holds, see `cross_validate`. With `rival`, `difference` gives for each of `FIGURES` how far
        it is above the rival's: [value, low, high], the interval over the same draws of drugs.
    """
    control, targets = dataset.signatures.control, dataset.targets
    predicted = zero_controls(predicted, control)
    scored = np.flatnonzero(fold_of_row >= 0)
    names = np.unique(fold_of_row[scored]).tolist()
    save(
        run.directory / "oof.parquet",
        lambda name: _write_table(name, dataset, scored, fold_of_row, predicted),
    )

    def figures(
        rows: np.ndarray, probabilities: np.ndarray = predicted, per_target: bool = False
    ) -> dict[str, Any]:
        return evaluate(
            targets,
            probabilities,
            control,
            prior=prior,
            strata=fold_of_row,
            rows=rows,
            per_target=per_target,
        )

    judged = scored[~control[scored]]
    drug = dataset.signatures.sig_id if dataset.drug_id is None else dataset.drug_id

    def draw(probabilities: np.ndarray) -> dict[str, np.ndarray]:
        return bootstrap(targets, probabilities, drug, strata=fold_of_row, rows=judged)

    samples, overall = draw(predicted), figures(scored, per_target=True)
    of_target = overall.pop("per_target")
    metrics = {
        "overall": {
            **overall,
            "drugs": len(set(drug[judged].tolist())),
            "calibration_error": float(
                expected_calibration_error(excess_per_row(targets, predicted, judged).mean(axis=0))
            ),
            "intervals": {
                name: list(interval(values, overall[FIGURES[name]])) for name, values in samples.items()
            },
        },
        "folds": [
            {
                "fold": name,
                **figures(np.flatnonzero(fold_of_row == name)),
                **({"chosen": chosen[name]} if chosen.get(name) else {}),
            }
            for name in names
        ],
        "reliability": {
            name: values.tolist()
            for name, values in reliability(targets, predicted, judged)._asdict().items()
        },
        "mechanisms": {
            "name": list(dataset.target_names),
            "drugs": _count_drugs(targets, drug, judged),
            **{name: to_plain(of_target[name]) for name in ("auroc", "average_precision")},
        },
        "folds_planned": validation.folds,
        "split": validation.split
        if dataset.drug_id is not None or validation.split == "row"
        else "signature",
        "simulated": dataset.simulated,
        "shuffled_labels": validation.shuffle_labels,
        "caveat": caveat,
        "models": run.digest(),
    }
    if validation.split not in SPLITS:
        metrics["groups"] = count_groups(dataset, validation.split)
    if rival is not None:
        others, theirs = draw(rival), figures(scored, rival)
        metrics["difference"] = {}
        for name, figure in FIGURES.items():
            difference = overall[figure] - theirs[figure]
            ends = interval(samples[name] - others[name], difference)
            metrics["difference"][figure] = [difference, *ends]
    metrics |= more
    if len(judged):
        condition = conditions(dataset.signatures)
        ranking = fit_ranking(targets, predicted, drug, condition, fold_of_row, judged)
        write_text(run.directory / RANKING, ranking.to_dict())
    write_text(run.directory / "metrics.json", metrics)
    return metrics


def score_members(
    dataset: Dataset,
    validation: Validation,
    run: Run,
    folds: dict[int, Fold],
    results: dict[int | str, list[tuple[np.ndarray, dict[str, Any]]]],
    caveat: str,
) -> dict[str, Any]:
    """Scores the folds that there are results of."""
    control = dataset.signatures.control
    predicted, prior = (dataset.storage.empty(dataset.targets.shape, np.float32) for _ in range(2))
    fold_of_row = np.full(len(dataset), -1, np.int32)
    names = sorted(name for name in results if name != ALL)
    for name in names:
        fold = folds[name]
        fold_of_row[fold.held_out] = name
        for part in blocks(len(fold.held_out)):
            rows, members = fold.held_out[part], [values[part] for values, _ in results[name]]
            # The mean is the ensemble's prediction.
            predicted[rows] = np.mean(members, axis=0, dtype=np.float64)
            predicted[rows[control[rows]]] = 0
            prior[rows] = fold.prior
    for part in blocks(len(dataset)):
        rows = np.arange(part.start, part.stop)[fold_of_row[part] < 0]
        predicted[rows] = prior[rows] = 0
    chosen = {name: _chosen(results[name]) for name in names}
    cost = {**total(_directories(run)), "parameters": _parameters(results)}
    return score(dataset, validation, run, predicted, fold_of_row, prior, caveat, chosen, more={"cost": cost})


def _directories(run: Run) -> Iterator[Path]:
    """Where the parts of the folds, and what their members share, are kept."""
    for fold in run.parts():
        if fold.name != ALL:
            directories = [member.directory for member in fold.members]
            yield from (directories[0].parent, *directories)


def _parameters(results: dict[int | str, list[tuple[np.ndarray, dict[str, Any]]]]) -> int | None:
    """The most that one member has, where the learner counts them."""
    counts = [history.get("parameters") for several in results.values() for _, history in several]
    return max((count for count in counts if count is not None), default=None)


def _chosen(results: list[tuple[np.ndarray, dict[str, Any]]]) -> list[Any]:
    """What the fold's members chose inside it."""
    return [history["chosen"] for _, history in results if history.get("chosen")]


def _write_table(
    path: str, dataset: Dataset, rows: np.ndarray, fold_of_row: np.ndarray, predicted: np.ndarray
) -> None:
    with ExitStack() as stack:
        writer = None
        for part in blocks(len(rows), ROW_GROUP):
            some = rows[part]
            frame = pd.DataFrame(predicted[some], columns=list(dataset.target_names))
            frame.insert(0, "fold", fold_of_row[some])
            frame.insert(0, "sig_id", dataset.signatures.sig_id[some])
            table = pa.Table.from_pandas(frame, preserve_index=False)
            writer = writer or stack.enter_context(pq.ParquetWriter(path, table.schema))
            writer.write_table(table)


def _count_drugs(targets: np.ndarray, drug: np.ndarray, rows: np.ndarray) -> list[int]:
    """[T] how many drugs have a positive among `rows`."""
    names, number = np.unique(drug[rows].astype(str), return_inverse=True)
    pairs = [np.zeros(0, np.int64)]
    for part in blocks(len(rows)):
        place, target = np.nonzero(targets[rows[part]])
        pairs.append(np.unique(target * len(names) + number[part][place]))
    found = np.unique(np.concatenate(pairs)) // max(len(names), 1)
    return np.bincount(found, minlength=targets.shape[1]).tolist()
