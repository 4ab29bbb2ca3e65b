"""Several finished runs into one: weighted by their out-of-fold predictions, scored as if it had not seen them."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from moa_tf.atomic import sync, sync_tree, temporary_directory
from moa_tf.data.prior import prior
from moa_tf.data.read import read_dataset
from moa_tf.data.schema import Dataset
from moa_tf.data.simulate import simulate
from moa_tf.ensemble.combination import BlendOptions, fit_combination
from moa_tf.ensemble.opening import COMPONENTS, describe_blend
from moa_tf.errors import InputError
from moa_tf.training.cross_validation import Validation, describe, with_shuffled_labels
from moa_tf.training.members import has_networks
from moa_tf.training.run import Run
from moa_tf.training.scoring import FIGURES, score

SAME = ("split", "folds", "seed", "shuffle_labels")
"""The settings by which runs have the same folds."""

Tell = Callable[[str], None]


def blend_runs(
    runs: Sequence[Path],
    out: Path,
    options: BlendOptions,
    tell: Tell,
    data: Path | Dataset | None = None,
) -> dict[str, Any]:
    """Blends finished runs of the same data and folds into a run that refers to them.

    For the score of a fold, weights and calibration are fitted on the out-of-fold predictions of the other folds, so
    that nothing of the scored rows reaches them. What is kept, and exported, is fitted on all folds.

    Args:
        runs: their directories. One is enough where something is calibrated.
        out: the new run's directory; appears whole or not at all.
        options: how to blend.
        tell: called with a line that the user should know.
        data: the table that the runs were trained on, or its directory where it is no longer where it was.

    Returns:
        What `metrics.json` holds: as of other runs (`chosen` of each fold is its combination), and `components` (`run`,
        `model`, `weight`, and the figures `log_loss_treated`, `macro_auroc`, `macro_average_precision` of each),
        `best`, the place of that of the lowest log loss, and `difference`, how far the blend is above that one: figure
        -> [value, low, high], the interval over drugs.

    Raises:
        InputError: no finished runs, runs that do not belong together, fewer than two folds; data that is not there,
            or not theirs; `out` is there already, or cannot be written.
    """
    out = Path(out)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise InputError(f"{out}: is there already, expected the name of a new directory")
    inputs = _read_runs(runs, options)
    description = inputs.runs[0].description
    validation = Validation(**{key: description["settings"][key] for key in SAME})
    dataset = _read_data(description, data, validation)
    fold_of_row, predictions = inputs.at(dataset)
    predicted, chosen = blend_folds(dataset, fold_of_row, predictions, options)
    rows = (fold_of_row >= 0) & ~dataset.signatures.control
    final = fit_combination(dataset.targets[rows], predictions[:, rows], fold_of_row[rows], options)
    for run, weight in zip(inputs.runs, final.weights, strict=True):
        if (weight > 0).any() and not has_networks(run.description):
            tell(f"{run.directory}: has no Keras networks, so it counts here, and is left out of an export")
    figures = [{name: each["overall"][name] for name in FIGURES.values()} for each in inputs.metrics]
    best = min(range(len(figures)), key=lambda place: figures[place]["log_loss_treated"])
    about = describe("blend", options.to_dict(), {}, dataset, validation)
    about |= describe_blend(out, inputs.runs, final)
    plan = {
        "folds": np.unique(fold_of_row[fold_of_row >= 0]).tolist(),
        "seeds": 0,
        "refit": False,
        "shared": [],
        "files": [],
    }
    weights = final.weights.mean(axis=1) if final.weights.ndim > 1 else final.weights
    listed = [
        {"run": str(run.directory), "model": run.description["model"], "weight": weight, **each}
        for run, weight, each in zip(inputs.runs, weights.tolist(), figures, strict=True)
    ]
    with temporary_directory(out.parent, out) as temporary:
        run = Run(temporary / "run")
        with run.held(about, plan, False, tell):
            metrics = score(
                dataset,
                validation,
                run,
                predicted,
                fold_of_row,
                _priors(dataset, fold_of_row),
                "; ".join(dict.fromkeys(each["caveat"] for each in inputs.metrics if each.get("caveat"))),
                chosen,
                rival=predictions[best],
                more={"components": listed, "best": best},
            )
            sync_tree(run.directory)
            try:
                run.directory.rename(out)
            except OSError as error:  # someone else has made it by now
                raise InputError(f"{out}: cannot be written ({error.strerror})") from error
            sync(out.parent)
    return metrics


def blend_folds(
    dataset: Dataset, fold_of_row: np.ndarray, predictions: np.ndarray, options: BlendOptions
) -> tuple[np.ndarray, dict[int, list[dict[str, Any]]]]:
    """Predicts each fold by a combination that is fitted on the others.

    Args:
        dataset: N rows.
        fold_of_row: [N] the fold of each, −1 where nothing predicts it.
        predictions: [M, N, T] out-of-fold probabilities.
        options: how to blend.

    Returns:
        [N, T] float32 probabilities, and for each fold the combination that made them.
    """
    predicted = np.zeros(dataset.targets.shape, np.float32)
    chosen = {}
    for fold in np.unique(fold_of_row[fold_of_row >= 0]).tolist():
        rows = (fold_of_row >= 0) & (fold_of_row != fold) & ~dataset.signatures.control
        combination = fit_combination(dataset.targets[rows], predictions[:, rows], fold_of_row[rows], options)
        predicted[fold_of_row == fold] = combination.apply(predictions[:, fold_of_row == fold])
        chosen[fold] = [combination.to_dict()]
    return predicted, chosen


def _priors(dataset: Dataset, fold_of_row: np.ndarray) -> np.ndarray:
    """[N, T] label means of each row's training fold, as in the runs themselves."""
    priors = np.zeros(dataset.targets.shape, np.float32)
    for fold in np.unique(fold_of_row[fold_of_row >= 0]):
        treated = (fold_of_row != fold) & ~dataset.signatures.control
        priors[fold_of_row == fold] = prior(dataset.targets[treated])
    return priors


