import math

import numpy as np
import pytest
import sklearn.metrics

from moa_tf.data import storage
from moa_tf.evaluation import metrics
from moa_tf.evaluation.calibration import excess_per_row, reliability
from moa_tf.evaluation.intervals import bootstrap
from moa_tf.evaluation.metrics import (
    evaluate,
    log_loss_per_row,
    log_loss_per_target,
    mean_log_loss,
    rank_metrics,
)


def test_log_loss_by_hand():
    targets = np.array([[1, 0], [0, 0]])
    probabilities = np.array([[0.5, 0.25], [0.25, 0.5]])
    first = -(math.log(0.5) + math.log(0.75)) / 2
    second = -(math.log(0.75) + math.log(0.5)) / 2
    assert mean_log_loss(targets, probabilities) == pytest.approx((first + second) / 2, abs=1e-15)


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16])
def test_certain_probabilities_are_clipped_in_float64(dtype):
    targets = np.array([[1.0, 1.0, 0.0, 0.0]], dtype)
    probabilities = np.array([[1.0, 0.0, 1.0, 0.0]], dtype)
    losses = log_loss_per_target(targets, probabilities)
    wrong = -math.log(1e-15)
    # 1 - 1e-15 is not exact in float64, so ln of what is left of a wrong 1 is a little off.
    np.testing.assert_allclose(losses, [0, wrong, wrong, 0], rtol=4e-3, atol=2e-15)
    assert losses[0] > 0
    assert losses[3] > 0


def test_log_loss_equals_scikit_learn_per_column(monkeypatch):
    monkeypatch.setattr("moa_tf.data.storage.BLOCK", 7)  # several blocks and a rest
    rng = np.random.default_rng(0)
    targets = (rng.random((50, 4)) < 0.3).astype(np.float32)
    probabilities = rng.random((50, 4)).astype(np.float32)
    expected = [
        sklearn.metrics.log_loss(targets[:, t], probabilities[:, t].astype(np.float64), labels=[0, 1])
        for t in range(4)
    ]
    np.testing.assert_allclose(log_loss_per_target(targets, probabilities), expected, rtol=1e-13)


def test_rank_metrics_by_hand():
    targets = np.array([[1, 0, 1], [0, 0, 1], [1, 0, 1], [0, 0, 1]])
    probabilities = np.array([[0.9, 0.1, 0.1], [0.8, 0.2, 0.2], [0.7, 0.3, 0.3], [0.1, 0.4, 0.4]])
    auroc, precision = rank_metrics(targets, probabilities)
    # Pairs in order: 0.9 beats both negatives, 0.7 beats one of two. Precision at the positives: 1/1, 2/3.
    np.testing.assert_allclose(auroc, [0.75, np.nan, np.nan])
    np.testing.assert_allclose(precision, [(1 + 2 / 3) / 2, np.nan, np.nan])


def test_rank_metrics_equal_scikit_learn_with_ties():
    rng = np.random.default_rng(0)
    targets = (rng.random((300, 5)) < 0.1).astype(np.float32)
    probabilities = rng.random((300, 5)).astype(np.float32).round(1)
    probabilities[:, 4] = 0.5
    auroc, precision = rank_metrics(targets, probabilities)
    expected = sklearn.metrics.roc_auc_score(targets, probabilities, average=None)
    np.testing.assert_allclose(auroc, expected, rtol=1e-12)
    expected = sklearn.metrics.average_precision_score(targets, probabilities, average=None)
    np.testing.assert_allclose(precision, expected, rtol=1e-12)


def test_ranks_are_taken_within_strata():
    """Stratum 0: 1 positive, 2 negatives, 1 of 2 pairs in order. Stratum 1: 2 and 1, 2 of 2, one of them tied."""
    targets = np.array([[1], [0], [0], [1], [1], [0]])
    probabilities = np.array([[0.2], [0.3], [0.1], [0.9], [0.8], [0.8]])
    auroc, precision = rank_metrics(targets, probabilities, np.array([0, 0, 0, 1, 1, 1]))
    np.testing.assert_allclose(auroc, [(1 + 1.5) / (2 + 2)])
    # Of the positives: .2 is second of its stratum (1/2), .9 first (1/1), .8 is tied (2 of 3 are positive).
    np.testing.assert_allclose(precision, [(1 / 2 + 1 + 2 / 3) / 3])
    # Strata need not be numbers nor lie together.
    shuffled = [3, 0, 5, 1, 4, 2]
    again = rank_metrics(targets[shuffled], probabilities[shuffled], np.array(list("aaabbb"))[shuffled])
    np.testing.assert_allclose(again, [auroc, precision])


