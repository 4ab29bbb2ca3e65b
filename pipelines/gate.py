"""The gate between a table and the training: what ExampleValidator and DistributionValidator found stops the pipeline.

Neither stops it by itself, as they only write down what is wrong.
"""

# No `from __future__ import annotations`: TFX reads a component's annotations as they are.
import json
import os
from collections.abc import Iterator, Sequence

import tfx.v1 as tfx
from ml_metadata import MetadataStore
from tensorflow_metadata.proto.v0 import anomalies_pb2
from tfx.components.distribution_validator.component import DistributionValidator
from tfx.dsl.components.base.base_component import BaseComponent
from tfx.dsl.components.common.resolver import ResolverStrategy
from tfx.dsl.io import fileio
from tfx.proto.distribution_validator_pb2 import DistributionValidatorConfig
from tfx.types import Artifact, Channel, artifact_utils
from tfx.types.component_spec import ChannelParameter
from tfx.types.standard_artifacts import ExampleAnomalies, ExampleStatistics
from tfx.types.standard_component_specs import DistributionValidatorSpec
from tfx.v1.dsl.components import InputArtifact, OutputArtifact, Parameter

from moa_tf.errors import InputError

FILE = "SchemaDiff.pb"


class _DriftSpec(DistributionValidatorSpec):
    INPUTS = {
        **DistributionValidatorSpec.INPUTS,
        "baseline_statistics": ChannelParameter(type=ExampleStatistics, optional=True),
    }


class DriftValidator(BaseComponent):
    """TFX's DistributionValidator, which the first table passes as there is none before it.

    TFX's executor does so too, but its component never starts without a baseline.
    """

    SPEC_CLASS = _DriftSpec
    EXECUTOR_SPEC = DistributionValidator.EXECUTOR_SPEC

    def __init__(
        self,
        statistics: Channel,
        baseline: Channel,
        config: DistributionValidatorConfig,
        splits: Sequence[tuple[str, str]] | None = None,
    ) -> None:
        """Compares `splits`, pairs of one of `statistics` and one of `baseline`; None: those of the same name."""
        super().__init__(
            _DriftSpec(
                statistics=statistics,
                baseline_statistics=baseline,
                distribution_validator_config=config,
                include_split_pairs=json.dumps(splits),
                anomalies=Channel(type=ExampleAnomalies),
            )
        )


class RefusedTable(InputError):
    """A table that must not be trained on, or predicted."""


@tfx.dsl.components.component
def Gate(
    statistics: InputArtifact[ExampleStatistics],
    anomalies: InputArtifact[ExampleAnomalies],
    drift: InputArtifact[ExampleAnomalies],
    accepted: OutputArtifact[ExampleStatistics],
    table: Parameter[str] = "the table",
) -> None:
    """Hands the statistics on, as those of a table that was accepted; the next run's drift is measured against them.

    Raises:
        RefusedTable: a line for each anomaly.
    """
    reasons = dict.fromkeys([*describe(anomalies), *describe(drift)])
    if reasons:
        raise RefusedTable("\n".join(f"{table}: {reason}" for reason in reasons))
    accepted.split_names = statistics.split_names
    for split in artifact_utils.decode_split_names(statistics.split_names):
        for source in _statistics(statistics, split):
            target = os.path.join(accepted.uri, f"Split-{split}")
            fileio.makedirs(target)
            fileio.copy(source, os.path.join(target, os.path.basename(source)), overwrite=True)


class LatestAccepted(ResolverStrategy):
    """The statistics that a gate accepted last, as an unchanged table had them accepted first.

    So a table that does not change is compared with the same artifact each time, and the comparison comes from the
    cache.
    """

    def resolve_artifacts(
        self, store: MetadataStore, input_dict: dict[str, list[Artifact]]
    ) -> dict[str, list[Artifact]]:
        """Of each key's artifacts that one, or none where there are none."""
        return {key: self._choose(artifacts) for key, artifacts in input_dict.items()}

    @staticmethod
    def _choose(artifacts: Sequence[Artifact]) -> list[Artifact]:
        chosen: Artifact | None = None
        for artifact in sorted(artifacts, key=lambda each: each.id, reverse=True):
            if chosen is not None and _content(artifact) != _content(chosen):
                break
            chosen = artifact
        return [chosen] if chosen is not None else []


def _statistics(artifact: Artifact, split: str) -> list[str]:
    return sorted(fileio.glob(os.path.join(artifact.uri, f"Split-{split}", "*")))


def _content(artifact: Artifact) -> dict[str, bytes]:
    content = {}
    for split in artifact_utils.decode_split_names(artifact.split_names):
        for file in _statistics(artifact, split):
            with fileio.open(file, "rb") as source:
                content[f"{split}/{os.path.basename(file)}"] = source.read()
    return content


def describe(anomalies: ExampleAnomalies) -> list[str]:
    """One line for each thing that was found wrong: split, feature, what."""
    found: dict[tuple[str, str], list[str]] = {}
    for split, file in _files(anomalies):
        message = anomalies_pb2.Anomalies()
        with fileio.open(file, "rb") as source:
            message.ParseFromString(source.read())
        for reason in message.dataset_anomaly_info.reason:
            found.setdefault(("the table", reason.description), []).append(split)
        for name, info in message.anomaly_info.items():
            if info.severity == anomalies_pb2.AnomalyInfo.ERROR:
                feature = ".".join(info.path.step) or name
                found.setdefault((feature, info.description), []).append(split)
    return [f"{feature} ({' and '.join(splits)}): {what}" for (feature, what), splits in found.items()]


def _files(anomalies: ExampleAnomalies) -> Iterator[tuple[str, str]]:
    for file in sorted(fileio.glob(os.path.join(anomalies.uri, "*", FILE))):
        split = os.path.basename(os.path.dirname(file))
        yield split.partition("-")[2], file
