"""Lists of mechanisms of drugs, by hand."""

import json
from pathlib import Path

import numpy as np
import pytest
import sklearn.metrics

from moa_tf.evaluation.drugs import (
    average_precision,
    by_drug,
    enrichment,
    judge,
    permutation_p_value,
    precision_at,
)
from moa_tf.evaluation.intervals import bootstrap_targets, interval


@pytest.fixture
def drugs():
    drug = np.array(["b", "a", "b", "c"])
    targets = np.array([[1, 0, 0, 0], [0, 1, 0, 1], [1, 0, 0, 0], [0, 0, 0, 0]])
    probabilities = np.array([[0.2, 0.6, 0.1, 0.0], [0.1, 0.9, 0.4, 0.3], [0.6, 0.3, 0.1, 0.0], [0.5] * 4])
    return by_drug(drug, targets, probabilities)


def test_a_drug_has_the_mean_of_its_rows(drugs):
    assert drugs.names.tolist() == ["a", "b", "c"]
    assert drugs.first.tolist() == [1, 0, 3]
    np.testing.assert_array_equal(drugs.targets, [[0, 1, 0, 1], [1, 0, 0, 0], [0, 0, 0, 0]])
    np.testing.assert_allclose(drugs.probabilities[1], [0.4, 0.45, 0.1, 0.0])


def test_figures_of_lists_by_hand(drugs):
    # a: 1 of the first 1, 1 of 2, 2 of 3; b: its one mechanism is second; c has none.
    np.testing.assert_allclose(precision_at(drugs, 1), [1, 0, np.nan])
    np.testing.assert_allclose(precision_at(drugs, 2), [0.5, 0.5, np.nan])
    np.testing.assert_allclose(average_precision(drugs), [(1 / 1 + 2 / 3) / 2, 1 / 2, np.nan])


def test_average_precision_is_scikit_learns_ties_too():
    rng = np.random.default_rng(0)
    targets = (rng.random((40, 12)) < 0.2).astype(int)
    probabilities = rng.random((40, 12)).round(1)
    found = average_precision(by_drug(np.arange(40).astype(str), targets, probabilities))
    order = np.argsort(np.arange(40).astype(str))
    for value, row in zip(found, order, strict=True):
        if targets[row].any():
            expected = sklearn.metrics.average_precision_score(targets[row], probabilities[row])
            assert value == pytest.approx(expected, abs=1e-12)
        else:
            assert np.isnan(value)


def test_a_p_value_by_all_permutations():
    # Each list has its own drug's mechanism on top: of 3! assignments one is as good, within strata of 1 all are.
    drugs = by_drug(np.array(["a", "b", "c"]), np.eye(3), np.eye(3) * 0.8 + 0.1)
    assert permutation_p_value(drugs, permutations=3000) == pytest.approx(1 / 6, abs=0.02)
    assert permutation_p_value(drugs, np.arange(3), permutations=10) == 1
    nothing = by_drug(np.array(["a"]), np.zeros((1, 2)), np.ones((1, 2)))
    assert np.isnan(permutation_p_value(nothing))


def test_lists_that_know_nothing_have_even_p_values():
    rng = np.random.default_rng(1)
    targets = np.eye(6)[rng.integers(0, 6, 60)]
    values = [
        permutation_p_value(by_drug(np.arange(60).astype(str), targets, rng.random((60, 6))), permutations=99)
        for _ in range(40)
    ]
    assert 0.3 < np.mean(values) < 0.7


def test_enrichment_by_hand():
    probabilities = np.stack([np.linspace(1, 0, 100), np.linspace(0, 1, 100), np.zeros(100)], axis=1)
    targets = np.zeros((100, 3), int)
    targets[:4, 0] = targets[:4, 1] = 1
    drugs = by_drug(np.array([f"{i:03}" for i in range(100)]), targets, probabilities)
    # The best 2 of 100 are both positives, of whom there are 4 in all: 1 / .04.
    np.testing.assert_allclose(enrichment(drugs, 0.02), [25, 0, np.nan])


def test_average_precision_is_copairs():
    stored = json.loads((Path(__file__).parent / "fixtures" / "copairs.json").read_text())
    names = np.array([f"{i:02d}" for i in range(len(stored["targets"]))])
    drugs = by_drug(names, np.array(stored["targets"]), np.array(stored["probabilities"]))
    np.testing.assert_allclose(average_precision(drugs), stored["average_precision"], atol=1e-6)


def test_all_figures_of_drugs(drugs):
    figures = judge(drugs, ["w", "x", "y", "z"], replicates=50, permutations=50)
    assert (figures["drugs"], figures["labelled"]) == (3, 2)
    assert (figures["top_1"], figures["top_5"]) == (0.5, 1)
    assert figures["mean_average_precision"] == pytest.approx((5 / 6 + 1 / 2) / 2)
    assert all(
        low <= figures[name] + 1e-12 and figures[name] - 1e-12 <= high
        for name, (low, high) in figures["intervals"].items()
    )
    # Of w: b's .4 is behind c's .5, before a's .1.
    w = figures["mechanisms"]["w"]
    assert (w["drugs"], w["auroc"], w["average_precision"]) == (1, 0.5, 0.5)
    assert figures["mechanisms"]["y"]["drugs"] == 0
    assert np.isnan(figures["mechanisms"]["y"]["auroc"])


def test_a_target_that_is_known_perfectly_has_no_width():
    targets = np.repeat([[1], [0]], 10, axis=0)
    low_high = interval(bootstrap_targets(targets, targets * 0.5 + 0.2)[0][:, 0], 1.0)
    assert low_high == (1.0, 1.0)
