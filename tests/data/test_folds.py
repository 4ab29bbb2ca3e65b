import hashlib

import numpy as np
import pytest

from moa_tf.data.folds import FREQUENT, assign_folds
from moa_tf.data.simulate import simulate
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


def table_of(drugs):
    """Targets and drugs of every row, from drug -> (rows, index of its label or None)."""
    sizes = [rows for rows, _ in drugs.values()]
    targets = np.zeros((len(drugs), 1 + max(label or 0 for _, label in drugs.values())), int)
    for i, (_, label) in enumerate(drugs.values()):
        if label is not None:
            targets[i, label] = 1
    which = np.repeat(np.arange(len(drugs)), sizes)
    return targets[which], np.array(list(drugs), object)[which]


def fold_of(drug_id, fold, name):
    (where,) = set(fold[drug_id == name])
    return int(where)


@pytest.mark.parametrize(("rows", "most"), [(500, FREQUENT), (3000, 30)])
@pytest.mark.parametrize("more", [0, 1])
def test_drugs_of_more_than_a_fiftieth_of_a_fold_or_18_rows_are_placed_by_size(rows, most, more):
    # Of a label's two drugs, the stratification puts one into each fold. The uneven pairs leave one fold with
    # many more rows, so that both of the pair in question go to the other fold where size decides.
    drugs = {f"uneven {i} {size}": (size, 1 + i) for i in range(10) for size in (1, most)}
    drugs |= {"a": (most + more, 0), "b": (most + more, 0)}
    drugs |= {f"single {i}": (1, None) for i in range(rows - sum(size for size, _ in drugs.values()))}
    targets, drug_id = table_of(drugs)
    assert len(targets) == rows
    assert max(rows / 2 / 50, FREQUENT) == most
    together = 0
    for seed in range(12):
        fold = assign_folds(targets, drug_id, folds=2, seed=seed)
        together += fold_of(drug_id, fold, "a") == fold_of(drug_id, fold, "b")
    assert (together > 0) is bool(more)


SINGLES = {f"single {i}": (1, None) for i in range(20)}
"""Ten of them in each of two folds."""


def test_large_drugs_without_a_label_come_last_where_controls_are_not_known():
    targets, drug_id = table_of({**SINGLES, "vehicle": (200, None), "a": (100, 0), "b": (60, 0)})
    targets[np.flatnonzero(drug_id == "b")[:-1]] = 0  # A label in any row is a label of the drug.
    fold = assign_folds(targets, drug_id, folds=2)
    # a: 10 + 100; b: 10 + 60; then the vehicle to b. Largest first would have put a and b together.
    assert fold_of(drug_id, fold, "a") != fold_of(drug_id, fold, "b") == fold_of(drug_id, fold, "vehicle")


def test_a_label_of_any_row_is_one_of_the_drug():
    targets, drug_id = table_of({**SINGLES, "a": (6, 0), "b": (6, 0), "c": (6, 1), "d": (6, 1)})
    for name, at in (("a", -1), ("b", 2), ("c", 0), ("d", -1)):
        rows = np.flatnonzero(drug_id == name)
        targets[np.delete(rows, at)] = 0
    for seed in range(12):
        fold = assign_folds(targets, drug_id, folds=2, seed=seed)
        assert fold_of(drug_id, fold, "a") != fold_of(drug_id, fold, "b")
        assert fold_of(drug_id, fold, "c") != fold_of(drug_id, fold, "d")


def test_folds_are_level_in_treated_rows_where_controls_are_known():
    drugs = {"water": (200, None), "vehicle": (300, None)}
    drugs |= {"a": (100, None), "b": (60, None), "c": (60, None), "d": (50, 0)}
    targets, drug_id = table_of({**SINGLES, **drugs})
    control = np.isin(drug_id, ["water", "vehicle"])
    fold = assign_folds(targets, drug_id, folds=2, control=control)
    # 10 + a + d to one, 10 + b + c to the other; then the vehicle to that of 130 rows, water to that of 160.
    a, b = (fold_of(drug_id, fold, name) for name in "ab")
    assert np.bincount(fold[~control])[[a, b]].tolist() == [160, 130]
    assert [fold_of(drug_id, fold, name) for name in ("c", "d", "vehicle", "water")] == [b, a, b, a]
    # Not knowing them, the vehicle is placed before a, b and c, which then are to make up for it.
    fold = assign_folds(targets, drug_id, folds=2)
    assert np.ptp(np.bincount(fold[~control], minlength=2)) > 60


def test_a_drug_with_control_rows_counts_by_its_treated_ones():
    drugs = {"a": (200, 0), "b": (80, 0), "c": (60, 0), "d": (40, 0), "e": (130, 0)}
    targets, drug_id = table_of({**SINGLES, **drugs})
    control = np.zeros(len(drug_id), bool)
    control[np.flatnonzero(drug_id == "a")[:110]] = True
    control[np.flatnonzero(drug_id == "e")[:100]] = True
    fold = assign_folds(targets, drug_id, folds=2, control=control)
    # Treated rows: 10 + 90 of a, 10 + 80 of b, + 60 of c to b, + 40 of d to a, + 30 of e to a.
    a, b, c, d, e = (fold_of(drug_id, fold, name) for name in "abcde")
    assert [a, b, a, b] == [d, c, e, 1 - a]
    assert np.bincount(fold[~control])[[a, b]].tolist() == [170, 150]


def test_folds_of_the_sample_are_those_of_earlier_runs():
    dataset = simulate(3000, 0)
    for control in (None, dataset.signatures.control):
        fold = assign_folds(dataset.targets, dataset.drug_id, "drug", 5, 0, control)
        digest = hashlib.sha256(fold.astype("<i8").tobytes()).hexdigest()
        assert digest.startswith("0363c2f364fb48ca")


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
    with pytest.raises(InputError, match=r"--folds 121: expected at most 120, as there are 120 batch groups"):
        assign_folds(targets, drug_id, "batch", folds=121)
