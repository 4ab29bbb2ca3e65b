import numpy as np
import pytest

from moa_tf.data.folds import FREQUENT, assign_folds
from moa_tf.errors import InputError


@pytest.fixture
def table():
    """120 drugs: 100 of 6 rows, 18 of one row, one of 200 and one of 300 without labels (the vehicle)."""
    rng = np.random.default_rng(0)
    sizes = np.r_[np.full(100, 6), np.ones(18, int), 200, 300]
    labels = np.zeros((120, 4), int)
    labels[np.arange(100), np.arange(100) % 4] = 1
    labels[:20, 3] = 1
    labels[118, 2] = 1
    order = rng.permutation(sizes.sum())
    drug = np.repeat(np.arange(120), sizes)[order]
    return labels[drug], np.array([f"d{i:03d}" for i in range(120)], object)[drug]


def folds_of(drug_id, fold):
    return {name: set(fold[drug_id == name]) for name in np.unique(drug_id)}


@pytest.mark.parametrize("folds", [2, 5, 7])
@pytest.mark.parametrize("seed", [0, 1])
def test_no_drug_in_two_folds(table, folds, seed):
    targets, drug_id = table
    fold = assign_folds(targets, drug_id, "drug", folds, seed)
    assert set(fold) == set(range(folds))
    assert all(len(where) == 1 for where in folds_of(drug_id, fold).values())


def test_drugs_of_each_target_are_spread_and_treated_rows_level(table):
    targets, drug_id = table
    fold = assign_folds(targets, drug_id, "drug", 5)
    names, first = np.unique(drug_id, return_index=True)
    small = np.array([np.sum(drug_id == name) <= 6 for name in names])
    for target in range(4):
        has = targets[first, target].astype(bool) & small
        spread = np.bincount(fold[first[has]], minlength=5)
        assert spread.max() - spread.min() <= 1
    # 618 rows of small drugs, then 200 of the frequent one into the emptiest fold, the vehicle elsewhere.
    treated = np.bincount(fold[drug_id != "d119"], minlength=5)
    assert np.sort(treated)[:4].max() <= 618 / 5 + 18
    assert folds_of(drug_id, fold)["d118"] != folds_of(drug_id, fold)["d119"]


def test_rows_are_spread_whatever_their_drug(table):
    targets, drug_id = table
    fold = assign_folds(targets, drug_id, "row", 5)
    counts = np.bincount(fold)
    assert counts.max() - counts.min() <= 2
    for target in range(4):
        spread = np.bincount(fold[targets[:, target] == 1], minlength=5)
        assert spread.max() - spread.min() <= 2
    assert folds_of(drug_id, fold)["d118"] == set(range(5))


def test_kaggle_spreads_frequent_drugs_only(table):
    targets, drug_id = table
    where = folds_of(drug_id, assign_folds(targets, drug_id, "kaggle", 5))
    assert where["d118"] == where["d119"] == set(range(5))
    assert all(len(where[f"d{i:03d}"]) == 1 for i in range(118))


@pytest.mark.parametrize(("rows", "together"), [(FREQUENT, True), (FREQUENT + 1, False)])
def test_kaggle_counts_a_drug_of_18_rows_as_rare(rows, together):
    drug_id = np.array(["big"] * rows + [f"d{i}" for i in range(10)], object)
    fold = assign_folds(np.zeros((len(drug_id), 2)), drug_id, "kaggle", 3)
    assert (len(set(fold[:rows])) == 1) is together


def test_same_seed_same_folds_and_seeds_differ(table):
    targets, drug_id = table
    for scheme in ("drug", "row", "kaggle"):
        first = assign_folds(targets, drug_id, scheme, 5, 3)
        np.testing.assert_array_equal(first, assign_folds(targets, drug_id, scheme, 5, 3))
        assert np.any(first != assign_folds(targets, drug_id, scheme, 5, 4))


def test_without_drugs_each_row_is_its_own(table):
    targets, _ = table
    own = np.array([f"row{i:06d}" for i in range(len(targets))], object)
    np.testing.assert_array_equal(assign_folds(targets, None), assign_folds(targets, own))
    assert sorted(assign_folds(np.zeros((4, 1)), None, folds=4)) == [0, 1, 2, 3]


@pytest.mark.parametrize("sizes", [[1, 1, 1], [50, 1, 1], [40, 40, 40], [5, 60, 2]])
def test_as_many_folds_as_drugs(sizes):
    drug_id = np.repeat(np.array(["a", "b", "c"], object), sizes)
    fold = assign_folds(np.eye(3)[np.repeat(range(3), sizes)], drug_id, folds=3)
    assert set(fold) == {0, 1, 2}
    assert all(len(where) == 1 for where in folds_of(drug_id, fold).values())


@pytest.mark.parametrize("labels", [np.zeros((40, 3)), np.ones((40, 3)), np.ones((40, 1)), np.eye(40)])
def test_labels_that_say_nothing(labels):
    counts = np.bincount(assign_folds(labels, None, folds=4))
    assert counts.sum() == 40
    assert len(counts) == 4
    assert counts.min() >= 8


def test_wrong_calls(table):
    targets, drug_id = table
    with pytest.raises(InputError, match=r"--folds 121: expected at most 120, as there are 120 drugs"):
        assign_folds(targets, drug_id, folds=121)
    with pytest.raises(InputError, match=r"--folds 1: expected at least 2"):
        assign_folds(targets, drug_id, folds=1)
    with pytest.raises(InputError, match=r"--split cell: expected one of drug, row, kaggle"):
        assign_folds(targets, drug_id, "cell")
