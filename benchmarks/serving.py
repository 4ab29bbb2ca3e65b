"""`moa-tf serve` (embedded) against kserve with the same SavedModel: REST under load of `wrk`, in turns.

    python benchmarks/serving.py --model saved_models/mlp/1 --kserve-python KSERVE/bin/python
        [--seconds 5] [--rounds 3] [--connections 1,8,32] [--rows 1,64] [--soak 600] [--grpc] [--json FILE]

Needs Linux, `wrk` 4.1 (Debian's package), `moa-tf[serving]`, and for the peer an interpreter of another
environment with `pip install 'kserve==0.21.*' 'tensorflow==2.21.*'`; without --kserve-python kserve is left
out. The peer is a `kserve.Model` of a few lines: `load` is `tf.saved_model.load`, `predict` calls
`serving_default`; with one worker and without log of each request, which moa-tf has not either.

Bodies are JSON by rows (`instances`) of raw signatures, random normal values of 6 decimals. Both servers
are processes of their own, started for this run, up at the same time and loaded one after the other; before
measuring, answers must agree to 1e-5. Rates and percentiles are medians over the rounds, errors (of sockets,
timeouts, status 400 and above) are summed. wrk has one thread and takes its part of the machine's cores.

Beside them stand the ceiling, the model alone in a loop of one Python thread over a constant batch, and
`--batch-delay` 0, 1, 2 and 5 ms at 32 connections of single rows, from which parameters for TensorFlow
Serving's batching are suggested.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import re
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Callable
from contextlib import ExitStack
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

NAME, OURS, PEER = "model", "moa-tf serve", "kserve"
CEILING = (1, 64, 256)
DELAYS, DELAY_CONNECTIONS = (0, 1, 2, 5), 32
SOAK_PERIOD = 0.02
"""Seconds, at least, from a connection's request to its next: wrk's delays are whole milliseconds."""
METRICS = "monitoring/prometheus/metrics"

PEER_PROGRAM = """
import sys

import numpy as np
import tensorflow as tf
from kserve import Model, ModelServer

path = sys.argv.pop(1)


class Served(Model):
    def load(self):
        self.loaded = tf.saved_model.load(path)
        self.signature = self.loaded.signatures["serving_default"]
        inputs = self.signature.structured_input_signature[1]
        self.kinds = {name: spec.dtype.as_numpy_dtype for name, spec in inputs.items()}
        self.ready = True
        return self.ready

    def predict(self, payload, headers=None, response_headers=None):
        rows = payload["instances"]
        arrays = {name: np.array([row[name] for row in rows], kind) for name, kind in self.kinds.items()}
        inputs = {name: tf.constant(array) for name, array in arrays.items()}
        outputs = {name: value.numpy().tolist() for name, value in self.signature(**inputs).items()}
        if len(outputs) == 1:
            return {"predictions": next(iter(outputs.values()))}
        return {"predictions": [dict(zip(outputs, row)) for row in zip(*outputs.values())]}


model = Served("NAME")
model.load()
ModelServer(enable_grpc=False).start([model])
""".replace("NAME", NAME)

LUA = """
local file = io.open(BODY, "rb")
wrk.method = "POST"
wrk.body = file:read("*a")
wrk.headers["Content-Type"] = "application/json"
file:close()
DELAY
function done(summary, latency, requests)
  local e = summary.errors
  io.write(string.format("RESULT %d %d %d %d %d\\n", summary.requests, summary.duration,
    latency:percentile(50), latency:percentile(99), e.connect + e.read + e.write + e.status + e.timeout))
