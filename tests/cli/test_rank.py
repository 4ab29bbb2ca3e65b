import json
import re
import sys

import numpy as np
import pandas as pd
import pytest

from moa_tf.cli.main import main


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A simulated table, and `linear` trained on it, exported; half of the controls are sold as a drug each three."""
    from moa_tf.config import override
    from moa_tf.data.read import read_dataset
    from moa_tf.data.simulate import write_simulation
    from moa_tf.models.base import get_family
    from moa_tf.serving.run_export import export_run
    from moa_tf.training.cross_validation import Validation, cross_validate
    from moa_tf.training.network_learner import NetworkLearner
    from moa_tf.training.run import Run
    from moa_tf.training.strategy import make_placement

    home = tmp_path_factory.mktemp("rank")
    data = write_simulation(home / "data", 900, seed=0)
    family = get_family("linear")
    learner = NetworkLearner(family, override(family.presets["small"], []), make_placement("none"))
    cross_validate(read_dataset(data), learner, Validation(folds=2), Run(home / "run"))
    export_run(home / "run", home / "saved")
    features = pd.read_csv(data / "train_features.csv")
    drugs = pd.read_csv(data / "train_drug.csv").set_index("sig_id").loc[features.sig_id].reset_index()
    controls = np.flatnonzero(features.cp_type == "ctl_vehicle")
    sold = controls[: len(controls) // 2]
    features.loc[sold, "cp_type"] = "trt_cp"
    drugs.loc[sold, "drug_id"] = [f"<nothing-{i // 3}>" for i in range(len(sold))]
    features.to_csv(home / "features.csv", index=False)
    drugs.to_csv(home / "drugs.csv", index=False)
    return home


def call(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["moa-tf", "rank", *map(str, arguments)])
    with pytest.raises(SystemExit) as end:
        main()
    return end.value.code or 0


@pytest.fixture(scope="module")
def ranked(home):
    with pytest.MonkeyPatch.context() as patch:
        options = ["--drugs", home / "drugs.csv", "--reference", home / "data", "--top", 3]
        assert call(patch, home / "saved", home / "features.csv", home / "out", *options) == 0
    return home / "out"


def test_each_drug_has_a_card_and_its_hypotheses_in_order(home, ranked):
    drugs = pd.read_csv(ranked / "drugs.csv").set_index("drug")
    table = pd.read_csv(home / "drugs.csv")
    treated = pd.read_csv(home / "features.csv").set_index("sig_id").cp_type == "trt_cp"
    expected = table[treated.loc[table.sig_id].to_numpy()].groupby("drug_id").size()
    pd.testing.assert_series_equal(
        drugs.signatures.sort_index(), expected, check_names=False, check_index_type=False
    )
    found = pd.read_csv(ranked / "hypotheses.csv")
    assert found.groupby("drug").size().max() <= 3
    assert (found.probability >= 0.05).all()
    assert (found.groupby("drug").probability.diff().dropna() <= 0).all()
    assert set(found.drug).isdisjoint(drugs.index[drugs.activity == "inactive"])
    # The true mechanism is first for most, as the model has seen these drugs.
    first = found[found["rank"] == 1].set_index("drug").mechanism
    truth = pd.read_csv(home / "data" / "train_targets_scored.csv").set_index("sig_id")
    row = table.drop_duplicates("drug_id").set_index("drug_id").sig_id
    assert np.mean([truth.loc[row[drug], mechanism] for drug, mechanism in first.items()]) > 0.6


def test_controls_that_are_sold_as_drugs_are_inactive(ranked):
    drugs = pd.read_csv(ranked / "drugs.csv")
    nothing = drugs.drug.str.startswith("<nothing")
    assert nothing.sum() >= 10
    assert (drugs.activity[nothing] == "inactive").mean() >= 0.7
    assert (drugs.activity[~nothing] == "active").mean() >= 0.8


def test_what_is_stated_is_what_the_run_counted(home, ranked):
    found = json.loads((ranked / "ranking.json").read_text())
    assert found["ranking"] == json.loads((home / "run" / "ranking.json").read_text())
    bands = found["ranking"]["bands"]
    for card in found["drugs"]:
        for each in card["hypotheses"]:
            band = [band for band in bands if each["probability"] >= band["low"]][-1]
            assert each["precision"] == pytest.approx(band["right"] / band["calls"])
            assert each["precision_low"] < each["precision"] < each["precision_high"]


def test_evidence_is_the_signatures_own(home, ranked):
    """What moved most is the mean of its signatures by controls; reasons are what `explain` says of one."""
    from moa_tf.explanation.sources import open_source

    features = pd.read_csv(home / "features.csv").set_index("sig_id")
    columns = [name for name in features.columns if name[:2] in ("g-", "c-")]
    reference = pd.read_csv(home / "data" / "train_features.csv")
    controls = reference.loc[reference.cp_type == "ctl_vehicle", columns]
    of = pd.read_csv(home / "drugs.csv").set_index("sig_id").drug_id
    cards = json.loads((ranked / "ranking.json").read_text())["drugs"]
    for card in cards[:3]:
        treated = features.loc[(of[of == card["drug"]]).index]
        z = (treated[treated.cp_type == "trt_cp"][columns] - controls.mean()).mean() / controls.std(ddof=0)
        best = z.abs().sort_values(ascending=False).index[:8]
        assert [each["feature"] for each in card["moved"]] == list(best)
        np.testing.assert_allclose([each["z"] for each in card["moved"]], z[best], rtol=1e-3)
    explained = [card for card in cards if card["explained"]]
    assert len(explained) >= 40
    source = open_source(home / "saved")
    card = explained[0]
    found = card["explained"]
    assert found["mechanism"] == card["hypotheses"][0]["mechanism"]
    assert (
        found["condition"] == max(card["hypotheses"][0]["by_condition"].items(), key=lambda pair: pair[1])[0]
    )
    from moa_tf.data.read import read_features

    signatures = read_features(home / "features.csv", source.spec)
    row = signatures.take(np.flatnonzero(signatures.sig_id == found["signature"]))
    share = source.explain(row).importance[0]
    assert [each["feature"] for each in found["reasons"]] == [
        source.columns[j] for j in np.argsort(-share, kind="stable")[:8]
    ]
    assert found["reasons"][0]["share"] == pytest.approx(share.max(), rel=1e-4)


def test_a_tables_own_drugs_count(home, ranked, tmp_path, monkeypatch):
    features = pd.read_csv(home / "features.csv")
    drugs = pd.read_csv(home / "drugs.csv").drug_id
    pd.concat([features.iloc[:, :1], drugs, features.iloc[:, 1:]], axis=1).to_csv(
        tmp_path / "own.csv", index=False
    )
    names = tmp_path / "genes.csv"
    pd.DataFrame({"new": ["g-0", "g-1"], "symbol": ["AAA", "BBB"]}).to_csv(names, index=False)
    options = ["--reference", home / "data", "--top", 3, "--explain", 0, "--genes", names]
    assert call(monkeypatch, home / "saved", tmp_path / "own.csv", tmp_path / "out", *options) == 0
    found, expected = (pd.read_csv(place / "drugs.csv") for place in (tmp_path / "out", ranked))
    assert found.pop("rests_on").isna().all()
    del expected["rests_on"]
    for column, name in (("g-0", "AAA"), ("g-1", "BBB")):
        expected.moved = expected.moved.str.replace(rf"{column} (", f"{name} (", regex=False)
    pd.testing.assert_frame_equal(found, expected)
    lists = [(place / "hypotheses.csv").read_text() for place in (tmp_path / "out", ranked)]
    assert lists[0] == lists[1]


def test_the_page_loads_nothing_and_shows_names_as_text(ranked):
    page = (ranked / "index.html").read_text()
    assert "<nothing-0>" not in page
    assert "&lt;nothing-0&gt;" in page
    assert not re.search(r"(?:src|href)\s*=", page)
    assert page.count("<article") == len(pd.read_csv(ranked / "drugs.csv"))
    assert "Inactive: no call." in page


def test_wrong_calls(home, ranked, tmp_path, monkeypatch, capsys):
    assert call(monkeypatch, home / "saved", home / "features.csv", ranked) == 2
    assert "is there already" in capsys.readouterr().err
    pd.read_csv(home / "drugs.csv").iloc[5:].to_csv(tmp_path / "few.csv", index=False)
    out = tmp_path / "out"
    assert call(monkeypatch, home / "saved", home / "features.csv", out, "--drugs", tmp_path / "few.csv") == 2
    assert "few.csv: column sig_id: " in capsys.readouterr().err
    assert not out.exists()
