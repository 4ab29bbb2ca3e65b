import json
import math
import sys

import numpy as np
import pandas as pd
import pytest

from moa_tf.cli.main import main

IDS = ["s1", "s2", "s3", "s4"]


@pytest.fixture
def files(tmp_path):
    """Three treated signatures and a control (s4); predictions with other orders of rows and columns."""
    targets = pd.DataFrame({"sig_id": IDS, "a": [1, 0, 0, 0], "b": [0, 1, 0, 0]})
    predictions = pd.DataFrame(
        {"sig_id": IDS, "b": [0.25, 0.5, 0.75, 0.5], "a": [0.5, 0.25, 0.25, 0.5]}
    ).iloc[::-1]
    features = pd.DataFrame({"g-0": [0.0] * 5, "cp_type": ["trt_cp"] * 3 + ["ctl_vehicle", "trt_cp"]})
    features["sig_id"] = [*IDS, "further"]
    for name, table in (("targets", targets), ("predictions", predictions), ("features", features)):
        table.to_csv(tmp_path / f"{name}.csv", index=False)
    return tmp_path


def call(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["moa-tf", "evaluate", *map(str, arguments)])
    with pytest.raises(SystemExit) as end:
        main()
    return end.value.code or 0


TREATED = -sum(map(math.log, [0.5, 0.75, 0.75, 0.75, 0.5, 0.25]))


def test_with_features_treated_rows_are_told_apart(files, monkeypatch, capsys):
    arguments = [files / "predictions.csv", files / "targets.csv", "--features", files / "features.csv"]
    assert call(monkeypatch, *arguments, "--json", files / "figures.json") == 0
    figures = json.loads((files / "figures.json").read_text())
    assert figures["log_loss_treated"] == pytest.approx(TREATED / 6)
    assert figures["log_loss_all"] == pytest.approx(TREATED / 8)
    prior = -(2 * math.log(1 / 3) + 4 * math.log(2 / 3))
    assert figures["prior_log_loss_treated"] == pytest.approx(prior / 6)
    assert figures["prior_log_loss_all"] == pytest.approx(prior / 8)
    assert figures["macro_auroc"] == pytest.approx((1 + 0.5) / 2)
    assert figures["per_target"]["b"] == {
        "positives": 1,
        "log_loss": pytest.approx(-sum(map(math.log, [0.75, 0.5, 0.25])) / 3),
        "auroc": 0.5,
        "average_precision": 0.5,
    }
    printed = capsys.readouterr().out
    assert "treated" in printed
    assert f"{TREATED / 6:.6f}" in printed


def test_label_means_have_a_floor(files, monkeypatch):
    """Without `b`'s one positive its mean is 0, and 1e-5 is what stands for it."""
    targets = pd.read_csv(files / "targets.csv").assign(b=0)
    targets.to_csv(files / "targets.csv", index=False)
    arguments = [files / "predictions.csv", files / "targets.csv", "--features", files / "features.csv"]
    assert call(monkeypatch, *arguments, "--json", files / "figures.json") == 0
    figures = json.loads((files / "figures.json").read_text())
    prior = -(math.log(1 / 3) + 2 * math.log(2 / 3) + 3 * math.log(1 - 1e-5))
    assert figures["prior_log_loss_treated"] == pytest.approx(prior / 6, rel=1e-9)


def test_without_features_only_all_rows_are_scored_as_they_are(files, monkeypatch, capsys):
    assert call(monkeypatch, files / "predictions.csv", files / "targets.csv") == 0
    printed = capsys.readouterr().out
    assert "treated" not in printed
    assert f"{(TREATED - 2 * math.log(0.5)) / 8:.6f}" in printed


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda table: table.iloc[1:], ["1 ids of targets.csv are missing", "s4"]),
        (lambda table: table.assign(sig_id=["x", *table["sig_id"][1:]]), ["ids are not in targets.csv", "x"]),
        (lambda table: table.drop(columns="a"), ["1 target columns of targets.csv are missing", "a"]),
        (lambda table: table.assign(extra=0.5), ["1 target columns are not in targets.csv", "extra"]),
        (lambda table: table.assign(a=1.5), ["column a", "outside [0, 1]"]),
        (lambda table: table.assign(a=np.nan), ["column a", "missing or NaN"]),
    ],
)
def test_predictions_that_do_not_fit(files, monkeypatch, capsys, change, words):
    change(pd.read_csv(files / "predictions.csv")).to_csv(files / "predictions.csv", index=False)
    assert call(monkeypatch, files / "predictions.csv", files / "targets.csv") == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith("error: predictions.csv")
    for word in words:
        assert word in printed.err


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda table: table.drop(columns="cp_type"), "column cp_type is missing"),
        (lambda table: table.iloc[1:], "1 ids of the targets are missing (s1)"),
    ],
)
def test_features_that_do_not_fit(files, monkeypatch, capsys, change, words):
    change(pd.read_csv(files / "features.csv")).to_csv(files / "features.csv", index=False)
    arguments = [files / "predictions.csv", files / "targets.csv", "--features", files / "features.csv"]
    assert call(monkeypatch, *arguments) == 2
    assert words in capsys.readouterr().err