end
"""


class Server:
    """A process that serves NAME by REST, ready when this returns.

    Args:
        name: as shown.
        command: of the process.
        port: of REST.
        log: where its output goes.
        environment: of the process.
    """

    def __init__(
        self, name: str, command: list[str], port: int, log: Path, environment: dict[str, str]
    ) -> None:
        self.name, self.base = name, f"http://127.0.0.1:{port}"
        with log.open("wb") as file:
            self.process = subprocess.Popen(command, stdout=file, stderr=file, env=environment)
        end = time.monotonic() + 300
        while not self._ready():
            if time.monotonic() > end or self.process.poll() is not None:
                self.end()
                raise SystemExit(f"{name} did not start:\n{log.read_text(errors='replace')[-3000:]}")
            time.sleep(0.2)

    def _ready(self) -> bool:
        try:
            answer = json.loads(self.get(f"v1/models/{NAME}"))
        except OSError:
            return False
        states = [status["state"] for status in answer.get("model_version_status", [])]
        return bool(answer.get("ready")) or "AVAILABLE" in states

    def get(self, path: str) -> str:
        with urllib.request.urlopen(f"{self.base}/{path}", timeout=10) as answer:
            return answer.read().decode()

    @property
    def predict(self) -> str:
        """The URL."""
        return f"{self.base}/v1/models/{NAME}:predict"

    def ask(self, content: bytes) -> np.ndarray:
        """The predictions, [B, …]; of several outputs, one after the other by their names."""
        request = urllib.request.Request(self.predict, content, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=120) as answer:
            rows = json.loads(answer.read())["predictions"]
        if isinstance(rows[0], dict):
            rows = [np.concatenate([np.ravel(row[name]) for name in sorted(row)]) for row in rows]
        return np.array(rows)

    def batches(self) -> tuple[float, float]:
        """Rows and batches so far, of moa-tf."""
        text = self.get(METRICS)
        parts = [
            re.findall(rf"^moa_tf_batch_rows_{kind}\{{.*\}} (\S+)", text, re.M) for kind in ("sum", "count")
        ]
        return sum(map(float, parts[0])), sum(map(float, parts[1]))

    def rss(self) -> float:
        """MB."""
        text = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(re.search(r"VmRSS:\s+(\d+)", text)[1]) * 1024 / 1e6

    def end(self) -> None:
        self.process.terminate()
        try:
            self.process.wait(30)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


def free_port() -> int:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        return listening.getsockname()[1]


def start_ours(home: Path, delay: float = 0.0, grpc_port: int | None = None) -> Server:
    port = free_port()
    command = [sys.executable, "-W", "ignore", "-c", "from moa_tf.cli.main import main; main()"]
    command += ["serve", str(home / "served"), "--engine", "embedded", "--port", str(port)]
    command += ["--batch-delay", str(delay)]
    command += ["--no-grpc"] if grpc_port is None else ["--grpc-port", str(grpc_port)]
    environment = {key: value for key, value in os.environ.items() if key != "MOA_TF_TOKEN"}
    return Server(OURS, command, port, home / f"ours-{port}.log", environment)


def start_peer(home: Path, python: str, model: Path) -> Server:
    port = free_port()
    program = home / "peer.py"
    program.write_text(PEER_PROGRAM)
    command = [python, "-W", "ignore", str(program), str(model), "--http_port", str(port)]
    command += ["--enable_latency_logging", "false", "--configure_logging", "false"]
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    return Server(PEER, command, port, home / "peer.log", environment)


def write_body(home: Path, model: Path, rows: int) -> Path:
    """`instances` as the signature takes them."""
    spec = json.loads((model / "assets" / "metadata.json").read_text())["spec"]
    rng = np.random.default_rng(rows)
    doses = spec.get("doses") or ["D1"]
    treatment = {"cp_type": "trt_cp", "cp_time": 24.0, "cp_dose": doses[0], "cp_cell": "A375"}
    instances = [
        {
            **{k: rng.normal(size=len(spec[k])).round(6).tolist() for k in ("genes", "cells") if spec[k]},
            **{name: treatment[name] for name in spec["treatment"]},
        }
        for _ in range(rows)
    ]
    file = home / f"rows-{rows}.json"
    file.write_text(json.dumps({"instances": instances}))
    return file


def load(
    server: Server,
    body: Path,
    connections: int,
    seconds: float,
    delay: int = 0,
    sample: Callable | None = None,
) -> dict[str, float]:
    """One run of wrk.

    Args:
        server: that is loaded.
        body: of each request.
        connections: as many requests at once, at most.
        seconds: of the run.
        delay: mean milliseconds, uniform from 0 to twice as many, of a connection's wait before a request.
        sample: called each second meanwhile.

    Returns:
        Requests/s, ms, and errors.
    """
    wait = f"function delay() return math.random(0, {2 * delay}) end" if delay else ""
    script = body.with_suffix(".lua")
    script.write_text(LUA.replace("BODY", json.dumps(str(body))).replace("DELAY", wait))
    command = ["wrk", "-t1", f"-c{connections}", f"-d{math.ceil(seconds)}s", "--timeout", "60s"]
    command += ["-s", str(script), server.predict]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        while sample is not None and process.poll() is None:
            sample()
            time.sleep(1)
        output = process.communicate()[0]
    found = re.search(r"RESULT (\d+) (\d+) (\d+) (\d+) (\d+)", output)
    if found is None:
        raise SystemExit(f"wrk against {server.name} failed:\n{output}")
    requests, micros, p50, p99, errors = map(int, found.groups())
    return {"rate": requests / micros * 1e6, "p50": p50 / 1000, "p99": p99 / 1000, "errors": errors}


def take_turns(
    servers: list[Server], body: Path, connections: int, options: argparse.Namespace
) -> list[dict[str, float]]:
    """Each server's medians over the rounds."""
    runs: list[list[dict[str, float]]] = [[] for _ in servers]
    for server in servers:
        load(server, body, connections, 1)  # warms up
    for turn in range(options.rounds):
        order = range(len(servers)) if turn % 2 == 0 else range(len(servers))[::-1]
        for i in order:
            runs[i].append(load(servers[i], body, connections, options.seconds))
    return [
        {
            **{key: statistics.median(run[key] for run in several) for key in ("rate", "p50", "p99")},
            "errors": sum(run["errors"] for run in several),
        }
        for several in runs
    ]


