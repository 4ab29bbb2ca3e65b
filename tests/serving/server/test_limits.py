"""Bad, large and slow requests: each is answered or closed, and others are served meanwhile."""

import gzip
import io
import json
import resource
import socket
import time
from urllib.parse import urlsplit

import grpc
import numpy as np
import pytest
import requests
from tensorflow_serving.apis import (
    classification_pb2,
    get_model_metadata_pb2,
    predict_pb2,
    prediction_service_pb2_grpc,
)

from moa_tf.serving.server.settings import Settings

MODEL = "/v1/models/tiny"
TOKEN = "a-token-of-some-length"


@pytest.fixture(scope="module")
def strict(root, start, tmp_path_factory):
    """A server with narrow limits, and a token."""
    file = tmp_path_factory.mktemp("token") / "token"
    file.write_text(f"{TOKEN}\n")
    return start(
        root / "tiny",
        *("--max-body", "0.05", "--max-rows", "20", "--timeout", "2", "--idle", "1"),
        *("--token-file", str(file), "--allow-host", "127.0.0.1", "--allow-host", "models.example"),
    )


@pytest.fixture
def served(strict, columns):
    """Checks that the server answers an ordinary request."""
    headers = {"Authorization": f"Bearer {TOKEN}"}

    def check():
        answer = strict.post(f"{MODEL}:predict", json={"inputs": columns}, headers=headers)
        assert answer.status_code == 200, answer.text

    check()
    yield headers
    check()


def connect(server):
    parts = urlsplit(server.url)
    connection = socket.create_connection((parts.hostname, parts.port), timeout=30)
    return connection


def test_a_token_is_asked_for(strict, columns, served):
    assert strict.get("/").status_code == 200
    assert strict.get("/healthz").status_code == 200
    for path in (
        MODEL,
        f"{MODEL}/metadata",
        "/api/models",
        "/monitoring/prometheus/metrics",
        "/openapi.json",
    ):
        for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": TOKEN}):
            answer = strict.get(path, headers=headers)
            assert answer.status_code == 401
            assert answer.headers["WWW-Authenticate"] == "Bearer"
        assert strict.get(path, headers=served).status_code == 200
    with grpc.insecure_channel(strict.grpc) as channel:
        stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
        request = predict_pb2.PredictRequest()
        for metadata, code in (
            ([], grpc.StatusCode.UNAUTHENTICATED),
            ([("authorization", "Bearer x")], grpc.StatusCode.UNAUTHENTICATED),
            ([("authorization", f"Bearer {TOKEN}")], grpc.StatusCode.INVALID_ARGUMENT),
        ):
            with pytest.raises(grpc.RpcError) as error:
                stub.Predict(request, metadata=metadata, timeout=30)
            assert error.value.code() == code


def test_hosts_that_are_allowed(strict, served):
    assert strict.get("/healthz", headers={"Host": "models.example:80"}).status_code == 200
    assert strict.get("/healthz", headers={"Host": "localhost"}).status_code == 421


def test_what_is_too_long(strict, columns, served):
    zeros = io.BytesIO()
    with gzip.GzipFile(fileobj=zeros, mode="wb") as file:
        for _ in range(20):
            file.write(bytes(1 << 20))  # 20 MB, 1,000 times smaller on the way
    for data, headers in (
        (b" " * 60_000, {}),
        ((b" " * 1000 for _ in range(60)), {}),  # of a length that is not said
        (zeros.getvalue(), {"Content-Encoding": "gzip"}),
    ):
        answer = strict.post(f"{MODEL}:predict", data=data, headers={**served, **headers})
        assert answer.status_code == 413
        assert "50,000 bytes" in answer.json()["error"]
    many = {name: values[:1] * 21 for name, values in columns.items()}
    answer = strict.post(f"{MODEL}:predict", json={"inputs": many}, headers=served)
    assert (answer.status_code, answer.json()["error"]) == (
        413,
        "21 rows in one request, expected at most 20",
    )
    table = "sig_id,g-0\n" + "\n".join(f"s{i},1" for i in range(9000))
    answer = strict.post("/api/models/tiny:rank?name=t.csv", data=table, headers=served)
    assert answer.status_code == 413
    packed = gzip.compress(table.encode())
    answer = strict.post("/api/models/tiny:rank?name=t.csv.gz", data=packed, headers=served)
    assert answer.status_code == 413


