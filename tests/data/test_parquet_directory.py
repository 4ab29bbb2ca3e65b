"""A directory of Parquet files, as Spark and Dask write it, is one table."""

import numpy as np
import pandas as pd
import pytest

from moa_tf.data.read import fingerprint, read_dataset, read_features
from moa_tf.errors import InputError


@pytest.fixture
def frame():
    rng = np.random.default_rng(0)
    frame = pd.DataFrame(rng.normal(size=(12, 3)).astype("float32"), columns=["g-0", "g-1", "c-0"])
    frame.insert(0, "sig_id", [f"s{i}" for i in range(12)])
    return frame


@pytest.fixture
def parts(frame, tmp_path):
    """Twelve parts of a row each: the natural order is not that of the alphabet."""
    directory = tmp_path / "train_features.parquet"
    directory.mkdir()
    for i in range(12):
        part = frame.iloc[i : i + 1]
        # Another order of the columns, and another type.
        part = part[["c-0", "g-1", "sig_id", "g-0"]].astype({"g-0": "float64"}) if i == 3 else part
        part.to_parquet(directory / f"part-{i}.parquet", index=False)
    frame.iloc[:0].to_parquet(directory / "part-12.parquet", index=False)
    (directory / "_SUCCESS").touch()
    (directory / ".part-0.parquet.crc").write_bytes(b"crc")
    return directory


def test_parts_in_their_order_are_the_whole_table(frame, parts, tmp_path):
    labels = pd.DataFrame({"sig_id": frame.sig_id, "t": np.arange(12) % 2})
    labels.to_csv(tmp_path / "train_targets_scored.csv", index=False)
    dataset = read_dataset(tmp_path)
    assert dataset.signatures.sig_id.tolist() == frame.sig_id.tolist()
    np.testing.assert_array_equal(dataset.signatures.genes, frame[["g-0", "g-1"]])
    other = tmp_path / "other"
    other.mkdir()
    labels.to_csv(other / "train_targets_scored.csv", index=False)
    frame.to_csv(other / "train_features.csv", index=False)
    assert fingerprint(read_dataset(other)) == dataset.fingerprint


def test_faults_name_the_part_and_its_row(frame, parts):
    bad = frame.iloc[5:7].copy()
    bad.iloc[1, 1] = np.nan
    bad.to_parquet(parts / "part-5.parquet", index=False)
    frame.iloc[2:3].to_parquet(parts / "part-6.parquet", index=False)
    with pytest.raises(InputError) as error:
        read_features(parts)
    assert str(error.value).splitlines() == [
        "train_features.parquet/part-5.parquet: column g-0: 1 missing or NaN (row 2, sig_id s6), "
        "expected a finite number; a model trained with --missing median takes gaps",
        "train_features.parquet/part-6.parquet: column sig_id: 1 repeated (row 1, 's2'), expected each id once",
    ]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: (d / "notes.txt").write_text("x"), "holds notes.txt, expected Parquet files alone"),
        (lambda d: [file.unlink() for file in d.iterdir()], "holds no file, expected Parquet files alone"),
        (
            lambda d: pd.DataFrame({"sig_id": ["x"], "g-0": [1.0], "g-9": [1.0]}).to_parquet(
                d / "part-2.parquet"
            ),
            "part-2.parquet: lacks c-0, g-1 and has g-9 too, expected the columns of "
            "train_features.parquet/part-0.parquet",
        ),
        (
            lambda d: (d / "part-4.parquet").write_bytes((d / "part-4.parquet").read_bytes()[:-20]),
            "train_features.parquet/part-4.parquet: ",
        ),
    ],
)
def test_directories_that_are_no_table(parts, change, message):
    change(parts)
    with pytest.raises(InputError) as error:
        read_features(parts)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_parts_without_a_row(frame, parts):
    for file in parts.glob("part-*"):
        frame.iloc[:0].to_parquet(file, index=False)
    with pytest.raises(InputError, match=r"train_features\.parquet: the table has no rows"):
        read_features(parts)
