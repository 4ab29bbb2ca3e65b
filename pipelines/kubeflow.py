"""A pipeline as the file that Kubeflow Pipelines and Vertex AI take."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from google.protobuf import json_format

from moa_tf.atomic import replacing
from moa_tf.errors import InputError
from pipelines.pipeline import Settings, make_pipeline


def compile_pipeline(settings: Settings, image: str, out: Path) -> dict[str, Any]:
    """Writes the compiled pipeline, and reads it again by its schema.

    Args:
        settings: of the pipeline; its paths are those in the containers.
        image: container image with this package and its extra `tfx`.
        out: a `.json` file.

    Returns:
        The file's content.

    Raises:
        InputError: a name that Kubeflow does not take, or the compiler is not installed.
    """
    try:
        from kfp.pipeline_spec import pipeline_spec_pb2
        from tfx.orchestration.kubeflow.v2.kubeflow_v2_dag_runner import (
            KubeflowV2DagRunner,
            KubeflowV2DagRunnerConfig,
        )
    except ImportError as error:
        raise InputError(
            f"pipeline compile: {error}; expected kfp-pipeline-spec of the extra [tfx]"
        ) from None
    with replacing(out) as temporary:
        runner = KubeflowV2DagRunner(
            KubeflowV2DagRunnerConfig(default_image=image),
            output_dir=str(temporary.parent),
            output_filename=temporary.name,
        )
        try:
            runner.run(make_pipeline(settings), write_out=True)
        except ValueError as error:
            raise InputError(f"pipeline compile: {error}") from None
        compiled = json.loads(temporary.read_text(encoding="utf-8"))
        check(compiled, pipeline_spec_pb2)
    return compiled


def check(compiled: dict[str, Any], schema: Any) -> None:
    """Holds a compiled pipeline to the schema of Kubeflow Pipelines: PipelineJob and PipelineSpec, no unknown field.

    Raises:
        google.protobuf.json_format.ParseError: it is not one.
    """
    json_format.ParseDict(compiled, schema.PipelineJob())
    json_format.ParseDict(compiled["pipelineSpec"], schema.PipelineSpec())