def check(servers: list[Server], content: bytes) -> float:
    """The largest difference of the answers."""
    first, *others = [server.ask(content) for server in servers]
    for other in others:
        np.testing.assert_allclose(other, first, rtol=0, atol=1e-5)
    return max((float(np.abs(other - first).max()) for other in others), default=0.0)


def compare(home: Path, options: argparse.Namespace) -> list[dict[str, Any]]:
    """Both servers, in turns."""
    results = []
    with ExitStack() as stack:
        servers = [start_ours(home)]
        stack.callback(servers[0].end)
        if options.kserve_python:
            servers.append(start_peer(home, options.kserve_python, options.model))
            stack.callback(servers[1].end)
        for rows in options.rows:
            body = write_body(home, options.model, rows)
            difference = check(servers, body.read_bytes())
            size = body.stat().st_size
            answers = f"; answers differ by {difference:.1e} at most" if len(servers) > 1 else ""
            print(f"Body of {rows} rows: {size:,} bytes{answers}.", flush=True)
            for connections in options.connections:
                for server, figures in zip(
                    servers, take_turns(servers, body, connections, options), strict=True
                ):
                    results.append(
                        {"server": server.name, "rows": rows, "connections": connections, **figures}
                    )
                tell(" ".join(f"{r['server']} {r['rate']:.0f}/s" for r in results[-len(servers) :]))
    return results


def measure_delays(home: Path, options: argparse.Namespace) -> list[dict[str, Any]]:
    """`--batch-delay` under single rows, in turns."""
    body = write_body(home, options.model, 1)
    with ExitStack() as stack:
        servers = []
        for delay in DELAYS:
            servers.append(start_ours(home, delay))
            stack.callback(servers[-1].end)
        before = [server.batches() for server in servers]
        figures = take_turns(servers, body, DELAY_CONNECTIONS, options)
        after = [server.batches() for server in servers]
    return [
        {"delay": delay, **each, "rows_per_batch": (now[0] - then[0]) / max(now[1] - then[1], 1)}
        for delay, each, then, now in zip(DELAYS, figures, before, after, strict=True)
    ]


