import warnings

import numpy as np
import pytest
import sklearn.metrics

from moa_tf.evaluation.intervals import bootstrap, interval

FIGURES = ("log_loss", "macro_auroc", "macro_average_precision")


@pytest.fixture
def table():
    """60 rows of 20 drugs in two folds; ties among the scores; drugs of unlike sizes."""
    rng = np.random.default_rng(3)
    drug = np.array(
        [f"drug_{i:02}" for i in rng.permutation(np.append(np.arange(20), rng.integers(0, 20, 40)))]
    )
    number = np.array([int(name[-2:]) for name in drug])
    targets = (rng.random((20, 3)) < 0.3).astype(int)[number]
    return targets, rng.random((60, 3)).round(1).clip(0.1, 0.9), drug, number % 2


def within(score, targets, probabilities, fold, weigh):
    """Mean over targets of a scikit-learn score's mean over folds, from rows as they are."""
    means = []
    for t in range(targets.shape[1]):
        total = weight = 0.0
        for k in np.unique(fold):
            y, p = targets[fold == k, t], probabilities[fold == k, t]
            if 0 < y.sum() < len(y):
                total += weigh(y) * score(y, p)
                weight += weigh(y)
        if weight:
            means.append(total / weight)
    return np.mean(means)


def test_replicates_are_figures_of_rows_that_are_really_drawn(table):
    targets, probabilities, drug, fold = table
    found = bootstrap(targets, probabilities, drug, fold, replicates=30, seed=5)
    rng = np.random.default_rng(5)
    for r in range(30):
        rows = []
        for k in (0, 1):
            names = np.unique(drug[fold == k])
            picked = names[rng.integers(0, len(names), len(names))]
            rows += [np.flatnonzero(drug == name) for name in picked]
        rows = np.concatenate(rows)
        y, p = targets[rows], probabilities[rows]
        losses = [sklearn.metrics.log_loss(y[:, t], p[:, t], labels=[0, 1]) for t in range(3)]
        assert found["log_loss"][r] == pytest.approx(np.mean(losses), rel=1e-12)
        auroc = within(sklearn.metrics.roc_auc_score, y, p, fold[rows], lambda y: y.sum() * (1 - y).sum())
        precision = within(sklearn.metrics.average_precision_score, y, p, fold[rows], lambda y: y.sum())
        assert found["macro_auroc"][r] == pytest.approx(auroc, rel=1e-12)
        assert found["macro_average_precision"][r] == pytest.approx(precision, rel=1e-12)


def test_draws_depend_on_seed_and_drugs_alone(table):
    targets, probabilities, drug, fold = table
    found = bootstrap(targets, probabilities, drug, fold, replicates=20)
    order = np.random.default_rng(0).permutation(60)
    again = bootstrap(*(values[order] for values in table), replicates=30)
    other = bootstrap(*table, replicates=20, seed=1)
    # A model that is better by the same factor in each cell is so in each replicate: the draws are one.
    better = bootstrap(targets, np.where(targets > 0, 0.8, 0.1), drug, fold, replicates=20)
    halfway = bootstrap(targets, np.where(targets > 0, 0.8**0.5, 1 - 0.9**0.5), drug, fold, replicates=20)
    np.testing.assert_allclose(better["log_loss"], 2 * halfway["log_loss"], rtol=1e-12)
    assert np.ptp(better["log_loss"]) > 0
    for name in FIGURES:
        np.testing.assert_allclose(again[name][:20], found[name], rtol=1e-12)
        assert (other[name] != found[name]).all()


def test_draws_do_not_depend_on_the_order_of_rows_where_drugs_are_in_several_strata(table):
    targets, probabilities, drug, _ = table
    rows = targets, probabilities, drug, np.random.default_rng(1).integers(0, 3, 60)
    found = bootstrap(*rows, replicates=20)
    again = bootstrap(*(values[::-1] for values in rows), replicates=20)
    for name in FIGURES:
        np.testing.assert_allclose(again[name], found[name], rtol=1e-12)