def test_who_says_nothing_is_closed(strict, served):
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(4096, hard), hard))
    idle = [connect(strict) for _ in range(1000)]
    assert strict.get("/healthz").status_code == 200
    begun = connect(strict)
    begun.sendall(b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Slow: ")
    again = connect(strict)
    again.sendall(b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
    assert again.recv(4096).startswith(b"HTTP/1.1 200")
    start = time.monotonic()
    for connection in (*idle, begun, again):
        connection.settimeout(30)
        while connection.recv(4096):
            pass
        connection.close()
    assert time.monotonic() - start < 25
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_who_sends_slowly_is_told(strict, served):
    slow = connect(strict)
    head = f"POST {MODEL}:predict HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {TOKEN}\r\n"
    slow.sendall(f"{head}Content-Length: 1000\r\n\r\n".encode())
    answer = b""
    slow.settimeout(0.2)
    for _ in range(60):
        try:
            slow.sendall(b" ")
            answer += slow.recv(4096)
        except TimeoutError:
            pass
        except OSError:
            break
        if b"}" in answer:
            break
    assert answer.startswith(b"HTTP/1.1 408")
    assert b"did not arrive within 2 s" in answer
    slow.close()


@pytest.mark.slow
def test_what_is_not_computed_in_time(root, start, columns):
    """By a batch that waits for more, longer than a request may take."""
    server = start(root / "tiny", "--batch-delay", "1000", "--timeout", "0.3")
    answer = server.post(f"{MODEL}:predict", json={"inputs": columns})
    assert (answer.status_code, answer.json()) == (504, {"error": "not computed within 0.3 s"})
    request = get_model_metadata_pb2.GetModelMetadataRequest  # the connection is tried by another call first
    with grpc.insecure_channel(server.grpc) as channel:
        stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
        with pytest.raises(grpc.RpcError) as error:
            stub.GetModelMetadata(request(), timeout=30)
        assert error.value.code() == grpc.StatusCode.INVALID_ARGUMENT
        classify = classification_pb2.ClassificationRequest()
        classify.model_spec.name = "tiny"
        classify.input.example_list.examples.add()
        with pytest.raises(grpc.RpcError) as error:
            stub.Classify(classify, timeout=30)
        assert error.value.code() == grpc.StatusCode.DEADLINE_EXCEEDED
    assert server.end() == 0


def test_no_http_and_a_client_that_goes(strict, served):
    for data in (b"\x16\x03\x01\x02\x00", b"GET\r\n\r\n", b"\0" * 5000):
        connection = connect(strict)
        connection.sendall(data)
        assert connection.recv(4096).startswith(b"HTTP/1.1 400")
        assert connection.recv(4096) == b""
        connection.close()
    gone = connect(strict)
    gone.sendall(f"POST {MODEL}:predict HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 9\r\n\r\n{{".encode())
    gone.close()


def test_a_message_that_is_too_long_for_grpc(strict, case_all, served):
    import tensorflow as tf

    request = predict_pb2.PredictRequest()
    request.model_spec.name = "tiny"
    request.inputs["genes"].CopyFrom(tf.make_tensor_proto(np.zeros((20_000, 3), np.float32)))
    with grpc.insecure_channel(strict.grpc) as channel:
        stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
        with pytest.raises(grpc.RpcError) as error:
            stub.Predict(request, metadata=[("authorization", f"Bearer {TOKEN}")], timeout=30)
    assert error.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED


def test_names_that_a_server_answers_to():
    loopback, open_to_all = Settings(), Settings(host="0.0.0.0")
    for host in ("localhost:8501", "127.0.0.1", "[::1]:8501", "LOCALHOST"):
        assert loopback.knows(host)
    for host in ("", "example.com", "localhost.example.com", "127.0.0.1.example.com:8501"):
        assert not loopback.knows(host)
        assert open_to_all.knows(host)
    assert Settings(hosts=("a.example",)).knows("a.example:80")
    assert Settings().allows(None)
    secret = Settings(token="x" * 16)
    assert secret.allows(f"Bearer {'x' * 16}")
    assert not secret.allows(f"Bearer {'x' * 15}y")
    assert not secret.allows("Bearer ümlaut")
    assert not secret.allows(None)


@pytest.mark.slow
def test_ten_thousand_bad_requests_leave_no_mark(server, columns):
    """Bodies and paths by chance, from a seed, many at a time."""
    import concurrent.futures

    rng = np.random.default_rng(0)
    whole = json.dumps({"inputs": columns}).encode()
    odd = [
        b"{}",
        b"null",
        b"[]",
        b'{"inputs":1e999}',
        b'{"instances":[{}]}',
        b'{"instances":[[[]]]}',
        b"\xff",
    ]
    paths = [
        f"{MODEL}:predict",
        f"{MODEL}:classify",
        f"{MODEL}/versions/1:predict",
        f"{MODEL}:regress",
        "/v1/x",
    ]

    def spoiled(i):
        kind = i % 4
        body = bytearray(whole)
        if kind == 0:
            return odd[i // 4 % len(odd)]
        if kind == 1:
            return whole[: rng.integers(len(whole))]
        for place in rng.integers(len(body), size=3):
            body[place] = rng.integers(256)
        return bytes(body)

    bodies = [(paths[i % len(paths)], spoiled(i)) for i in range(10_000)]
    session = requests.Session()

    def ask(item):
        path, body = item
        answer = session.post(server.url + path, data=body, timeout=60)
        return answer.status_code, answer.content

    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(ask, bodies))
    statuses = {status for status, _ in answers}
    assert statuses <= {200, 400}, statuses
    assert all("error" in json.loads(content) for status, content in answers if status != 200)
    assert not any("Traceback" in line for line in server.lines)
    assert server.post(f"{MODEL}:predict", data=whole).status_code == 200
