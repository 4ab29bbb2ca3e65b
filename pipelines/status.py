"""What ML Metadata knows of a pipeline's runs: components, artifacts, blessed or refused and why."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote

import ml_metadata as mlmd
import tensorflow_model_analysis as tfma
from ml_metadata.proto import metadata_store_pb2 as proto

from moa_tf.atomic import replacing
from moa_tf.errors import InputError
from moa_tf.evaluation.page import Html, Section, details, escape, listing, page, paragraph, table
from pipelines import METADATA
from pipelines.evaluation import AUROC, CANDIDATE, FREQUENCIES, LOG_LOSS, PRECISION, RATIO
from pipelines.gate import describe
from pipelines.local import connection

STATES = {
    proto.Execution.COMPLETE: "done",
    proto.Execution.CACHED: "from the cache",
    proto.Execution.FAILED: "failed",
    proto.Execution.RUNNING: "running, or killed",
    proto.Execution.CANCELED: "cancelled",
}


@dataclass
class Component:
    """One component in one run.

    Attributes:
        name: its id in the pipeline.
        state: a value of `STATES`.
        seconds: how long it took; None where it was cached or has not ended.
        artifacts: (output's name, type, path) of what it made.
    """

    name: str
    state: str
    seconds: float | None
    artifacts: list[tuple[str, str, str]] = field(default_factory=list)


@dataclass
class PipelineRun:
    """One run of a pipeline.

    Attributes:
        started: when.
        components: in the order in which they ran.
        blessed: whether the Evaluator blessed the model; None where it judged none.
        reasons: why the table, or the model, was refused.
        figures: the candidate's figures on the split `eval`, over all its rows.
        pushed: the version that the model was pushed to, '' for none.
        statistics: path of the table's statistics.
        evaluation: path of the evaluation.
    """

    started: datetime
    components: list[Component] = field(default_factory=list)
    blessed: bool | None = None
    reasons: list[str] = field(default_factory=list)
    figures: dict[str, float] = field(default_factory=dict)
    pushed: str = ""
    statistics: str = ""
    evaluation: str = ""

    @property
    def outcome(self) -> str:
        """What became of it, in a few words."""
        if self.pushed:
            return f"pushed to {self.pushed}"
        if self.blessed is False:
            return "not blessed, not pushed"
        if any(component.state == "failed" for component in self.components):
            name = next(component.name for component in self.components if component.state == "failed")
            return "table refused" if name.endswith("Gate") else f"failed in {name}"
        return "not finished"


def read_runs(root: Path, last: int | None = 10) -> list[PipelineRun]:
    """The last runs, or all, the latest first.

    Raises:
        InputError: no pipeline has run in `root`.
    """
    if not (root / METADATA).is_file():
        raise InputError(f"{root}: no {METADATA}, expected the directory of a pipeline that has run")
    store = mlmd.MetadataStore(connection(root))
    contexts = sorted(store.get_contexts_by_type("pipeline_run"), key=lambda each: each.id, reverse=True)
    kinds = {kind.id: kind.name for kind in store.get_artifact_types()}
    return [_read_run(store, context, kinds) for context in contexts[:last]]


def _read_run(store: mlmd.MetadataStore, context: proto.Context, kinds: dict[int, str]) -> PipelineRun:
    run = PipelineRun(_time(context.create_time_since_epoch))
    # A component that failed and ran again is there twice; the later one counts.
    executions = {_node(store, each): each for each in _by_id(store.get_executions_by_context(context.id))}
    outputs = _outputs(store, executions.values())
    for name, execution in executions.items():
        state = STATES.get(execution.last_known_state, "not started")
        ended = execution.last_known_state in (proto.Execution.COMPLETE, proto.Execution.FAILED)
        seconds = (execution.last_update_time_since_epoch - execution.create_time_since_epoch) / 1000
        component = Component(name, state, seconds if ended else None)
        for key, artifact in outputs.get(execution.id, []):
            component.artifacts.append((key, kinds[artifact.type_id], artifact.uri))
            _note(run, name, key, artifact)
        run.components.append(component)
    refused = {each.name for each in run.components if each.state == "failed" and each.name.endswith("Gate")}
    found = {"Gate": ("ExampleValidator", "DriftValidator"), "PredictGate": ("SkewValidator",)}
    for gate in sorted(refused):
        made = (each for each in run.components if each.name in found[gate])
        run.reasons += describe(uri for each in made for _, _, uri in each.artifacts)
    if run.evaluation and run.blessed is not None:
        run.figures = read_figures(run.evaluation)
        if not run.blessed:
            run.reasons += read_refusal(run.evaluation, run.figures)
    return run


def _by_id(executions: Iterable[proto.Execution]) -> list[proto.Execution]:
    return sorted(executions, key=lambda each: each.id)


def _node(store: mlmd.MetadataStore, execution: proto.Execution) -> str:
    for context in store.get_contexts_by_execution(execution.id):
        if context.type == "node":
            return context.name.rpartition(".")[2]
    return execution.type


def _outputs(
    store: mlmd.MetadataStore, executions: Iterable[proto.Execution]
) -> dict[int, list[tuple[str, proto.Artifact]]]:
    events = [
        event
        for event in store.get_events_by_execution_ids([execution.id for execution in executions])
        if event.type == proto.Event.OUTPUT
    ]
    artifacts = {each.id: each for each in store.get_artifacts_by_id({event.artifact_id for event in events})}
    made: dict[int, list[tuple[str, proto.Artifact]]] = {}
    for event in events:
        key = next((step.key for step in event.path.steps if step.HasField("key")), "")
        made.setdefault(event.execution_id, []).append((key, artifacts[event.artifact_id]))
    return made


def _note(run: PipelineRun, name: str, key: str, artifact: proto.Artifact) -> None:
    """What of a run's artifacts is told of the run itself."""
    custom = artifact.custom_properties
    if name == "StatisticsGen":
        run.statistics = artifact.uri
    elif name == "Evaluator" and key == "evaluation":
        run.evaluation = artifact.uri
    elif name == "Evaluator" and key == "blessing":
        run.blessed = bool(custom["blessed"].int_value)
    elif name == "Pusher" and custom["pushed"].int_value:
        run.pushed = custom["pushed_destination"].string_value


def _time(milliseconds: int) -> datetime:
    return datetime.fromtimestamp(milliseconds / 1000, UTC)


def read_figures(evaluation: str) -> dict[str, float]:
    """The candidate's figures over all rows of the split `eval`."""
    figures = {}
    for slice_key, outputs in _metrics(evaluation):
        if slice_key == ():
            figures = {name: value for name, value in outputs.items() if name != "example_count"}
    return figures


def read_slices(evaluation: str) -> list[tuple[str, dict[str, float]]]:
    """Slice -> the candidate's figures, all rows first."""
    named = [
        (", ".join(f"{column} {_word(value)}" for column, value in key) or "all rows", figures)
        for key, figures in _metrics(evaluation)
    ]
    return sorted(named, key=lambda pair: (pair[0] != "all rows", pair[0]))


def _word(value: Any) -> str:
    return (
        value.decode()
        if isinstance(value, bytes)
        else f"{value:g}"
        if isinstance(value, float)
        else str(value)
    )


def _metrics(evaluation: str) -> list[tuple[tuple, dict[str, float]]]:
    # A model that is judged alone has no name in the results.
    alone = len(tfma.load_eval_result(evaluation).config.model_specs) == 1
    result = tfma.load_eval_result(evaluation, model_name="" if alone else CANDIDATE)
    return [
        (key, {name: next(iter(value.values()), math.nan) for name, value in outputs[""][""].items()})
        for key, outputs in result.slicing_metrics
    ]


def read_refusal(evaluation: str, figures: dict[str, float]) -> list[str]:
    """Why a model with these figures was not blessed: a line for each threshold that it missed."""
    result = tfma.load_validation_result(evaluation)
    lines = []
    for failures in result.metric_validations_per_slice:
        for failure in failures.failures:
            lines.append(_explain(failure, figures))
    if result.missing_slices:
        lines.append("slices without a row: expected some")
    return lines


def _explain(failure: Any, figures: dict[str, float]) -> str:
    name, threshold = failure.metric_key.name, failure.metric_threshold
    value = failure.metric_value.double_value.value
    words = name.replace("_", " ")
    if not threshold.HasField("change_threshold"):
        return f"{words} {value:.4f}, expected below {threshold.value_threshold.upper_bound.value:g}"
    before = figures[name] - value
    allowed = threshold.change_threshold.relative.value
    return (
        f"{words} {figures[name]:.4f}, {value / before:.1%} above the {before:.4f} of the model that was blessed last, "
        f"expected at most {allowed:.1%}"
    )


def write_page(runs: list[PipelineRun], root: Path, out: Path) -> None:
    """Writes the runs as one HTML page."""
    sections = [
        Section(
            f"run-{number}", f"{run.started:%Y-%m-%d %H:%M:%S} UTC: {run.outcome}", tuple(_parts(run, out))
        )
        for number, run in enumerate(runs)
    ]
    lead = [paragraph(f"The last {len(runs)} runs of the pipeline in {root}, the latest first.")]
    with replacing(out) as temporary:
        temporary.write_text(page("Pipeline runs", lead, sections), encoding="utf-8")


def _parts(run: PipelineRun, out: Path) -> Iterable[Html]:
    if run.reasons:
        yield paragraph("Why:")
        yield listing(run.reasons)
    yield table(
        "Components",
        ["component", "state", "seconds"],
        [
            [each.name, each.state, None if each.seconds is None else f"{each.seconds:.1f}"]
            for each in run.components
        ],
    )
    if run.figures:
        columns = [LOG_LOSS, RATIO, AUROC, PRECISION]
        rows = [
            [name, figures.get("example_count"), *(figures.get(column) for column in columns)]
            for name, figures in read_slices(run.evaluation)
        ]
        yield table("The candidate on the split eval", ["rows", "signatures", *columns], rows)
        columns = [LOG_LOSS, AUROC, PRECISION]
        rows = [[third, *(run.figures.get(f"{name}_{third}") for name in columns)] for third in FREQUENCIES]
        yield table("By how frequent the mechanisms are", ["third of them", *columns], rows)
    if run.statistics:
        yield details("Statistics of the table", *_statistics(run.statistics))
    yield details("Artifacts", _artifacts(run, out))


def _artifacts(run: PipelineRun, page_file: Path) -> Html:
    items = []
    for component in run.components:
        for key, kind, uri in component.artifacts:
            place = os.path.relpath(uri, page_file.absolute().parent)
            link = f'<a href="{quote(place)}">{escape(place)}</a>'
            items.append(f"<li>{escape(f'{component.name}, {key} ({kind})')}: {link}</li>")
    return Html(f"<ul>{''.join(items)}</ul>")


def _statistics(uri: str) -> Iterable[Html]:
    import tensorflow_data_validation as tfdv
    from tensorflow_metadata.proto.v0 import statistics_pb2 as stats

    for directory in sorted(Path(uri).glob("Split-*")):
        files = sorted(directory.glob("*"))
        if not files:
            continue
        loaded = tfdv.load_stats_binary(str(files[0])).datasets[0]
        rows = []
        for feature in loaded.features:
            name = ".".join(feature.path.step)
            if feature.type == stats.FeatureNameStatistics.STRING:
                top = ", ".join(
                    f"{each.value} {each.frequency:g}" for each in feature.string_stats.top_values[:3]
                )
                rows.append([name, "words", feature.string_stats.unique, None, None, None, None, top])
            else:
                each = feature.num_stats
                rows.append([name, "numbers", None, each.mean, each.std_dev, each.min, each.max, ""])
        yield table(
            f"Split {directory.name.removeprefix('Split-')}: {loaded.num_examples:,} signatures",
            ["feature", "kind", "distinct", "mean", "standard deviation", "least", "most", "most frequent"],
            rows,
        )