def test_blocks_of_replicates_change_nothing(table, monkeypatch):
    whole = bootstrap(*table, replicates=7)
    monkeypatch.setattr("moa_tf.evaluation.intervals.CELLS", 150)  # two replicates at once, and a rest
    parts = bootstrap(*table, replicates=7)
    for name in FIGURES:
        np.testing.assert_allclose(parts[name], whole[name], rtol=1e-13)


def test_rows_of_a_drug_come_along_into_every_stratum():
    """Two drugs of a row in each of two strata: whichever is drawn, both strata have the same drugs."""
    targets = np.array([[1], [0], [1], [0]], np.float32)
    probabilities = np.array([[0.9], [0.1], [0.9], [0.1]])
    found = bootstrap(targets, probabilities, np.array(list("abab")), np.array([0, 0, 1, 1]), replicates=60)
    losses = -np.log([0.9, 0.9])
    np.testing.assert_allclose(found["log_loss"], losses[0])
    # ab or ba by a half, else aa or bb, which cannot be ranked.
    defined = ~np.isnan(found["macro_auroc"])
    assert 15 < defined.sum() < 45
    np.testing.assert_array_equal(found["macro_auroc"][defined], 1)


def test_each_stratum_keeps_its_number_of_drugs():
    """Losses tell the strata apart: two drugs of .5, one of .25 a replicate, always."""
    probabilities = np.array([[0.5], [0.5], [0.25]])
    found = bootstrap(
        np.zeros((3, 1)), probabilities, np.array(list("abc")), np.array([0, 0, 1]), replicates=10
    )
    np.testing.assert_allclose(found["log_loss"], -(2 * np.log(0.5) + np.log(0.75)) / 3)
    mixed = bootstrap(np.zeros((3, 1)), probabilities, np.array(list("abc")), replicates=30)
    assert len(np.unique(mixed["log_loss"].round(12))) > 2


def test_replicates_that_cannot_be_ranked_are_nan_in_silence():
    """The only positive drug is left out of (2/3)³ of the draws."""
    targets = np.array([[1, 0], [0, 0], [0, 0]])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = bootstrap(targets, np.full((3, 2), 0.5), None, replicates=200)
    undefined = np.isnan(found["macro_auroc"])
    assert 40 < undefined.sum() < 85  # 60.4 are expected, with those that hold the positive drug alone
    np.testing.assert_array_equal(found["macro_auroc"][~undefined], 0.5)
    np.testing.assert_array_equal(np.isnan(found["macro_average_precision"]), undefined)
    assert interval(found["macro_auroc"]) == (0.5, 0.5)


def test_rows_without_drugs_are_drawn_one_by_one(table):
    targets, probabilities, _, fold = table
    alone = bootstrap(targets, probabilities, None, fold, replicates=5)
    named = bootstrap(targets, probabilities, np.array([f"{i:02}" for i in range(60)]), fold, replicates=5)
    for name in FIGURES:
        np.testing.assert_array_equal(alone[name], named[name])


def test_interval_by_hand():
    values = np.append(np.arange(101.0)[::-1], np.nan)
    assert interval(values) == pytest.approx((2.5, 97.5))
    # The replicates' mean is 50: 7 too high, and so are both ends.
    assert interval(values, 43.0) == pytest.approx((2.5 - 7, 97.5 - 7))
    assert interval(values, level=0.5) == pytest.approx((25, 75))
    assert np.isnan(interval(np.array([np.nan, np.nan]))).all()


def test_what_does_not_fit_is_refused(table):
    targets, probabilities, drug, fold = table
    with pytest.raises(ValueError, match=r"not in \[0, 1\]"):
        bootstrap(targets, probabilities + 0.5, drug, fold)
    for few in ((drug[:-1], fold), (drug, fold[:-1]), (drug[:, None], fold)):
        with pytest.raises(ValueError, match="drug and strata have shapes"):
            bootstrap(targets, probabilities, *few)
