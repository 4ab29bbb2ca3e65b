"""TFX's Pusher into `saved_models/<name>/<version>/`: whole or not at all, with the package's own version numbers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tfx import types
from tfx.components.pusher import component, executor
from tfx.dsl.components.base.executor_spec import ExecutorClassSpec
from tfx.proto import pusher_pb2
from tfx.types import artifact_utils
from tfx.types import standard_component_specs as standard
from tfx.utils import io_utils, proto_utils

from moa_tf.atomic import sync_tree, temporary_directory
from moa_tf.serving.versions import load_metadata, publish, versions


class VersionExecutor(executor.Executor):
    """TFX's own copies file by file, so that a killed one leaves a part of a model under its final name."""

    def Do(
        self,
        input_dict: dict[str, list[types.Artifact]],
        output_dict: dict[str, list[types.Artifact]],
        exec_properties: dict[str, Any],
    ) -> None:
        """Publishes a blessed model; of one that is not blessed it notes that it was not pushed."""
        pushed = artifact_utils.get_single_instance(output_dict[standard.PUSHED_MODEL_KEY])
        if not self.CheckBlessing(input_dict):
            self._MarkNotPushed(pushed)
            return
        destination = pusher_pb2.PushDestination()
        proto_utils.json_to_proto(exec_properties[standard.PUSH_DESTINATION_KEY], destination)
        root = Path(destination.filesystem.base_directory)
        self._MarkPushed(pushed, pushed_destination=str(_push(self.GetModelPath(input_dict), root)))


class VersionPusher(component.Pusher):
    """The component of `VersionExecutor`."""

    EXECUTOR_SPEC = ExecutorClassSpec(VersionExecutor)


def _push(model: str, root: Path) -> Path:
    """The version that `model` becomes, or is already, where it is the latest."""
    with temporary_directory(root) as temporary:
        copy = temporary / "model"
        io_utils.copy_dir(model, str(copy))
        latest = max(versions(root).items(), default=(0, None))[1]
        if latest is not None and load_metadata(latest) == load_metadata(copy):
            return latest
        sync_tree(copy)
        return publish(copy, root)
