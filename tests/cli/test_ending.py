"""How the program ends when it is told to, when nobody reads it, and when stdout's disk is full: real processes."""

import json
import os
import signal
import subprocess
import sys
import time

import pandas as pd
import pytest

BUFFERED = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
PROGRAM = [sys.executable, "-c", "from moa_tf.cli.main import main; main()"]


@pytest.fixture
def call(tmp_path):
    """Predictions and labels of a target whose name not every terminal has."""
    for name, values in (("p", [0.5, 0.25]), ("t", [1, 0])):
        table = pd.DataFrame({"sig_id": ["a", "b"], "α-blocker": values, "never": [0, 0]})
        table.to_csv(tmp_path / f"{name}.csv", index=False)
    return [*PROGRAM, "evaluate", str(tmp_path / "p.csv"), str(tmp_path / "t.csv")]


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_told_to_end_it_clears_up(call, tmp_path, number, status):
    (tmp_path / "tmp").mkdir()
    os.mkfifo(tmp_path / "fifo")  # which nobody reads, so it waits with its complete temporary file
    process = subprocess.Popen(
        [*call, "--json", tmp_path / "fifo"],
        env={**os.environ, "TMPDIR": str(tmp_path / "tmp")},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        # Under nohup the tests are started with SIGHUP ignored, which the program would keep to.
        preexec_fn=lambda: signal.signal(number, signal.SIG_DFL),
    )
    for _ in range(600):
        if any(path.stat().st_size for path in (tmp_path / "tmp").glob(".tmp-*")):
            break
        time.sleep(0.05)
    time.sleep(1)  # until it waits for the reader
    process.send_signal(number)
    process.send_signal(number)  # as `timeout` does
    _, err = process.communicate(timeout=30)
    assert process.returncode == status
    assert err.splitlines()[-1] == f"ended by {number.name}"
    assert "Traceback" not in err
    assert list((tmp_path / "tmp").iterdir()) == []


def test_a_second_signal_does_not_break_into_the_clearing_up():
    code = """
import os, signal
from moa_tf.cli.ending import ending_in_order
with ending_in_order():
    try:
        os.kill(os.getpid(), signal.SIGTERM)
        print("not reached")
    finally:
        os.kill(os.getpid(), signal.SIGTERM)
        print("cleared")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (143, "cleared\n")


def test_what_is_ignored_stays_so():
    code = """
import os, signal
from moa_tf.cli.ending import ending_in_order
signal.signal(signal.SIGHUP, signal.SIG_IGN)
with ending_in_order():
    os.kill(os.getpid(), signal.SIGHUP)
    assert signal.getsignal(signal.SIGTERM) not in (signal.SIG_DFL, signal.SIG_IGN)
assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_process_that_never_comes_back_to_python_ends_all_the_same():
    code = """
import ctypes, os, signal, threading
from moa_tf.cli import ending
ending.GRACE = 0.1
with ending.ending_in_order():
    threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGTERM)).start()
    mutex, libc = ctypes.create_string_buffer(64), ctypes.CDLL(None)
    libc.pthread_mutex_lock(mutex)
    libc.pthread_mutex_lock(mutex)  # for ever, and signals do not interrupt it
"""
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=30).returncode == 143


@pytest.mark.parametrize("environment", [BUFFERED, BUFFERED | {"PYTHONUNBUFFERED": "1"}])
def test_when_nobody_reads_the_work_is_done(call, tmp_path, environment):
    read, written = os.pipe()
    os.close(read)
    done = subprocess.run(
        [*call, "--json", tmp_path / "j.json"],
        stdout=written,
        env=environment,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    os.close(written)
    assert done.returncode == 0
    assert done.stderr == ""
    assert json.loads((tmp_path / "j.json").read_text())["rows"] == 2


def test_help_into_a_closed_pipe():
    read, written = os.pipe()
    os.close(read)
    done = subprocess.run(
        [*PROGRAM, "--help"], stdout=written, stderr=subprocess.PIPE, text=True, check=False
    )
    os.close(written)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("arguments", [[], ["--help"]])
def test_stdout_on_a_full_disk(call, arguments):
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [*call, *arguments], stdout=full, stderr=subprocess.PIPE, text=True, check=False
        )
    assert done.returncode == 2
    assert done.stderr == "error: output: cannot be written (No space left on device)\n"


def test_what_a_command_leaves_in_the_buffer_counts_too():
    code = """
import sys, click
from moa_tf.cli import main
main.LazyGroup.get_command = lambda *_: click.Command("x", callback=lambda: print("a line"))
sys.argv[1:] = ["x"]
main.main()
"""
    for device, status, message in (
        ("/dev/null", 0, ""),
        ("/dev/full", 2, "error: output: cannot be written (No space left on device)\n"),
    ):
        with open(device, "w") as out:
            done = subprocess.run(
                [sys.executable, "-c", code],
                stdout=out,
                env=BUFFERED,
                stderr=subprocess.PIPE,
                text=True,
                check=False,
            )
        assert (done.returncode, done.stderr) == (status, message)


@pytest.mark.parametrize("encoding", ["latin-1", "ascii:strict"])
def test_names_that_the_terminal_lacks(call, tmp_path, encoding):
    (tmp_path / "t.csv").write_text((tmp_path / "t.csv").read_text().replace("α-blocker", "β-blocker"))
    done = subprocess.run(
        call, env={**os.environ, "PYTHONIOENCODING": encoding}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert "\\u03b2-blocker" in done.stderr