def test_unlike_strata_weigh_by_pairs_and_by_positives():
    """Stratum 0: 1 positive above 1 negative. Stratum 1: 2 positives below 3 negatives."""
    targets = np.array([[1], [0], [1], [1], [0], [0], [0]])
    probabilities = np.array([[0.9], [0.1], [0.2], [0.1], [0.5], [0.6], [0.7]])
    auroc, precision = rank_metrics(targets, probabilities, np.array([0, 0, 1, 1, 1, 1, 1]))
    np.testing.assert_allclose(auroc, [1 / 7])
    np.testing.assert_allclose(precision, [(1 + 1 / 4 + 2 / 5) / 3])


def test_a_stratum_without_both_labels_adds_nothing():
    targets = np.array([[1, 1], [0, 1], [0, 0], [1, 0], [1, 1], [0, 0], [0, 0]])
    probabilities = np.array(
        [[0.5, 0.5], [0.6, 0.5], [0.4, 0.5], [0.9, 0.1], [0.9, 0.1], [0.9, 0.1], [0.9, 0]]
    )
    strata = np.array([0, 0, 0, 1, 1, 2, 2])  # for the first target 1 has no negative; 2 has no positive
    auroc, precision = rank_metrics(targets, probabilities, strata)
    np.testing.assert_allclose(auroc, [0.5, 2 / 4 * (2 / 3) + 1 / 2 * (1 / 3)])
    np.testing.assert_allclose(precision, [0.5, (2 / 3 + 2 / 3 + 1 / 2) / 3])
    for alone in (
        rank_metrics(targets[:, :1], probabilities[:, :1], np.arange(7)),
        rank_metrics(*np.ones((2, 3, 1))),
    ):
        assert np.isnan(alone).all()


def test_predictions_that_know_nothing_are_at_one_half_within_folds():
    """Each fold predicts the means of the others: with more positives held out, fewer were learned from."""
    rng = np.random.default_rng(0)
    targets = (rng.random((500, 20)) < 0.02).astype(np.float32)
    fold = rng.integers(0, 5, 500)
    means = np.empty_like(targets)
    for k in range(5):
        means[fold == k] = targets[fold != k].mean(0)
    control = np.zeros(500, bool)
    pooled, within = (evaluate(targets, means, control, strata=strata) for strata in (None, fold))
    assert pooled["macro_auroc"] < 0.35
    assert within["macro_auroc"] == 0.5
    assert within["log_loss_treated"] == pooled["log_loss_treated"]
    # Average precision of a constant is the share of positives, fold by fold.
    share = np.array([targets[fold == k].mean(0) for k in range(5)])
    positives = np.array([targets[fold == k].sum(0) for k in range(5)])
    expected = (share * positives).sum(0) / positives.sum(0)
    assert within["macro_average_precision"] == pytest.approx(expected.mean(), rel=1e-6)


def test_weights_count_rows_as_often_as_they_say():
    """Against scikit-learn on rows that are really repeated, and on `sample_weight`; ties and zeros included."""
    rng = np.random.default_rng(1)
    targets = (rng.random((80, 3)) < 0.2).astype(np.float32)
    probabilities = rng.random((80, 3)).astype(np.float32).round(1)
    weights = rng.integers(0, 4, (80, 5))
    auroc, precision = rank_metrics(targets, probabilities, weights=weights)
    assert auroc.shape == precision.shape == (5, 3)
    for r in range(5):
        rows = np.repeat(np.arange(80), weights[:, r])
        for found, score in (
            (auroc, sklearn.metrics.roc_auc_score),
            (precision, sklearn.metrics.average_precision_score),
        ):
            np.testing.assert_allclose(
                found[r], score(targets[rows], probabilities[rows], average=None), rtol=1e-12
            )
            weighted = score(targets, probabilities, average=None, sample_weight=weights[:, r])
            np.testing.assert_allclose(found[r], weighted, rtol=1e-12)


