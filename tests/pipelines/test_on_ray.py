"""Training on Ray Train, which starts the workers and gives them their TF_CONFIG."""

import json
import os
import socket
import subprocess
import sys

import keras
import numpy as np
import pytest

from moa_tf.data.simulate import write_simulation

pytest.importorskip("ray", reason="Ray is not installed")

SETTINGS = ["--folds", "2", "--only-fold", "0", "--epochs", "3", "--batch-size", "64"]
SETTINGS += ["--set", "hidden=16", "--set", "decays=", "--set", "early_stopping=0"]
TRAIN = [sys.executable, "-c", "from moa_tf.cli.main import main; main()", "train"]
ON_RAY = [sys.executable, "-m", "pipelines.on_ray"]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_simulation(tmp_path_factory.mktemp("data") / "sample", 400, seed=3)


def environment(**more):
    # The package is in the working directory of the tests, not in that of the workers.
    path = os.pathsep.join(filter(None, [os.getcwd(), os.environ.get("PYTHONPATH")]))
    return {**os.environ, "PYTHONPATH": path, **more}


def weights(run):
    (file,) = run.glob("**/network.keras")
    return keras.saving.load_model(file, compile=False).get_weights()


def free_port():
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        return probe.getsockname()[1]


@pytest.mark.slow
def test_ray_trains_the_same_weights_as_tf_config(data, tmp_path):
    ray = subprocess.run(
        [*ON_RAY, "--workers", "2", "--cpus", "1", "--", "--data", data, "--out", "ray", *SETTINGS],
        cwd=tmp_path, env=environment(), capture_output=True, text=True,
    )  # fmt: skip
    assert ray.returncode == 0, ray.stderr
    assert "fold 0 seed 0" in ray.stdout + ray.stderr

    workers = [f"localhost:{free_port()}" for _ in range(2)]
    processes = []
    for index in range(2):
        task = {"cluster": {"worker": workers}, "task": {"type": "worker", "index": index}}
        command = [*TRAIN, "--data", data, "--out", "tf-config", "--strategy", "multi-worker", *SETTINGS]
        given = environment(TF_CONFIG=json.dumps(task), TF_NUM_INTRAOP_THREADS="1")
        processes.append(
            subprocess.Popen(command, cwd=tmp_path, env=given, stderr=subprocess.PIPE, text=True)
        )
    assert [process.communicate()[1] and process.returncode for process in processes] == [0, 0]

    for ours, theirs in zip(weights(tmp_path / "ray"), weights(tmp_path / "tf-config"), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-6)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--", "--strategy", "mirrored"], "error: --strategy mirrored: expected multi-worker"),
        (["--", "--backend", "jax"], "error: --backend jax: expected tensorflow"),
        (["--", "--nothing"], "No such option"),
        (["--workers", "0"], "--workers"),
    ],
)
def test_wrong_calls_are_refused_before_ray_starts(arguments, said, tmp_path):
    finished = subprocess.run(
        [*ON_RAY, *arguments], cwd=tmp_path, env=environment(), capture_output=True, text=True
    )
    assert finished.returncode == 2
    assert said in finished.stderr
    assert "Traceback" not in finished.stderr
