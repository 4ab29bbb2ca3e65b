"""`moa-tf predict --server`: the same file as without, by REST and by gRPC."""

import socket
import threading

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner

from moa_tf.cli.main import cli
from moa_tf.errors import InputError
from moa_tf.serving.client import RemoteModel, ServerError, parse_address


@pytest.fixture(scope="module")
def features(case_all, tmp_path_factory):
    """A table of 500 signatures, some of them with gaps."""
    rng = np.random.default_rng(1)
    frame = pd.DataFrame({"sig_id": [f"s{i}" for i in range(500)], "cp_type": "trt_cp"})
    frame.loc[::9, "cp_type"] = "ctl_vehicle"
    frame["cp_time"], frame["cp_dose"] = 24, "D2"
    for name in case_all.spec.features:
        frame[name] = rng.normal(size=500).astype(np.float32)
    frame.loc[7, "g-1"] = np.nan
    path = tmp_path_factory.mktemp("features") / "features.csv"
    frame.to_csv(path, index=False)
    return path


def predict(*arguments):
    return CliRunner().invoke(cli, ["predict", *map(str, arguments)], catch_exceptions=True)


@pytest.fixture(scope="module")
def expected(root, features, tmp_path_factory):
    out = tmp_path_factory.mktemp("local") / "p.parquet"
    assert predict(root / "tiny", features, out).exit_code == 0
    return pd.read_parquet(out)


@pytest.mark.parametrize("scheme", ["http", "grpc"])
def test_a_server_gives_the_same_table(scheme, server, root, features, expected, tmp_path):
    url = server.url if scheme == "http" else f"grpc://{server.grpc}"
    result = predict(root / "tiny", features, tmp_path / "p.parquet", "--server", url, "--batch-size", "7")
    assert result.exit_code == 0, result.output
    answer = pd.read_parquet(tmp_path / "p.parquet")
    assert answer["sig_id"].tolist() == expected["sig_id"].tolist()
    np.testing.assert_allclose(answer.iloc[:, 1:], expected.iloc[:, 1:], atol=1e-6)
    # The local files' version is the one that is asked for, unless the address has a place of its own.
    first = predict(root / "tiny" / "1", features, tmp_path / "1.parquet", "--server", url)
    assert first.exit_code == 0, first.output
    other = pd.read_parquet(tmp_path / "1.parquet").iloc[:, 1:]
    assert np.abs(other - expected.iloc[:, 1:]).max().max() > 1e-3
    named = f"{url}/v1/models/other" if scheme == "http" else f"{url}/other"
    assert predict(root / "tiny", features, tmp_path / "2.parquet", "--server", named).exit_code == 0


def test_what_is_no_server(root, features, server, tmp_path, monkeypatch):
    monkeypatch.setattr(RemoteModel, "_patiently", lambda self, ask: ask())  # once is enough here
    out = tmp_path / "p.csv"
    result = predict(root / "tiny", features, out, "--server", f"{server.url}/v1/models/none")
    assert result.exit_code == 1
    assert "none/metadata: 404, Servable not found" in result.output
    assert not out.exists()
    for arguments, message in (
        (["--server", "ftp://x"], "--server ftp://x: expected http://HOST:8501"),
        (["--server", "grpc://x"], "expected a port"),
        (["--server", server.url, "--runner", "direct"], "expected one of them"),
        (["--workers", "2"], "expected --runner or --server"),
    ):
        result = predict(root / "tiny", features, out, *arguments)
        assert isinstance(result.exception, InputError)
        assert message in str(result.exception)


def test_another_model_of_the_same_name_is_refused(server, root, case_all):
    import dataclasses

    address = parse_address(server.url, "tiny", "1")
    spec = dataclasses.replace(case_all.spec, genes=("g-0", "g-1"))
    with pytest.raises(ServerError, match=r"genes: has the shape \[B, 3\] there and \[B, 2\] in the export"):
        RemoteModel(address, spec, case_all.targets)
    with pytest.raises(ServerError, match=r"probabilities: has the shape \[B, 4\] there and \[B, 1\]"):
        RemoteModel(address, case_all.spec, ("a",))


@pytest.mark.parametrize(
    ("text", "url"),
    [
        ("http://h:8501", "http://h:8501/v1/models/m/versions/3"),
        ("http://h:8501/", "http://h:8501/v1/models/m/versions/3"),
        ("https://h/behind", "https://h/behind/v1/models/m/versions/3"),
        ("http://h/v1/models/x", "http://h/v1/models/x"),
        ("http://h/v1/models/x/versions/2", "http://h/v1/models/x/versions/2"),
        ("http://h/v1/models/x/labels/stable", "http://h/v1/models/x/labels/stable"),
        ("grpc://h:8500", "grpc://h:8500/v1/models/m/versions/3"),
        ("grpc://h:8500/x/labels/a", "grpc://h:8500/v1/models/x/labels/a"),
        ("http://user:secret@h:1", "http://h:1/v1/models/m/versions/3"),
    ],
)
def test_addresses(text, url):
    assert parse_address(text, "m", "3").url == url


@pytest.mark.parametrize(
    "text", ["", "h:8501", "http://", "http://h:x", "http://h?a=1", "grpc://h", "file:///x"]
)
def test_what_is_no_address(text):
    with pytest.raises(InputError, match="--server"):
        parse_address(text, "m", "3")


class Unsteady:
    """A relay to a server that cuts every third connection off, before or after the server has answered."""

    def __init__(self, port):
        self.port, self.count, self.cut = port, 0, 0
        self.listening = socket.create_server(("127.0.0.1", 0))
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def url(self):
        return f"http://127.0.0.1:{self.listening.getsockname()[1]}"

    def _accept(self):
        while True:
            try:
                client, _ = self.listening.accept()
            except OSError:
                return
            self.count += 1
            threading.Thread(target=self._relay, args=(client, self.count), daemon=True).start()

    def _relay(self, client, number):
        with client, socket.create_connection(("127.0.0.1", self.port)) as server:
            if number % 3 == 0:
                threading.Thread(target=self._pump, args=(client, server), daemon=True).start()
                self._pump(server, client)
                return
            server.sendall(client.recv(1 << 20))
            if number % 3 == 2:
                client.sendall(server.recv(1 << 20)[:20])
            self.cut += 1

    def _pump(self, source, sink):
        try:
            while data := source.recv(1 << 20):
                sink.sendall(data)
        except OSError:
            pass


@pytest.mark.slow
def test_what_is_lost_on_the_way_is_sent_again_and_no_row_doubled(
    server, root, features, expected, tmp_path, monkeypatch
):
    monkeypatch.setattr("random.uniform", lambda low, high: 0.0)
    relay = Unsteady(int(server.url.rpartition(":")[2]))
    result = predict(
        root / "tiny",
        features,
        tmp_path / "p.parquet",
        "--server",
        relay.url,
        "--batch-size",
        "50",
        "--workers",
        "2",
    )
    assert result.exit_code == 0, result.output
    assert relay.cut >= 2
    answer = pd.read_parquet(tmp_path / "p.parquet")
    assert answer["sig_id"].tolist() == expected["sig_id"].tolist()
    np.testing.assert_allclose(answer.iloc[:, 1:], expected.iloc[:, 1:], atol=1e-6)
    relay.listening.close()