def test_weights_that_leave_a_label_out_are_as_if_it_were_not_there():
    targets = np.array([[1], [0], [1], [0]])
    probabilities = np.array([[0.9], [0.1], [0.1], [0.9]])
    weights = np.array([[1, 0, 1], [1, 1, 1], [1, 0, 0], [1, 1, 3]])
    auroc, precision = rank_metrics(targets, probabilities, weights=weights)
    np.testing.assert_allclose(auroc[:, 0], [0.5, np.nan, (1 + 3 / 2) / 4])
    np.testing.assert_allclose(precision[:, 0], [(1 / 2 + 2 / 4) / 2, np.nan, 1 / 4])
    # The first stratum then has no negative: its positives leave the average precision as well.
    auroc, precision = rank_metrics(
        targets, probabilities, np.array([0, 0, 1, 1]), np.array([[2], [0], [1], [1]])
    )
    np.testing.assert_allclose([auroc, precision], [[[0]], [[0.5]]])


def test_log_loss_of_rows_by_hand(monkeypatch):
    monkeypatch.setattr("moa_tf.data.storage.BLOCK", 2)
    targets = np.array([[1, 0], [0, 0], [0, 1]])
    probabilities = np.array([[0.5, 0.25], [0.25, 0.5], [1, 1]], np.float32)
    expected = [-(math.log(0.5) + math.log(0.75)) / 2] * 2 + [-math.log(1e-15) / 2]
    np.testing.assert_allclose(log_loss_per_row(targets, probabilities), expected, rtol=4e-3)
    np.testing.assert_allclose(log_loss_per_row(targets, probabilities)[:2], expected[:2], rtol=1e-15)
    assert log_loss_per_row(targets[:0], probabilities[:0]).shape == (0,)


@pytest.fixture
def case():
    """Three treated rows and a control; the third target has no positive."""
    targets = np.array([[1, 0, 0], [0, 1, 0], [0, 0, 0], [0, 0, 0]], np.float32)
    probabilities = np.array(
        [[0.5, 0.25, 0.125], [0.25, 0.5, 0.125], [0.25, 0.75, 0.125], [0.75, 0.75, 0.75]], np.float32
    )
    return targets, probabilities, np.array([False, False, False, True])


def test_controls_are_predicted_zero_and_left_out_of_treated_rows(case):
    targets, probabilities, control = case
    figures = evaluate(targets, probabilities, control)
    terms = [0.5, 0.75, 0.875, 0.75, 0.5, 0.875, 0.75, 0.25, 0.875]
    total = -sum(map(math.log, terms))
    assert figures["log_loss_treated"] == pytest.approx(total / 9)
    assert figures["log_loss_all"] == pytest.approx(total / 12)  # the control adds 3 × 1e-15
    assert (figures["rows"], figures["treated_rows"], figures["targets"]) == (4, 3, 3)


def test_rank_metrics_are_means_over_targets_with_both_classes_among_treated_rows(case):
    figures = evaluate(*case, per_target=True)
    assert figures["targets_ranked"] == 2
    assert figures["macro_auroc"] == pytest.approx((1 + 0.5) / 2)
    assert figures["macro_average_precision"] == pytest.approx((1 + 0.5) / 2)
    np.testing.assert_allclose(figures["per_target"]["auroc"], [1, 0.5, np.nan])
    np.testing.assert_array_equal(figures["per_target"]["positives"], [1, 1, 0])
    assert figures["per_target"]["log_loss"].mean() == pytest.approx(figures["log_loss_treated"])


def test_controls_are_in_no_stratum():
    targets = np.array([[1], [0], [0], [1], [0], [0]])
    probabilities = np.array([[0.2], [0.1], [0.9], [0.7], [0.8], [0.0]])
    control = np.array([False, False, True, False, False, True])
    strata = np.array([0, 0, 0, 1, 1, 1])
    figures = evaluate(targets, probabilities, control, strata=strata, per_target=True)
    assert figures["macro_auroc"] == 0.5  # 1 of 1 pairs in order, 0 of 1
    assert figures["macro_average_precision"] == 0.75
    assert figures["targets_ranked"] == 1
    np.testing.assert_array_equal(figures["per_target"]["positives"], [2])


def test_unknown_controls_leave_all_rows_only(case):
    targets, probabilities, _ = case
    figures = evaluate(targets, probabilities, None, prior=np.full(3, 0.25))
    assert not {"treated_rows", "log_loss_treated", "prior_log_loss_treated"} & set(figures)
    assert figures["log_loss_all"] == pytest.approx(mean_log_loss(targets, probabilities))


