"""Baselines as learners: the same features for all, and a choice on the fold's inner folds."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

from moa_tf.baselines.base import MIN_POSITIVES, Baseline, BaselineConfig, Option, Problem
from moa_tf.data.prior import PRIOR_FLOOR, prior
from moa_tf.data.schema import Dataset
from moa_tf.evaluation.metrics import mean_log_loss
from moa_tf.models.tabular import SMALL_SCALING, TabularConfig, fit_preprocessing
from moa_tf.preprocessing.missing import dropped_features
from moa_tf.training.fold import ALL, Fold, adapting_rows, inner_folds
from moa_tf.training.inference import Inference
from moa_tf.training.learner import Learner
from moa_tf.training.network_learner import SMALL_PRODUCTS
from moa_tf.training.reporter import Reporter

FEATURES = TabularConfig(**SMALL_SCALING)
"""What every baseline reads: scaled genes and cell lines, and the treatment's dose, time and cell line."""


class BaselineLearner(Learner):
    """A baseline.

    The fitted models are not saved: what reads a run reads predictions and history, and most of these libraries could
    save theirs by pickle only.

    Args:
        baseline: what to fit.
        config: its settings, where others than `baseline.config` are wanted.
        writes: whether this process writes the run, see `Learner`.
    """

    copies = True

    def __init__(self, baseline: Baseline, config: BaselineConfig | None = None, writes: bool = True) -> None:
        self.baseline, self.config = baseline, config or baseline.config
        self.name, self.writes = baseline.name, writes

    def settings(self) -> dict[str, Any]:
        return {
            "baseline": self.config.to_dict(),
            "features": FEATURES.to_dict(),
            "library": self.baseline.library_version,
        }

    def prepare(
        self, dataset: Dataset, fold: Fold, seed: int, directory: Path, saved: bool, reporter: Reporter
    ) -> tuple[np.ndarray | None, str]:
        if fold.name == ALL:
            return None, ""
        rows = dataset.signatures.take(adapting_rows(fold, seed))
        preprocessing = fit_preprocessing(rows, FEATURES, seed)
        for line in dropped_features(preprocessing, dataset.signatures.spec):
            reporter.message(f"fold {fold.name}: {line}")
        inputs = dataset.signatures.inputs()
        return Inference(preprocessing)(inputs, storage=dataset.storage)["features"], ""

    def fit(
        self,
        dataset: Dataset,
        prepared: np.ndarray | None,
        fold: Fold,
        seed: int,
        directory: Path,
        label: str,
        reporter: Reporter,
    ) -> tuple[np.ndarray, dict[str, Any]]:
        if prepared is None:  # Of a model of all rows nothing would be left: there is none to predict.
            reporter.member(label, 1, 1)
            reporter.batch()
            return np.empty((0, dataset.targets.shape[1]), np.float32), {}
        options = list(self.baseline.options(self.config))
        inner = inner_folds(fold, dataset, self.config.inner_folds, seed) if len(options) > 1 else []
        inner = inner[: 1 if len(fold.train) > self.config.large else None]
        reporter.member(label, 1, len(inner) + 1)
        # Threads that wait for one another take several times as long as these products do.
        with threadpool_limits(1 if len(fold.train) < SMALL_PRODUCTS else None, "blas"):
            losses = np.zeros(len(options))
            for part in inner:
                labels = dataset.targets[part.judged]
                predictions = self._predictions(
                    prepared, dataset.targets, part.train, part.judged, options, seed
                )
                losses += [mean_log_loss(labels, predicted) * len(labels) for predicted in predictions]
                reporter.batch()
            best = int(np.argmin(losses))
            (predicted,) = self._predictions(
                prepared, dataset.targets, fold.train, fold.held_out, [options[best]], seed
            )
        reporter.batch()
        targets = int(_can_be_fitted(dataset.targets[fold.train]).sum())
        rare = dataset.targets.shape[1] - targets
        if rare:
            reporter.message(
                f"fold {fold.name}: {rare} of {dataset.targets.shape[1]} targets have fewer than {MIN_POSITIVES} "
                "positives to train on; baselines predict their means"
            )
        history = {
            "chosen": {
                **options[best],
                "inner_log_loss": losses[best] / sum(len(part.judged) for part in inner) if inner else None,
            },
            "fallbacks": rare,
        }
        if self.baseline.parameters is not None:
            history["parameters"] = self.baseline.parameters(prepared.shape[1], targets)
        return predicted.astype(np.float32), history

    def _predictions(
        self,
        features: np.ndarray,
        targets: np.ndarray,
        train: np.ndarray,
        rows: np.ndarray,
        options: Sequence[Option],
        seed: int,
    ) -> Iterator[np.ndarray]:
        """Probabilities [len(rows), T] by each option of what is fitted on the rows `train`.

        A target that cannot be fitted on them has its mean over them.
        """
        labels = targets[train]
        means, fitted = prior(labels), _can_be_fitted(labels)
        problem = Problem(features[train], labels[:, fitted], means[fitted], seed)
        predict = self.baseline.fit(problem, self.config)(features[rows]) if fitted.any() else None
        for option in options:
            predicted = np.tile(means, (len(rows), 1))
            if predict is not None:
                predicted[:, fitted] = predict(**option)
            yield np.clip(predicted, PRIOR_FLOOR, 1 - PRIOR_FLOOR)


def _can_be_fitted(labels: np.ndarray) -> np.ndarray:
    """[T] bool: which columns of `labels` [M, T] have positives enough, and a negative."""
    positives = labels.sum(axis=0)
    return (positives >= MIN_POSITIVES) & (positives < len(labels))
