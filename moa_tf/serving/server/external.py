"""TensorFlow Serving itself, where it is: its program on the PATH, or its image where Docker runs."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Any

from moa_tf.serving.server.models import Policy
from moa_tf.serving.server.settings import Settings

PROGRAM = "tensorflow_model_server"
IMAGE = "tensorflow/serving:2.19.1"
"""The newest image when this was written; any that knows the model's operations will do."""


def find_program() -> str | None:
    """The path of TensorFlow Serving's server."""
    return shutil.which(PROGRAM)


def has_docker() -> bool:
    """Whether Docker is there and answers."""
    if shutil.which("docker") is None:
        return False
    try:
        answer = subprocess.run(["docker", "info"], capture_output=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return False
    return answer.returncode == 0


def model_config(policies: dict[str, Policy], bases: dict[str, str]) -> str:
    """The text of a `ModelServerConfig`; `bases` says where each model's versions are for the server."""
    from google.protobuf import text_format
    from tensorflow_serving.config.model_server_config_pb2 import ModelServerConfig

    config: Any = ModelServerConfig()
    for name, policy in policies.items():
        model = config.model_config_list.config.add(
            name=name, base_path=bases[name], model_platform="tensorflow"
        )
        if policy.specific:
            model.model_version_policy.specific.versions.extend(policy.specific)
        elif policy.latest:
            model.model_version_policy.latest.num_versions = policy.latest
        else:
            model.model_version_policy.all.SetInParent()
        model.version_labels.update(policy.labels)
    return text_format.MessageToString(config)


def _flags(config: Path | str, settings: Settings, batching: Path | str) -> list[str]:
    return [
        f"--model_config_file={config}",
        "--model_config_file_poll_wait_seconds=0",
        "--allow_version_labels_for_unavailable_models=true",
        "--enable_batching=true",
        f"--batching_parameters_file={batching}",
        f"--rest_api_timeout_in_ms={round(1000 * settings.timeout)}",
    ]


def _batching(threads: int, delay: float) -> str:
    return (
        f"max_batch_size {{ value: 256 }}\nbatch_timeout_micros {{ value: {round(1e6 * delay)} }}\n"
        f"num_batch_threads {{ value: {threads} }}\nmax_enqueued_batches {{ value: 1000 }}\n"
    )


def program_command(
    program: str, policies: dict[str, Policy], settings: Settings, directory: Path, threads: int, delay: float
) -> list[str]:
    """The command line of TensorFlow Serving's program; its files are written to `directory`."""
    bases = {name: str(policy.root.resolve()) for name, policy in policies.items()}
    config, batching = _write(directory, policies, bases, threads, delay)
    return [
        program,
        f"--port={settings.grpc_port or 0}",
        f"--rest_api_port={settings.port}",
        *_flags(config, settings, batching),
    ]


def docker_command(
    policies: dict[str, Policy], settings: Settings, directory: Path, threads: int, delay: float
) -> list[str]:
    """The command line of TensorFlow Serving's image; its files are written to `directory`."""
    bases = {name: f"/models/{name}" for name in policies}
    _write(directory, policies, bases, threads, delay)
    publish = [f"--publish={settings.host}:{settings.port}:8501"]
    if settings.grpc_port is not None:
        publish.append(f"--publish={settings.host}:{settings.grpc_port}:8500")
    mounts = [
        f"--mount=type=bind,readonly,source={policy.root.resolve()},target=/models/{name}"
        for name, policy in policies.items()
    ]
    return [
        *("docker", "run", "--rm", "--init", *publish, *mounts),
        f"--mount=type=bind,readonly,source={directory},target=/config",
        *("--entrypoint", PROGRAM, IMAGE, "--port=8500", "--rest_api_port=8501"),
        *_flags("/config/models.config", settings, "/config/batching.config"),
    ]


def _write(
    directory: Path, policies: dict[str, Policy], bases: dict[str, str], threads: int, delay: float
) -> tuple[Path, Path]:
    config, batching = directory / "models.config", directory / "batching.config"
    config.write_text(model_config(policies, bases), encoding="utf-8")
    batching.write_text(_batching(threads, delay), encoding="utf-8")
    return config, batching
