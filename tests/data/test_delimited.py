import gzip
import io
import zipfile

import numpy as np
import pandas as pd
import pytest

from moa_tf.data.read import iter_features, read_dataset, read_features, read_targets
from moa_tf.errors import InputError


@pytest.fixture
def read(tmp_path, features):
    """Reads bytes as a features table; gives what was told, and checks that the values are those of `features`."""

    def read(data, name="f.csv", expected=features):
        (tmp_path / name).write_bytes(data)
        told = []
        signatures = read_features(tmp_path / name, tell=told.append)
        assert signatures.sig_id.tolist() == expected.sig_id.tolist()
        for genes in (
            signatures.genes,
            np.concatenate([c.genes for c in iter_features(tmp_path / name, rows=5)]),
        ):
            np.testing.assert_array_equal(genes, expected[["g-0", "g-1", "g-2", "g-10"]].to_numpy(np.float32))
        return told

    return read


@pytest.fixture
def refuse(tmp_path):
    """The lines of the error that reading bytes raises."""

    def refuse(data, name="f.csv", read=read_features, **options):
        (tmp_path / name).write_bytes(data)
        with pytest.raises(InputError) as caught:
            list(read(tmp_path / name, **options))
        return str(caught.value).splitlines()

    return refuse


def text(frame, **options):
    return frame.to_csv(index=False, **options).encode()


@pytest.mark.parametrize(("separator", "name"), [(";", "semicolons"), ("\t", "tabs"), ("|", "vertical bars")])
def test_other_separators_are_read_and_told(read, features, separator, name):
    assert read(text(features, sep=separator)) == [f"f.csv: read with {name} between cells"]
    told = [f"f.csv: read with {name} between cells, and commas for decimal points"]
    assert read(text(features, sep=separator, decimal=",")) == told
    assert read(gzip.compress(text(features, sep=separator, decimal=",")), "f.csv.gz")[0][9:] == told[0][6:]


def test_lines_before_the_header(read, features):
    assert read(b"sep=,\r\n" + text(features)) == []
    for first in (b"sep=;\n", b'\xef\xbb\xbf"sep=;"\r\n'):
        assert read(first + text(features, sep=";")) == ["f.csv: read with semicolons between cells"]
    assert read(b"# made by hand\n\n#, on a Monday\n" + text(features)) == [
        "f.csv: without 2 lines that start with # before the header"
    ]


def test_with_decimal_commas_a_point_is_certain_to_be_nothing(refuse, features):
    data = text(features.assign(**{"g-0": np.arange(12) + 0.5}), sep=";", decimal=",")
    data = data.replace(b"3,5", b"3.500").replace(b"7,5", b"1.007,5")
    assert refuse(data) == [
        "f.csv: column g-0: 2 not a number (row 4, sig_id id_3 '3.500'; row 8, sig_id id_7 '1.007,5'), "
        "expected a finite number"
    ]


def test_a_header_that_is_not_understood_is_shown(refuse, features):
    data = text(features[["sig_id", "g-0", "g-1"]])
    assert refuse(data.replace(b",", b":")) == [
        "f.csv: column sig_id is missing; the header has 1 cells, taken apart at commas: 'sig_id:g-0:g-1'"
    ]
    assert refuse(data.replace(b"sig_id", b"id").replace(b",", b";")) == [
        "f.csv: column sig_id is missing; the header has 3 cells, taken apart at semicolons: 'id', 'g-0', 'g-1'"
    ]
    row = data.splitlines()[1].decode().split(",")
    assert refuse(b"#" + data) == [
        "f.csv: column sig_id is missing; the header after 1 line that starts with # has 3 cells, taken apart "
        f"at commas: 'id_0', {row[1]!r}, {row[2]!r}"
    ]
    assert refuse(b"sep=|\n" + data, read=read_targets) == [
        "f.csv: column sig_id is missing; the header has 1 cells, taken apart at vertical bars: 'sig_id,g-0,g-1'"
    ]


