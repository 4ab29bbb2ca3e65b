"""Consensus, bands and what they state, by hand and by simulation."""

import dataclasses

import numpy as np
import pytest
from scipy.special import expit, logit

from moa_tf.data import storage
from moa_tf.data.schema import Signatures, SignatureSpec
from moa_tf.ranking.consensus import RULES, Consensus, Sums, conditions, consensus
from moa_tf.ranking.ranking import Band, Ranking, count_bands, expected_false, fit_ranking

DRUG = np.array(["b", "a", "b", "b"], object)
CONDITION = np.array(["1", "1", "2", "2"], object)
P = np.array([[0.9, 0.1], [0.3, 0.3], [0.2, 0.5], [0.4, 0.7]])


@pytest.mark.parametrize(
    ("rule", "of_b"),
    [
        ("mean-probability", [0.5, 1.3 / 3]),
        ("mean-logit", expit(logit(P[[0, 2, 3]]).mean(axis=0))),
        ("max-condition", [0.9, 0.6]),
    ],
)
def test_rules_by_hand(rule, of_b):
    np.testing.assert_allclose(consensus(rule, P, DRUG, CONDITION), [[0.3, 0.3], of_b])


@pytest.mark.parametrize("rule", RULES)
def test_chunks_give_what_the_whole_gives(rule):
    whole = consensus(rule, P, DRUG, CONDITION)
    parts = Consensus(rule, 2)
    for row in range(4):
        parts.add(P[[row]], DRUG[[row]], CONDITION[[row]])
    names, found = parts.result()
    assert names.tolist() == ["a", "b"]
    np.testing.assert_allclose(found, whole)


def test_a_ranking_is_the_same_whatever_the_blocks(monkeypatch):
    rng = np.random.default_rng(4)
    number = rng.integers(0, 30, 200)
    targets = (rng.random((30, 5)) < 0.3).astype(np.float32)[number]
    probabilities = np.clip(0.2 + 0.4 * targets + 0.2 * rng.normal(size=(200, 5)), 0.01, 0.99).astype(
        np.float32
    )
    drug = np.array([f"d{n}" for n in number], object)
    condition = np.array([f"c{n}" for n in rng.integers(0, 3, 200)], object)
    rows = np.flatnonzero(rng.random(200) < 0.9)
    arrays = (targets, probabilities, drug, condition, number % 3)
    expected = fit_ranking(*(values[rows] for values in arrays)).to_dict()
    monkeypatch.setattr(storage, "BLOCK", 11)
    assert fit_ranking(*arrays, rows).to_dict() == expected


def test_conditions_are_words():
    spec = SignatureSpec(
        ("g-0",), treatment=("cp_time", "cp_dose", "cp_cell"), doses=(), cell_lines=("A", "B")
    )
    signatures = Signatures(
        spec,
        np.array(["x", "y"], object),
        np.zeros((2, 1), np.float32),
        cp_time=np.array([24, 6.5], np.float32),
        cp_dose=np.array([0.37, 10], np.float32),
        cp_cell=np.array([1, -1], np.int32),
    )
    assert conditions(signatures).tolist() == ["0.37 µM, 24 h, B", "10 µM, 6.5 h, another cell line"]
    levels = dataclasses.replace(spec, doses=("low", "high"), treatment=("cp_dose",))
    only = Signatures(levels, signatures.sig_id, signatures.genes, cp_dose=np.array([1, 0], np.int32))
    assert conditions(only).tolist() == ["high", "low"]
    plain = dataclasses.replace(spec, treatment=())
    assert conditions(Signatures(plain, signatures.sig_id, signatures.genes)).tolist() == ["", ""]


def test_sums_grow_with_their_keys():
    sums, rng = Sums(3), np.random.default_rng(0)
    rows, keys = rng.normal(size=(500, 3)), rng.integers(0, 97, 500)
    for start in range(0, 500, 13):
        sums.add(list(keys[start : start + 13]), rows[start : start + 13])
    expected = [rows[keys == key].mean(axis=0) for key in sums.keys]
    np.testing.assert_allclose(sums.means(), expected)


