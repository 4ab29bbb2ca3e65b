"""Which artifacts of earlier runs a run starts from."""

from __future__ import annotations

import os
from collections.abc import Sequence

from ml_metadata import MetadataStore
from tfx.dsl.components.common.resolver import ResolverStrategy
from tfx.dsl.input_resolution.strategies.latest_blessed_model_strategy import LatestBlessedModelStrategy
from tfx.dsl.io import fileio
from tfx.types import Artifact, artifact_utils

from pipelines.gate import statistics_files


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


class LatestBlessed(LatestBlessedModelStrategy):
    """The model that was blessed last, apart from the candidate.

    So a model that was blessed is not compared with itself when nothing has changed, and comes from the cache.
    """

    def resolve_artifacts(
        self, store: MetadataStore, input_dict: dict[str, list[Artifact]]
    ) -> dict[str, list[Artifact]] | None:
        """Of `model` and `model_blessing`; `candidate` is the model that is judged."""
        candidates = {each.id for each in input_dict["candidate"]}
        others = [each for each in input_dict["model"] if each.id not in candidates]
        blessings = input_dict["model_blessing"]
        found = super().resolve_artifacts(store, {"model": others, "model_blessing": blessings})
        return {**input_dict, **found}


def _content(artifact: Artifact) -> dict[str, bytes]:
    content = {}
    for split in artifact_utils.decode_split_names(artifact.split_names):
        for file in statistics_files(artifact, split):
            with fileio.open(file, "rb") as source:
                content[f"{split}/{os.path.basename(file)}"] = source.read()
    return content
