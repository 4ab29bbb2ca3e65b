import tracemalloc

import numpy as np
import pandas as pd
import pytest

from moa_tf.data.columns import UniqueIds
from moa_tf.data.faults import Faults
from moa_tf.data.names import clean, find_near_misses, is_missing
from moa_tf.data.read import iter_features, read_dataset, read_features, read_targets
from moa_tf.data.schema import SignatureSpec
from moa_tf.data.tables import Chunk
from moa_tf.errors import InputError

BLANKS = [" ", "\t", "\xa0", "\u2003", "\u3000", "\u200b", "\ufeff"]


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
@pytest.mark.parametrize("blank", BLANKS)
def test_blanks_around_names_are_no_part_of_them(write, features, labels, drugs, blank, suffix):
    expected = read_dataset(write(suffix))
    drugs.loc[::2, "drug_id"] += blank
    drugs.loc[1::3, "drug_id"] = blank + drugs.loc[1::3, "drug_id"]
    features["sig_id"] += blank
    features["cp_type"] += blank
    features = features.rename(columns={"cp_dose": blank + "cp_dose", "g-1": "g-1" + blank})
    labels = labels.rename(columns={"t_a": f"{blank}t_a{blank}"})
    given = read_dataset(
        write(suffix, train_features=features, train_targets_scored=labels, train_drug=drugs)
    )
    assert given.fingerprint == expected.fingerprint
    assert given.notes["warnings"] == []


def test_composed_and_decomposed_names_are_the_same():
    assert clean("cafe\u0301 ") == "caf\u00e9"


@pytest.mark.parametrize(
    ("other", "shown"),
    [
        ("D1", "'D1' in 1 rows and 'd1' in 3 rows"),
        ("d 1", "'d 1' in 1 rows and 'd1' in 3 rows"),
        ("d\xa01", r"'d1' in 3 rows and 'd\xa01' in 1 rows"),
        ("ｄ１", "'d1' in 3 rows and 'ｄ１' in 1 rows"),  # Full-width letters.
    ],
)
def test_a_drug_that_is_spelled_in_two_ways_is_a_fault(write, drugs, faults, other, shown):
    drugs.loc[1, "drug_id"] = other
    assert faults(write(train_drug=drugs)) == [
        "train_drug.csv: column drug_id: 1 drugs are spelled in several ways, as to case, blanks or .0 "
        f"({shown}), expected one spelling each"
    ]


def test_numbers_as_drugs(write, drugs, faults):
    numbers = [7, *(i % 3 for i in range(1, 12))]
    expected = read_dataset(write(train_drug=drugs.assign(drug_id=numbers)))
    assert set(expected.drug_id) == {"7", "0", "1", "2"}
    path = write() / "train_drug.csv"
    for values in (
        np.array(numbers, float),
        np.array(numbers, "int8"),
    ):  # As after a missing value in pandas.
        path.unlink(missing_ok=True)
        drugs.assign(drug_id=values).to_parquet(path.with_suffix(".parquet"))
        assert read_dataset(path.parent).fingerprint == expected.fingerprint
    path.with_suffix(".parquet").unlink()
    mixed = [f"{value}.0" if i % 2 else str(value) for i, value in enumerate(numbers)]
    assert "3 drugs are spelled in several ways" in faults(write(train_drug=drugs.assign(drug_id=mixed)))[0]


def test_hyphens_and_underscores_tell_drugs_apart(write, drugs):
    drugs["drug_id"] = ["control", *["a-1", "a_1", "a1"] * 3, "a-1", "a_1"]
    assert len(set(read_dataset(write(train_drug=drugs)).drug_id)) == 4


MISSING = ["NA", "n/a", "NaN", "null", "None", "NONE", "<NA>", "-666", " na "]


@pytest.mark.parametrize("value", MISSING)
def test_what_is_written_for_a_missing_name_is_none(write, drugs, features, labels, faults, value):
    assert is_missing(value)
    drugs.loc[[2, 5], "drug_id"] = value
    assert faults(write(train_drug=drugs)) == [
        f"train_drug.csv: column drug_id: 2 missing (row 3, sig_id id_2 {value.strip()!r}; "
        f"row 6, sig_id id_5 {value.strip()!r}), expected a name"
    ]
    features.loc[3, "sig_id"] = labels.loc[3, "sig_id"] = value
    lines = faults(write(train_features=features, train_targets_scored=labels, train_drug=None))
    assert any(f"sig_id: 1 missing (row 4, {value.strip()!r}), expected a name" in line for line in lines)


def test_nulls_of_parquet_are_missing_names(write, drugs, faults):
    drugs["drug_id"] = [None, *range(1, 12)]
    for kind in (object, float, "Int64", "category"):
        table = drugs.assign(drug_id=drugs["drug_id"].astype(kind))
        write(".parquet", train_drug=table)
        assert faults(write(".parquet", train_drug=table)) == [
            "train_drug.parquet: column drug_id: 1 empty (row 1, sig_id id_0), expected a name"
        ]


