"""A directory of Parquet files, as Spark and Dask write it, is one table."""

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from moa_tf.data.check import check
from moa_tf.data.read import iter_features, read_dataset, read_features, read_targets
from moa_tf.errors import InputError


@pytest.fixture
def split(tmp_path):
    """Writes a table as parts of one row each, with what Spark leaves beside them."""

    def split(frame, stem="train_features", **options):
        directory = tmp_path / f"{stem}.parquet"
        directory.mkdir()
        for i in range(len(frame)):
            frame.iloc[i : i + 1].to_parquet(directory / f"part-{i}.parquet", **options)
        for name in ("_SUCCESS", "_metadata", ".part-0.parquet.crc"):
            (directory / name).write_bytes(b"crc")
        return directory

    return split


def message(directory):
    with pytest.raises(InputError) as error:
        read_features(directory)
    return str(error.value)


def test_every_table_in_parts_is_as_in_one_file(features, labels, drugs, split, write, tmp_path):
    whole = tmp_path / "whole"
    whole.mkdir()
    tables = {"train_features": features, "train_targets_scored": labels, "train_drug": drugs}
    for stem, frame in tables.items():
        frame.to_parquet(whole / f"{stem}.parquet")
        split(frame, stem)
    features.to_csv(whole / "test_features.csv", index=False)
    split(features, "test_features")
    expected, read = read_dataset(whole), read_dataset(tmp_path)
    assert read.signatures.sig_id.tolist() == [f"id_{i}" for i in range(12)]  # part-2 before part-10.
    assert read.fingerprint == expected.fingerprint
    figures = check(tmp_path)
    assert figures["test"] == check(whole)["test"]
    assert figures["warnings"] == check(whole)["warnings"]


def test_columns_in_another_order_and_of_other_types(features, split):
    features["g-0"] = np.arange(12)
    expected = read_features(split(features, "expected"))
    directory = split(features)
    part = features.iloc[3:4].astype({"g-0": float, "g-1": object, "cp_time": float})
    part[part.columns[::-1]].to_parquet(directory / "part-3.parquet")
    texts = features.iloc[4:5].astype({"g-0": str, "sig_id": "category", "cp_type": "category"})
    texts.to_parquet(directory / "part-4.parquet")
    read = read_features(directory)
    assert read.sig_id.tolist() == expected.sig_id.tolist()
    for name, values in expected.inputs().items():
        np.testing.assert_array_equal(read.inputs()[name], values)


def test_an_index_that_pandas_or_dask_wrote_in_some_parts_is_no_column(labels, split):
    directory = split(labels, index=False)
    labels[7:8].set_index(pd.Index([7])).to_parquet(directory / "part-7.parquet", index=True)
    labels[8:9].assign(__null_dask_index__=8).to_parquet(directory / "part-8.parquet", index=False)
    targets = read_targets(directory)
    assert targets.names == ("t_b", "t_a", "t_c")
    np.testing.assert_array_equal(targets.values, labels.iloc[:, 1:])


def test_rows_are_numbered_over_all_parts(features, split):
    features.loc[[6, 10], "g-0"] = np.inf
    directory = split(features)
    features.iloc[:0].to_parquet(directory / "part-3b.parquet")
    features.iloc[2:3].to_parquet(directory / "part-12.parquet")
    assert message(directory).splitlines() == [
        "train_features.parquet: column g-0: 2 infinite (row 7, sig_id id_6; row 11, sig_id id_10), "
        "expected a finite number",
        "train_features.parquet: column sig_id: 1 repeated (row 13, 'id_2'), expected each id once",
    ]


def test_chunks_are_read_one_by_one(features, split):
    directory = split(features)
    chunks = iter_features(directory, rows=5)
    assert next(chunks).sig_id.tolist() == ["id_0"]
    (directory / "part-1.parquet").unlink()
    with pytest.raises(InputError) as error:
        list(chunks)
    assert str(error.value).startswith("train_features.parquet: cannot be read after row 1: part-1.parquet: ")


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda d: (d / "notes.txt").touch(), ": holds notes.txt, expected Parquet files alone"),
        (lambda d: (d / "cp_time=24").mkdir(), ": holds cp_time=24, expected Parquet files alone"),
        (lambda d: (d / "x.parquet").mkdir(), ": holds x.parquet, expected Parquet files alone"),
        (
            lambda d: [p.unlink() for p in d.glob("part-*")],
            ": holds no file, expected Parquet files alone",
        ),
        (
            lambda d: pd.read_parquet(d / "part-4.parquet").to_csv(d / "part-4.parquet"),
            "/part-4.parquet: is CSV text, expected Parquet, as its name says",
        ),
        (
            lambda d: (d / "part-4.parquet").write_bytes(b""),
            "/part-4.parquet: is empty, expected Parquet, as its name says",
        ),
        (
            lambda d: (d / "part-4.parquet").write_bytes((d / "part-4.parquet").read_bytes()[:-20]),
            "/part-4.parquet: not a readable parquet file: ",
        ),
        (
            lambda d: (
                pd.read_parquet(d / "part-4.parquet")
                .rename(columns={"g-1": "g-3"})
                .drop(columns="c-0")
                .to_parquet(d / "part-4.parquet")
            ),
            "/part-4.parquet: lacks columns (2: c-0, g-1) and has further columns (1: g-3), expected those of "
            "part-0.parquet",
        ),
        (
            lambda d: pq.write_table(
                pa.table(pd.read_parquet(d / "part-4.parquet").assign(**{"g-1": [[1.0]]})),
                d / "part-4.parquet",
            ),
            "/part-4.parquet: column g-1 of type list<",
        ),
    ],
)
def test_directories_that_are_no_table(features, split, change, expected):
    directory = split(features)
    change(directory)
    line = message(directory)
    assert line.startswith(f"train_features.parquet{expected}")
    assert "\n" not in line


def test_parts_without_a_row(features, split):
    directory = split(features)
    for file in directory.glob("part-*"):
        features.iloc[:0].to_parquet(file)
    assert message(directory) == "train_features.parquet: the table has no rows, expected at least one"


def test_faults_of_a_directory_stand_beside_those_of_other_tables(features, labels, drugs, split, tmp_path):
    (split(features) / "notes.txt").touch()
    labels.assign(t_a=2).to_csv(tmp_path / "train_targets_scored.csv", index=False)
    pieces = split(drugs, "train_drug")
    drugs[:1].assign(drug_id=None).to_parquet(pieces / "part-0.parquet")
    with pytest.raises(InputError) as error:
        read_dataset(tmp_path)
    lines = str(error.value).splitlines()
    assert len(lines) == 3
    assert lines[0].startswith("train_targets_scored.csv: column t_a: 12 ")
    assert lines[1].startswith("train_drug.parquet: column drug_id: 1 ")
    assert lines[2].startswith("train_features.parquet: holds notes.txt")


def test_only_parquet_comes_in_directories(features, split, tmp_path):
    split(features).rename(tmp_path / "train_features.csv")
    with pytest.raises(InputError, match=r"no train_features, but train_features\.csv, expected"):
        read_dataset(tmp_path)
    assert "is no file, expected one, or a directory of Parquet files" in message(
        tmp_path / "train_features.csv"
    )
    features.to_csv(tmp_path / "train_features.csv.gz", index=False)
    (tmp_path / "train_features.csv").rename(tmp_path / "train_features.parquet")
    with pytest.raises(
        InputError, match=r"both train_features\.csv\.gz and train_features\.parquet are there"
    ):
        read_dataset(tmp_path)
