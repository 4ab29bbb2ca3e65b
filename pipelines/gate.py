"""The gate between a table and the training: what ExampleValidator and DistributionValidator found stops the pipeline.

Neither stops it by itself, as they only write down what is wrong.
"""

# No `from __future__ import annotations`: TFX reads a component's annotations as they are.
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain

from tensorflow_metadata.proto.v0 import anomalies_pb2
from tfx.components.distribution_validator.component import DistributionValidator
from tfx.dsl.component.experimental.annotations import InputArtifact, OutputArtifact, Parameter
from tfx.dsl.component.experimental.decorators import component
from tfx.dsl.components.base.base_component import BaseComponent
from tfx.dsl.io import fileio
from tfx.proto.distribution_validator_pb2 import DistributionValidatorConfig
from tfx.types import Artifact, Channel, artifact_utils
from tfx.types.component_spec import ChannelParameter
from tfx.types.standard_artifacts import ExampleAnomalies, ExampleStatistics
from tfx.types.standard_component_specs import DistributionValidatorSpec

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


@component
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
    reasons = describe([anomalies.uri, drift.uri])
    if reasons:
        raise RefusedTable("\n".join(f"{table}: {reason}" for reason in reasons))
    accepted.split_names = statistics.split_names
    for split in artifact_utils.decode_split_names(statistics.split_names):
        for source in statistics_files(statistics, split):
            target = os.path.join(accepted.uri, f"Split-{split}")
            fileio.makedirs(target)
            fileio.copy(source, os.path.join(target, os.path.basename(source)), overwrite=True)


def statistics_files(artifact: Artifact, split: str) -> list[str]:
    return sorted(fileio.glob(os.path.join(artifact.uri, f"Split-{split}", "*")))


def describe(anomalies: Iterable[str]) -> list[str]:
    """One line for each thing that was found wrong in artifacts of these paths: feature, split, what."""
    found: dict[tuple[str, str], list[str]] = {}
    for split, file in chain.from_iterable(map(_files, anomalies)):
        message = anomalies_pb2.Anomalies()
        with fileio.open(file, "rb") as source:
            message.ParseFromString(source.read())
        wrong = [("the table", reason) for reason in message.dataset_anomaly_info.reason]
        for name, info in message.anomaly_info.items():
            if info.severity == anomalies_pb2.AnomalyInfo.ERROR:
                wrong += [(".".join(info.path.step) or name, reason) for reason in info.reason]
        for feature, reason in wrong:
            found.setdefault((feature, reason.description or reason.short_description), []).append(split)
    return [f"{feature} (split {' and '.join(splits)}): {what}" for (feature, what), splits in found.items()]


def _files(uri: str) -> Iterator[tuple[str, str]]:
    for file in sorted(fileio.glob(os.path.join(uri, "*", FILE))):
        # Of Split-train, or of SplitPair-train_train.
        yield os.path.basename(os.path.dirname(file)).partition("-")[2].partition("_")[0], file
