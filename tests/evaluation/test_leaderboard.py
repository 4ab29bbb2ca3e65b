"""Figures, intervals and differences of models beside one another."""

import numpy as np
import pytest
import sklearn.metrics

from moa_tf.evaluation.calibration import EDGES, excess_per_row, expected_calibration_error, reliability
from moa_tf.evaluation.intervals import bootstrap_means
from moa_tf.evaluation.leaderboard import FIGURES, Entry, Rows, leaderboard


def make_rows(seed, drugs=60, targets=4):
    """Two rows a drug, three folds, a fifth of them controls; what each model says is the truth and noise."""
    rng = np.random.default_rng(seed)
    number = np.repeat(np.arange(drugs), 2)
    logits = rng.normal(-1.5, 1.5, (drugs, targets))[number]
    labels = (rng.random((drugs, targets)) < 1 / (1 + np.exp(-logits[::2])))[number].astype(int)
    control = number % 5 == 0
    labels[control] = 0
    rows = Rows(
        labels,
        [f"m{j}" for j in range(targets)],
        control,
        np.array([f"d{n:03}" for n in number]),
        number % 3,
        np.broadcast_to(labels[~control].mean(0), labels.shape),
    )

    def model(noise, name):
        noisy = logits + noise * rng.normal(size=(drugs, targets))[number]
        return Entry(name, "deep", np.where(control[:, None], 0, 1 / (1 + np.exp(-noisy))))

    return rows, model


def test_figures_are_those_of_other_programs():
    rows, model = make_rows(0)
    entries = [model(2.0, "rough"), model(0.1, "good")]
    found = leaderboard(rows, entries, replicates=20, permutations=5)
    assert [each["name"] for each in found["models"]] == ["good", "rough"]
    good, treated = found["models"][0], ~rows.control
    y, p = rows.targets[treated], entries[1].probabilities[treated]
    assert good["log_loss_treated"] == pytest.approx(
        np.mean([sklearn.metrics.log_loss(y[:, t], p[:, t], labels=[0, 1]) for t in range(4)])
    )
    assert good["brier"] == pytest.approx(
        np.mean([sklearn.metrics.brier_score_loss(y[:, t], p[:, t]) for t in range(4)])
    )
    assert found["mechanisms"]["drugs"] == pytest.approx(y[::2].sum(0))
    assert found["treated_rows"] == 96
    assert found["drugs"] == 48
    for name in FIGURES:
        low, high = good["intervals"][name]
        assert low < good[name] < high


def test_a_pair_is_the_difference_of_its_figures_in_the_same_draws():
    rows, model = make_rows(1)
    a, b = model(0.1, "a"), model(3.0, "b")
    (pair,) = leaderboard(rows, [a, b], replicates=50, permutations=5)["pairs"]
    first, second = leaderboard(rows, [a, b], replicates=50, permutations=5)["models"]
    for name in FIGURES:
        assert pair[name]["difference"] == pytest.approx(first[name] - second[name])
    assert pair["log_loss_treated"]["high"] < 0
    assert pair["macro_auroc"]["low"] > 0
    same = leaderboard(rows, [a, Entry("again", "deep", a.probabilities)], replicates=50, permutations=5)[
        "pairs"
    ][0]
    assert same["brier"] == {"difference": 0, "low": 0, "high": 0}


def test_means_are_drawn_as_drugs_are():
    values = np.array([[1.0, np.nan], [1.0, 4.0], [3.0, np.nan]])
    found = bootstrap_means(values, np.array(["a", "a", "b"]), replicates=200, seed=1)
    # Two drugs are drawn with replacement: a twice, b twice or both.
    assert set(np.round(found[:, 0], 6)) == {1.0, 3.0, round(5 / 3, 6)}
    assert set(found[~np.isnan(found[:, 1]), 1]) == {4.0}
    assert np.isnan(found[found[:, 0] == 3.0, 1]).all()


def test_calibration_by_hand():
    targets = np.array([[1, 0], [0, 0]])
    probabilities = np.array([[0.25, 0.25], [0.25, 0.95]])
    found = reliability(targets, probabilities)
    assert found.count.tolist() == [3, 1]
    np.testing.assert_allclose(found.stated, [0.25, 0.95])
    np.testing.assert_allclose(found.observed, [1 / 3, 0])
    # (3/4) |1/4 − 1/3| + (1/4) .95
    error = expected_calibration_error(excess_per_row(targets, probabilities).mean(axis=0))
    assert error == pytest.approx(0.75 * (1 / 3 - 1 / 4) + 0.25 * 0.95)
    edges = reliability(np.zeros((len(EDGES), 1)), EDGES[:, None])
    assert edges.count.tolist() == [1] * (len(EDGES) - 2) + [2]


def test_the_interval_of_equal_models_holds_zero_as_often_as_it_says():
    """Two models that are as good as each other, on new drugs each time."""
    held = 0
    for draw in range(100):
        rows, model = make_rows(100 + draw, drugs=150, targets=3)
        pair = leaderboard(rows, [model(1.0, "a"), model(1.0, "b")], replicates=100, permutations=1)["pairs"][
            0
        ]
        held += pair["log_loss_treated"]["low"] <= 0 <= pair["log_loss_treated"]["high"]
    assert 90 <= held <= 99