NEAR = [
    ("cp_type", ["CP_TYPE", "cp-type", "cptype", "cp type", "Cp.Type", "cp_types"]),
    ("cp_time", ["cp_time_h", "cp_time (h)"]),
    ("g-10", ["g_10", "G-10", "g10", "g.10", "G 10", "g\u201110"]),
    ("c-1", ["c_1", "C-1", "C1"]),
    ("sig_id", ["Sig_ID", "sig id", "SIGID", "sig-id"]),
]


@pytest.mark.parametrize(("name", "other"), [(name, other) for name, others in NEAR for other in others])
def test_near_misses_of_the_panel(tmp_path, features, name, other):
    features.rename(columns={name: other}).to_csv(tmp_path / "f.csv", index=False)
    line = (
        f"f.csv: 1 column looks like what is expected under another name ({other!r} for {name}), "
        "expected that very name"
    )
    for spec in (None, read_panel(features)):
        with pytest.raises(InputError) as caught:
            read_features(tmp_path / "f.csv", spec)
        assert str(caught.value) == line


def read_panel(features):
    names = list(features)
    kinds = ([name for name in names if name.startswith(start)] for start in ("g-", "c-", "cp_"))
    return SignatureSpec(*map(tuple, kinds))


def test_half_of_the_genes_under_another_name(write, features, faults):
    assert faults(write(train_features=features.rename(columns={"g-1": "g_1", "g-2": "g_2"}))) == [
        "train_features.csv: 2 columns look like what is expected under another name ('g_1' for g-1, "
        "'g_2' for g-2), expected that very name"
    ]


def test_near_misses_in_the_other_tables(write, labels, drugs, faults):
    lines = faults(
        write(
            train_targets_scored=labels.rename(columns={"sig_id": "SIG_ID"}),
            train_drug=drugs.rename(columns={"drug_id": "Drug ID"}),
        )
    )
    assert [line.partition(", expected")[0] for line in lines] == [
        "train_targets_scored.csv: 1 column looks like what is expected under another name ('SIG_ID' for sig_id)",
        "train_drug.csv: 1 column looks like what is expected under another name ('Drug ID' for drug_id)",
    ]


def test_ordinary_columns_are_no_near_misses():
    others = ["plate", "well", "batch", "cell_line", "cp_cell", "pert_type", "time", "dose", "id", "gene"]
    known = ("sig_id", "cp_type", "cp_time", "cp_dose")
    assert find_near_misses([*others, *known, "g-0"], known, panel=True) == {}


def test_a_table_of_nearly_the_name_is_not_left_out(write, drugs, tmp_path, faults):
    for name in ("train_drug.tsv", "Train-Drug.csv", "train_drug.csv.zip", "train_drug.CSV"):
        drugs.to_csv(write(train_drug=None) / name, index=False)
        assert faults(tmp_path) == [
            f"{tmp_path}: no train_drug, but {name}, expected a file named one of train_drug.csv, "
            "train_drug.csv.gz, train_drug.parquet"
        ]
        (tmp_path / name).unlink()
    (tmp_path / "train_drug.parquet").mkdir()
    assert faults(tmp_path) == ["train_drug.parquet: holds no file, expected Parquet files alone"]


def test_what_is_not_used_is_told_once_a_file(write, features, labels, drugs):
    directory = write(train_features=features.assign(plate=1, well="A1", batch=""), train_drug=drugs)
    expected = [
        "train_features.csv: 3 columns are not used (plate, well, batch)",
    ]
    assert read_dataset(directory).notes["warnings"] == expected
    for read in (read_features, lambda *args, tell: list(iter_features(*args, rows=3, tell=tell))):
        told = []
        read(directory / "train_features.csv", tell=told.append)
        assert told == expected[:1]
        told.clear()
        read(directory / "train_features.csv", SignatureSpec(("g-0",), (), ()), tell=told.append)
        assert told == [
            "train_features.csv: 11 columns are not used (cp_type, cp_time, cp_dose, g-1, g-2, …)"
        ]


def test_reserved_names_of_targets(tmp_path, labels):
    labels.rename(columns={"t_a": " fold"}).to_csv(tmp_path / "t.csv", index=False)
    with pytest.raises(InputError) as caught:
        read_targets(tmp_path / "t.csv")
    assert str(caught.value) == "t.csv: column fold: the name is reserved, expected another name for a target"


def test_ids_seen_before_cost_16_bytes_each_and_are_all_found():
    unique, faults, n, size = UniqueIds(), Faults(), 60_000, 1000
    tracemalloc.start()
    for start in range(0, n, size):
        rows = np.arange(start, start + size)
        frame = pd.DataFrame({"sig_id": np.array([f"signature_{i:08d}" for i in rows], object)})
        unique.read(Chunk("f.csv", frame, rows + 1), faults)
    held, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert not faults
    assert held < 25 * n  # The strings alone are 67 bytes each, and a set of them has 70 more.
    again = pd.DataFrame({"sig_id": ["signature_00000000", "x", "signature_00059999", "x", "y"]})
    unique.read(Chunk("f.csv", again, np.arange(n + 1, n + 6)), faults)
    assert list(faults.lines()) == [
        "f.csv: column sig_id: 3 repeated (row 60001, 'signature_00000000'; row 60003, 'signature_00059999'; "
        "row 60004, 'x'), expected each id once"
    ]
