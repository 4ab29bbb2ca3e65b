"""Out-of-fold predictions into a run's table and metrics, whoever made them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from moa_tf.atomic import to_plain
from moa_tf.data.groups import count_groups
from moa_tf.data.schema import SPLITS, Dataset
from moa_tf.evaluation.calibration import excess_per_row, expected_calibration_error, reliability
from moa_tf.evaluation.intervals import bootstrap, interval
from moa_tf.evaluation.metrics import evaluate, zero_controls
from moa_tf.ranking.consensus import conditions
from moa_tf.ranking.ranking import fit_ranking
from moa_tf.training.run import RANKING, Run, save, write_text

FIGURES = {
    "log_loss": "log_loss_treated",
    "macro_auroc": "macro_auroc",
    "macro_average_precision": "macro_average_precision",
}
"""What models are compared by: the name that `bootstrap` gives it -> the name in the metrics."""

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
    control = dataset.signatures.control
    predicted = zero_controls(predicted, control)
    scored = fold_of_row >= 0
    names = sorted(set(fold_of_row[scored].tolist()))
    table = pd.DataFrame(predicted[scored], columns=list(dataset.target_names))
    table.insert(0, "fold", fold_of_row[scored])
    table.insert(0, "sig_id", dataset.signatures.sig_id[scored])
    save(run.directory / "oof.parquet", lambda name: table.to_parquet(name, index=False))

    def figures(
        rows: np.ndarray, probabilities: np.ndarray = predicted, per_target: bool = False
    ) -> dict[str, Any]:
        return evaluate(
            dataset.targets[rows],
            probabilities[rows],
            control[rows],
            prior=prior[rows],
            strata=fold_of_row[rows],
            per_target=per_target,
        )

    judged = scored & ~control
    drug = dataset.signatures.sig_id if dataset.drug_id is None else dataset.drug_id

    def draw(probabilities: np.ndarray) -> dict[str, np.ndarray]:
        return bootstrap(
            dataset.targets[judged], probabilities[judged], drug[judged], strata=fold_of_row[judged]
        )

    samples, overall = draw(predicted), figures(scored, per_target=True)
    of_target = overall.pop("per_target")
    metrics = {
        "overall": {
            **overall,
            "drugs": len(set(drug[judged].tolist())),
            "calibration_error": float(
                expected_calibration_error(
                    excess_per_row(dataset.targets[judged], predicted[judged]).mean(axis=0)
                )
            ),
            "intervals": {
                name: list(interval(values, overall[FIGURES[name]])) for name, values in samples.items()
            },
        },
        "folds": [
            {
                "fold": name,
                **figures(fold_of_row == name),
                **({"chosen": chosen[name]} if chosen.get(name) else {}),
            }
            for name in names
        ],
        "reliability": {
            name: values.tolist()
            for name, values in reliability(dataset.targets[judged], predicted[judged])._asdict().items()
        },
        "mechanisms": {
            "name": list(dataset.target_names),
            "drugs": [len(set(drug[judged][column > 0].tolist())) for column in dataset.targets[judged].T],
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
    if judged.any():
        ranking = fit_ranking(
            dataset.targets[judged],
            predicted[judged],
            drug[judged],
            conditions(dataset.signatures)[judged],
            fold_of_row[judged],
        )
        write_text(run.directory / RANKING, ranking.to_dict())
    write_text(run.directory / "metrics.json", metrics)
    return metrics
