"""Further columns of `train_drug`: read, counted, and held out as a whole."""

import dataclasses

import numpy as np
import pandas as pd
import pytest

from moa_tf.data.folds import assign_folds
from moa_tf.data.groups import count_groups, find_groups, remarks
from moa_tf.data.read import read_dataset
from moa_tf.errors import InputError

BATCH = ["", "p1", "p1", "p2", "p2", "p2", "p3", "p3", "NA", "p3", "p3", "p1"]
"""Of the rows, the first of which is the control; drugs are d1 d2 d0 d1 d2 d0 …"""


@pytest.fixture
def table(drugs):
    """More signatures than the features have, in another order, without drugs and with a repeated column of numbers."""
    more = pd.DataFrame({"sig_id": ["x1", "x2", "x3", "x4"], "drug_id": ["", "NA", "D1", "d9"]})
    drugs = pd.concat([drugs.assign(batch=BATCH, plate=range(12)), more.assign(batch="p9", plate=99)])
    return drugs.sample(frac=1, random_state=0)


def with_groups(dataset, **groups):
    return dataclasses.replace(
        dataset, groups={name: np.array(values, object) for name, values in groups.items()}
    )


@pytest.mark.parametrize("suffix", [".csv", ".csv.gz", ".parquet", "/"])
def test_columns_are_read_by_id_and_further_ids_are_ignored(suffix, write, table, tmp_path):
    plain = read_dataset(write(train_drug=table[["sig_id", "drug_id"]][~table.sig_id.str.startswith("x")]))
    (tmp_path / "train_drug.csv").unlink()
    if suffix == "/":
        (tmp_path / "train_drug.parquet").mkdir()
        # In one part the column holds nothing, in another it is a category.
        parts = [table[:5], table[5:9].astype({"batch": "category"}), table[9:]]
        for i, part in enumerate(parts):
            part.to_parquet(tmp_path / f"train_drug.parquet/{i}.parquet")
    elif suffix == ".parquet":
        table.assign(when=pd.Timestamp("2026-11-25")).to_parquet(tmp_path / "train_drug.parquet", index=False)
    else:
        table.to_csv(tmp_path / f"train_drug{suffix}", index=False)
    dataset = read_dataset(tmp_path)
    assert list(dataset.groups) == ["batch", "plate"]
    assert dataset.groups["batch"].tolist() == ["" if name == "NA" else name for name in BATCH]
    assert dataset.groups["plate"].tolist() == [str(i) for i in range(12)]
    assert dataset.fingerprint == plain.fingerprint
    name = "train_drug.parquet" if suffix == "/" else f"train_drug{suffix}"
    ids = ", ".join(name for name in table.sig_id if name.startswith("x"))
    assert f"{name}: 4 ids are not in train_features ({ids[:10]}, …), ignored" in dataset.notes["warnings"]
    unused = f"{name}: 1 column is not used (when)"
    assert (unused in dataset.notes["warnings"]) is (suffix == ".parquet")


def test_ids_that_are_missing_remain_a_fault(write, table, faults):
    assert faults(write(train_drug=table[table.sig_id != "id_3"])) == [
        "train_drug: column sig_id: 1 ids of train_features are missing (id_3), expected the ids of train_features"
    ]


def test_a_column_alone_decides_and_controls_without_a_value_are_a_group(write, table):
    dataset = read_dataset(write(train_drug=table.replace("NA", "p3")))
    group = find_groups(dataset, "batch")
    assert group.tolist() == ["", *BATCH[1:8], "p3", *BATCH[9:]]
    # p1: d1 d2 d2, p2: d0 d1 d2, p3: d0 d1 d2 d0 d1; so each of the three drugs is in several.
    assert count_groups(dataset, "batch") == {
        "groups": 3,
        "drugs": 3,
        "drugs_in_several_groups": 3,
        "without_group": 0,
    }
    assert remarks(dataset, "batch") == [
        "batch: 3 of 3 drugs are in several groups, and so in training as well as held out; the figures are not those "
        "of unseen drugs"
    ]
    fold = assign_folds(dataset.targets, group, "batch", 3, control=dataset.signatures.control)
    assert len({(name, where) for name, where in zip(group, fold, strict=True) if name}) == 3
    assert set(fold[1:]) == {0, 1, 2}
    # The controls at the end, to the fewest rows: p2's three, or p1's.
    assert np.bincount(fold).tolist().count(4) == 1


