"""A finished run, or blend, against AutoGluon on exactly the run's folds: one TabularPredictor a mechanism.

Each gets preset `medium_quality` and `--seconds` to train; the budget of the whole is ten times what the run, or the
blend's components together, took. A mechanism with fewer than 2 positives in a training fold gets the column mean.

    moa-tf train --data DATA --out RUN
    python benchmarks/autogluon_tabular.py DATA RUN --seconds 2.8      # in an environment with autogluon.tabular
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
import time
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
from autogluon.tabular import TabularPredictor

from moa_tf.data.prior import prior
from moa_tf.data.read import read_dataset
from moa_tf.evaluation.metrics import evaluate


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", type=Path)
    parser.add_argument("run", type=Path)
    parser.add_argument("--seconds", type=float, required=True, help="of each mechanism and fold")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    warnings.filterwarnings("ignore")
    dataset = read_dataset(options.data, missing=True)
    table = pd.read_parquet(options.run / "oof.parquet").set_index("sig_id")
    table = table.loc[dataset.signatures.sig_id]
    fold, targets = table["fold"].to_numpy(), dataset.targets
    theirs = table[list(dataset.target_names)].to_numpy()
    signatures = dataset.signatures
    features = [values for values in (signatures.genes, signatures.cells) if values is not None]
    frame = pd.DataFrame(
        np.concatenate(features, axis=1), columns=[f"x{i}" for i in range(sum(f.shape[1] for f in features))]
    )
    predicted, priors = np.zeros(targets.shape), np.zeros(targets.shape)
    start, failed = time.perf_counter(), 0
    for number in np.unique(fold):
        train, held_out = fold != number, fold == number
        means = prior(targets[train])
        priors[held_out] = predicted[held_out] = means
        for target in range(targets.shape[1]):
            labels = targets[train, target].astype(int)
            if labels.sum() < 2:
                continue
            path = tempfile.mkdtemp()
            try:
                predictor = TabularPredictor(
                    "y", problem_type="binary", eval_metric="log_loss", path=path, verbosity=0
                )
                predictor.fit(
                    frame[train].assign(y=labels),
                    time_limit=options.seconds,
                    presets="medium_quality",
                    num_cpus=2,
                )
                predicted[held_out, target] = predictor.predict_proba(frame[held_out])[1].to_numpy()
            except Exception as error:
                failed += 1
                print(f"fold {number}, target {target}: {error}"[:200], file=sys.stderr)
            shutil.rmtree(path, ignore_errors=True)
        print(f"fold {number}: {time.perf_counter() - start:,.0f} s", file=sys.stderr, flush=True)
    control = signatures.control
    figures = {
        name: evaluate(targets, values, control, prior=priors, strata=fold)
        for name, values in (("AutoGluon", predicted), (str(options.run), theirs))
    }
    figures["seconds"], figures["failed"] = time.perf_counter() - start, failed
    for name, values in figures.items():
        if isinstance(values, dict):
            print(
                f"{name}: log loss {values['log_loss_treated']:.4f}, AUROC {values['macro_auroc']:.3f}, "
                f"average precision {values['macro_average_precision']:.3f}"
            )
    means = figures["AutoGluon"]["prior_log_loss_treated"]
    print(f"column means {means:.4f}; {figures['seconds']:,.0f} s; {failed} failed")
    if options.json:
        options.json.write_text(json.dumps(figures, indent=2, default=float) + "\n")


if __name__ == "__main__":
    main()