@dataclass(frozen=True)
class _Inputs:
    """Runs that belong together, with their out-of-fold tables, whose ids and folds are the same."""

    runs: list[Run]
    metrics: list[dict[str, Any]]
    tables: list[pd.DataFrame]

    def at(self, dataset: Dataset) -> tuple[np.ndarray, np.ndarray]:
        """[N] folds, −1 for rows that are not predicted, and [M, N, T] float32 probabilities."""
        ids = dataset.signatures.sig_id
        fold = self.tables[0]["fold"].reindex(ids, fill_value=-1).to_numpy(np.int32)
        names = list(dataset.target_names)
        blocks = [table[names].reindex(ids, fill_value=0.0).to_numpy(np.float32) for table in self.tables]
        return fold, np.stack(blocks)


def _read_runs(directories: Sequence[Path], options: BlendOptions) -> _Inputs:
    """Reads the runs, and finds what keeps them from being blended."""
    if len({Path(directory).resolve() for directory in directories}) < len(directories):
        raise InputError("blend: a run is given twice, expected different ones")
    if len(directories) < 2 and options.calibrate == "none":
        raise InputError(f"blend: {len(directories)} run, expected two or more, or one and --calibrate")
    runs = [Run(Path(directory)) for directory in directories]
    descriptions = [run.description for run in runs]
    for run, description in zip(runs, descriptions, strict=True):
        if COMPONENTS in description:
            raise InputError(f"{run.directory}: is a blend itself, expected the runs that it was blended of")
        _compare(runs[0], descriptions[0], run, description)
    metrics = [run.metrics() for run in runs]
    tables = [
        _read_table(run, description["targets"]) for run, description in zip(runs, descriptions, strict=True)
    ]
    first = tables[0]["fold"]
    for run, table in zip(runs, tables, strict=True):
        fold = table["fold"]
        scored = [sorted(set(each)) for each in (first, fold)]
        if scored[0] != scored[1]:
            raise InputError(
                f"{run.directory}: scores the folds {scored[1]}, {runs[0].directory} {scored[0]}; expected the same"
            )
        if not fold.sort_index().equals(first.sort_index()):
            raise InputError(
                f"{run.directory / 'oof.parquet'}: its rows are in other folds than those of {runs[0].directory}, "
                "expected the same"
            )
    if first.nunique() < 2:
        raise InputError(
            f"blend: {first.nunique()} fold is scored, expected at least 2, as weights are fitted on the others"
        )
    return _Inputs(runs, metrics, tables)


def _compare(one: Run, first: dict[str, Any], other: Run, second: dict[str, Any]) -> None:
    """Refuses runs of other data, targets or folds."""
    for section, key, what in (
        ("data", "fingerprint", "data"),
        *(("settings", key, key) for key in SAME),
        ("data", "groups", "groups of the split"),
    ):
        values = [each[section].get(key) for each in (first, second)]
        if values[0] != values[1]:
            shown = f" ({values[1]}, {values[0]})" if section == "settings" else ""
            raise InputError(
                f"{other.directory}: {what} differs from that of {one.directory}{shown}, expected the same"
            )
    if first["targets"] != second["targets"]:
        raise InputError(f"{other.directory}: has other targets than {one.directory}, expected the same")


def _read_table(run: Run, targets: Sequence[str]) -> pd.DataFrame:
    """The out-of-fold table by `sig_id`."""
    path = run.directory / "oof.parquet"
    try:
        table = pd.read_parquet(path, columns=["sig_id", "fold", *targets]).set_index("sig_id")
    except (OSError, ValueError, KeyError) as error:
        reason = str(error).partition("\n")[0]
        raise InputError(f"{path}: cannot be read ({reason}), expected a run's predictions") from None
    values = table[list(targets)].to_numpy()
    if not table.index.is_unique or not ((values >= 0) & (values <= 1)).all():
        raise InputError(f"{path}: damaged, expected one row of probabilities for each sig_id")
    return table


_SAMPLE = re.compile(r"simulated sample \((\d+) signatures, seed (\d+)\)")


def _read_data(description: dict[str, Any], data: Path | Dataset | None, validation: Validation) -> Dataset:
    """The rows and labels that the runs are of."""
    source = description["data"]["source"]
    sample = _SAMPLE.fullmatch(source)
    if isinstance(data, Dataset):
        dataset = data
    elif data is None and sample:
        dataset = simulate(int(sample[1]), int(sample[2]))
    elif data is None and not Path(source).is_dir():
        raise InputError(f"{source}: the runs' data is not there now, expected --data with it")
    else:
        dataset = read_dataset(data or source, description["panel"].get("missing", False))
    if dataset.fingerprint != description["data"]["fingerprint"]:
        raise InputError(
            f"{dataset.source}: is not the data that the runs were trained on, expected --data with that"
        )
    return with_shuffled_labels(dataset, validation.seed) if validation.shuffle_labels else dataset