def test_groups_of_controls_alone_are_dealt_after_the_others():
    group = np.array(["a", "b", "b", "c", "c", "c", "", "water"], object)
    control = np.isin(group, ["", "water"])
    for seed in range(12):
        fold = assign_folds(np.zeros((8, 2)), group, "line", 3, seed, control)
        assert set(fold[~control]) == {0, 1, 2}
        # To a's fold, then to that or to b's, which both have two rows.
        assert fold[6] == fold[0] or fold[7] == fold[0]
        assert fold[3] not in fold[6:]
    with pytest.raises(InputError, match=r"--folds 4: expected at most 3, as there are 3 line groups"):
        assign_folds(np.zeros((8, 2)), group, "line", 4, 0, control)


def test_nothing_is_said_of_drugs_that_are_within_groups(write, table):
    dataset = read_dataset(write(train_drug=table))
    nested = with_groups(dataset, scaffold=["s9", *(["s1", "s2", "s1"] * 4)[1:]])
    assert count_groups(nested, "scaffold")["drugs_in_several_groups"] == 0
    assert remarks(nested, "scaffold") == remarks(nested, "drug") == []
    # The control's rows are no drug that could be seen before.
    controls = dataclasses.replace(
        nested.signatures, cp_type=np.array([1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1], np.int32)
    )
    drug_id = nested.drug_id.copy()
    drug_id[11] = "control"
    assert remarks(dataclasses.replace(nested, signatures=controls, drug_id=drug_id), "scaffold") == []


def test_groups_that_may_be_one_are_said(write, table):
    dataset = with_groups(read_dataset(write(train_drug=table)), line=["A375"] * 6 + ["a375"] * 5 + ["MCF7"])
    assert remarks(dataset, "line")[-1] == (
        "line: 1 groups differ from others in case, blanks or .0 alone ('A375' and 'a375'), and are taken for "
        "different ones"
    )


def test_a_scheme_has_precedence_over_a_column_of_its_name(write, table):
    dataset = read_dataset(write(train_drug=table.rename(columns={"batch": "row"})))
    assert find_groups(dataset, "row") is dataset.drug_id
    assert remarks(dataset, "row") == [
        "--split row: the scheme of that name is meant, and not the column of train_drug"
    ]
    assert remarks(dataset, "drug") == []
    with pytest.raises(InputError, match=r"a further column of train_drug \(plate\)$"):
        find_groups(dataset, "batch")


def test_splits_that_cannot_be(write, table, drugs, tmp_path):
    dataset = read_dataset(write(train_drug=table))
    with pytest.raises(InputError) as error:
        find_groups(dataset, "scaffold")
    assert str(error.value) == (
        "--split scaffold: expected one of drug, row, kaggle, or a further column of train_drug (batch, plate)"
    )
    with pytest.raises(InputError) as error:
        find_groups(dataset, "batch")
    assert str(error.value) == (
        "--split batch: 1 treated signatures have no batch in train_drug (id_8), expected one for each"
    )
    with pytest.raises(InputError, match=r"expected at most 3, as there are 3 batch groups"):
        assign_folds(dataset.targets[[1, 3, 6]], dataset.groups["batch"][[1, 3, 6]], "batch", 4)
    with pytest.raises(InputError, match=r"train_drug, which has none$"):
        find_groups(read_dataset(write(train_drug=drugs)), "batch")
    (tmp_path / "train_drug.csv").unlink()
    with pytest.raises(InputError, match=r"train_drug, which is not there$"):
        find_groups(read_dataset(tmp_path), "batch")
