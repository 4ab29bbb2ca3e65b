"""The statistics of an exploration, by numbers that were computed by hand."""

import numpy as np
import pytest

from moa_tf.data.schema import CONTROL, Signatures, SignatureSpec
from moa_tf.evaluation.exploration import similarity
from moa_tf.evaluation.exploration.components import eta_squared, fit_components
from moa_tf.evaluation.exploration.distributions import describe_features
from moa_tf.evaluation.exploration.labels import (
    cluster_order,
    count_positives,
    labels_per_row,
    target_correlations,
)
from moa_tf.evaluation.exploration.matrix import standardise, unit_rows
from moa_tf.evaluation.exploration.viability import mean_viability, viability_of_targets

NAN = np.nan
ROWS = unit_rows(np.array([[1, 2, 3], [2, 4, 6], [3, 2, 1], [1, 3, 2], [4, 4, 4]], np.float32))
"""Correlations: 1 of the first two, −1 of either with the third, 1/2 and −1/2 with the fourth; the last has none."""


def test_unit_rows_multiply_to_correlations():
    np.testing.assert_allclose(
        ROWS[:4] @ ROWS[:4].T,
        [[1, 1, -1, 0.5], [1, 1, -1, 0.5], [-1, -1, 1, -0.5], [0.5, 0.5, -0.5, 1]],
        atol=1e-6,
    )
    assert np.isnan(ROWS[4]).all()


def test_replicates_of_a_drug():
    pairs, medians = similarity.replicate_correlations(ROWS[:4], np.array([7, 7, 7, 2]))
    np.testing.assert_allclose(sorted(pairs), [-1, -1, 1], atol=1e-6)
    assert medians == {7: pytest.approx(-1)}
    assert similarity.replicate_correlations(ROWS[:2], np.array([0, 1]))[1] == {}


def test_a_drug_with_many_rows_is_sampled(monkeypatch):
    monkeypatch.setattr(similarity, "REPLICATES", 3)
    unit = unit_rows(np.random.default_rng(0).normal(size=(9, 5)).astype(np.float32))
    pairs, _ = similarity.replicate_correlations(unit, np.zeros(9, int), seed=1)
    assert len(pairs) == 3
    np.testing.assert_array_equal(pairs, similarity.replicate_correlations(unit, np.zeros(9, int), seed=1)[0])


def test_pairs_of_different_drugs():
    drug = np.array([0, 0, 1])
    np.testing.assert_allclose(similarity.correlations_between(ROWS[:3], drug, pairs=60), -1, atol=1e-6)
    assert len(similarity.correlations_between(ROWS[:2], np.array([0, 0]))) == 0


def test_pairs_that_share_a_target():
    """Rows 0 and 1 are of one drug; the first target joins 0, 1 and 3, the second only 2."""
    labels = np.array([[1, 0], [1, 0], [0, 1], [1, 0]], np.float32)
    drug = np.array([0, 0, 1, 2])
    found = similarity.correlations_between(ROWS[:4], drug, labels, pairs=200)
    np.testing.assert_allclose(found, 0.5, atol=1e-6)
    assert 50 < len(found) < 120  # 4 of the 9 pairs within the first target, by 3 of 4 of the labels
    assert len(similarity.correlations_between(ROWS[:4], drug, np.zeros((4, 2)))) == 0


@pytest.mark.parametrize("block", [1, 2, 1024])
def test_near_duplicates_are_of_different_drugs(monkeypatch, block):
    monkeypatch.setattr(similarity, "BLOCK", block)
    rows = np.array([[1, 2, 3], [3, 2, 1], [2, 4, 6.1], [1, 2, 3], [30, 21, 10]], np.float32)
    done = []
    total, first, second, correlation = similarity.near_duplicates(
        unit_rows(rows), np.array([0, 1, 2, 0, 3]), listed=2, progress=done.append
    )
    assert total == 3  # (0, 2), (2, 3), (1, 4); (0, 3) is one drug
    assert sum(done) == 5
    assert {(int(i), int(j)) for i, j in zip(first, second, strict=True)} == {(0, 2), (2, 3)}
    x, y = rows[0], rows[2]
    np.testing.assert_allclose(correlation, np.corrcoef(x, y)[0, 1], atol=1e-6)


def test_rows_that_are_the_same_in_all_matrices():
    genes = np.array([[1, NAN], [1, -NAN], [0, 1], [-0.0, 1]], np.float32)
    assert similarity.row_codes(genes, None).tolist() == [0, 0, 1, 1]
    cells = np.array([[1], [2], [3], [3]], np.float32)
    assert similarity.row_codes(genes, cells).tolist() == [0, 1, 2, 2]