def suggest(delays: list[dict[str, Any]], ceiling: dict[int, float], rows: int) -> tuple[int, int]:
    """max_batch_size and batch_timeout_micros: the smallest that reach nearly the best.

    Of sizes, 90 % of the best rows/s of the model alone, not below `rows`; of delays, 97 % of the best rate.
    """
    best = max(size * rate for size, rate in ceiling.items())
    size = min(size for size, rate in ceiling.items() if size * rate >= 0.9 * best)
    fastest = max(each["rate"] for each in delays)
    delay = min(each["delay"] for each in delays if each["rate"] >= 0.97 * fastest)
    return max(size, rows), 1000 * delay


def soak(home: Path, options: argparse.Namespace, maximum: float) -> dict[str, Any]:
    """moa-tf alone, by single rows at half of `maximum` requests/s."""
    body = write_body(home, options.model, 1)
    server = start_ours(home)
    try:
        ready = server.rss()
        load(server, body, 8, 2)  # warms up
        connections = min(max(1, math.ceil(maximum / 2 * SOAK_PERIOD)), 64)
        period = 1000 * connections / (maximum / 2)
        delay = max(1, round(period - load(server, body, 1, 2)["p50"]))
        for _ in range(3):  # the load itself decides how long a request takes
            rate = load(server, body, connections, 3, delay)["rate"]
            delay = max(1, round(delay + period - 1000 * connections / rate))
        memory = []
        figures = load(
            server, body, connections, options.soak, delay, sample=lambda: memory.append(server.rss())
        )
    finally:
        server.end()
    return {
        "seconds": options.soak,
        "maximum": maximum,
        "connections": connections,
        "mean_delay_ms": delay,
        **figures,
        "rss_mb": {
            "ready": ready,
            "start": memory[0],
            "middle": memory[len(memory) // 2],
            "end": memory[-1],
            "most": max(memory),
        },
    }


def measure_grpc(home: Path, options: argparse.Namespace) -> list[dict[str, Any]]:
    port = free_port()
    server = start_ours(home, grpc_port=port)
    try:
        return [
            {"rows": rows, "threads": threads, **child("grpc", port, body, threads, options.seconds)}
            for rows in options.rows
            for body in [write_body(home, options.model, rows)]
            for threads in options.connections
        ]
    finally:
        server.end()


def child(kind: str, *arguments: Any) -> Any:
    """What needs TensorFlow, in a process that ends before others are measured."""
    command = [sys.executable, "-W", "ignore", __file__, "--child", kind, *map(str, arguments)]
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "2"}
    output = subprocess.run(command, check=True, stdout=subprocess.PIPE, env=environment).stdout
    return json.loads(output.splitlines()[-1])


def run_ceiling(model: Path, body: Path, seconds: float) -> float:
    """Calls/s of the model alone."""
    import tensorflow as tf

    loaded = tf.saved_model.load(str(model))
    signature = loaded.signatures["serving_default"]
    inputs = to_tensors(body, signature.structured_input_signature[1])
    for _ in range(20):
        signature(**inputs)
    start, count = time.perf_counter(), 0
    while (took := time.perf_counter() - start) < seconds:
        for value in signature(**inputs).values():
            value.numpy()
        count += 1
    return count / took


def to_tensors(body: Path, specs: Any) -> dict[str, Any]:
    import tensorflow as tf

    rows = json.loads(body.read_text())["instances"]
    return {name: tf.constant([row[name] for row in rows], spec.dtype) for name, spec in specs.items()}