def test_an_interval_is_jeffreys():
    # Brown, Cai & DasGupta: the quantiles of Beta(x + 1/2, n - x + 1/2), open at the ends.
    assert Band(0.5, 10, 3).interval() == pytest.approx((0.0927, 0.6058), abs=2e-4)
    assert Band(0.5, 10, 0).interval()[0] == 0
    assert Band(0.5, 10, 10).interval()[1] == 1


def test_bands_hold_all_calls_and_equal_ones_together():
    rng = np.random.default_rng(0)
    probabilities = rng.random((40, 10)).round(1)
    labels = rng.random((40, 10)) < probabilities
    bands = count_bands(labels, probabilities)
    assert sum(band.calls for band in bands) == (probabilities >= 0.05).sum()
    assert sum(band.right for band in bands) == labels[probabilities >= 0.05].sum()
    assert len({band.low for band in bands}) == len(bands)
    assert min(band.calls for band in bands) >= 25
    assert count_bands(labels[:2], probabilities[:2]) == ()


def simulate(drugs=600, replicates=4, seed=0):
    """Models that are too unsure by half, and see each signature with an error of its own."""
    rng = np.random.default_rng(seed)
    z = rng.normal(-3, 2, (drugs, 20))
    labels = (rng.random(z.shape) < expit(z)).astype(int)
    rows = np.repeat(np.arange(drugs), replicates)
    seen = expit((z[rows] + rng.normal(0, 1, (len(rows), 20))) / 2)
    names = np.array([f"d{i:04d}" for i in range(drugs)], object)
    return labels[rows], seen, names[rows], np.full(len(rows), "", object), rows % 5, labels, z


def test_stated_precision_is_what_is_observed():
    *rows, _, _ = simulate()
    ranking = fit_ranking(*rows)
    assert ranking.rule in ("mean-logit", "mean-probability")
    assert len(ranking.evidence["reliability"]) >= 4
    for band in ranking.evidence["reliability"]:
        assert band["low"] - 0.02 <= band["stated"] <= band["high"] + 0.02
    # Doubling the logits undoes what was done to them.
    assert all(0.35 < tau < 0.65 for tau in ranking.calibration.temperature)
    other = simulate(seed=1)
    calibrated = ranking.calibrated(consensus(ranking.rule, other[1], other[2], other[3]))
    loss = -np.where(other[5], np.log(calibrated), np.log1p(-calibrated)).mean()
    best = -np.where(other[5], np.log(expit(other[6])), np.log1p(-expit(other[6]))).mean()
    assert best < loss < best + 0.01


def test_of_very_many_drugs_some_are_measured(monkeypatch):
    rows = simulate(200)[:5]
    whole = fit_ranking(*rows).evidence["log_loss"]["mean-logit"]
    monkeypatch.setattr("moa_tf.ranking.ranking.DRUGS", 150)
    few = fit_ranking(*rows)
    assert few.evidence["drugs"] == 150
    assert few.to_dict() == fit_ranking(*rows).to_dict()
    assert few.evidence["log_loss"]["mean-logit"] == pytest.approx(whole, rel=0.2)


def test_it_goes_through_json():
    import json

    ranking = fit_ranking(*simulate(200)[:5])
    again = Ranking.from_dict(json.loads(json.dumps(ranking.to_dict())))
    assert again == ranking
    top = ranking.bands[-1]
    assert again.band(1.0) == top
    assert again.band(0.049) is None
    np.testing.assert_allclose(
        expected_false(again, [1.0, 0.01]), [1 - top.precision, (1 - top.precision + 0.99) / 2]
    )


def test_one_fold_is_not_calibrated():
    targets, p, drug, condition, fold, *_ = simulate(100)
    ranking = fit_ranking(targets, p, drug, condition, np.zeros_like(fold))
    assert ranking.calibration is None
    assert ranking.evidence["reliability"] == []