def test_percent_replicating():
    null = np.linspace(0, 1, 101)
    share, bound = similarity.share_replicating({0: 0.96, 1: 0.94, 2: 1.0, 3: 0.1}, null)
    assert (share, bound) == (0.5, pytest.approx(0.95))
    assert np.isnan(similarity.share_replicating({}, null)).all()


def test_eta_squared():
    scores, group = np.array([[0.0], [2], [4], [6]]), np.array(["a", "a", "b", "b"])
    assert eta_squared(scores, group) == pytest.approx(16 / 20)
    # Beside it a component that the groups say nothing of: 16 / (20 + 4).
    assert eta_squared(np.hstack([scores, [[1], [-1], [1], [-1]]]), group) == pytest.approx(16 / 24)
    assert np.isnan(eta_squared(np.ones((4, 1)), group))


def test_components_are_those_of_the_treated_rows():
    treated = np.array([[3, 0], [-3, 0], [0, 1], [0, -1]], np.float32)
    matrix = np.vstack([treated, [[0, 100]]]).astype(np.float32)
    found = fit_components(matrix, np.array([False] * 4 + [True]))
    np.testing.assert_allclose(found.share, [0.9, 0.1], rtol=1e-6)
    np.testing.assert_allclose(np.abs(found.scores[4]), [0, 100], atol=1e-4)


def test_labels_of_a_row_and_positives_of_a_target():
    labels = np.array([[1, 1, 0], [1, 0, 0], [0, 0, 0], [1, 0, 0]], np.float32)
    assert labels_per_row(labels).tolist() == [1, 2, 1]
    rows, drugs = count_positives(labels, np.array(["x", "x", "y", "z"], object))
    assert rows.tolist() == [3, 1, 0]
    assert drugs.tolist() == [2, 1, 0]
    assert count_positives(labels, None)[1] is None


def test_correlations_of_targets():
    labels = np.array([[1, 1, 0], [1, 0, 0], [0, 0, 0], [0, 0, 0]], np.float32)
    phi = target_correlations(labels)
    assert phi[0, 1] == pytest.approx((1 * 2 - 1 * 0) / np.sqrt(2 * 2 * 1 * 3))
    np.testing.assert_allclose(phi[:2, :2], np.corrcoef(labels[:, :2].T), rtol=1e-12)
    assert np.isnan(phi[2]).all()


def test_targets_that_correlate_are_neighbours():
    correlation = np.eye(4)
    correlation[0, 3] = correlation[3, 0] = 0.9
    correlation[1, 2] = correlation[2, 1] = 0.8
    order = cluster_order(correlation).tolist()
    assert {frozenset(order[:2]), frozenset(order[2:])} == {frozenset({0, 3}), frozenset({1, 2})}


def test_moments_of_features():
    values = np.array([[1, NAN, NAN], [2, 5, NAN], [6, 5, NAN], [9, 7, 8]], np.float32)
    table = describe_features(values, ("a", "b", "c"), np.array([False, False, False, True]))
    first = table.iloc[0]
    assert (first["mean"], first["control_mean"], first["minimum"], first["maximum"]) == (3, 9, 1, 6)
    assert first["deviation"] == pytest.approx(np.sqrt(14 / 3))
    assert first["skewness"] == pytest.approx((-8 - 1 + 27) / 3 / (14 / 3) ** 1.5)
    np.testing.assert_allclose(table["missing"], [0, 1 / 3, 1])
    assert np.isnan(table["skewness"][1])
    assert table.loc[2, ["mean", "deviation", "minimum", "maximum"]].isna().all()


def test_features_on_one_scale():
    """Of the treated rows' four: one varies, one is constant, of one three are missing, of one two."""
    genes = np.array(
        [[1, 7, 1, NAN], [3, 7, NAN, NAN], [1, 7, NAN, 2], [3, 7, NAN, 4], [9, 9, 9, 5]], np.float32
    )
    spec = SignatureSpec(("a", "b", "c", "d"), (), ("cp_type",))
    kinds = np.array([0, 0, 0, 0, CONTROL], np.int32)
    scaled = standardise(Signatures(spec, np.arange(5).astype(str).astype(object), genes, cp_type=kinds))
    np.testing.assert_allclose(scaled, [[-1, 0], [1, 0], [-1, -1], [1, 1], [7, 2]])


def test_viability_of_targets():
    viability = mean_viability(np.array([[1, 3], [NAN, 4], [NAN, NAN], [0, 0]], np.float32))
    np.testing.assert_array_equal(viability, [2, 4, NAN, 0])
    labels = np.array([[1, 0, 0], [1, 0, 0], [1, 0, 1], [0, 1, 0]], np.float32)
    table = viability_of_targets(viability, labels, ("a", "b", "c"))
    assert table.values.tolist() == [["b", 1, 0, 0, 0, -2], ["a", 2, 3, 2.5, 3.5, 1]]
