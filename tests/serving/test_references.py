"""The drugs that a connectivity holds, from training to the table that names them."""

import sys

import numpy as np
import pandas as pd
import pytest

from moa_tf.cli.main import main
from moa_tf.serving.versions import latest_version


@pytest.mark.slow
def test_neighbours_are_named_unless_the_export_leaves_them_out(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)

    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["moa-tf", *arguments])
        with pytest.raises(SystemExit) as end:
            main()
        assert not end.value.code, capsys.readouterr().err
        return capsys.readouterr()

    call("data", "simulate", "data", "--signatures", "120")
    words = ["train", "--data", "data", "--model", "connectivity", "--folds", "2", "--out", "run", "--export", "models",
             "--set", "temperatures=0.1", "--epochs", "3"]  # fmt: skip
    printed = call(*words, "--no-reference")
    assert "connectivity is solved, not trained in epochs: ignored epochs=3" in " ".join(printed.err.split())
    silent = latest_version(tmp_path / "models")
    assert [path.name for path in (silent / "assets").iterdir()] == ["metadata.json"]
    # The same run, now with names, is another export; again without, the first one.
    assert "exported before" not in call(*words, "--resume").out
    assert "exported before" in call(*words, "--resume", "--no-reference").out
    named = latest_version(tmp_path / "models")
    assert named != silent
    references = pd.read_csv(named / "assets" / "references.csv").set_index("drug")["mechanisms"]
    drugs = pd.read_csv(next((tmp_path / "data").glob("train_drug*"))).set_index("sig_id")["drug_id"]
    features = pd.read_csv(next((tmp_path / "data").glob("train_features*"))).set_index("sig_id")
    treated = features.index[features["cp_type"] == "trt_cp"]
    assert set(references.index) == set(drugs[treated])

    features.loc[treated[:6]].to_csv("few.csv")
    for source, out in ((silent, "without"), (named, "with"), ("run", "of-run")):
        call("explain", str(source), "few.csv", out)
    assert not (tmp_path / "without" / "neighbours.csv").exists()
    table = pd.read_csv("with/neighbours.csv")
    assert table["sig_id"].tolist() == np.repeat(treated[:6], 5).tolist()
    assert table["rank"].tolist() == [1, 2, 3, 4, 5] * 6
    np.testing.assert_array_equal(table["mechanisms"], references[table["drug"]].to_numpy())
    assert (table["drug"][::5].to_numpy() == drugs[treated[:6]].to_numpy()).any()
    pd.testing.assert_frame_equal(table, pd.read_csv("of-run/neighbours.csv"), atol=1e-5)