def test_the_bytes_say_what_a_file_is(read, features):
    packed, parquet = io.BytesIO(), io.BytesIO()
    features.to_parquet(parquet)
    packed.write(gzip.compress(text(features)))
    for data in (text(features), packed.getvalue(), parquet.getvalue()):
        for name in ("f.csv", "f.csv.gz", "f.parquet"):
            assert read(data, name) == []


def zipped(name, data):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr(name, data)
    return file.getvalue()


@pytest.mark.parametrize(
    ("change", "what"),
    [
        (lambda data: zipped("f.csv", data), "a zip archive, to be unpacked first"),
        (lambda data: zipped("xl/workbook.xml", data), "an Excel workbook"),
        (lambda data: data.decode().encode("utf-16"), "UTF-16 text"),
        (lambda data: data.decode().encode("utf-16-le"), "UTF-16 text"),
        (lambda data: data.decode().encode("utf-16-be"), "UTF-16 text"),
        (lambda data: data.decode().encode("utf-32"), "UTF-32 text"),
        (lambda data: gzip.compress(zipped("f.csv", data)), "a gzip file that holds a zip archive"),
        (lambda data: gzip.compress(gzip.compress(data)), "a gzip file that holds a gzip file"),
        (lambda data: b"\x89HDF\r\n\x1a\n" + data, "an HDF5 file"),
        (lambda data: b"<!DOCTYPE html>" + data, "HTML or XML"),
        (
            lambda data: b"version https://git-lfs.github.com/spec/v1\n",
            "a Git LFS pointer, not the file itself",
        ),
        (lambda data: b"#1.3\n978\t100\t0\t0\n", "a GCT file"),
        (lambda data: b"BZh9" + data, "a bzip2 file"),
    ],
)
@pytest.mark.parametrize("name", ["f.csv", "f.csv.gz", "f.parquet"])
def test_other_containers_are_named(refuse, features, change, what, name):
    expected = "expected CSV text in UTF-8, gzipped or not, or Parquet"
    assert refuse(change(text(features)), name) == [f"{name}: is {what}, {expected}"]


@pytest.mark.parametrize("rows", [1, 4, 100])
@pytest.mark.parametrize("length", [2, 3, 5, 6])
@pytest.mark.parametrize("at", [1, 2, 5, 8, 9])
def test_a_row_of_another_length_is_found_wherever_it_stands(refuse, at, length, rows):
    lines = ["sig_id,g-0,g-1,c-0", *(f"i{row},{row},.5,1" for row in range(1, 10))]
    lines[at] = ",".join([f"i{at}", "1", "2", "3", "4", "5"][:length])
    assert refuse("\n".join(lines).encode(), read=iter_features, rows=rows) == [
        f"f.csv: column (all): 1 rows of another length (row {at}, {length} cells), expected 4, as the header has"
    ]


def test_quotes_and_blank_lines_do_not_hide_lengths(refuse):
    lines = ["sig_id,note,g-0", '"a,b",x,1', "", '"c\nd",x,2', "  ", 'e,"x,y"', '"f,g",x,4,5', 'h,"x""y",x']
    assert refuse("\n".join(lines).encode()) == [
        "f.csv: column (all): 2 rows of another length (row 3, 2 cells; row 4, 4 cells), "
        "expected 3, as the header has",
        "f.csv: column g-0: 1 not a number (row 5, sig_id h 'x'), expected a finite number",
    ]


def test_all_rows_of_another_length(refuse, features):
    data = text(features).splitlines()
    for change, length in ((lambda line: line + b",", 11), (lambda line: line.rpartition(b",")[0], 9)):
        shown = "; ".join(f"row {row}, {length} cells" for row in (1, 2, 3))
        assert refuse(b"\n".join([data[0], *map(change, data[1:])])) == [
            f"f.csv: column (all): 12 rows of another length ({shown}; …), expected 10, as the header has"
        ]


