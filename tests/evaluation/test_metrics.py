import math

import numpy as np
import pytest
import sklearn.metrics

from moa_tf.evaluation.metrics import evaluate, log_loss_per_target, mean_log_loss, rank_metrics


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
    monkeypatch.setattr("moa_tf.evaluation.metrics.BLOCK", 7)  # several blocks and a rest
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
