"""1, 2 and 4 replicas, and two processes, train to the same weights."""

import json
import os
import socket
import subprocess
import sys

import numpy as np
import pytest

# A process of its own for each number of replicas: TensorFlow's devices are set once in a process.
SCRIPT = """
import sys
import numpy as np
from moa_tf.data.simulate import simulate
from moa_tf.config import override
from moa_tf.models.base import get_family
from moa_tf.training.fold import make_fold
from moa_tf.training.inference import Inference
from moa_tf.training.network import NetworkData, train_network
from moa_tf.training.strategy import make_placement

name, devices, out, model, *settings = sys.argv[1:]
placement = make_placement(name, int(devices) if devices != "-" else None)
family = get_family(model)
config = override(
    family.presets[family.choose_preset(23814)],
    [*settings, "epochs=2", "batch_size=32", "gene_components=8", "cell_components=4", "ema=0.9", "clip_norm=1"],
)
dataset = simulate(400, seed=1, genes=30, cells=8)
fold = make_fold(0, dataset, np.arange(400) >= 320, train_on_controls=True)
preprocessing = family.fit_preprocessing(dataset.signatures.take(fold.train), config.architecture, 0)
features = Inference(preprocessing)(dataset.signatures.inputs())
data = NetworkData(preprocessing, features, dataset.targets, fold)
network, history = train_network(family, data, config, 5, placement)
assert not any(getattr(layer, "synchronized", False) for layer in network.layers)
if placement.chief:
    np.savez(out, *[np.asarray(v) for v in network.weights], losses=[e["loss"] for e in history["epochs"]])
"""


SETTINGS = {
    "mlp": ["hidden=32,32", "dropout=0", "output_dropout=0"],
    "tabm": ["hidden=32,32", "dropout=0", "k=4", "keep=3"],
    "resnet": ["wide=32", "narrow=16", "dropout=0"],
    "cnn1d": ["hidden=64", "channels=8", "filters=8", "dropout=0", "skip_dropout=0", "output_dropout=0"],
    "gru": ["step_size=8", "units=8", "embedding=8", "dropout=0", "output_dropout=0"],
}


def train(tmp_path, name, devices, environment=None, model="mlp"):
    out = tmp_path / f"{name}{devices}.npz"
    process = subprocess.Popen(
        [sys.executable, "-c", SCRIPT, name, devices, str(out), model, *SETTINGS[model]],
        env={**os.environ, **(environment or {})},
    )
    return process, out


def weights(path):
    with np.load(path) as file:
        return [file[name] for name in file.files]


def assert_same(expected, actual):
    assert len(expected) == len(actual) > 10
    for a, b in zip(expected, actual, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("model", SETTINGS)
def test_twenty_steps_on_1_2_and_4_replicas(model, tmp_path):
    results = []
    for name, devices in [("none", "-"), *(("mirrored", n) for n in ("124" if model == "mlp" else "2"))]:
        process, out = train(tmp_path, name, devices, model=model)
        assert process.wait(300) == 0
        results.append(weights(out))
    for result in results[1:]:
        assert_same(results[0], result)


def free_port():
    with socket.socket() as s:
        s.bind(("localhost", 0))
        return s.getsockname()[1]


def train_two(directory, kinds, more=None):
    """Trains in two processes of those kinds; gives the chief's weights."""
    directory.mkdir()
    tasks = [{"type": kind, "index": kinds[:position].count(kind)} for position, kind in enumerate(kinds)]
    cluster = {kind: [f"localhost:{free_port()}" for _ in range(kinds.count(kind))] for kind in kinds}
    processes = []
    for task in tasks:
        config = {"cluster": cluster | (more or {}), "task": task, "environment": "cloud", "job": "{}"}
        processes.append(train(directory, "multi-worker", "-", {"TF_CONFIG": json.dumps(config)}))
    for process, _ in processes:
        assert process.wait(300) == 0
    return weights(processes[0][1])


@pytest.mark.slow
def test_two_processes_through_tf_config(tmp_path):
    alone, out = train(tmp_path, "none", "-")
    assert alone.wait(300) == 0
    workers = train_two(tmp_path / "workers", ["worker", "worker"])
    assert_same(weights(out), workers)
    # As Vertex AI and Kubeflow name them: the chief takes worker 0's part.
    chief = train_two(tmp_path / "chief", ["chief", "worker"], more={"ps": []})
    for expected, actual in zip(workers, chief, strict=True):
        np.testing.assert_array_equal(expected, actual)
