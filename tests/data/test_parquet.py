from decimal import Decimal

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from moa_tf.data.read import read_features, read_targets
from moa_tf.errors import InputError


@pytest.fixture
def read(tmp_path, features):
    """Reads `features` from Parquet, with some columns of other types."""

    def read(columns):
        table = pa.Table.from_pandas(features)
        for name, values in columns.items():
            table = table.set_column(table.schema.names.index(name), name, values)
        pq.write_table(table, tmp_path / "f.parquet")
        return read_features(tmp_path / "f.parquet")

    return read


TEXTS = [
    pa.binary(),
    pa.large_binary(),
    pa.large_string(),
    pa.dictionary(pa.int8(), pa.string()),
    pa.dictionary(pa.int32(), pa.binary()),
]


@pytest.mark.parametrize("kind", TEXTS, ids=str)
def test_bytes_and_dictionaries_are_text(read, features, kind):
    names = ["é", *features["sig_id"][1:]]
    columns = {"sig_id": pa.array(names), "cp_type": pa.array(features["cp_type"].tolist())}
    columns["cp_dose"] = pa.array(features["cp_dose"].tolist())
    signatures = read({name: as_type(values, kind) for name, values in columns.items()})
    assert signatures.sig_id.tolist() == names
    assert signatures.control.tolist() == [True] + [False] * 11
    assert signatures.cp_dose.tolist() == [0, 1] * 6


def as_type(values, kind):
    if pa.types.is_dictionary(kind):
        return values.cast(kind.value_type).dictionary_encode().cast(kind)
    return values.cast(kind)


def test_bytes_of_a_fixed_size(read):
    names = [b"ab\0\0", *(b"%04d" % i for i in range(1, 12))]
    assert read({"sig_id": pa.array(names, pa.binary(4))}).sig_id.tolist() == [
        "ab",
        *(f"{i:04d}" for i in range(1, 12)),
    ]


def test_bytes_that_are_no_text(read):
    names = pa.array([b"id_0", b"id_\xff", *(b"%d" % i for i in range(10))])
    unchecked = pa.Array.from_buffers(pa.string(), 12, names.buffers())
    for column in (names, unchecked, names.dictionary_encode()):
        with pytest.raises(InputError) as caught:
            read({"sig_id": column})
        assert str(caught.value) == (
            "f.parquet: column sig_id: 1 not UTF-8 text (row 2, 'id_\ufffd'), expected UTF-8"
        )


def test_numbers_as_ids_have_no_point(read):
    expected = [str(i) for i in range(12)]
    for values in (
        np.arange(12),
        np.arange(12.0),
        np.arange(12, dtype="f4"),
        [Decimal(i) for i in range(12)],
    ):
        assert read({"sig_id": pa.array(values)}).sig_id.tolist() == expected
    assert read({"sig_id": pa.array(np.arange(12) + 0.5)}).sig_id[3] == "3.5"
    large = 2.0**53 + 2 * np.arange(12)  # Up to 2^53 a float64 holds each whole number, beyond it does not.
    assert read({"sig_id": pa.array(large)}).sig_id[:2].tolist() == ["9007199254740992", "9007199254740994.0"]


def test_numbers_of_other_types(read):
    values = np.arange(12) / 2
    texts = [str(value) for value in values]
    for column in (
        pa.array(texts),
        pa.array([text.encode() for text in texts]),
        pa.array(texts).dictionary_encode(),
        pa.array(values).dictionary_encode(),
        pa.array([Decimal(text) for text in texts]),
        pa.array(values.astype("f2")),
    ):
        np.testing.assert_array_equal(read({"g-1": column}).genes[:, 1], values)


@pytest.mark.parametrize(
    ("column", "kind"),
    [
        (pa.array([[1.0]] * 12), "list"),
        (pa.array([{"a": 1}] * 12), "struct"),
        (pa.array([0] * 12).cast(pa.timestamp("us")), "timestamp[us]"),
        (pa.array([0] * 12, pa.int32()).cast(pa.date32()), "date32[day]"),
    ],
)
def test_types_that_are_neither_text_nor_numbers(read, column, kind):
    for name in ("g-1", "sig_id"):
        with pytest.raises(InputError) as caught:
            read({name: column})
        start, _, expected = str(caught.value).partition(", expected ")
        assert start.startswith(f"f.parquet: column {name} of type {kind}")
        assert expected == "text or numbers"
    with pytest.raises(InputError) as caught:
        read(dict.fromkeys(("g-0", "g-1", "g-2"), column))
    assert "3 columns of type" in str(caught.value)
    assert "(g-0, g-1, g-2), expected text or numbers" in str(caught.value)


def test_truth_values_are_no_names_and_no_expression(read):
    truth = pa.array([True, False] * 6)
    for name, words in (("sig_id", "sig_id of type bool, expected text"), ("g-1", "g-1: 12 not a number")):
        with pytest.raises(InputError, match=words):
            read({name: truth})


COLUMNS = {
    "truth values": pa.array([True, None, *[False, True] * 199]),
    "integers": pa.array([1, None, *[0, 1] * 199]),
    "floats": pa.array([1.0, None, *[0.0, 1.0] * 199]),
    "text": pa.array(["1", None, *["0", "1"] * 199]),
    "words": pa.array(["True", None, *["false", "TRUE"] * 199]),
    "dictionary": pa.array(["1", None, *["0", "1"] * 199]).dictionary_encode(),
}


@pytest.mark.parametrize("column", COLUMNS.values(), ids=COLUMNS)
def test_a_null_among_good_labels_is_the_only_one_at_fault(tmp_path, column):
    table = pa.table({"sig_id": [f"i{k}" for k in range(400)], "t": column, "u": [0] * 400})
    pq.write_table(table, tmp_path / "t.parquet")
    frame = table.to_pandas()
    frame.to_csv(tmp_path / "t.csv", index=False)
    frame[["sig_id", "u", "t"]].to_csv(tmp_path / "last.csv", index=False)
    for name in ("t.parquet", "t.csv", "last.csv"):
        with pytest.raises(InputError) as caught:
            read_targets(tmp_path / name)
        line = str(caught.value)
        assert line.startswith(f"{name}: column t: 1 missing or NaN (row 2, sig_id i1")
        assert line.endswith("), expected 0 or 1")
    pq.write_table(table.filter(pa.array([k != 1 for k in range(400)])), tmp_path / "t.parquet")
    assert read_targets(tmp_path / "t.parquet").values[:, 0].tolist() == [1, *[0, 1] * 199]


@pytest.mark.parametrize(
    ("bad", "what"), [("x", "not a number"), ("2", "neither 0 nor 1"), ("inf", "infinite")]
)
def test_one_bad_label_among_texts(tmp_path, bad, what):
    frame = pd.DataFrame({"sig_id": ["a", "b", "c"], "t": ["0", bad, "True"]})
    frame.to_parquet(tmp_path / "t.parquet")
    with pytest.raises(InputError, match=rf"^t.parquet: column t: 1 {what} \(row 2, sig_id b '{bad}"):
        read_targets(tmp_path / "t.parquet")
