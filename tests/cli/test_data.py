import json
import sys

import pandas as pd
import pytest

from moa_tf.cli.main import main
from moa_tf.data.check import check


@pytest.fixture
def call(monkeypatch, capsys):
    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["moa-tf", *map(str, arguments)])
        with pytest.raises(SystemExit) as end:
            main()
        out, err = capsys.readouterr()
        return end.value.code or 0, out, err

    return call


@pytest.fixture(scope="module")
def sample(tmp_path_factory):
    from moa_tf.data.simulate import write_simulation

    return write_simulation(tmp_path_factory.mktemp("data") / "sample", 150, seed=2)


@pytest.fixture
def small(tmp_path):
    """Four signatures of two drugs and a control, two targets, all by hand."""
    features = pd.DataFrame({"sig_id": ["a", "b", "c", "d"], "cp_type": ["trt_cp"] * 3 + ["ctl_vehicle"]})
    features["cp_time"], features["cp_dose"] = [24, 24, 72, 48], ["D1", "D2", "D2", "D1"]
    features["g-0"], features["g-1"] = [0.5, 1.0, -1.0, 0.0], [1.0, 2.0, 3.0, 4.0]
    labels = pd.DataFrame(
        {"sig_id": ["a", "b", "c", "d"], "t": [1, 1, 0, 0], "u": [1, 1, 0, 0], "v": [0] * 4}
    )
    drugs = pd.DataFrame({"sig_id": ["a", "b", "c", "d"], "drug_id": ["x", "x", "y", "dmso"]})
    for name, table in {
        "train_features": features,
        "train_targets_scored": labels,
        "train_drug": drugs,
    }.items():
        table.to_csv(tmp_path / f"{name}.csv", index=False)
    features.drop(columns="cp_time").assign(cp_time=24).to_csv(tmp_path / "test_features.csv", index=False)
    return tmp_path


def test_figures(small, call):
    code, out, err = call("data", "check", small, "--json", small / "figures.json")
    assert code == 0
    assert err == (
        "warning: 1 of 3 targets have no positive in a treated row (v): nothing can be learnt of them\n"
    )
    figures = json.loads((small / "figures.json").read_text())
    assert figures["train"] == {
        "rows": 4,
        "controls": 1,
        "cp_type": {"trt_cp": 3, "ctl_vehicle": 1},
        "cp_dose": {"D1": 2, "D2": 2},
        "cp_time": {"24": 2, "48": 1, "72": 1},
    }
    assert figures["test"]["cp_time"] == {"24": 4}
    assert figures["drugs"] == {"drugs": 3, "median_rows": 1.0, "most_rows": 2}
    assert figures["targets"] == {
        "targets": 3,
        "positives": 4,
        "rows_with_labels": {"0": 2, "2": 2},
        "all_zero": ["v"],
        "positives_per_target": {"t": 2, "u": 2, "v": 0},
    }
    assert figures["nonscored"] is None
    rows = {line.rsplit(None, 1)[0].strip(): line.split()[-1] for line in out.splitlines() if line.strip()}
    assert rows["signatures"] == "4"
    assert rows["drugs"] == "3"
    assert rows["test signatures"] == "4"
    assert rows["rows with 2 labels"] == "2"


def test_warnings_and_notes_leave_the_status_at_0(small, call):
    labels = pd.read_csv(small / "train_targets_scored.csv")
    labels.loc[[0, 3], "v"] = 1
    labels.to_csv(small / "train_targets_scored.csv", index=False)
    features = pd.read_csv(small / "train_features.csv").assign(batch=1)
    features.to_csv(small / "train_features.csv", index=False)
    code, _, err = call("data", "check", small)
    assert code == 0
    assert err.splitlines() == [
        "warning: train_features.csv: 1 column is not used (batch)",
        "warning: 1 drugs have rows with different labels (x), expected the same in all",
        "warning: 1 controls have a label (d), expected none",
    ]
    (small / "train_drug.csv").unlink()
    assert "every row counts as a drug of its own" in call("data", "check", small)[2]