def test_prior_for_all_rows_or_row_by_row(case):
    targets, probabilities, control = case
    figures = evaluate(targets, probabilities, control, prior=np.full(3, 0.25))
    total = -(2 * math.log(0.25) + 7 * math.log(0.75))
    assert figures["prior_log_loss_treated"] == pytest.approx(total / 9)
    assert figures["prior_log_loss_all"] == pytest.approx(total / 12)
    own = np.full((4, 3), 0.25)
    own[2] = 0.5  # a row of another fold
    figures = evaluate(targets, probabilities, control, prior=own)
    total = -(2 * math.log(0.25) + 4 * math.log(0.75) + 3 * math.log(0.5))
    assert figures["prior_log_loss_treated"] == pytest.approx(total / 9)


def test_no_target_to_rank_is_nan():
    figures = evaluate(np.zeros((2, 1)), np.full((2, 1), 0.5), np.array([True, True]))
    assert math.isnan(figures["macro_auroc"])
    assert math.isnan(figures["log_loss_treated"])
    assert figures["targets_ranked"] == 0


@pytest.mark.parametrize("value", [np.nan, -0.1, 1.1, np.inf])
def test_what_is_no_probability_is_refused(value):
    probabilities = np.full((3, 2), 0.5)
    probabilities[1, 1] = value
    with pytest.raises(ValueError, match=r"not in \[0, 1\]"):
        evaluate(np.zeros((3, 2)), probabilities, None)


def test_shapes_that_differ_are_refused():
    with pytest.raises(ValueError, match="shape"):
        mean_log_loss(np.zeros((3, 2)), np.zeros((3, 1)))
    with pytest.raises(ValueError, match="control"):
        evaluate(np.zeros((3, 2)), np.zeros((3, 2)), np.zeros(2, bool))
    with pytest.raises(ValueError, match="strata"):
        evaluate(np.zeros((3, 2)), np.zeros((3, 2)), np.zeros(3, bool), strata=np.zeros((3, 1)))
    with pytest.raises(ValueError, match="strata"):
        rank_metrics(np.zeros((3, 2)), np.zeros((3, 2)), np.zeros(2))
    with pytest.raises(ValueError, match="weights"):
        rank_metrics(np.zeros((3, 2)), np.zeros((3, 2)), weights=np.ones(3))


def test_rows_are_picked_as_if_they_were_copied(monkeypatch):
    rng = np.random.default_rng(1)
    targets = (rng.random((90, 40)) < 0.2).astype(np.float32)
    probabilities = rng.random((90, 40)).round(2).astype(np.float32)
    control, fold, drug = rng.random(90) < 0.1, rng.integers(0, 3, 90), rng.integers(0, 20, 90)
    prior = np.tile(targets.mean(0), (90, 1))
    rows = np.flatnonzero(fold > 0)
    few = (targets[rows], probabilities[rows])
    expected = evaluate(*few, control[rows], prior=prior[rows], strata=fold[rows], per_target=True)
    whole = [excess_per_row(*few), *reliability(*few), bootstrap(*few, drug[rows], fold[rows], replicates=9)]
    monkeypatch.setattr(metrics, "COLUMNS", 7)
    found = evaluate(targets, probabilities, control, prior=prior, strata=fold, rows=rows, per_target=True)
    np.testing.assert_equal(found, expected)  # NaN is equal to NaN
    monkeypatch.setattr(storage, "BLOCK", 7)
    parts = [excess_per_row(targets, probabilities, rows), *reliability(targets, probabilities, rows)]
    parts.append(bootstrap(targets, probabilities, drug, fold, rows=rows, replicates=9))
    np.testing.assert_equal(parts, whole)


def test_weights_of_units_are_those_of_their_rows():
    rng = np.random.default_rng(2)
    targets, probabilities = (rng.random((50, 3)) < 0.3).astype(int), rng.random((50, 3)).round(1)
    unit, weights = rng.integers(0, 8, 50), rng.integers(0, 3, (8, 6))
    rows = np.flatnonzero(rng.random(50) < 0.8)
    expected = rank_metrics(targets[rows], probabilities[rows], weights=weights[unit[rows]])
    np.testing.assert_equal(
        rank_metrics(targets, probabilities, weights=weights, unit=unit, rows=rows), expected
    )
    with pytest.raises(ValueError, match="unit has shape"):
        rank_metrics(targets, probabilities, weights=weights, unit=unit[1:])
