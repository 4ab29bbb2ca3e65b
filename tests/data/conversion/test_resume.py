import os
import signal
import subprocess
import sys

import pandas as pd
import pytest

from moa_tf.data.conversion.convert import Options, convert
from moa_tf.data.conversion.workspace import workspace
from moa_tf.errors import InputError


@pytest.fixture
def blocks(monkeypatch):
    """One signature a block."""
    monkeypatch.setattr("moa_tf.data.conversion.write.BLOCK", 1)


def stop_at(block):
    def progress(what, done, of):
        if what == "converting signatures" and done == block:
            raise KeyboardInterrupt

    return progress


@pytest.mark.parametrize("write", ["gctx", "gct13"])
def test_a_conversion_that_was_stopped_goes_on(plate, blocks, tmp_path, write):
    source = getattr(plate, write)(tmp_path / "a")
    convert(source, tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        convert(source, tmp_path / "out", progress=stop_at(3))
    assert not (tmp_path / "out").exists()
    (partial,) = tmp_path.glob(".tmp-*")
    parts = sorted((partial / "test_features.parquet").iterdir())
    assert len(parts) == 3
    before = [(path.stat().st_ino, path.stat().st_mtime_ns) for path in parts]
    (partial / "test_features.parquet" / ".tmp-cut").write_text("a block that a kill cut off")
    told = []
    figures = convert(source, tmp_path / "out", tell=told.append)
    assert "going on with an unfinished conversion of the same tables" in told
    parts = sorted((tmp_path / "out" / "test_features.parquet").iterdir())
    assert [(path.stat().st_ino, path.stat().st_mtime_ns) for path in parts[:3]] == before
    assert len(parts) == 5
    assert figures["missing_values"] == 1
    names = [sorted(p.name for p in (tmp_path / out).iterdir()) for out in ("out", "whole")]
    assert names[0] == names[1]
    one, two = (pd.read_parquet(tmp_path / out / "test_features.parquet") for out in ("out", "whole"))
    pd.testing.assert_frame_equal(one, two)
    assert not list(tmp_path.glob(".*"))


def test_other_options_or_another_file_start_anew(plate, blocks, tmp_path):
    source, told = plate.gctx(tmp_path / "a.gctx"), []
    with pytest.raises(KeyboardInterrupt):
        convert(source, tmp_path / "out", progress=stop_at(3))
    with pytest.raises(KeyboardInterrupt):
        convert(source, tmp_path / "out", Options(kind="viability"), told.append, stop_at(2))
    assert "an unfinished conversion of other tables, or by other options, is removed" in told
    plate.gctx(source, plate.values + 1)
    convert(source, tmp_path / "out", Options(kind="viability"), told.append)
    read = pd.read_parquet(tmp_path / "out" / "test_features.parquet")
    assert read["c-16"].tolist() == pytest.approx([1.1, 3.5, -6.125, 2, 1.5])


def test_one_process_at_a_time(tmp_path):
    with (
        workspace(tmp_path / "out", {}, print),
        pytest.raises(InputError, match=r"is being written by process \d+ on "),
        workspace(tmp_path / "out", {}, print),
    ):
        pass
    assert (tmp_path / "out").is_dir()


KILLED = """
import os, signal, sys
from pathlib import Path
import moa_tf.data.conversion.write as write
from moa_tf.data.conversion.convert import convert
write.BLOCK = 1
def progress(what, done, of):
    if what == "converting signatures" and done == 2:
        os.kill(os.getpid(), signal.SIGKILL)
convert(Path(sys.argv[1]), Path(sys.argv[2]), progress=progress)
"""


def test_a_killed_process_leaves_what_it_has_done(plate, blocks, tmp_path):
    source = plate.gctx(tmp_path / "a.gctx")
    done = subprocess.run(
        [sys.executable, "-c", KILLED, source, tmp_path / "out"], env=dict(os.environ), check=False
    )
    assert done.returncode == -signal.SIGKILL
    told = []
    convert(source, tmp_path / "out", tell=told.append)
    assert told[0] == "going on with an unfinished conversion of the same tables"
    read = pd.read_parquet(tmp_path / "out" / "test_features.parquet")
    assert read["sig_id"].tolist() == plate.signatures
