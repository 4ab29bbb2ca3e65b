"""The pipeline: from a table of signatures to a pushed model.

    SignatureExampleGen ▸ StatisticsGen ▸ ExampleValidator, DriftValidator ▸ Gate ▸ Trainer ▸ Evaluator ▸ Pusher

and, of a table to be predicted, the same up to a gate of its own, then BulkInferrer and a table of predictions. There
is no Transform: a model of this project carries its preprocessing, so that training and serving cannot differ.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tfx import components
from tfx.components.schema_gen.import_schema_gen.component import ImportSchemaGen
from tfx.dsl.components.base.base_node import BaseNode
from tfx.dsl.components.common.resolver import Resolver
from tfx.dsl.input_resolution.strategies.latest_artifact_strategy import LatestArtifactStrategy
from tfx.dsl.input_resolution.strategies.latest_blessed_model_strategy import LatestBlessedModelStrategy
from tfx.orchestration.pipeline import Pipeline
from tfx.proto import bulk_inferrer_pb2, infra_validator_pb2, pusher_pb2
from tfx.types import Channel
from tfx.types.standard_artifacts import ExampleStatistics, Model, ModelBlessing

from pipelines.evaluation import WORSE, eval_config
from pipelines.example_gen import PREDICT, TRAIN, predict_example_gen, signature_example_gen
from pipelines.examples import Panel
from pipelines.gate import DriftValidator, Gate
from pipelines.predictions import Predictions
from pipelines.pusher import VersionPusher
from pipelines.resolvers import LatestAccepted, LatestBlessed
from pipelines.schema import drift_config


@dataclass(frozen=True)
class Settings:
    """What a pipeline is made of.

    Attributes:
        name: its name in ML Metadata.
        root: where artifacts go.
        data: directory of the training tables, as the components see it.
        panel: what the tables hold.
        digest: of the tables.
        schema: the schema's file.
        trainer: `custom_config` of the Trainer, see `pipelines.trainer.run_fn`, without `panel`.
        destination: where blessed models are pushed to.
        predict: a features table to be predicted, or None.
        predict_digest: of that table.
        predictions: the table that its predictions become.
        worse: by which part a model's log loss may be above the last blessed one's.
        beam: Beam's flags, as `--runner=DirectRunner`.
        plain: whether the engine knows TFX's own ways alone to find earlier artifacts.
        gone: versions that were pushed and are not there any more; the Pusher looks again then.
        infra: whether to start the model in a TensorFlow Serving container first.
    """

    name: str
    root: str
    data: Path
    panel: Panel
    digest: str
    schema: Path
    trainer: dict[str, Any]
    destination: Path
    predict: Path | None = None
    predict_digest: str = ""
    predictions: Path | None = None
    worse: float = WORSE
    beam: tuple[str, ...] = field(default_factory=tuple)
    plain: bool = False
    gone: tuple[str, ...] = ()
    infra: bool = False


def make_pipeline(settings: Settings, metadata: Any = None) -> Pipeline:
    """The pipeline of these settings.

    Args:
        settings: see there.
        metadata: connection to ML Metadata; None where the engine brings its own.
    """
    schema = ImportSchemaGen(schema_file=str(settings.schema))
    examples = signature_example_gen(settings.data, settings.panel, settings.digest).with_id(
        "SignatureExampleGen"
    )
    statistics = components.StatisticsGen(examples.outputs["examples"])
    baseline = Resolver(
        strategy_class=LatestArtifactStrategy if settings.plain else LatestAccepted,
        statistics=Channel(ExampleStatistics, producer_component_id="Gate", output_key="accepted"),
    ).with_id("LatestAccepted")
    anomalies = components.ExampleValidator(statistics.outputs["statistics"], schema.outputs["schema"])
    drift = DriftValidator(
        statistics=statistics.outputs["statistics"],
        baseline=baseline.outputs["statistics"],
        config=drift_config(settings.panel, labels=True),
    )
    gate = Gate(
        statistics=statistics.outputs["statistics"],
        anomalies=anomalies.outputs["anomalies"],
        drift=drift.outputs["anomalies"],
        table=str(settings.data),
    )
    trainer = components.Trainer(
        run_fn="pipelines.trainer.run_fn",
        examples=examples.outputs["examples"],
        schema=schema.outputs["schema"],
        custom_config={**settings.trainer, "panel": settings.panel.to_dict()},
    )
    trainer.add_upstream_node(gate)
    blessed = Resolver(
        strategy_class=LatestBlessedModelStrategy if settings.plain else LatestBlessed,
        model=Channel(type=Model),
        model_blessing=Channel(type=ModelBlessing),
        **({} if settings.plain else {"candidate": trainer.outputs["model"]}),
    ).with_id("LatestBlessed")
    evaluator = components.Evaluator(
        examples=examples.outputs["examples"],
        model=trainer.outputs["model"],
        baseline_model=blessed.outputs["model"],
        schema=schema.outputs["schema"],
        eval_config=eval_config(True, settings.panel.spec.treatment, settings.worse),
    )
    infra = [_infra_validator(trainer, examples)] if settings.infra else []
    pusher = VersionPusher(
        model=trainer.outputs["model"],
        model_blessing=evaluator.outputs["blessing"],
        infra_blessing=infra[0].outputs["blessing"] if infra else None,
        push_destination=pusher_pb2.PushDestination(
            filesystem=pusher_pb2.PushDestination.Filesystem(base_directory=str(settings.destination))
        ),
        custom_config={"gone": list(settings.gone)},
    ).with_id("Pusher")
    nodes: list[BaseNode] = [schema, examples, statistics, baseline, anomalies, drift, gate]
    nodes += [trainer, blessed, evaluator, *infra, pusher]
    if settings.predict is not None:
        nodes += _prediction(settings, settings.predict, statistics, trainer, evaluator)
    return Pipeline(
        pipeline_name=settings.name,
        pipeline_root=settings.root,
        components=nodes,
        metadata_connection_config=metadata,
        enable_cache=True,
        # Workers of their own import TFX before TFDV, as this process does.
        beam_pipeline_args=["--beam_plugins=tfx", *settings.beam],
    )


def _infra_validator(trainer: Any, examples: Any) -> Any:
    return components.InfraValidator(
        model=trainer.outputs["model"],
        examples=examples.outputs["examples"],
        serving_spec=infra_validator_pb2.ServingSpec(
            tensorflow_serving=infra_validator_pb2.TensorFlowServing(tags=["latest"]),
            local_docker=infra_validator_pb2.LocalDockerConfig(),
        ),
        request_spec=infra_validator_pb2.RequestSpec(
            tensorflow_serving=infra_validator_pb2.TensorFlowServingRequestSpec(
                signature_names=["serving_examples"]
            ),
            num_examples=3,
        ),
    )


def _prediction(
    settings: Settings, features: Path, training: Any, trainer: Any, evaluator: Any
) -> Sequence[BaseNode]:
    """From a table to its predictions by a blessed model; skew against the training table refuses it."""
    examples = predict_example_gen(features, settings.panel, settings.predict_digest)
    statistics = components.StatisticsGen(examples.outputs["examples"]).with_id("PredictStatisticsGen")
    skew = DriftValidator(
        statistics=statistics.outputs["statistics"],
        baseline=training.outputs["statistics"],
        config=drift_config(settings.panel, labels=False),
        splits=[(PREDICT, TRAIN)],
    ).with_id("SkewValidator")
    # The schema is that of tables with labels, and a signature that a model cannot take is refused when it is read.
    gate = Gate(
        statistics=statistics.outputs["statistics"],
        anomalies=skew.outputs["anomalies"],
        drift=skew.outputs["anomalies"],
        table=str(features),
    ).with_id("PredictGate")
    inferrer = components.BulkInferrer(
        examples=examples.outputs["examples"],
        model=trainer.outputs["model"],
        model_blessing=evaluator.outputs["blessing"],
        data_spec=bulk_inferrer_pb2.DataSpec(example_splits=[PREDICT]),
        model_spec=bulk_inferrer_pb2.ModelSpec(model_signature_name=["serving_examples"]),
    )
    inferrer.add_upstream_node(gate)
    table = Predictions(
        results=inferrer.outputs["inference_result"],
        targets="\n".join(settings.panel.targets),
        out=str(settings.predictions),
    )
    return [examples, statistics, skew, gate, inferrer, table]
