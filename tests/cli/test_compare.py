"""`moa-tf compare`, as it is called."""

import json
import shutil
import sys

import numpy as np
import pandas as pd
import pytest
import tensorflow as tf

from moa_tf.cli.main import main
from moa_tf.data.read import read_dataset
from moa_tf.data.simulate import write_simulation
from moa_tf.training.comparison import only

MODELS = ["prior", "ridge", "linear"]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_simulation(tmp_path_factory.mktemp("data") / "sample", 300, seed=3)


@pytest.fixture
def call(monkeypatch, tmp_path, capsys):
    def run(*arguments, where=tmp_path):
        monkeypatch.chdir(where)
        monkeypatch.setattr(sys, "argv", ["moa-tf", *map(str, arguments)])
        with pytest.raises(SystemExit) as stopped:
            main()
        printed = capsys.readouterr()
        return stopped.value.code or 0, printed.out, printed.err

    return run


@pytest.fixture(scope="module")
def compared(data, tmp_path_factory):
    """A comparison with everything, made once; its printed lines are in `out`."""
    import contextlib
    import io

    home = tmp_path_factory.mktemp("compared")
    arguments = [
        "compare",
        data,
        "--models",
        ",".join(MODELS),
        "--folds",
        2,
        "--out",
        home / "c",
        "--controls",
    ]
    arguments += [
        "--blend",
        "--calibrate",
        "temperature",
        "--export",
        home / "saved",
        "--json",
        home / "figures.json",
    ]
    printed, argv = io.StringIO(), sys.argv
    try:
        sys.argv = ["moa-tf", *map(str, arguments)]
        with contextlib.redirect_stdout(printed), pytest.raises(SystemExit) as stopped:
            main()
    finally:
        sys.argv = argv
    assert not stopped.value.code
    (home / "out").write_text(printed.getvalue())
    return home


def test_the_leaderboard_has_each_runs_own_figures(compared):
    board = json.loads((compared / "c/leaderboard.json").read_text())
    assert {model["name"] for model in board["models"]} == {*MODELS, "blend"}
    assert board["models"] == sorted(board["models"], key=lambda model: model["log_loss_treated"])
    table = pd.read_csv(compared / "c/leaderboard.csv").set_index("model")
    for model in board["models"]:
        overall = json.loads((compared / "c" / model["name"] / "metrics.json").read_text())["overall"]
        for name in ("log_loss_treated", "log_loss_all", "macro_auroc", "macro_average_precision"):
            assert model[name] == pytest.approx(overall[name], rel=1e-6)
            assert table.loc[model["name"], name] == pytest.approx(overall[name], rel=1e-6)
        for name, theirs in overall["intervals"].items():
            own = model["intervals"]["log_loss_treated" if name == "log_loss" else name]
            np.testing.assert_allclose(own, theirs, rtol=1e-6)
    assert board["models"][-1]["name"] == "prior"
    assert table.loc["linear", "seconds"] > 0
    assert table.loc["linear", "parameters"] > 1000
    figures = json.loads((compared / "figures.json").read_text())
    assert figures["models"] == board["models"]
    assert len(figures["pairs"]) == 6


def test_the_page_stands_by_itself(compared):
    page = (compared / "c/index.html").read_text()
    assert "simulated" in page
    assert "<script" not in page
    assert "http://" not in page.replace("http://www.w3.org", "")
    for name in (*MODELS, "blend", "labels shuffled over drugs", "rows held out, not drugs"):
        assert name in page
    mechanisms = pd.read_csv(compared / "c/mechanisms.csv")
    board = json.loads((compared / "c/leaderboard.json").read_text())
    assert len(mechanisms) == 4 * len(board["mechanisms"]["name"])
    assert (compared / "c/leaderboard.png").stat().st_size > 10_000


def test_controls_are_runs_of_their_own(compared, data):
    found = json.loads((compared / "figures.json").read_text())["controls"]
    assert [trial["name"] for trial in found] == ["shuffled", "genes", "cells", "rows"]
    panels = {name: json.loads((compared / f"c/controls/{name}/linear/run.json").read_text()) for name in
              ("shuffled", "genes", "cells", "rows")}  # fmt: skip
    assert panels["shuffled"]["settings"]["shuffle_labels"]
    assert panels["rows"]["settings"]["split"] == "row"
    assert panels["genes"]["panel"]["cells"] == []
    assert panels["cells"]["panel"]["genes"] == []
    auroc = {trial["name"]: trial["models"]["linear"]["overall"]["macro_auroc"] for trial in found}
    assert auroc["shuffled"] < 0.6 < auroc["genes"]
    assert auroc["rows"] > auroc["genes"]
    both = read_dataset(data)
    fingerprints = {both.fingerprint, only(both, "genes").fingerprint, only(both, "cells").fingerprint}
    assert len(fingerprints) == 3
    assert only(only(both, "genes"), "cells") is None


def test_the_blend_is_exported_without_what_is_no_network(compared):
    version = compared / "saved" / "1"
    metadata = json.loads(next((version / "assets").glob("*.json")).read_text())
    assert metadata["model"] == "blend"
    assert tf.saved_model.load(str(version)).signatures["serving_default"]
    out = (compared / "out").read_text()
    assert "blend        " in out


def test_what_is_finished_is_not_trained_again_and_a_new_model_joins(compared, data, call, tmp_path):
    shutil.copytree(compared / "c", tmp_path / "c", ignore=shutil.ignore_patterns("controls"))
    before = {name: (tmp_path / "c" / name / "oof.parquet").read_bytes() for name in MODELS}
    code, out, err = call("compare", data, "--models", "prior,ridge,linear,knn", "--folds", 2, "--out", "c")
    assert code == 0, err
    assert "knn, fold 0" in err
    assert "linear, fold" not in err
    assert before == {name: (tmp_path / "c" / name / "oof.parquet").read_bytes() for name in MODELS}
    assert "knn" in out
    # Of other settings there is nothing to go on with.
    code, _, err = call("compare", data, "--models", "ridge", "--folds", 3, "--out", "c")
    assert code == 2
    assert "settings.folds was 2, now 3; cannot resume" in err


def test_a_folder_that_is_no_blend_is_left_alone(compared, data, call, tmp_path):
    shutil.copytree(compared / "c", tmp_path / "c", ignore=shutil.ignore_patterns("controls", "blend"))
    (tmp_path / "c/blend").mkdir()
    (tmp_path / "c/blend/mine").write_text("kept")
    code, _, err = call("compare", data, "--models", "ridge,linear", "--folds", 2, "--out", "c", "--blend")
    assert code == 2
    assert "error: " in err
    assert (tmp_path / "c/blend/mine").read_text() == "kept"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--models", "mlp,forest"], "--models forest: expected one of families, baselines, mlp"),
        (["--models", ","], "--models: expected at least one"),
        (["--models", "prior", "--only-fold", 0, "--blend"], "expected no --only-fold"),
        (["--models", "prior", "--split", "shelf"], "--split shelf: expected one of drug"),
    ],
)
def test_bad_settings_are_one_line(call, data, arguments, message):
    code, out, err = call("compare", data, "--out", "c", *arguments)
    assert code == 2
    (line,) = [line for line in err.splitlines() if line.startswith("error: ")]
    assert message in line
    assert "Traceback" not in err + out