def test_columns_by_which_rows_can_be_held_out(small, call):
    drugs = pd.read_csv(small / "train_drug.csv").assign(
        batch=["p", "q", "p", ""], row="r", plate=["1", "1", "", ""]
    )
    pd.concat([drugs, drugs[:1].assign(sig_id="z")]).to_csv(small / "train_drug.csv", index=False)
    code, out, err = call("data", "check", small, "--json", small / "figures.json")
    assert code == 0
    assert err.startswith("warning: train_drug.csv: 1 id is not in train_features (z), ignored\n")
    assert json.loads((small / "figures.json").read_text())["splits"] == {
        "batch": {"groups": 2, "drugs": 2, "drugs_in_several_groups": 1, "without_group": 0},
        "plate": {"groups": 1, "drugs": 2, "drugs_in_several_groups": 0, "without_group": 1},
    }
    rows = [line.split() for line in out.splitlines()]
    assert ["groups", "of", "batch,", "for", "--split", "batch", "2"] in rows
    assert ["treated", "signatures", "in", "none:", "refused", "1"] in rows
    assert "--split row" not in out


def test_every_fault_is_a_line_on_stderr_and_the_status_2(small, call):
    features = pd.read_csv(small / "train_features.csv").astype(object)
    features.loc[1, "g-1"] = "?"
    features.loc[2, "cp_type"] = "dmso"
    features.to_csv(small / "train_features.csv", index=False)
    features[["sig_id", "g-0", "g-1"]].to_csv(small / "test_features.csv", index=False)
    (small / "train_targets_scored.csv").unlink()
    code, out, err = call("data", "check", small)
    assert code == 2
    assert out == ""
    lines = err.splitlines()
    assert all(line.startswith("error: ") for line in lines)
    assert len(lines) == 4
    assert "Traceback" not in err
    for part in (
        "train_features.csv: column g-1: 1 not a number (row 2, sig_id b '?')",
        "train_features.csv: column cp_type: 1 unknown (row 3, sig_id c 'dmso'), expected trt_cp or ctl_vehicle",
        "no train_targets_scored, expected one of",
        "test_features.csv: column g-1: 1 not a number (row 2, sig_id b '?')",
    ):
        assert part in err


def test_test_features_must_have_the_training_panel(small, call):
    test = pd.read_csv(small / "test_features.csv").drop(columns=["g-1", "cp_time"])
    test.to_csv(small / "test_features.csv", index=False)
    code, _, err = call("data", "check", small)
    assert code == 2
    assert err == "error: test_features.csv: 2 columns missing: cp_time, g-1\n"


def test_no_such_directory(tmp_path, call):
    code, _, err = call("data", "check", tmp_path / "nowhere")
    assert code == 2
    assert err == f"error: {tmp_path / 'nowhere'}: no such directory\n"


def test_simulate_then_check(tmp_path, call):
    code, out, _ = call("data", "simulate", tmp_path / "s", "--signatures", 150, "--seed", 2)
    assert code == 0
    assert "train_features.csv" in out
    figures = check(tmp_path / "s")
    assert figures["simulated"]
    assert figures["train"]["rows"] == 150
    code, _, err = call("data", "simulate", tmp_path / "s")
    assert code == 2
    assert "expected a new or empty directory" in err
    assert call("data", "simulate", tmp_path / "t", "--signatures", 5)[0] == 2
    assert call("data", "simulate", tmp_path / "t", "--signatures", "many")[0] == 2


def test_simulated_data_are_called_so(sample, call):
    code, out, _ = call("data", "check", sample)
    assert code == 0
    assert "(simulated)" in out


def test_what_is_odd_of_any_table_is_said(small, call):
    labels = pd.read_csv(small / "train_targets_scored.csv").assign(t=0, u=0)
    labels.to_csv(small / "train_targets_scored.csv", index=False)
    drugs = pd.read_csv(small / "train_drug.csv").assign(dose=1)
    drugs.to_csv(small / "train_drug.csv", index=False, sep="\t")
    test = pd.read_csv(small / "test_features.csv").assign(plate=1)
    test.to_csv(small / "test_features.csv")
    code, _, err = call("data", "check", small)
    assert code == 0
    assert err.splitlines() == [
        "warning: train_drug.csv: read with tabs between cells",
        "warning: none of the 3 targets has a positive in a treated row: nothing can be learnt, and a model of "
        "them is the prior",
        "warning: test_features.csv: 2 columns are not used (no. 1 without a name, plate)",
    ]
    features = pd.read_csv(small / "train_features.csv").assign(cp_type="ctl_vehicle")
    features.to_csv(small / "train_features.csv", index=False)
    err = call("data", "check", small)[2]
    assert "warning: all 4 signatures are controls, expected treated ones to learn from\n" in err
    assert "positive" not in err


@pytest.mark.parametrize("seed", [2**32, -1])
def test_seeds_that_are_none(tmp_path, call, seed):
    code, _, err = call("data", "simulate", tmp_path / "s", "--seed", seed)
    assert code == 2
    assert "Traceback" not in err
    assert "--seed" in err
    assert not (tmp_path / "s").exists()
