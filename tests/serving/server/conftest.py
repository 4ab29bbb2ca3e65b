import re
import shutil
import subprocess
import sys
import threading
import time
from types import SimpleNamespace

import pytest
import requests

START = 120


class Server:
    """A real `moa-tf serve` in a process of its own."""

    def __init__(self, root, *options, env=None):
        command = [sys.executable, "-W", "ignore", "-c", "from moa_tf.cli.main import main; main()"]
        self.process = subprocess.Popen(
            [
                *command,
                "serve",
                str(root),
                "--engine",
                "embedded",
                "--port",
                "0",
                "--grpc-port",
                "0",
                *options,
            ],
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            env=env,
        )
        self.lines = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        self.url = self._wait(r"on (http://\S+)")
        self.grpc = self._wait(r"gRPC on (\S+)")

    def _read(self):
        for line in self.process.stderr:
            self.lines.append(line.rstrip())

    def _wait(self, pattern):
        end = time.monotonic() + START
        while time.monotonic() < end:
            for line in list(self.lines):
                if match := re.search(pattern, line):
                    return match[1]
            if self.process.poll() is not None:
                break
            time.sleep(0.05)
        raise AssertionError("\n".join(self.lines))

    def wait_for(self, pattern, seconds=60):
        end = time.monotonic() + seconds
        while not any(re.search(pattern, line) for line in list(self.lines)):
            assert time.monotonic() < end, "\n".join(self.lines)
            time.sleep(0.05)

    def post(self, path, **options):
        return requests.post(self.url + path, timeout=60, **options)

    def get(self, path, **options):
        return requests.get(self.url + path, timeout=60, **options)

    def end(self):
        if self.process.poll() is None:
            self.process.terminate()
        try:
            return self.process.wait(60)
        finally:
            self.process.kill()


@pytest.fixture(scope="session")
def start():
    """Starts servers, and ends those that a test has left."""
    servers = []

    def run(root, *options, **more):
        servers.append(Server(root, *options, **more))
        return servers[-1]

    yield run
    for server in servers:
        server.end()


@pytest.fixture(scope="session")
def root(case_all, tmp_path_factory):
    """A directory of two models, `tiny` with versions 1 and 2 and `other` with one."""
    root = tmp_path_factory.mktemp("served")
    case_all.export(root / "tiny", 1)
    case_all.export(root / "tiny", 2)
    case_all.export(root / "other", 2)
    return root


@pytest.fixture(scope="session")
def case_all():
    """A small panel with every kind of input, and exports of it."""
    import numpy as np

    from moa_tf.data.schema import Signatures, SignatureSpec
    from moa_tf.ensemble.ensemble import Ensemble
    from moa_tf.models.base import Member
    from moa_tf.serving.export import export

    spec = SignatureSpec(("g-0", "g-1", "g-2"), ("c-0", "c-1"), missing=True)
    targets = ("a", "b, inhibitor", "c", "d")

    def member(seed):
        import keras

        keras.utils.set_random_seed(seed)
        inputs = {
            name: keras.Input(shape, dtype=kind, name=name) for name, (shape, kind) in spec.inputs.items()
        }
        x = keras.layers.Concatenate()([inputs["genes"], inputs["cells"]])
        x = keras.ops.where(keras.ops.isnan(x), keras.ops.zeros_like(x), x)
        hours = keras.layers.Rescaling(1 / 72, dtype="float32")(keras.layers.Reshape((1,))(inputs["cp_time"]))
        used = {name: tensor for name, tensor in inputs.items() if name not in ("cp_type", "cp_dose")}
        preprocessing = keras.Model(used, {"x": keras.layers.Concatenate()([x, hours])})
        head = keras.Input((6,), name="x")
        network = keras.Model({"x": head}, keras.layers.Dense(len(targets), bias_initializer="normal")(head))
        return Member(preprocessing, [network])

    def explain(inputs):
        import tensorflow as tf

        x = tf.concat([inputs["genes"], inputs["cells"]], 1)
        fixed = tf.constant([[0, 1], [2, 3], [4, 5]], tf.int32)  # not of the rows
        return {"importance": tf.abs(x), "target": tf.argmax(x, 1, tf.int32) % len(targets), "pixels": fixed}

    def save(root, seed):
        ensemble = Ensemble.of([member(seed)])
        return export(
            ensemble, root, spec=spec, target_names=targets, metadata={"model": "mlp"}, explainer=explain
        )

    rng = np.random.default_rng(0)
    rows = 9
    signatures = Signatures(
        spec,
        np.array([f"s{i}" for i in range(rows)], object),
        rng.normal(size=(rows, 3)).astype(np.float32),
        rng.normal(size=(rows, 2)).astype(np.float32),
        (np.arange(rows) % 4 == 3).astype(np.int32),
        rng.choice([24, 48, 72], rows).astype(np.float32),
        rng.integers(0, 2, rows).astype(np.int32),
    )
    return SimpleNamespace(spec=spec, targets=targets, export=save, signatures=signatures)


@pytest.fixture(scope="session")
def server(root, start):
    """Both models, versions 1 and 2 of the one."""
    return start(root, "--versions", "latest:2")


@pytest.fixture(scope="session")
def columns(case_all):
    """The signatures as JSON has them, by columns."""
    from moa_tf.serving.predict import raw_columns

    values = raw_columns(case_all.signatures)
    return {
        name: [v.decode() for v in value] if value.dtype == object else value.tolist()
        for name, value in values.items()
    }


@pytest.fixture(scope="session")
def local(root, case_all):
    """[N, T] what the latest version of `tiny` gives without a server."""
    from moa_tf.serving.predict import load_model

    return load_model(root / "tiny").predict(case_all.signatures)


@pytest.fixture(scope="session")
def browser():
    playwright = pytest.importorskip("playwright.sync_api")
    path = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if path is None:
        pytest.skip("no Chromium on the PATH")
    with playwright.sync_playwright() as p:
        browser = p.chromium.launch(executable_path=path, args=["--no-sandbox", "--disable-gpu"])
        yield browser
        browser.close()
