"""Models beside one another on the same rows: figures with intervals over drugs, and which differences are real."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from types import MappingProxyType
from typing import Any

import numpy as np

from moa_tf.data.prior import label_sums
from moa_tf.evaluation.calibration import (
    brier_per_row,
    excess_per_row,
    expected_calibration_error,
    reliability,
)
from moa_tf.evaluation.drugs import average_precision, by_drug, enrichment, permutation_p_value, precision_at
from moa_tf.evaluation.intervals import bootstrap, bootstrap_means, interval
from moa_tf.evaluation.metrics import evaluate

FIGURES = MappingProxyType(
    {
        "log_loss_treated": "log loss",
        "macro_auroc": "macro AUROC",
        "macro_average_precision": "macro avg. precision",
        "precision_at_1": "precision at 1",
        "precision_at_5": "precision at 5",
        "mean_average_precision": "mAP of drugs",
        "brier": "Brier score",
        "calibration_error": "calibration error",
    }
)
"""Name -> title of the figures that have intervals. Of all but `mean_average_precision` and `precision_at_…`, which are
means over drugs, the rows are the treated ones."""

LOWER_IS_BETTER = frozenset(("log_loss_treated", "brier", "calibration_error"))


@dataclass(frozen=True)
class Entry:
    """A model's out-of-fold predictions.

    Attributes:
        name: of the model.
        kind: `shallow`, `deep` or `blend`, for whoever draws them.
        probabilities: [N, T] of the table's rows.
        cost: `seconds`, `parameters`, `peak_memory` in bytes, as far as they are known.
        caveat: what a reader of the figures must know.
    """

    name: str
    kind: str
    probabilities: np.ndarray
    cost: Mapping[str, float] = field(default_factory=dict)
    caveat: str = ""


@dataclass(frozen=True)
class Rows:
    """What all models of a leaderboard have predicted.

    Attributes:
        targets: [N, T], 0 or 1.
        names: T names of the mechanisms.
        control: [N] bool.
        drug: [N] names.
        fold: [N] the fold that each row was held out in.
        prior: [N, T] label means of the rows that the fold's models were fitted on.
    """

    targets: np.ndarray
    names: Sequence[str]
    control: np.ndarray
    drug: np.ndarray
    fold: np.ndarray
    prior: np.ndarray


def leaderboard(
    rows: Rows, entries: Sequence[Entry], *, replicates: int = 200, permutations: int = 1000, seed: int = 0
) -> dict[str, Any]:
    """Every figure of every model, the best log loss first.

    Args:
        rows: which.
        entries: the models.
        replicates: of the bootstrap over drugs, see `moa_tf.evaluation.intervals`. All models are judged by the same
            draws.
        permutations: of the lists of drugs, see `permutation_p_value`.
        seed: of both.

    Returns:
        `models`: for each its `name`, `kind`, `caveat`, `cost`, the `FIGURES`, `log_loss_all`, the p-value of its mAP,
        `intervals` of the figures, its `reliability`, and `mechanisms`, arrays over targets of log loss, AUROC,
        average precision and enrichment at 1 % of the drugs. `pairs`: for each two models `a` and `b`, by figure,
        `difference` a − b with its interval `low` and `high`. `mechanisms`: names, and numbers of rows and of drugs.
        `prior_log_loss_treated`; numbers of `rows`, `treated_rows` and `drugs`.
    """
    judged = np.flatnonzero(~rows.control)
    models, draws = [], {}
    for entry in entries:
        figures, draws[entry.name] = _judge(rows, entry, judged, replicates, permutations, seed)
        models.append(figures)
    models.sort(key=lambda model: model["log_loss_treated"])
    per_drug = by_drug(rows.drug, rows.targets, rows.targets, judged).targets
    return {
        "rows": len(rows.targets),
        "treated_rows": len(judged),
        "drugs": len(per_drug),
        "folds": len(np.unique(rows.fold[judged])),
        "replicates": replicates,
        "prior_log_loss_treated": evaluate(rows.targets, rows.prior, rows.control)["log_loss_treated"],
        "models": models,
        "pairs": [_difference(a, b, draws) for a, b in combinations(models, 2)],
        "mechanisms": {
            "name": list(rows.names),
            "rows": label_sums(rows.targets, judged).astype(int),
            "drugs": per_drug.sum(axis=0).astype(int),
        },
    }


def _judge(
    rows: Rows, entry: Entry, judged: np.ndarray, replicates: int, permutations: int, seed: int
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    drug, fold, targets, predicted = rows.drug, rows.fold, rows.targets, entry.probabilities
    all_rows = evaluate(targets, predicted, rows.control, strata=fold, per_target=True)
    drugs = by_drug(drug, targets, predicted, judged)
    # What is of a drug stands in its first row.
    of_drug = np.full((len(judged), 3), np.nan)
    of_drug[drugs.first] = np.stack(
        [precision_at(drugs, 1), precision_at(drugs, 5), average_precision(drugs)], axis=1
    )
    of_row = brier_per_row(targets, predicted, judged)
    excess = excess_per_row(targets, predicted, judged)
    values = np.column_stack([of_drug, of_row, excess])
    means = bootstrap_means(values, drug[judged], fold[judged], replicates=replicates, seed=seed)
    ranks = bootstrap(targets, predicted, drug, fold, rows=judged, replicates=replicates, seed=seed)
    draws = dict(
        zip(
            FIGURES, [*ranks.values(), *means[:, :4].T, expected_calibration_error(means[:, 4:])], strict=True
        )
    )
    none = not drugs.targets.any()
    known = [np.nan] * 3 if none else np.nanmean(of_drug, axis=0)
    figures = {
        **{name: all_rows[name] for name in list(FIGURES)[:3]},
        **dict(zip(list(FIGURES)[3:6], known, strict=True)),
        "brier": of_row.mean(),
        "calibration_error": expected_calibration_error(excess.mean(axis=0)),
    }
    strata = fold[judged][drugs.first]
    return {
        "name": entry.name,
        "kind": entry.kind,
        "caveat": entry.caveat,
        "cost": dict(entry.cost),
        **{name: float(value) for name, value in figures.items()},
        "log_loss_all": all_rows["log_loss_all"],
        "permutation_p_value": permutation_p_value(drugs, strata, permutations=permutations, seed=seed),
        "targets_ranked": all_rows["targets_ranked"],
        "intervals": {name: list(interval(values, figures[name])) for name, values in draws.items()},
        "reliability": reliability(targets, predicted, judged)._asdict(),
        "mechanisms": {
            **{name: all_rows["per_target"][name] for name in ("log_loss", "auroc", "average_precision")},
            "enrichment": enrichment(drugs),
        },
    }, draws


def _difference(
    a: dict[str, Any], b: dict[str, Any], draws: dict[str, dict[str, np.ndarray]]
) -> dict[str, Any]:
    found = {}
    for name in FIGURES:
        difference = a[name] - b[name]
        low, high = interval(draws[a["name"]][name] - draws[b["name"]][name], difference)
        found[name] = {"difference": difference, "low": low, "high": high}
    return {"a": a["name"], "b": b["name"], **found}
