"""What the Evaluator measures, and what a model must reach: TFMA over the signature `serving_examples`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import apache_beam as beam
import numpy as np
import tensorflow_model_analysis as tfma

from moa_tf.evaluation.metrics import log_loss_per_target, rank_metrics
from pipelines.examples import DRUG, TARGETS

LOG_LOSS, RATIO = "log_loss", "log_loss_by_column_means"
AUROC, PRECISION = "macro_auroc", "macro_average_precision"
CANDIDATE = "candidate"
FREQUENCIES = ("rare", "medium", "frequent")
"""Thirds of the mechanisms, by how many of the judged rows have them."""

WORSE = 0.01
"""A model is not blessed whose log loss is more than this part above that of the one blessed last."""


def eval_config(baseline: bool, treatment: Iterable[str], worse: float = WORSE) -> tfma.EvalConfig:
    """What is judged, on which slices, by which thresholds.

    A model is blessed if its log loss is below that of the column means, and not above the last blessed one's by more
    than `worse` of it.

    Args:
        baseline: whether the last blessed model is compared with, where there is one.
        treatment: the treatment columns that the panel has.
        worse: see above.
    """
    below = tfma.MetricThreshold(value_threshold=tfma.GenericValueThreshold(upper_bound={"value": 1.0}))
    change = tfma.GenericChangeThreshold(
        relative={"value": worse}, direction=tfma.MetricDirection.LOWER_IS_BETTER
    )
    thresholds = {RATIO: below}
    if baseline:
        thresholds[LOG_LOSS] = tfma.MetricThreshold(change_threshold=change)
    spec = {"signature_name": "serving_examples", "label_key": TARGETS, "prediction_key": "probabilities"}
    models = [tfma.ModelSpec(name=CANDIDATE, **spec)]
    if baseline:
        models.append(tfma.ModelSpec(name="baseline", is_baseline=True, **spec))
    slices = [tfma.SlicingSpec()]
    slices += [tfma.SlicingSpec(feature_keys=[name]) for name in ("cp_dose", "cp_time") if name in treatment]
    return tfma.EvalConfig(
        model_specs=models,
        slicing_specs=slices,
        metrics_specs=[
            tfma.MetricsSpec(
                metrics=[
                    tfma.MetricConfig(class_name="ExampleCount"),
                    tfma.MetricConfig(class_name="MultiLabelMetrics", module="pipelines.evaluation"),
                ],
                thresholds=thresholds,
            )
        ],
    )


class MultiLabelMetrics(tfma.metrics.Metric):
    """Log loss, AUROC and average precision, the mean over mechanisms, and each over thirds of them by frequency.

    `log_loss_by_column_means` is the log loss divided by that of the column means, of which each row is judged by
    those of all other drugs: what a model without any signature would reach on drugs that it has not seen.
    """

    def __init__(self, name: str = "multi_label") -> None:
        super().__init__(_computations, name=name)


def _computations(
    name: str = "multi_label",
    eval_config: tfma.EvalConfig | None = None,
    model_names: list[str] | None = None,
    output_names: list[str] | None = None,
    example_weighted: bool = False,
) -> list[tfma.metrics.MetricComputation]:
    computations = []
    for model in model_names or [""]:
        for output in output_names or [""]:
            # Thresholds that name a metric of ours look for it by a key without a word on weights.
            keys = {
                key: tfma.metrics.MetricKey(key, model_name=model, output_name=output, example_weighted=None)
                for key in [RATIO, *_names()]
            }
            computations.append(
                tfma.metrics.MetricComputation(
                    keys=list(keys.values()),
                    preprocessors=[tfma.metrics.FeaturePreprocessor(feature_keys=[DRUG])],
                    combiner=_Gather(keys, eval_config, model, output),
                )
            )
    return computations


def _names() -> Iterator[str]:
    for name in (LOG_LOSS, AUROC, PRECISION):
        yield name
        yield from (f"{name}_{frequency}" for frequency in FREQUENCIES)


@dataclass
class _Rows:
    labels: list[np.ndarray] = field(default_factory=list)
    probabilities: list[np.ndarray] = field(default_factory=list)
    drugs: list[bytes] = field(default_factory=list)


class _Gather(beam.CombineFn):
    """Ranks need all rows: 100,000 of 206 mechanisms are 165 MB."""

    def __init__(self, keys: dict[str, Any], config: Any, model: str, output: str) -> None:
        self.keys, self.config, self.model, self.output = keys, config, model, output

    def create_accumulator(self) -> _Rows:
        return _Rows()

    def add_input(self, accumulator: _Rows, element: Any) -> _Rows:
        given = tfma.metrics.to_label_prediction_example_weight(
            element, eval_config=self.config, model_name=self.model, output_name=self.output, flatten=False
        )
        for label, probability, _ in given:
            accumulator.labels.append(np.asarray(label, np.float32).reshape(-1))
            accumulator.probabilities.append(np.asarray(probability, np.float32).reshape(-1))
        accumulator.drugs.append(np.asarray(element.features[DRUG]).reshape(-1)[0])
        return accumulator

    def merge_accumulators(self, accumulators: Iterable[_Rows]) -> _Rows:
        merged = _Rows()
        for each in accumulators:
            merged.labels += each.labels
            merged.probabilities += each.probabilities
            merged.drugs += each.drugs
        return merged

    def extract_output(self, accumulator: _Rows) -> dict[Any, float]:
        if not accumulator.labels:
            return {key: float("nan") for key in self.keys.values()}
        figures = multi_label_metrics(
            np.stack(accumulator.labels),
            np.stack(accumulator.probabilities),
            np.array(accumulator.drugs, object),
        )
        return {self.keys[name]: value for name, value in figures.items()}


def multi_label_metrics(
    targets: np.ndarray, probabilities: np.ndarray, drugs: np.ndarray
) -> dict[str, float]:
    """The figures of `MultiLabelMetrics`.

    Args:
        targets: [N, T], 0 or 1.
        probabilities: [N, T].
        drugs: [N] what is held together.

    Returns:
        Name -> figure; NaN where it is not defined, as AUROC of mechanisms that no row has.
    """
    auroc, precision = rank_metrics(targets, probabilities)
    each = {LOG_LOSS: log_loss_per_target(targets, probabilities), AUROC: auroc, PRECISION: precision}
    means = log_loss_per_target(targets, means_of_others(targets, drugs))
    figures = {RATIO: float(each[LOG_LOSS].mean() / means.mean())}
    # Ties by their place: each mechanism is in one third.
    order = np.argsort(targets.sum(0), kind="stable")
    thirds = dict(zip(FREQUENCIES, np.array_split(order, len(FREQUENCIES)), strict=True))
    for name, values in each.items():
        figures[name] = _mean(values)
        figures |= {f"{name}_{frequency}": _mean(values[third]) for frequency, third in thirds.items()}
    return figures


def means_of_others(targets: np.ndarray, drugs: np.ndarray) -> np.ndarray:
    """[N, T] the column means of the rows of all other drugs, kept off 0 and 1 by half a row."""
    _, drug = np.unique(drugs.astype(bytes), return_inverse=True)
    sums = np.zeros((drug.max() + 1, targets.shape[1]))
    np.add.at(sums, drug, targets)
    rows = np.bincount(drug)[:, None]
    return ((sums.sum(0) - sums + 0.5) / (rows.sum() - rows + 1))[drug]


def _mean(values: np.ndarray) -> float:
    values = values[np.isfinite(values)]
    return float(values.mean()) if len(values) else float("nan")
