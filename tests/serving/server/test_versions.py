"""Versions come, are swapped and go, while requests go on."""

import concurrent.futures
import shutil
import threading

import numpy as np
import pytest

from moa_tf.errors import InputError
from moa_tf.serving.server.policies import (
    Policy,
    find_models,
    parse_labels,
    parse_versions,
    policies_of,
    read_config,
)


@pytest.fixture
def copies(case_all, tmp_path):
    """A root with version 1, and a function that puts a copy of it there under another number."""
    version = case_all.export(tmp_path / "tiny", 3)

    def add(number, path=tmp_path / "tiny"):
        shutil.copytree(version, path / f".tmp-{number}")
        (path / f".tmp-{number}").rename(path / str(number))

    return tmp_path / "tiny", add


def states(server):
    answer = server.get("/v1/models/tiny").json()["model_version_status"]
    return {entry["version"]: entry["state"] for entry in answer}


@pytest.mark.slow
def test_no_request_is_lost_while_versions_are_swapped(copies, start, columns):
    root, add = copies
    server = start(root, "--poll", "0.1")
    ended, failed, seen = threading.Event(), [], set()

    def ask():
        count = 0
        while not ended.is_set():
            answer = server.post("/v1/models/tiny:predict", json={"inputs": columns})
            if answer.status_code != 200:
                failed.append(answer.text)
            count += 1
        return count

    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        clients = [pool.submit(ask) for _ in range(8)]
        for number in range(2, 22):
            add(number)
            server.wait_for(f"tiny version {number}: in service")
            server.wait_for(f"tiny version {number - 1}: out of service")
            seen.add(number)
        ended.set()
        asked = sum(client.result() for client in clients)
    assert not failed
    assert asked > 50
    assert states(server) == {"21": "AVAILABLE", **{str(n): "END" for n in range(1, 21)}}
    # A version that cannot be loaded leaves the one before in service.
    add(22)
    shutil.rmtree(root / "22" / "variables")
    add(23)
    (root / "23" / "saved_model.pb").write_bytes(b"broken")
    server.wait_for("tiny version 23: not taken into service")
    assert states(server)["23"] == "END"
    status = server.get("/v1/models/tiny/versions/23").json()["model_version_status"][0]["status"]
    assert status["error_code"] == "UNKNOWN"
    assert "cannot be loaded" in status["error_message"]
    assert server.post("/v1/models/tiny:predict", json={"inputs": columns}).status_code == 200
    # Nor does one end what is in service by being deleted.
    shutil.rmtree(root)
    assert server.post("/v1/models/tiny:predict", json={"inputs": columns}).status_code == 200
    assert server.end() == 0


@pytest.mark.slow
def test_told_to_end_the_server_answers_what_it_has_begun(root, start, columns, local):
    server = start(root / "tiny", "--batch-delay", "1000")
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        answers = [
            pool.submit(server.post, "/v1/models/tiny:predict", json={"inputs": columns}) for _ in range(4)
        ]
        while server.get("/monitoring/prometheus/metrics").text.count("moa_tf_waiting_rows 36.0") == 0:
            pass
        server.process.terminate()
        for answer in answers:
            np.testing.assert_allclose(answer.result().json()["outputs"], local, atol=1e-6)
    assert server.process.wait(30) == 0


@pytest.mark.slow
def test_a_killed_server_serves_again(root, start, columns):
    first = start(root / "tiny")
    first.process.kill()
    first.process.wait()
    port = first.url.rpartition(":")[2]
    again = start(root / "tiny", "--port", port)
    assert again.url == first.url
    assert again.post("/v1/models/tiny:predict", json={"inputs": columns}).status_code == 200


def test_policies_say_which_versions(tmp_path):
    for number in (1, 2, 10, 3):
        (tmp_path / "m" / str(number)).mkdir(parents=True)
        (tmp_path / "m" / str(number) / "saved_model.pb").touch()
    (tmp_path / "m" / "11").mkdir()  # not there yet
    (tmp_path / "m" / ".tmp-x").mkdir()

    def wanted(text):
        return list(Policy(tmp_path / "m", *parse_versions(text)).wanted())

    assert wanted("latest") == [10]
    assert wanted("latest:2") == [3, 10]
    assert wanted("all") == [1, 2, 3, 10]
    assert wanted("3,1,7") == [3, 1]
    for text in ("", "latest:0", "x", "1,,2", "-1"):
        with pytest.raises(InputError, match="--versions"):
            parse_versions(text)
    assert parse_labels(["stable=3", "canary=10"]) == {"stable": 3, "canary": 10}
    for text in ("stable", "=3", "a=b", "a/b=1"):
        with pytest.raises(InputError, match="--label"):
            parse_labels([text])
    assert find_models(tmp_path) == {"m": tmp_path / "m"}
    assert find_models(tmp_path / "m") == {"m": tmp_path / "m"}
    with pytest.raises(InputError, match="expected numbered versions"):
        find_models(tmp_path / "m" / "1")


def test_a_configuration_of_tensorflow_servings(tmp_path):
    file = tmp_path / "models.config"
    file.write_text(
        """
        model_config_list {
          config { name: "a" base_path: "x/a" model_platform: "tensorflow"
                   model_version_policy { latest { num_versions: 2 } } version_labels { key: "stable" value: 4 } }
          config { name: "b" base_path: "/models/b" model_version_policy { all {} } }
          config { name: "c" base_path: "c" model_version_policy { specific { versions: 3 versions: 4 } } }
          config { name: "d" base_path: "d" }
        }"""
    )
    policies = policies_of(read_config(file), tmp_path)
    assert {name: (p.root, p.latest, p.specific, p.labels) for name, p in policies.items()} == {
        "a": (tmp_path / "x" / "a", 2, (), {"stable": 4}),
        "b": (tmp_path.__class__("/models/b"), 0, (), {}),
        "c": (tmp_path / "c", 1, (3, 4), {}),
        "d": (tmp_path / "d", 1, (), {}),
    }
    file.write_text("model_config_list { nothing }")
    with pytest.raises(InputError, match="expected a ModelServerConfig"):
        read_config(file)
