import json
import os
import subprocess
import sys

import pandas as pd
import pytest

from moa_tf.cli.main import main
from moa_tf.data.simulate import write_simulation

CODE = """
import sys
from moa_tf.cli.main import main
try:
    main()
except SystemExit as end:
    print(end.code or 0, "tensorflow" in sys.modules)
"""


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_simulation(tmp_path_factory.mktemp("explore") / "sample", 120)


def call(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["moa-tf", "explore", *map(str, arguments)])
    with pytest.raises(SystemExit) as end:
        main()
    return end.value.code or 0


def test_a_page_and_the_tables_behind_it(data, tmp_path):
    """As a user calls it, with a backend of matplotlib's that is none, and without waiting for TensorFlow."""
    out, file = tmp_path / "new" / "[x]", tmp_path / "figures.json"
    done = subprocess.run(
        [sys.executable, "-c", CODE, "explore", str(data), str(out), "--json", str(file)],
        env={**os.environ, "MPLBACKEND": "nonsense"}, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stderr == ""
    assert done.stdout.endswith("0 False\n")
    assert f"page   {out / 'index.html'}" in done.stdout
    assert f"{data} (simulated)" in done.stdout
    page = (out / "index.html").read_text("utf-8")
    assert "<title>sample: exploration of simulated signatures</title>" in page
    figures = json.loads(file.read_text())
    assert figures["overview"]["signatures"] == 120
    assert figures["out"] == str(out)
    targets = pd.read_csv(out / "targets.csv")
    labels = pd.read_csv(data / "train_targets_scored.csv").drop(columns="sig_id")
    assert dict(zip(targets["target"], targets["signatures"], strict=True)) == labels.sum().to_dict()
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == ["[x]"]


def test_bad_input_is_one_line_and_leaves_nothing(data, tmp_path, monkeypatch, capsys):
    gaps = tmp_path / "gaps"
    gaps.mkdir()
    pd.DataFrame({"sig_id": ["a", "b"], "c-0": [1.0, None]}).to_csv(gaps / "train_features.csv", index=False)
    pd.DataFrame({"sig_id": ["a", "b"], "t": [0, 1]}).to_csv(gaps / "train_targets_scored.csv", index=False)
    (tmp_path / "file").write_text("")
    for arguments, words in (
        ([data, tmp_path], "is there already, expected the name of a new directory"),
        ([data, tmp_path / "file" / "out"], "cannot be written"),
        ([tmp_path / "none", tmp_path / "out"], "no such directory"),
        ([gaps, tmp_path / "out"], "c-0"),
        ([data, tmp_path / "out", "--json", tmp_path / "out"], "expected another file"),
    ):
        assert call(monkeypatch, *arguments) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith("error: ")
        assert words in line
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "gaps"]
    assert call(monkeypatch, gaps, tmp_path / "out", "--missing", "median") == 0
    assert (tmp_path / "out" / "missing.csv").read_text() == "sig_id,missing\nb,1.0\n"
