import gzip
from functools import partial

import h5py
import numpy as np
import pandas as pd
import pytest

from moa_tf.data.conversion.convert import Options, convert


def features(out, table="test_features"):
    return pd.read_parquet(out / f"{table}.parquet")


@pytest.fixture
def check_values(plate):
    return partial(compare, plate.signatures)


def compare(sig_id, table, columns, values):
    assert table["sig_id"].tolist() == sig_id
    assert [name for name in table if name.startswith("g-")] == list(columns)
    read = table[list(columns)].to_numpy()
    assert read.dtype == np.float32
    np.testing.assert_array_equal(read, np.asarray(values, np.float32))


@pytest.mark.parametrize(
    ("dtype", "storage"),
    [
        ("f4", {}),
        ("f8", {}),
        ("f4", {"chunks": (2, 3)}),
        ("f8", {"chunks": (1, 4), "compression": "gzip"}),
        ("f4", {"chunks": (5, 4), "compression": "gzip", "compression_opts": 9, "shuffle": True}),
    ],
)
def test_gctx(plate, check_values, tmp_path, dtype, storage):
    source = plate.gctx(tmp_path / "a.gctx", dtype=dtype, **storage)
    figures = convert(source, tmp_path / "out")
    check_values(features(tmp_path / "out"), plate.columns, np.asarray(plate.values, dtype))
    assert figures["missing_values"] == 1
    assert figures["values"] == 20
    assert figures["test"] == {"signatures": 5, "controls": 1}


def test_every_format_gives_the_same_table(plate, check_values, tmp_path):
    """Dose, time and type by hand: 10,000 nM is 10 µM, -666 is none, all is in hours."""
    plate.gct13(tmp_path / "text.gct")
    (tmp_path / "text.gct.gz").write_bytes(gzip.compress((tmp_path / "text.gct").read_bytes()))
    plate.gctx(tmp_path / "binary.gctx")
    table = pd.DataFrame(
        {"id": plate.signatures, **plate.fields} | dict(zip(plate.columns, plate.values.T, strict=True))
    )
    table.to_csv(tmp_path / "table.csv", index=False)
    table.to_parquet(tmp_path / "table.parquet")
    for name in ("text.gct", "text.gct.gz", "binary.gctx", "table.csv", "table.parquet"):
        convert(tmp_path / name, tmp_path / f"of-{name}")
        read = features(tmp_path / f"of-{name}")
        check_values(read, plate.columns, plate.values)
        assert read["cp_type"].tolist() == ["ctl_vehicle", "trt_cp", "trt_cp", "trt_cp", "trt_cp"]
        assert read["cp_time"].tolist() == [24, 24, 6, 24, 24]
        np.testing.assert_array_equal(read["cp_dose"], [np.nan, 10, 10, 0.37, 3.33])
        assert read["cp_cell"].tolist() == ["A375"] * 5
        drugs = pd.read_parquet(tmp_path / f"of-{name}" / "test_drug.parquet")
        one, two, three = "BRD-K00000001", "BRD-K00000002", "BRD-K00000003"
        assert drugs["drug_id"].tolist() == ["DMSO", one, one, two, three]
        assert drugs["pert_iname"].tolist() == plate.fields["pert_iname"]
        assert drugs["pert_type"].tolist() == plate.fields["pert_type"]


@pytest.mark.parametrize("missing", ["NaN", "NA", "", "-666", "-666.0", "nan", "na"])
def test_gct_and_its_words_for_missing_values(plate, check_values, tmp_path, missing):
    convert(plate.gct12(tmp_path / "a.gct", missing=missing), tmp_path / "12")
    check_values(features(tmp_path / "12"), ["g-16", "g-1277", "g-7157", "g-1"], plate.values)
    convert(plate.gct13(tmp_path / "b.gct", missing=missing), tmp_path / "13")
    check_values(features(tmp_path / "13"), plate.columns, plate.values)


def test_gct_written_on_windows(plate, check_values, tmp_path):
    source = plate.gct13(tmp_path / "a.gct")
    text = source.read_bytes().replace(b"\n", b"\r\n")
    source.write_bytes(b"\xef\xbb\xbf" + text + b"\r\n")
    convert(source, tmp_path / "out")
    check_values(features(tmp_path / "out"), plate.columns, plate.values)