def run_grpc(port: int, body: Path, threads: int, seconds: float) -> dict[str, float]:
    """Predict by `threads` of this process, each with a connection of its own."""
    import grpc
    import tensorflow as tf
    from tensorflow_serving.apis import predict_pb2, prediction_service_pb2_grpc

    request = predict_pb2.PredictRequest()
    request.model_spec.name = NAME
    rows = json.loads(body.read_text())["instances"]
    for name, value in rows[0].items():
        kind = tf.string if isinstance(value, str) else tf.float32
        request.inputs[name].CopyFrom(tf.make_tensor_proto([row[name] for row in rows], kind))
    options = [
        ("grpc.use_local_subchannel_pool", 1),
        ("grpc.max_send_message_length", -1),
        ("grpc.max_receive_message_length", -1),
    ]
    times: list[float] = []
    errors: list[str] = []
    begin = threading.Barrier(threads)

    def work() -> None:
        with grpc.insecure_channel(f"127.0.0.1:{port}", options) as channel:
            predict = prediction_service_pb2_grpc.PredictionServiceStub(channel).Predict
            predict(request, timeout=60)
            begin.wait(60)
            end = time.perf_counter() + seconds
            while (start := time.perf_counter()) < end:
                try:
                    predict(request, timeout=60)
                except grpc.RpcError as error:
                    errors.append(str(error.code()))
                else:
                    times.append(time.perf_counter() - start)

    workers = [threading.Thread(target=work, daemon=True) for _ in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    if not times:
        raise SystemExit(f"gRPC: no call of {threads} threads was answered {errors[:1]}")
    p50, p99 = np.percentile(times, [50, 99]) * 1000
    return {"rate": len(times) / seconds, "p50": float(p50), "p99": float(p99), "errors": len(errors)}


def tell(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def table(*columns: str) -> None:
    print("\n| " + " | ".join(columns) + " |\n|" + " --- |" * len(columns))


def row(*values: Any) -> None:
    print("| " + " | ".join(map(str, values)) + " |", flush=True)


def shown(figures: dict[str, Any]) -> list[str]:
    """Of requests/s, p50, p99, errors."""
    return [
        f"{figures['rate']:,.0f}",
        f"{figures['p50']:.2f}",
        f"{figures['p99']:.2f}",
        f"{figures['errors']}",
    ]


def print_servers(results: list[dict[str, Any]], ceiling: dict[int, float]) -> None:
    best = max(size * rate for size, rate in ceiling.items())
    rates = {(r["server"], r["rows"], r["connections"]): r["rate"] for r in results}
    table(
        "rows", "connections", "server", "requests/s", "p50, ms", "p99, ms", "errors", "of ceiling", "ratio"
    )
    for r in results:
        peer = rates.get((PEER, r["rows"], r["connections"]), 0)
        ratio = f"{r['rate'] / peer:.2f}" if r["server"] == OURS and peer else ""
        share = f"{r['rate'] * r['rows'] / best:.1%}"
        row(r["rows"], r["connections"], r["server"], *shown(r), share, ratio)
    print(
        "\nof ceiling: rows/s, of the most rows/s of the model alone. ratio: requests/s to kserve's, "
        "above 1: ours is faster."
    )


def print_soak(r: dict[str, Any]) -> None:
    rss = r["rss_mb"]
    print(
        f"\nSoak of {r['seconds']} s: single rows at {r['rate']:,.0f} requests/s "
        f"({r['rate'] / r['maximum']:.0%} of {r['maximum']:,.0f}) by {r['connections']} connections with a "
        f"Lua delay() of {r['mean_delay_ms']} ms on average; p50 {r['p50']:.2f} ms, p99 {r['p99']:.2f} ms, "
        f"{r['errors']} errors; RSS "
        f"{rss['ready']:.0f} MB when ready, then warmed up {rss['start']:.0f} at the start, "
        f"{rss['middle']:.0f} in the middle, {rss['end']:.0f} at the end ({rss['most']:.0f} at most)."
    )


def numbers(text: str) -> list[int]:
    values = [int(part) for part in text.split(",")]
    if min(values) < 1:
        raise ValueError(text)
    return values


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--model", type=Path, required=True, metavar="SAVED_MODEL", help="A version's directory."
    )
    parser.add_argument(
        "--kserve-python", metavar="PYTHON", help="Where kserve and tensorflow are installed."
    )
    parser.add_argument("--seconds", type=int, default=5, help="Of each measurement.")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--connections", type=numbers, default=[1, 8, 32])
    parser.add_argument("--rows", type=numbers, default=[1, 64], help="Of a body.")
    parser.add_argument(
        "--soak", type=int, default=0, metavar="SECONDS", help="moa-tf alone at half of its rate."
    )
    parser.add_argument("--grpc", action="store_true", help="Predict too, by a client in Python.")
    parser.add_argument("--json", type=Path, metavar="FILE")
    options = parser.parse_args()
    if min(options.seconds, options.rounds) < 1 or options.soak < 0:
        parser.error("--seconds and --rounds: expected 1 or more; --soak: not less than 0")
    if shutil.which("wrk") is None:
        parser.error("wrk is not on the PATH (Debian: apt-get install wrk)")
    options.model = options.model.resolve()
    if not (options.model / "saved_model.pb").is_file():
        parser.error(f"--model {options.model}: expected a version's directory, with saved_model.pb")
    versions = {name: version(name) for name in ("moa-tf", "tensorflow")}
    if options.kserve_python:
        code = "import importlib.metadata as m; print(m.version('kserve'), m.version('tensorflow'))"
        asked = subprocess.run(
            [options.kserve_python, "-c", code], check=True, stdout=subprocess.PIPE, text=True
        )
        versions["kserve"], versions["kserve's tensorflow"] = asked.stdout.split()
    results: dict[str, Any] = {
        "versions": versions,
        "cores": len(os.sched_getaffinity(0)),
        "seconds": options.seconds,
        "rounds": options.rounds,
    }
    print(", ".join(f"{name} {value}" for name, value in versions.items()) + f"; {results['cores']} cores.")
    if not options.kserve_python:
        print("kserve is left out: no --kserve-python.")
    print(f"Rounds in turns: {options.rounds}, of {options.seconds} s; medians, by wrk with one thread.")
    with tempfile.TemporaryDirectory() as name:
        home = Path(name)
        (home / "served" / NAME).mkdir(parents=True)
        (home / "served" / NAME / "1").symlink_to(options.model)
        bodies = {size: write_body(home, options.model, size) for size in CEILING}

        def ceilings() -> dict[int, float]:
            return {
                size: child("ceiling", options.model, body, options.seconds) for size, body in bodies.items()
            }

        several = [ceilings() for _ in range(options.rounds)]
        ceiling = {size: statistics.median(each[size] for each in several) for size in CEILING}
        results["ceiling"] = ceiling
        table("the model alone: rows of a batch", "calls/s", "rows/s")
        for size, rate in ceiling.items():
            row(size, f"{rate:,.0f}", f"{size * rate:,.0f}")
        print(flush=True)

        results["servers"] = compare(home, options)
        print_servers(results["servers"], ceiling)

        results["delays"] = measure_delays(home, options)
        table("--batch-delay, ms", "requests/s", "p50, ms", "p99, ms", "errors", "rows per batch")
        for each in results["delays"]:
            row(each["delay"], *shown(each), f"{each['rows_per_batch']:.1f}")
        size, micros = suggest(results["delays"], ceiling, max(options.rows))
        results["suggested"] = {"max_batch_size": size, "batch_timeout_micros": micros}
        print(
            f"\nOf single rows at {DELAY_CONNECTIONS} connections. Suggested: max_batch_size {size} (least "
            f"of {', '.join(map(str, CEILING))} with 90 % of the most rows/s, not below the largest body), "
            f"batch_timeout_micros {micros} (least delay with 97 % of the most requests/s)."
        )

        if options.grpc:
            results["grpc"] = measure_grpc(home, options)
            table("rows", "threads", "gRPC Predict/s", "p50, ms", "p99, ms", "errors")
            for each in results["grpc"]:
                row(each["rows"], each["threads"], *shown(each))
            print(
                "\nmoa-tf serve by gRPC, one round. The client is one Python process with threads, slower "
                "than wrk: not to be held against the REST figures."
            )

        if options.soak:
            rates = [
                *(r["rate"] for r in results["servers"] if r["server"] == OURS and r["rows"] == 1),
                results["delays"][0]["rate"],
            ]
            results["soak"] = r = soak(home, options, max(rates))
            print_soak(r)
    if options.json:
        options.json.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        kind, *rest = sys.argv[2:]
        if kind == "ceiling":
            print(json.dumps(run_ceiling(Path(rest[0]), Path(rest[1]), float(rest[2]))))
        else:
            print(json.dumps(run_grpc(int(rest[0]), Path(rest[1]), int(rest[2]), float(rest[3]))))
    else:
        main()
