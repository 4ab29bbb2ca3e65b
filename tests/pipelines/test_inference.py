"""Prediction of a table of many parts by Apache Beam."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from moa_tf.data.simulate import write_simulation

pytest.importorskip("apache_beam", reason="Apache Beam is not installed")

MOA_TF = [sys.executable, "-c", "from moa_tf.cli.main import main; main()"]
PARTS = 6


def moa_tf(*arguments, cwd):
    path = os.pathsep.join(filter(None, [os.getcwd(), os.environ.get("PYTHONPATH")]))
    return subprocess.run(
        [*MOA_TF, *map(str, arguments)],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
    )


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A directory with an exported model, a table of parts, and what `predict` makes of it in one process."""
    directory = tmp_path_factory.mktemp("beam")
    data = write_simulation(directory / "table", 300, seed=3)
    assert moa_tf(
        "train", "--data", data, "--model", "connectivity", "--folds", 2, "--out", "run", "--export", "model",
        cwd=directory,
    ).returncode == 0  # fmt: skip
    table = pd.read_csv(data / "train_features.csv")
    (directory / "features.parquet").mkdir()
    for number, rows in enumerate(np.array_split(np.arange(len(table)), PARTS)):
        table.iloc[rows].to_parquet(directory / f"features.parquet/{number}.parquet", index=False)
    assert moa_tf("predict", "model", "features.parquet", "local.parquet", cwd=directory).returncode == 0
    return directory


def same(place, out):
    expected, found = pd.read_parquet(place / "local.parquet"), pd.read_parquet(place / out)
    assert list(found["sig_id"]) == list(expected["sig_id"])
    assert list(found) == list(expected)
    np.testing.assert_allclose(found.iloc[:, 1:], expected.iloc[:, 1:], atol=1e-6)


def predict(place, out, *arguments):
    return moa_tf(
        "predict", "model", "features.parquet", out, *arguments, "--json", "figures.json", cwd=place
    )


@pytest.mark.slow
@pytest.mark.parametrize("runner", ["direct", "dask"])
def test_two_workers_predict_what_one_process_does(place, runner):
    pytest.importorskip("distributed" if runner == "dask" else "apache_beam")
    finished = predict(place, f"{runner}.parquet", "--runner", runner, "--workers", 2)
    assert finished.returncode == 0, finished.stderr
    figures = json.loads((place / "figures.json").read_text())
    assert figures["signatures"] == figures["predicted"] == 300
    assert figures["parts"] == PARTS
    assert sorted(path.name for path in (place / f"{runner}.parquet").glob("*.parquet")) == [
        f"part-{number:05d}.parquet" for number in range(PARTS)
    ]
    same(place, f"{runner}.parquet")
    assert "Traceback" not in finished.stderr
    assert "WARNING" not in finished.stderr


def test_a_repeated_call_does_what_is_left(place):
    assert predict(place, "again.parquet", "--runner", "direct", "--workers", 1).returncode == 0
    times = {path.name: path.stat().st_mtime_ns for path in (place / "again.parquet").glob("*.parquet")}
    (place / "again.parquet/part-00002.parquet").unlink()
    finished = predict(place, "again.parquet", "--runner", "direct", "--workers", 1)
    assert finished.returncode == 0, finished.stderr
    assert "5 of 6 parts are finished" in finished.stderr
    assert json.loads((place / "figures.json").read_text())["predicted"] == 50
    changed = [
        path.name
        for path in (place / "again.parquet").glob("*.parquet")
        if path.stat().st_mtime_ns != times[path.name]
    ]
    assert changed == ["part-00002.parquet"]
    same(place, "again.parquet")
    # Other settings, all anew.
    assert (
        predict(place, "again.parquet", "--runner", "direct", "--workers", 1, "--batch-size", 7).returncode
        == 0
    )
    assert json.loads((place / "figures.json").read_text())["predicted"] == 300


def worker_of(process):
    for directory in Path("/proc").glob("[0-9]*"):
        try:
            command = (directory / "cmdline").read_bytes()
            group = os.getpgid(int(directory.name))
        except OSError:
            continue
        if (
            group == process.pid
            and b"sdk_worker_main" in command
            and not command.startswith((b"/bin/sh", b"sh"))
        ):
            return int(directory.name)
    return None


@pytest.mark.slow
def test_a_killed_worker_loses_and_doubles_nothing(place):
    path = os.pathsep.join(filter(None, [os.getcwd(), os.environ.get("PYTHONPATH")]))
    command = [
        *MOA_TF,
        "predict",
        "model",
        "features.parquet",
        "killed.parquet",
        "--runner",
        "direct",
        "--workers",
        "2",
    ]
    process = subprocess.Popen(
        command, cwd=place, env={**os.environ, "PYTHONPATH": path}, stderr=subprocess.PIPE, text=True,
        start_new_session=True,
    )  # fmt: skip
    deadline = time.monotonic() + 120
    while not list((place / "killed.parquet").glob("part-*.parquet")) and time.monotonic() < deadline:
        time.sleep(0.01)
    os.kill(worker_of(process), signal.SIGKILL)
    _, said = process.communicate(timeout=120)
    if process.returncode:  # else all was done before the worker was gone
        assert process.returncode == 1
        assert "error: a worker ended before its work was done; repeat the call to go on" in said.splitlines()
    finished = predict(place, "killed.parquet", "--runner", "direct", "--workers", 2)
    assert finished.returncode == 0, finished.stderr
    same(place, "killed.parquet")


def test_bad_input_is_one_line(place):
    other = place / "other.parquet"
    other.mkdir()
    table = pd.read_parquet(place / "features.parquet/0.parquet")
    table.drop(columns="g-3").to_parquet(other / "0.parquet", index=False)
    broken = moa_tf("predict", "model", other, "bad.parquet", "--runner", "direct", "--workers", 1, cwd=place)
    assert broken.returncode == 2
    assert "g-3" in broken.stderr
    assert "Traceback" not in broken.stderr
    assert [line.startswith("error: ") for line in broken.stderr.splitlines()] == [True], broken.stderr


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["out.csv", "--runner", "direct"], "expected names that end in .parquet"),
        (["local.parquet", "--runner", "direct"], "holds no prediction by parts"),
        (["o.parquet", "--runner", "direct", "--beam", "x"], "--beam x: expected KEY=VALUE"),
        (["o.parquet", "--runner", "flink", "--workers", "2"], "--workers 2"),
        (["o.parquet", "--workers", "2"], "--workers: expected --runner"),
        (["features.parquet/o.parquet", "--runner", "direct"], "within, the features table"),
    ],
)
def test_wrong_calls(place, arguments, said):
    finished = moa_tf("predict", "model", "features.parquet", *arguments, cwd=place)
    assert finished.returncode == 2
    assert said in finished.stderr
    assert "Traceback" not in finished.stderr
