"""TensorFlow Serving itself, where it is: its program on the PATH, or its image where Docker runs."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from moa_tf.errors import InputError
from moa_tf.serving.server.policies import Policy
from moa_tf.serving.server.settings import Settings

PROGRAM = "tensorflow_model_server"
IMAGE = "tensorflow/serving:2.19.1"
"""The image that `deploy/` names too."""
EMBEDDED, ON_PATH, DOCKER = ENGINES = ("embedded", "tensorflow-serving", "docker")


def has_docker() -> bool:
    """Whether a Docker engine answers."""
    try:
        return (
            subprocess.run(["docker", "info"], capture_output=True, timeout=10, check=False).returncode == 0
        )
    except (OSError, subprocess.TimeoutExpired):
        return False


def choose(engine: str) -> str:
    """One of `ENGINES`; of `auto` the first that is there: the program, the image, the embedded server.

    Raises:
        InputError: the one that is asked for is not there.
    """
    if engine == EMBEDDED:
        return engine
    if engine in ("auto", ON_PATH) and shutil.which(PROGRAM):
        return ON_PATH
    if engine in ("auto", DOCKER) and has_docker():
        return DOCKER
    if engine == "auto":
        return EMBEDDED
    lacking = f"{PROGRAM} is not on the PATH" if engine == ON_PATH else "no Docker that answers"
    raise InputError(f"--engine {engine}: {lacking}")


def run(engine: str, policies: dict[str, Policy], settings: Settings, tell: Callable[[str], None]) -> int:
    """Runs TensorFlow Serving until it ends, or this process is told to; its exit status.

    Raises:
        InputError: it cannot ask for a token, or listen on that address alone.
    """
    if settings.token:
        raise InputError(
            "a token is asked for, which TensorFlow Serving cannot: expected --engine embedded with it"
        )
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        directory.chmod(0o755)  # the image may run as another user
        if engine == DOCKER:
            command = docker_command(policies, settings, directory)
        else:
            if settings.host not in ("0.0.0.0", "127.0.0.1"):
                raise InputError(
                    f"--host {settings.host}: {PROGRAM} listens on all addresses, expected 0.0.0.0"
                )
            if settings.local:
                tell(
                    f"warning: {PROGRAM} listens on all addresses of this machine (--engine embedded does not)"
                )
            command = program_command(policies, settings, directory)
        tell(" ".join(command))
        process = subprocess.Popen(command)
        try:
            return process.wait()
        except BaseException:
            process.terminate()
            process.wait()
            raise


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


def program_command(policies: dict[str, Policy], settings: Settings, directory: Path) -> list[str]:
    """The command line of TensorFlow Serving's program; its configuration is written to `directory`."""
    config = _write(
        directory, policies, {name: str(policy.root.resolve()) for name, policy in policies.items()}
    )
    ports = [f"--port={settings.grpc_port or 0}", f"--rest_api_port={settings.port}"]
    return [PROGRAM, *ports, *_flags(config, settings)]


def docker_command(policies: dict[str, Policy], settings: Settings, directory: Path) -> list[str]:
    """The command line of TensorFlow Serving's image; its configuration is written to `directory`."""
    config = _write(directory, policies, {name: f"/models/{name}" for name in policies})
    publish = [f"--publish={settings.host}:{settings.port}:8501"]
    if settings.grpc_port is not None:
        publish.append(f"--publish={settings.host}:{settings.grpc_port}:8500")
    mounts = {f"/models/{name}": policy.root.resolve() for name, policy in policies.items()}
    mounts["/config"] = directory
    return [
        *("docker", "run", "--rm", "--init", *publish),
        *(f"--mount=type=bind,readonly,source={source},target={target}" for target, source in mounts.items()),
        *("--entrypoint", PROGRAM, IMAGE, "--port=8500", "--rest_api_port=8501"),
        *_flags(Path("/config", config.name), settings),
    ]


def _write(directory: Path, policies: dict[str, Policy], bases: dict[str, str]) -> Path:
    config = directory / "models.config"
    config.write_text(model_config(policies, bases), encoding="utf-8")
    return config


def _flags(config: Path, settings: Settings) -> list[str]:
    # Without batching: there a request that a model refuses takes those that share its batch with it.
    return [
        f"--model_config_file={config}",
        "--allow_version_labels_for_unavailable_models=true",
        f"--rest_api_timeout_in_ms={round(1000 * settings.timeout)}",
    ]