def test_what_is_not_defined_is_a_dash_and_said(files, monkeypatch, capsys):
    """No target has both labels; and no row is treated."""
    targets = pd.DataFrame({"sig_id": IDS, "a": 0, "b": 1})
    targets.to_csv(files / "targets.csv", index=False)
    arguments = [files / "predictions.csv", files / "targets.csv", "--json", files / "j.json"]
    assert call(monkeypatch, *arguments) == 0
    printed = capsys.readouterr()
    assert "nan" not in printed.out
    assert printed.out.splitlines()[-2].split() == ["0", "of", "2", "–", "–"]
    assert printed.err == (
        "note: AUROC and average precision are not defined: no target has both labels in all rows\n"
    )
    features = pd.read_csv(files / "features.csv").assign(cp_type="ctl_vehicle")
    features.to_csv(files / "features.csv", index=False)
    assert call(monkeypatch, *arguments, "--features", files / "features.csv") == 0
    printed = capsys.readouterr()
    assert "nan" not in printed.out
    assert printed.err == "note: figures of treated rows are not defined: all rows are controls\n"
    figures = json.loads((files / "j.json").read_text(), parse_constant=pytest.fail)
    assert figures["log_loss_treated"] is None
    assert figures["macro_auroc"] is None


def test_figures_to_devices_and_links(files, monkeypatch, capsys):
    (files / "link.json").symlink_to("real.json")
    for target in ("/dev/null", "/dev/stdout", files / "link.json"):
        assert call(monkeypatch, files / "predictions.csv", files / "targets.csv", "--json", target) == 0
    assert json.loads((files / "real.json").read_text())["rows"] == 4
    assert (files / "link.json").is_symlink()
    capsys.readouterr()
    for target in (files / "targets.csv", files / "targets.csv" / "x", files, "/dev/full"):
        assert call(monkeypatch, files / "predictions.csv", files / "targets.csv", "--json", target) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith("error: ")


def test_an_out_of_fold_table_is_evaluated_without_its_folds(files, monkeypatch, capsys):
    table = pd.read_csv(files / "predictions.csv")
    table.insert(1, "fold", np.array([0, 1, 4, 0], "int8"))
    table.to_parquet(files / "oof.parquet", index=False)
    assert call(monkeypatch, files / "oof.parquet", files / "targets.csv") == 0
    printed = capsys.readouterr()
    assert f"{(TREATED - 2 * math.log(0.5)) / 8:.6f}" in printed.out
    assert printed.err == "oof.parquet: 1 column is not used (fold)\n"


def test_what_is_not_used_or_read_in_another_way_is_said(files, monkeypatch, capsys):
    for name in ("predictions", "targets"):
        pd.read_csv(files / f"{name}.csv").to_csv(files / f"{name}.csv", index=False, sep=";", decimal=",")
    pd.read_csv(files / "features.csv").assign(plate=1, well="a").to_csv(files / "features.csv", index=False)
    arguments = [files / "predictions.csv", files / "targets.csv", "--features", files / "features.csv"]
    assert call(monkeypatch, *arguments) == 0
    printed = capsys.readouterr()
    assert f"{TREATED / 6:.6f}" in printed.out
    assert printed.err.splitlines() == [
        "targets.csv: read with semicolons between cells",
        "predictions.csv: read with semicolons between cells, and commas for decimal points",
        "features.csv: 2 columns are not used (plate, well)",
    ]


def test_with_drugs_lists_of_drugs_are_judged(files, monkeypatch, capsys):
    drugs = pd.DataFrame({"sig_id": IDS, "drug_id": ["x", "y", "x", "v"]})
    drugs.to_csv(files / "drugs.csv", index=False)
    arguments = [files / "predictions.csv", files / "targets.csv", "--features", files / "features.csv"]
    arguments += ["--drugs", files / "drugs.csv", "--json", files / "figures.json"]
    assert call(monkeypatch, *arguments) == 0
    figures = json.loads((files / "figures.json").read_text())["drugs"]
    # x: a has (.5 + .25) / 2, b (.25 + .75) / 2, and a is true; y: b has .5, a .25, and b is true.
    assert (figures["drugs"], figures["labelled"], figures["top_1"]) == (2, 2, 0.5)
    assert figures["mean_average_precision"] == pytest.approx(0.75)
    assert "Drugs: 2 with a mechanism, of 2" in capsys.readouterr().out
    drugs.iloc[1:].to_csv(files / "drugs.csv", index=False)
    assert call(monkeypatch, *arguments) == 2
    assert (
        "drugs.csv: column sig_id: 1 treated ids of the targets are missing (s1)" in capsys.readouterr().err
    )