@pytest.mark.parametrize("ids", [range(5), range(1, 6), "abcde"])
def test_columns_do_not_shift_to_an_index(refuse, ids):
    lines = ["sig_id,g-0,g-1", *(f"{i},{name},.5,{i}.25" for i, name in enumerate(ids))]
    assert refuse("\n".join(lines).encode()) == [
        "f.csv: column (all): 5 rows of another length (row 1, 4 cells; row 2, 4 cells; row 3, 4 cells; …), "
        "expected 3, as the header has"
    ]


def test_last_column_of_text_with_empty_cells(read, features):
    read(text(features.assign(note=["", "x", *[""] * 10])))


def test_an_index_that_pandas_wrote_is_not_used_and_told(read, write, features):
    told = ["f.csv: 1 column is not used (no. 1 without a name)"]
    assert read(features.to_csv().encode()) == told
    assert read(features.reset_index(names="Unnamed: 0").to_csv(index=False).encode()) == told
    assert read(features.reset_index(names="Unnamed: 0").to_csv().encode()) == [
        "f.csv: 2 columns are not used (no. 1 without a name, no. 2 without a name)"
    ]
    stored = io.BytesIO()
    features.set_index((features.index.to_numpy() - 5) ** 2).to_parquet(stored)
    assert read(stored.getvalue(), "f.parquet") == ["f.parquet: 1 column is not used (__index_level_0__)"]


@pytest.mark.parametrize("name", ["", "  ", "Unnamed: 5"])
@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_a_column_without_a_name_that_holds_data_is_a_fault(write, features, labels, faults, name, suffix):
    features = features.rename(columns={"g-1": name})
    labels = labels.rename(columns={"t_a": name})
    lines = faults(write(suffix, train_features=features, train_targets_scored=labels))
    assert [line.partition(" (row 1, ")[0] for line in lines] == [
        f"train_features{suffix}: column no. 6 without a name: 12 cells with data",
        f"train_targets_scored{suffix}: column no. 3 without a name: 12 cells with data",
    ]
    assert all(
        line.endswith("expected a name in the header (or, in front, a row index from 0)") for line in lines
    )


def test_an_index_is_one_to_the_last_row(refuse, features):
    data = features.to_csv().replace("\n8,", "\n80,").encode()
    assert refuse(data, read=iter_features, rows=5) == [
        "f.csv: column no. 1 without a name: 12 cells with data (row 1, '0'; row 2, '1'; row 3, '2'; …), "
        "expected a name in the header (or, in front, a row index from 0)"
    ]


def test_an_empty_column_without_a_name_is_not_used(read, features):
    lines = [line + b"," for line in text(features).splitlines()]
    assert read(b"\n".join(lines)) == ["f.csv: 1 column is not used (no. 11 without a name)"]


def test_names_are_compared_after_trimming(refuse, features):
    assert refuse(text(features.rename(columns={"g-1": "g-0 "}))) == [
        "f.csv: 1 column names occur more than once (g-0), expected each once"
    ]


def test_a_table_in_other_hands_has_the_same_fingerprint(write, features, labels, drugs):
    expected = read_dataset(write()).fingerprint
    european = {"sep": ";", "decimal": ","}
    directory = write(
        train_features=text(features, **european),
        train_targets_scored=text(labels, **european),
        train_drug=gzip.compress(text(drugs, sep="\t")),
    )
    dataset = read_dataset(directory)
    assert dataset.fingerprint == expected
    assert dataset.notes["warnings"] == [
        "train_features.csv: read with semicolons between cells, and commas for decimal points",
        "train_targets_scored.csv: read with semicolons between cells",
        "train_drug.csv: read with tabs between cells",
    ]


def test_a_fault_is_one_line_whatever_the_cells(refuse):
    frame = pd.DataFrame({"sig_id": ["a\nb"], "g-1\n": ["1\n2"], "g-\n2": [""], "g-2": "1"})
    assert refuse(text(frame)) == [
        "f.csv: column g-1: 1 not a number (row 1, sig_id a\\nb '1\\n2'), expected a finite number",
        "f.csv: column g-\\n2: 1 missing or NaN (row 1, sig_id a\\nb ''), expected a finite number; a model trained "
        "with --missing median takes gaps",
    ]
