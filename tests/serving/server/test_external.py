"""TensorFlow Serving itself where it is there: which command is run. The program is none of Python's packages."""

import json
import os
import stat

from click.testing import CliRunner
from google.protobuf import text_format
from tensorflow_serving.config.model_server_config_pb2 import ModelServerConfig

from moa_tf.cli.main import cli
from moa_tf.errors import InputError
from moa_tf.serving.server.external import docker_command, model_config, program_command
from moa_tf.serving.server.policies import Policy
from moa_tf.serving.server.settings import Settings


def test_the_configuration_says_the_same_to_tensorflow_serving(tmp_path):
    policies = {
        "a": Policy(tmp_path / "a", 2, (), {"stable": 4}),
        "b": Policy(tmp_path / "b", 0),
        "c": Policy(tmp_path / "c", 1, (3, 4)),
    }
    text = model_config(policies, {name: f"/models/{name}" for name in policies})
    a, b, c = text_format.Parse(text, ModelServerConfig()).model_config_list.config
    assert (a.name, a.base_path, a.model_platform) == ("a", "/models/a", "tensorflow")
    assert a.model_version_policy.latest.num_versions == 2
    assert dict(a.version_labels) == {"stable": 4}
    assert b.model_version_policy.WhichOneof("policy_choice") == "all"
    assert list(c.model_version_policy.specific.versions) == [3, 4]


def test_commands(tmp_path):
    policies = {"m": Policy(tmp_path / "m")}
    command = program_command(policies, Settings(port=1, grpc_port=2, timeout=1.5), tmp_path)
    assert command == [
        "tensorflow_model_server",
        "--port=2",
        "--rest_api_port=1",
        f"--model_config_file={tmp_path}/models.config",
        "--allow_version_labels_for_unavailable_models=true",
        "--rest_api_timeout_in_ms=1500",
    ]
    assert f'base_path: "{tmp_path}/m"' in (tmp_path / "models.config").read_text()
    command = docker_command(policies, Settings(port=1, grpc_port=None), tmp_path)
    assert command[:3] == ["docker", "run", "--rm"]
    assert [part for part in command if part.startswith("--publish")] == ["--publish=127.0.0.1:1:8501"]
    assert f"--mount=type=bind,readonly,source={tmp_path}/m,target=/models/m" in command
    assert f"--mount=type=bind,readonly,source={tmp_path},target=/config" in command
    assert "--model_config_file=/config/models.config" in command
    assert 'base_path: "/models/m"' in (tmp_path / "models.config").read_text()


def test_the_program_on_the_path_is_run(root, tmp_path, monkeypatch):
    """A stand-in that writes down how it was called: what is tested is the call."""
    program = tmp_path / "tensorflow_model_server"
    program.write_text(
        "#!/usr/bin/env python3\nimport json, pathlib, sys\n"
        "config = next(a.partition('=')[2] for a in sys.argv if a.startswith('--model_config_file='))\n"
        f"pathlib.Path({str(tmp_path / 'seen')!r}).write_text(json.dumps([sys.argv, open(config).read()]))\n"
    )
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    result = CliRunner().invoke(cli, ["serve", str(root), "--port", "1234"])
    assert result.exit_code == 0, result.output
    arguments, config = json.loads((tmp_path / "seen").read_text())
    assert "--rest_api_port=1234" in arguments
    names = [part.name for part in text_format.Parse(config, ModelServerConfig()).model_config_list.config]
    assert sorted(names) == ["other", "tiny"]
    assert "listens on all addresses" in result.output
    for options, environment, message in (
        (["--max-rows", "5", "--threads", "3"], {}, "--threads, --max-rows: not with TensorFlow Serving"),
        ([], {"MOA_TF_TOKEN": "x" * 16}, "a token is asked for, which TensorFlow Serving cannot"),
        (["--host", "192.0.2.1"], {}, "listens on all addresses, expected 0.0.0.0"),
    ):
        refused = CliRunner().invoke(cli, ["serve", str(root), *options], env=environment)
        assert isinstance(refused.exception, InputError)
        assert message in str(refused.exception)
    program.write_text("#!/bin/sh\nexit 3\n")
    assert CliRunner().invoke(cli, ["serve", str(root)]).exit_code == 1


def test_wrong_calls(root, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    short = tmp_path / "token"
    short.write_text("short\n")
    config = tmp_path / "models.config"
    config.write_text("model_config_list {}")
    for arguments, message in (
        ([tmp_path / "none"], "expected numbered versions of a model"),
        ([root, "--engine", "tensorflow-serving"], "tensorflow_model_server is not on the PATH"),
        ([root, "--engine", "docker"], "no Docker that answers"),
        ([root, "--versions", "x"], "--versions x: expected latest:N"),
        ([root, "--label", "a=1"], "expected ROOT to be one model's"),
        ([root / "tiny", "--label", "stable=7"], "label stable is of version 7, which is not served"),
        ([root, "--token-file", short], "at least 16 characters"),
        ([root, "--config", config, "--versions", "all"], "has versions and labels of its own"),
        ([root, "--host", "192.0.2.1"], "cannot be listened on"),
    ):
        result = CliRunner().invoke(cli, ["serve", *map(str, arguments)])
        assert isinstance(result.exception, InputError), result.output
        assert message in str(result.exception)


def test_a_port_that_is_taken(root, server):
    port = server.url.rpartition(":")[2]
    result = CliRunner().invoke(cli, ["serve", str(root), "--port", port, "--no-grpc"])
    assert isinstance(result.exception, InputError)
    assert f"127.0.0.1:{port}: cannot be listened on" in str(result.exception)
    port = server.grpc.rpartition(":")[2]
    result = CliRunner().invoke(cli, ["serve", str(root), "--port", "0", "--grpc-port", port])
    assert isinstance(result.exception, InputError)
    assert f"port {port} (gRPC): is taken" in str(result.exception)
