"""A finished run against scikit-learn's logistic regressions on exactly the run's folds.

The peer: every gene (and viability) to a normal by `QuantileTransformer`, fitted in the fold, then one
`LogisticRegression` for each target, for each C. A target without a positive in a training fold gets its own
smoothed mean ½ / (rows + 1). Its best C is chosen after the fact and for each metric by itself, which favours
the peer. AUROC and average precision rank within folds; the interval of the AUROC is over drugs, that of
shuffled labels over shufflings.

    moa-tf train --data DATA --out RUN
    python benchmarks/logistic_regression.py DATA RUN [--shuffled 12]
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from joblib import Parallel, delayed
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import QuantileTransformer

from moa_tf.cli.output import print_table, write_json
from moa_tf.data.prior import prior
from moa_tf.data.read import read_dataset
from moa_tf.data.schema import Dataset
from moa_tf.errors import InputError
from moa_tf.evaluation.intervals import bootstrap, interval
from moa_tf.evaluation.metrics import evaluate
from moa_tf.training.cross_validation import with_shuffled_labels
from moa_tf.training.run import Run

STRENGTHS = (1e-3, 1e-2, 3e-2, 1e-1)
QUANTILES = 1000
FIGURES = {"log_loss_treated": min, "macro_auroc": max, "macro_average_precision": max}
HEADINGS = ("log loss (treated)", "macro AUROC", "average precision", "AUROC, 95 %")


def read_run(run: Run, dataset: Dataset) -> tuple[np.ndarray, np.ndarray]:
    """[N] fold of each row, -1 where the run did not score it, and [N, T] its out-of-fold predictions.

    Raises:
        InputError: no finished run, or one of other data or of shuffled labels.
    """
    description = run.description
    if description["data"]["fingerprint"] != dataset.fingerprint:
        raise InputError(f"{run.directory}: trained on other data than {dataset.source}")
    if description["settings"].get("shuffle_labels"):
        raise InputError(f"{run.directory}: trained on shuffled labels; expected a run on the true ones")
    path = run.directory / "oof.parquet"
    if not path.is_file():
        raise InputError(f"{path}: not there; finish the run with --resume")
    table = pd.read_parquet(path).set_index("sig_id").reindex(dataset.signatures.sig_id)
    fold = table["fold"].fillna(-1).to_numpy().astype(int)
    return fold, table[list(dataset.target_names)].to_numpy(np.float64)


def fit_target(
    features: np.ndarray, labels: np.ndarray, held_out: np.ndarray, strengths: Sequence[float]
) -> np.ndarray:
    """[C, V] probabilities of one target for the held-out rows, for each C."""
    if not labels.any() or labels.all():
        return np.full((len(strengths), len(held_out)), (labels.sum() + 0.5) / (len(labels) + 1))
    models = (LogisticRegression(C=strength, max_iter=1000).fit(features, labels) for strength in strengths)
    return np.stack([model.predict_proba(held_out)[:, 1] for model in models])


def predict(
    dataset: Dataset, targets: np.ndarray, fold: np.ndarray, jobs: int, strengths: Sequence[float] = STRENGTHS
) -> np.ndarray:
    """[C, N, T] out-of-fold probabilities of the logistic regressions."""
    signatures = dataset.signatures
    values = signatures.genes if signatures.cells is None else np.hstack([signatures.genes, signatures.cells])
    predicted = np.zeros((len(strengths), *targets.shape))
    for k in np.unique(fold[fold >= 0]):
        train, held_out = (fold != k) & ~signatures.control, fold == k
        scale = QuantileTransformer(
            n_quantiles=min(QUANTILES, int(train.sum())), output_distribution="normal", random_state=0
        ).fit(values[train])
        features, unseen = scale.transform(values[train]), scale.transform(values[held_out])
        columns = Parallel(jobs)(
            delayed(fit_target)(features, column, unseen, strengths) for column in targets[train].T
        )
        predicted[:, held_out] = np.stack(columns, axis=-1)
    return predicted


def figures(dataset: Dataset, targets: np.ndarray, predicted: np.ndarray, fold: np.ndarray) -> list[Any]:
    """The values of FIGURES over the rows with a fold, and the interval of the AUROC as text."""
    control = dataset.signatures.control
    scored = fold >= 0
    found = evaluate(targets[scored], predicted[scored], control[scored], strata=fold[scored])
    judged = scored & ~control
    drug = None if dataset.drug_id is None else dataset.drug_id[judged]
    samples = bootstrap(targets[judged], predicted[judged], drug, fold[judged])
    low, high = interval(samples["macro_auroc"])
    return [*(found[name] for name in FIGURES), f"{low:.4f} to {high:.4f}"]


def shuffled(dataset: Dataset, fold: np.ndarray, jobs: int, times: int) -> list[Any]:
    """The row of labels that mean nothing, whose AUROC should be .5: means over `times` shufflings.

    One shuffling is not enough: labels shared by chance with the drugs that are fitted on move each of them by
    more than the choice of drugs does.
    """
    strength = STRENGTHS[1]
    found = []
    for seed in range(times):
        targets = with_shuffled_labels(dataset, seed).targets
        found.append(
            figures(dataset, targets, predict(dataset, targets, fold, jobs, [strength])[0], fold)[:-1]
        )
    means, error = np.mean(found, 0), 0.0
    if times > 1:
        error = 1.96 * np.std(found, 0, ddof=1)[1] / np.sqrt(times)
    around = f"{means[1] - error:.4f} to {means[1] + error:.4f}" if error else ""
    return [f"labels shuffled {times} times, logistic, C={strength:g}", *map(float, means), around]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", type=Path)
    parser.add_argument("run", type=Path)
    parser.add_argument(
        "--shuffled", type=int, default=0, help="also the mean over so many shufflings of labels among drugs"
    )
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    dataset = read_dataset(options.data)
    fold, predicted = read_run(Run(options.run), dataset)
    control = dataset.signatures.control
    start = time.perf_counter()
    predictions = predict(dataset, dataset.targets, fold, options.jobs)
    seconds = time.perf_counter() - start
    means = np.zeros(dataset.targets.shape)
    for k in np.unique(fold[fold >= 0]):
        means[fold == k] = prior(dataset.targets[(fold != k) & ~control])
    peer = [figures(dataset, dataset.targets, p, fold) for p in predictions]
    run = figures(dataset, dataset.targets, predicted, fold)
    columns = zip(*(row[: len(FIGURES)] for row in peer), strict=True)
    best = [choose(column) for choose, column in zip(FIGURES.values(), columns, strict=True)]
    rows: list[list[Any]] = [["column means", *figures(dataset, dataset.targets, means, fold)]]
    rows += [[f"logistic regression, C={c:g}", *row] for c, row in zip(STRENGTHS, peer, strict=True)]
    rows.append(["logistic regression, best C of each figure", *best, ""])
    rows.append([str(options.run), *run])
    if options.shuffled:
        rows.append(shuffled(dataset, fold, options.jobs, options.shuffled))
    wins = [
        choose(ours, theirs) == ours and ours != theirs
        for choose, ours, theirs in zip(FIGURES.values(), run, best, strict=False)
    ]
    rows.append(["run better than the best C", *("yes" if win else "no" for win in wins), ""])
    kind = "simulated" if dataset.simulated else "as given"
    print_table(
        f"{options.data} ({kind}): {int((fold >= 0).sum())} rows, {len(np.unique(fold[fold >= 0]))} folds of the run; "
        f"regressions took {seconds:.0f} s",
        ("model", *HEADINGS),
        rows,
    )
    if options.json:
        write_json(
            options.json,
            {str(row[0]): dict(zip((*FIGURES, "interval"), row[1:], strict=True)) for row in rows},
        )


if __name__ == "__main__":
    try:
        main()
    except InputError as error:
        sys.exit(str(error))