def test_missing_values_of_gctx_are_numbers(plate, check_values, tmp_path):
    convert(
        plate.gctx(tmp_path / "a.gctx", np.where(np.isnan(plate.values), -666, plate.values)),
        tmp_path / "float",
    )
    check_values(features(tmp_path / "float"), plate.columns, plate.values)
    whole = np.array(np.nan_to_num(plate.values, nan=-666), "i8")
    convert(
        plate.gctx(tmp_path / "b.gctx", whole, dtype="i2", fields={}, genes=plate.genes), tmp_path / "int"
    )
    assert features(tmp_path / "int")["g-COL1A1"].isna().tolist() == [False, True, False, False, False]


def test_the_bytes_decide_and_not_the_name(plate, check_values, tmp_path):
    convert(plate.gctx(tmp_path / "a.gct"), tmp_path / "1")
    convert(plate.gct13(tmp_path / "a.gctx"), tmp_path / "2")
    convert(plate.gct13(tmp_path / "a.csv"), tmp_path / "3")
    for name in "123":
        check_values(features(tmp_path / name), plate.columns, plate.values)


@pytest.mark.parametrize("version", [np.array([b"GCTX1.0"]), "GCTX1.0", b"GCTX1.0"])
def test_a_version_is_bytes_or_text_or_a_list_and_ids_may_stand_alone(plate, check_values, tmp_path, version):
    source = plate.gctx(tmp_path / "a.gctx", plate.values[:, :3], fields={}, genes=plate.genes[:3])
    with h5py.File(source, "a") as file:
        file.attrs["version"] = version
    convert(source, tmp_path / "out")
    # All of them are landmark genes, whose symbols the product knows.
    check_values(features(tmp_path / "out"), plate.columns[:3], plate.values[:, :3])
    assert list(features(tmp_path / "out"))[:2] == ["sig_id", "g-AARS"]


def test_chunks_of_few_genes_are_read_once(plate, check_values, tmp_path, monkeypatch):
    monkeypatch.setattr("moa_tf.data.conversion.gctx._LARGEST", 1)
    convert(plate.gctx(tmp_path / "a.gctx", chunks=(5, 3)), tmp_path / "out")
    check_values(features(tmp_path / "out"), plate.columns, plate.values)


def test_viability_and_columns_that_others_name(plate, check_values, tmp_path):
    table = pd.DataFrame(
        {"row": plate.signatures, "compound": plate.fields["pert_iname"], "note": list("abcde")}
    )
    table["A375"], table["HT29"] = plate.values[:, 0], ["1.5", "NA", "-666", "", "2"]
    table.to_csv(tmp_path / "screen.csv", index=False)
    options = Options(kind="viability", rename={"row": "sig_id", "compound": "pert_iname"})
    told = []
    convert(tmp_path / "screen.csv", tmp_path / "out", options, told.append)
    read = features(tmp_path / "out")
    assert list(read) == ["sig_id", "cp_type", "c-A375", "c-HT29"]
    assert read["cp_type"].tolist() == ["ctl_vehicle", *["trt_cp"] * 4]
    np.testing.assert_array_equal(read["c-HT29"], np.float32([1.5, np.nan, np.nan, np.nan, 2]))
    assert any("the 1 signatures of DMSO are controls" in line for line in told)


def test_blocks(plate, check_values, tmp_path, monkeypatch):
    """Two signatures a block: files of the directory that Spark would write, of training and test rows."""
    source, compounds = plate.gctx(tmp_path / "a.gctx"), tmp_path / "compounds.txt"
    compounds.write_text("pert_id\tmoa\nBRD-K00000001\tA inhibitor\nBRD-K00000003\tB agonist\n")
    monkeypatch.setattr("moa_tf.data.conversion.write.BLOCK", 2 * 4 * 4)
    convert(source, tmp_path / "out", Options(compounds=compounds))
    names = [path.name for path in sorted((tmp_path / "out" / "train_features.parquet").iterdir())]
    assert names == ["part-00000.parquet", "part-00001.parquet", "part-00002.parquet"]
    assert (tmp_path / "out" / "test_features.parquet").is_file()
    train, test = features(tmp_path / "out", "train_features"), features(tmp_path / "out")
    check_values(pd.concat([train, test]).sort_values("sig_id"), plate.columns, plate.values)
    labels = features(tmp_path / "out", "train_targets_scored")
    assert labels["sig_id"].tolist() == train["sig_id"].tolist()
    assert labels["a_inhibitor"].tolist() == [0, 1, 1, 0]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "conversion.json", "test_drug.parquet", "test_features.parquet", "train_drug.parquet",
        "train_features.parquet", "train_targets_scored.parquet",
    ]  # fmt: skip
