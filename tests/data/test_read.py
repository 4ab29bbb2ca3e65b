import gzip
import re

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from moa_tf.data import read
from moa_tf.data.read import iter_features, read_dataset, read_features, read_predictions, read_targets
from moa_tf.data.schema import SignatureSpec
from moa_tf.errors import InputError

ROWS = 12


def test_values_types_and_natural_order(write, features):
    dataset = read_dataset(write())
    signatures = dataset.signatures
    assert signatures.spec == SignatureSpec(("g-0", "g-1", "g-2", "g-10"), ("c-0", "c-1"))
    assert signatures.genes.dtype == signatures.cells.dtype == dataset.targets.dtype == np.float32
    np.testing.assert_array_equal(signatures.genes[:, 3], features["g-10"].to_numpy(np.float32))
    np.testing.assert_array_equal(signatures.cells[:, 0], features["c-0"].to_numpy(np.float32))
    assert signatures.cp_type.tolist() == [1] + [0] * (ROWS - 1)
    assert signatures.cp_dose.tolist() == [0, 1] * (ROWS // 2)
    assert signatures.cp_time.tolist() == [24, 48, 72] * (ROWS // 3)
    assert dataset.target_names == ("t_b", "t_a", "t_c")
    assert dataset.targets.sum() == ROWS - 1
    assert not dataset.simulated
    assert dataset.drug_id[0] == "control"


def test_formats_and_orders_give_equal_data(write, tmp_path, features, labels, drugs):
    expected = read_dataset(write())
    for path in tmp_path.glob("*"):
        path.unlink()
    assert read_dataset(write(".csv.gz")).fingerprint == expected.fingerprint
    for path in tmp_path.glob("*"):
        path.unlink()
    # An index that pandas stores, rows of labels and drugs in another order, columns in another order.
    shuffled = features[features.columns[::-1]]
    shuffled.index = np.arange(ROWS) + 5
    permuted = labels.sample(frac=1, random_state=1)
    other = read_dataset(
        write(".parquet", train_features=shuffled, train_targets_scored=permuted, train_drug=drugs[::-1])
    )
    assert other.fingerprint == expected.fingerprint
    np.testing.assert_array_equal(other.targets, expected.targets)
    np.testing.assert_array_equal(other.drug_id, expected.drug_id)


def test_fingerprint_sees_one_value_and_one_name(write, features, labels):
    first = read_dataset(write()).fingerprint
    changed = features.copy()
    changed.loc[3, "g-1"] += 0.001
    assert read_dataset(write(train_features=changed)).fingerprint != first
    renamed = labels.rename(columns={"t_a": "t_x"})
    assert read_dataset(write(train_targets_scored=renamed)).fingerprint != first


def test_panel_without_cells_and_treatment(write, features):
    dataset = read_dataset(write(train_features=features[["sig_id", "g-1", "g-0"]], train_drug=None))
    assert dataset.signatures.spec == SignatureSpec(("g-0", "g-1"), (), ())
    assert dataset.signatures.cells is None
    assert dataset.signatures.cp_type is None
    assert dataset.drug_id is None
    assert not dataset.signatures.control.any()


def test_unknown_columns_are_ignored_and_noted(write, features):
    dataset = read_dataset(write(train_features=features.assign(batch="x", note=1.0)))
    assert dataset.notes["ignored_columns"] == ["batch", "note"]


def test_a_given_panel_is_matched_by_name(write, features):
    path = write(train_features=features[features.columns[::-1]]) / "train_features.csv"
    spec = SignatureSpec(("g-2", "g-0"), (), ("cp_dose",))
    signatures = read_features(path, spec)
    np.testing.assert_array_equal(signatures.genes, features[["g-2", "g-0"]].to_numpy(np.float32))
    assert signatures.cp_time is None
    with pytest.raises(InputError, match=r"train_features.csv: 2 columns missing: g-77, c-9"):
        read_features(path, SignatureSpec(("g-2", "g-77"), ("c-9",)))


def test_ids_that_look_like_numbers_stay_text(write, features, labels):
    ids = ["007", "1e3", "1E3", "True", "inf", *(f"{i}.0" for i in range(ROWS - 5))]
    dataset = read_dataset(
        write(
            train_features=features.assign(sig_id=ids),
            train_targets_scored=labels.assign(sig_id=ids),
            train_drug=None,
        )
    )
    assert dataset.signatures.sig_id.tolist() == ids


CELLS = [
    ("g-1", "abc", r"column g-1: 1 not a number \(row 5, sig_id id_4 'abc'\), expected a finite number"),
    ("g-1", "", r"column g-1: 1 missing or NaN \(row 5"),
    ("g-1", "NA", r"column g-1: 1 missing or NaN \(row 5"),
    ("c-0", "inf", r"column c-0: 1 infinite \(row 5"),
    ("c-0", "1e39", r"column c-0: 1 infinite \(row 5"),
    ("g-2", "True", r"column g-2: 1 not a number \(row 5"),
    (
        "cp_type",
        "trt",
        r"column cp_type: 1 unknown \(row 5, sig_id id_4 'trt'\), expected trt_cp or ctl_vehicle",
    ),
    ("cp_dose", "", r"column cp_dose: 1 missing \(row 5.*expected a dose"),
    ("cp_time", "-24", r"column cp_time: 1 not above 0 \(row 5.*expected hours above 0"),
    ("cp_time", "24 days", r"column cp_time: 1 not a number \(row 5"),
    ("sig_id", "id_2", r"column sig_id: 1 repeated \(row 5, 'id_2'\), expected each id once"),
    ("sig_id", "", r"column sig_id: 1 empty \(row 5\)"),
]


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
@pytest.mark.parametrize(("column", "value", "message"), CELLS)
def test_faulty_cell(write, features, column, value, message, suffix, faults):
    features = features.astype(object)
    features.loc[4, column] = value
    lines = faults(write(suffix, train_features=features.astype(str)))
    assert any(re.search(message, line) for line in lines), lines
    if column != "sig_id":
        assert len(lines) == 1
        assert ("--missing median" in lines[0]) == ("missing or NaN" in message)
        assert lines[0].startswith(f"train_features{suffix}: ")


def test_nulls_and_infinities_in_parquet_numbers(write, features, faults):
    features.loc[[1, 7], "g-0"] = np.nan
    features.loc[2, "c-1"] = -np.inf
    assert faults(write(".parquet", train_features=features)) == [
        "train_features.parquet: column g-0: 2 missing or NaN (row 2, sig_id id_1; row 8, sig_id id_7), "
        "expected a finite number; a model trained with --missing median takes gaps",
        "train_features.parquet: column c-1: 1 infinite (row 3, sig_id id_2), expected a finite number",
    ]


def test_every_fault_of_all_files_in_one_pass(write, features, labels, drugs, faults):
    features = features.astype(object)
    features.loc[2, ["g-0", "g-1", "g-2", "g-10", "c-0", "c-1"]] = "x"
    features.loc[5, "cp_type"] = "dmso"
    labels = labels.astype(object)
    labels.loc[3, "t_a"] = 2
    labels.loc[4, "t_b"] = 0.5
    drugs.loc[6, "drug_id"] = ""
    lines = faults(write(train_features=features, train_targets_scored=labels[:-2], train_drug=drugs))
    text = "\n".join(lines)
    assert (
        "train_features.csv: 6 columns g-0, g-1, g-2, g-10, c-0 and 1 more: 1 each not a number (row 3"
        in text
    )
    assert "train_features.csv: column cp_type: 1 unknown (row 6, sig_id id_5 'dmso')" in text
    assert "train_targets_scored.csv: column t_a: 1 neither 0 nor 1 (row 4, sig_id id_3 '2.0')" in text
    assert "train_targets_scored.csv: column t_b: 1 neither 0 nor 1 (row 5, sig_id id_4 '0.5')" in text
    assert "train_drug.csv: column drug_id: 1 empty (row 7, sig_id id_6)" in text
    assert "train_targets_scored: column sig_id: 2 ids of train_features are missing (id_10, id_11)" in text
    assert len(lines) == 6


def test_ids_that_differ(write, labels, faults):
    ids = labels.sig_id.to_list()
    ids[3] = "other"
    assert faults(write(train_targets_scored=labels.assign(sig_id=ids))) == [
        "train_targets_scored: column sig_id: 1 ids of train_features are missing (id_3), "
        "expected the ids of train_features",
        "train_targets_scored: column sig_id: 1 ids are not in train_features (other), "
        "expected the ids of train_features",
    ]


def test_missing_files_and_two_formats(write, tmp_path, features, faults):
    write(train_targets_scored=None)
    features.to_parquet(tmp_path / "train_features.parquet")
    text = "\n".join(faults(tmp_path))
    assert "both train_features.csv and train_features.parquet" in text
    assert "no train_targets_scored, expected one of train_targets_scored.csv, " in text
    with pytest.raises(InputError, match="no such directory"):
        read_dataset(tmp_path / "nowhere")


def test_missing_columns(write, features, labels, drugs, faults):
    assert faults(write(train_features=features.drop(columns="sig_id"))) == [
        "train_features.csv: column sig_id is missing; the header has 9 cells, taken apart at commas: "
        "'cp_type', 'cp_time', 'cp_dose', 'g-0', 'g-1', …"
    ]
    assert (
        "no expression and no viability" in faults(write(train_features=features[["sig_id", "cp_time"]]))[0]
    )
    assert faults(write(train_features=features, train_targets_scored=labels[["sig_id"]])) == [
        "train_targets_scored.csv: no target columns, expected at least one beside sig_id"
    ]
    renamed = drugs.rename(columns={"drug_id": "drug"})
    assert faults(write(train_targets_scored=labels, train_drug=renamed)) == [
        "train_drug.csv: column drug_id is missing; the header has 2 cells, taken apart at commas: "
        "'sig_id', 'drug'"
    ]


def test_empty_tables(write, features, faults):
    assert "no rows" in faults(write(train_features=features[:0]))[0]
    assert "the file is empty" in faults(write(train_features=b""))[0]


def test_repeated_column_names(write, features, faults):
    features.columns = [*features.columns[:-1], "g-0"]
    assert faults(write(train_features=features)) == [
        "train_features.csv: 1 column names occur more than once (g-0), expected each once"
    ]


def test_truncated_files(write, tmp_path, features, faults):
    text = features.to_csv(index=False).encode()
    cut = text[: text.rindex(b"id_11") + 30]
    assert "1 rows of another length (row 12, " in faults(write(train_features=cut))[0]
    (tmp_path / "train_features.csv").unlink()
    big = pd.concat([features.assign(sig_id=[f"{k}_{i}" for i in range(ROWS)]) for k in range(300)])
    packed = gzip.compress(big.to_csv(index=False).encode())
    (tmp_path / "train_features.csv.gz").write_bytes(packed[: len(packed) // 2])
    assert any("is it truncated?" in line for line in faults(tmp_path))
    (tmp_path / "train_features.csv.gz").unlink()
    features.to_parquet(tmp_path / "train_features.parquet")
    whole = (tmp_path / "train_features.parquet").read_bytes()
    (tmp_path / "train_features.parquet").write_bytes(whole[:-20])
    assert "not a readable parquet file" in faults(tmp_path)[0]


def test_rows_longer_than_the_header(write, features, faults):
    lines = features.to_csv(index=False).splitlines()
    lines[3] += ",1.0,2.0"
    text = "\n".join(faults(write(train_features="\n".join(lines).encode())))
    assert "1 rows of another length (row 3, 12 cells), expected 10, as the header has" in text
    first = [lines[0], *(line + ",1" for line in features.to_csv(index=False).splitlines()[1:])]
    text = "\n".join(faults(write(train_features="\n".join(first).encode())))
    assert text == (
        "train_features.csv: column (all): 12 rows of another length (row 1, 11 cells; row 2, 11 cells; "
        "row 3, 11 cells; …), expected 10, as the header has"
    )


def test_wrong_encoding(write, features, faults):
    text = features.to_csv(index=False)
    assert faults(write(train_features=text.encode("utf-16"))) == [
        "train_features.csv: is UTF-16 text, expected CSV text in UTF-8, gzipped or not, or Parquet"
    ]
    latin = text.replace("id_4", "id_ä").encode("latin-1")
    assert "column sig_id: 1 not UTF-8 text (row 5" in faults(write(train_features=latin))[0]
    with_mark = read_dataset(write(train_features=b"\xef\xbb\xbf" + text.encode()))
    assert with_mark.signatures.sig_id[4] == "id_4"


def test_warnings(write, labels):
    labels.loc[0, "t_c"] = 1
    labels.loc[1:, ["t_a", "t_b", "t_c"]] = [1, 0, 0]
    labels.loc[8, "t_b"] = 1
    assert read_dataset(write(train_targets_scored=labels)).notes["warnings"] == [
        "1 drugs have rows with different labels (d2), expected the same in all",
        "1 controls have a label (id_0), expected none",
        "1 of 3 targets have no positive in a treated row (t_c): nothing can be learnt of them",
    ]


def test_nonscored_targets(write, labels, faults):
    dataset = read_dataset(
        write(train_targets_nonscored=labels.rename(columns=lambda n: n.replace("t_", "u_")))
    )
    assert dataset.nonscored_names == ("u_b", "u_a", "u_c")
    np.testing.assert_array_equal(dataset.nonscored, dataset.targets)
    assert (
        "3 columns are scored targets too (t_a, t_b, t_c)" in faults(write(train_targets_nonscored=labels))[0]
    )


@pytest.mark.parametrize("suffix", [".csv", ".csv.gz", ".parquet"])
def test_chunks_join_to_the_whole(write, features, suffix):
    path = write(suffix) / f"train_features{suffix}"
    whole, chunks = read_features(path), list(iter_features(path, rows=5))
    assert [len(chunk) for chunk in chunks] == [5, 5, 2]
    for name in ("sig_id", "genes", "cells", "cp_type", "cp_time", "cp_dose"):
        np.testing.assert_array_equal(
            np.concatenate([getattr(c, name) for c in chunks]), getattr(whole, name)
        )


def test_faults_in_chunks_have_the_files_rows(write, features):
    features = features.astype(object)
    features.loc[7, "g-1"] = "x"
    features.loc[11, "sig_id"] = "id_1"
    seen = []
    with pytest.raises(InputError) as caught:
        seen.extend(iter_features(write(train_features=features) / "train_features.csv", rows=3))
    assert sum(map(len, seen)) == 6
    assert "g-1: 1 not a number (row 8, sig_id id_7 'x')" in str(caught.value)
    assert "sig_id: 1 repeated (row 12, 'id_1')" in str(caught.value)


def test_row_numbers_after_a_row_that_is_too_long(write, features):
    lines = features.to_csv(index=False).splitlines()
    lines[2] += ",1.0"
    lines[9] = lines[9].replace("trt_cp", "trt")
    with pytest.raises(InputError) as caught:
        list(iter_features(write(train_features="\n".join(lines).encode()) / "train_features.csv", rows=6))
    assert "(row 2, 11 cells)" in str(caught.value)
    assert "(row 9, sig_id id_8 'trt')" in str(caught.value)


def test_targets_and_predictions(tmp_path, labels):
    labels.to_csv(tmp_path / "t.csv", index=False)
    targets = read_targets(tmp_path / "t.csv")
    np.testing.assert_array_equal(targets.at(np.array(["id_5", "id_1"], object)), labels.iloc[[5, 1], 1:])
    labels.assign(t_a=0.25).to_csv(tmp_path / "p.csv", index=False)
    assert read_predictions(tmp_path / "p.csv").values[:, 1].tolist() == [0.25] * ROWS
    labels.assign(t_a=1.5).to_csv(tmp_path / "p.csv", index=False)
    with pytest.raises(InputError, match=r"column t_a: 12 outside \[0, 1\]"):
        read_predictions(tmp_path / "p.csv")
    with pytest.raises(InputError, match=r"expected a file that ends in \.csv, \.csv\.gz, \.parquet"):
        read_targets(tmp_path / "t.txt")
    with pytest.raises(InputError, match="no such file"):
        read_targets(tmp_path / "none.csv")


def test_labels_of_other_types_in_parquet(tmp_path):
    table = pa.table({"sig_id": pa.array([1, 2]), "a": pa.array([True, False]), "b": pa.array([0.0, 1.0])})
    pq.write_table(table, tmp_path / "t.parquet")
    targets = read_targets(tmp_path / "t.parquet")
    assert targets.sig_id.tolist() == ["1", "2"]
    assert targets.values.tolist() == [[1, 0], [0, 1]]


def test_marker_of_simulated_data(write, tmp_path):
    write()
    (tmp_path / read.MARKER).write_text("{}")
    assert read_dataset(tmp_path).simulated
