import gzip
import re

import h5py
import numpy as np
import pandas as pd
import pytest

from moa_tf.data.conversion.convert import Options, convert
from moa_tf.errors import InputError


@pytest.fixture
def refused(tmp_path):
    def refused(source, message, options=None):
        with pytest.raises(InputError, match=re.escape(message)) as error:
            convert(source, tmp_path / "out", options)
        assert "\n" not in str(error.value)
        assert not (tmp_path / "out").exists()
        assert not list(tmp_path.glob(".*")), "something is left behind"

    return refused


def edit(path, *changes):
    with h5py.File(path, "a") as file:
        for change in changes:
            change(file)
    return path


def drop(name):
    return lambda file: file.__delitem__(name)


def put(name, values):
    def change(file):
        if name in file:
            del file[name]
        file[name] = values

    return change


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ([drop("0/DATA/0/matrix")], "HDF5 without a matrix at /0/DATA/0/matrix, expected a GCTX file"),
        ([drop("0/META/COL/id")], "no ids of signatures at /0/META/COL/id"),
        ([drop("0/META/ROW")], "no ids of genes at /0/META/ROW/id"),
        ([put("0/META/COL/id", np.array([b"a", b"b", b"a", b"c", b"d"]))],
         "/0/META/COL: 1 ids of signatures are there more than once (number 3 a), expected each once"),
        ([put("0/META/ROW/id", np.array([b"1", b"-666", b"2", b""]))],
         "/0/META/ROW: 2 ids of genes are missing (number 2, number 4)"),
        ([put("0/META/COL/id", np.array([b"a", b"b"]))],
         "/0/META/COL/cell_id: 5 values, expected 2, as there are ids"),
        ([put("0/DATA/0/matrix", np.zeros((4, 5)))],
         "/0/DATA/0/matrix is 4 × 5, expected 5 signatures × 4 genes, as there are ids"),
        ([put("0/DATA/0/matrix", np.full((5, 4), b"x"))], "/0/DATA/0/matrix holds |S1, expected numbers"),
        ([put("0/DATA/0/matrix", np.full((5, 4), np.inf))],
         "20 values are infinite, or too large for float32 (signature p:A01, g-AARS; …)"),
        ([put("0/META/COL/pert_type", np.array([b"trt_cp"] * 3 + [b"treated", b"-666"]))],
         "pert_type: 2 are not understood ('treated', missing), expected trt_… or ctl_…"),
        ([put("0/META/COL/pert_itime", np.array([b"24 h"] * 4 + [b"3 weeks"]))],
         "pert_itime: 1 are not understood ('3 weeks'), expected hours"),
        ([lambda file: file.attrs.__setitem__("version", "GCTX9")], "version 'GCTX9', expected GCTX1.0"),
        ([drop("0/DATA/0/matrix"), lambda file: file.create_dataset("0/DATA/0/matrix", (5, 4), chunks=(1, 4))],
         "5 of 5 parts of the matrix were never written"),
    ],
)  # fmt: skip
def test_gctx(plate, refused, tmp_path, changes, message):
    refused(edit(plate.gctx(tmp_path / "a.gctx"), *changes), message)


def test_truncated_gctx(plate, refused, tmp_path):
    whole = plate.gctx(tmp_path / "a.gctx", dtype="f8", chunks=(1, 4), compression="gzip").read_bytes()
    for share in (0.3, 0.6, 0.98):
        (tmp_path / "b.gctx").write_bytes(whole[: int(share * len(whole))])
        refused(tmp_path / "b.gctx", "b.gctx: not a readable HDF5 file")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("#1.3", "#1.1", "line 1: '#1.1', expected #1.2 or #1.3"),
        ("4\t5\t1\t6", "4\t5\t1", "line 2: '4, 5, 1', expected 4 whole numbers"),
        ("4\t5\t1\t6", "5\t5\t1\t6", "4 genes, expected 5, as line 2 says: is it truncated?"),
        ("4\t5\t1\t6", "3\t5\t1\t6", "line 13: more than the 3 genes that line 2 says"),
        ("4\t5\t1\t6", "4\t6\t1\t6", "line 3: 7 cells, expected 8, as line 2 says"),
        ("p:A05", "p:A01", "line 3: 1 ids of signatures are there more than once (number 5 p:A01)"),
        ("p:A05", "", "line 3: 1 ids of signatures are missing (number 5)"),
        ("1277\t", "16\t", "1 ids of genes are there more than once (number 2 16)"),
        ("0.125", "abc", "line 12, gene 7157: 1 not a number ('abc'), expected numbers"),
        ("0.125", "1,5", "line 12, gene 7157: 1 not a number ('1,5'), expected numbers"),
        ("0.125", "inf", "1 values are infinite, or too large for float32 (signature p:A05, g-TP53; …)"),
        ("\t0.125", "", "line 12: 6 cells, expected 7, as line 2 says"),
    ],
)
def test_gct(plate, refused, tmp_path, old, new, message):
    source = plate.gct13(tmp_path / "a.gct")
    text = source.read_text(encoding="utf-8")
    assert text.count(old) == 1
    source.write_text(text.replace(old, new), encoding="utf-8")
    refused(source, message)


def test_truncated_gct(plate, refused, tmp_path):
    text = plate.gct13(tmp_path / "a.gct").read_bytes()
    lines = text.splitlines(keepends=True)
    (tmp_path / "b.gct").write_bytes(b"".join(lines[:5]))
    refused(tmp_path / "b.gct", "ends before line 6, expected fields of the signatures: is it truncated?")
    (tmp_path / "b.gct").write_bytes(b"".join(lines[:-1]))
    refused(tmp_path / "b.gct", "3 genes, expected 4, as line 2 says: is it truncated?")
    (tmp_path / "b.gct").write_bytes(gzip.compress(text)[:-12])
    refused(tmp_path / "b.gct", "is it truncated?")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a,b\n1,2\n", "no column of ids of the signatures (columns a, b), expected one of sig_id"),
        ("id,a\nx,word\n", "no column of numbers that could be a feature (columns id, a)"),
        ("id,g-1\nx,1\nx,2\n", "column id: 1 ids of signatures are there more than once (number 2 x)"),
        ("id,g-1\nx,1\ny,two\n", "column g-1: 1 not a number (row 2, 'two'), expected numbers"),
        ("id,g-1,g-2\nx,1,2\ny,2\n", "1 rows of another length (row 2, 2 cells), expected 3"),
        ("%PDF-1.4", "is a PDF file, expected GCT #1.2 or #1.3, GCTX, CSV or Parquet"),
    ],
)
def test_tables(refused, tmp_path, text, message):
    (tmp_path / "a.gctx").write_text(text)
    refused(tmp_path / "a.gctx", message)


@pytest.mark.parametrize(
    ("option", "text", "message"),
    [
        ("signatures", "sig_id\tpert_type\np:A01\ttrt_cp\n",
         "4 of 5 signatures have no row (p:A02, p:A03, p:A04, …), expected one each"),
        ("signatures", "sig_id\ttas\np:A01\t1\np:A01\t1\n", "column sig_id: 1 ids of signatures are there more"),
        ("signatures", "well\ttas\nA01\t1\n", "no values in any of sig_id, inst_id, sample_id, cid, id"),
        ("compounds", "pert_id\ttarget\nBRD-K00000001\tX\n", "no values in any of moa, pert_moa"),
        ("compounds", "pert_id\tmoa\nBRD-K99999999\tA\n", "none of the 3 drugs has a mechanism (BRD-K00000001"),
        ("compounds", "!comment\n", "has no header, expected a table"),
        ("compounds", "pert_id\tmoa\nBRD-K00000001\n", "row 1: 1 cells, expected 2, as the header has: is it"),
        ("compounds", "pert_id\tmoa\nBRD-K00000001\tA\tB\n", "row 1: 3 cells, expected 2, as the header has"),
        ("genes", "gene_id\tgene_symbol\n5\tX\n", "--genes: has none of the 4 genes (16, 1277, 7157, …)"),
        ("genes", "gene_id\tname\n5\tX\n", "no values in any of gene_symbol"),
    ],
)  # fmt: skip
def test_metadata(plate, refused, tmp_path, option, text, message):
    source = plate.gctx(tmp_path / "a.gctx")
    (tmp_path / "table.txt").write_text(text)
    refused(source, message, Options(**{option: tmp_path / "table.txt"}))
    if option == "compounds":
        (tmp_path / "table.txt").write_bytes(gzip.compress(text.encode() * 1000)[:-9])
        refused(source, "ends or breaks early: is it truncated?", Options(compounds=tmp_path / "table.txt"))


def test_options(plate, refused, tmp_path):
    source = plate.gctx(tmp_path / "a.gctx")
    refused(tmp_path / "none.gctx", "none.gctx: no such file")
    refused(tmp_path, "is no file, expected one")
    refused(source, "--types: no signature is of type trt_sh, expected some of", Options(types=("trt_sh",)))
    refused(source, "has no field tas", Options(quality=("tas>0.2",)))
    refused(source, "expected a field (is_hiq), or one and a number", Options(quality=("tas>much",)))
    refused(source, "--rename: no table has a field well", Options(rename={"well": "sig_id"}))
    refused(
        source, "--genes, --landmarks: the features are no genes", Options(kind="viability", landmarks=True)
    )
    bare = plate.gctx(tmp_path / "b.gctx", plate.values[:, :1], genes=["x_at"])
    refused(bare, "--landmarks: none of the 1 genes is known to be one (x_at)", Options(landmarks=True))


def test_out_must_be_new_or_empty(plate, tmp_path):
    source = plate.gctx(tmp_path / "a.gctx")
    (tmp_path / "empty").mkdir()
    convert(source, tmp_path / "empty")
    kept = pd.read_parquet(tmp_path / "empty" / "test_features.parquet")
    with pytest.raises(InputError, match="exists, expected a new or empty directory"):
        convert(source, tmp_path / "empty")
    pd.testing.assert_frame_equal(pd.read_parquet(tmp_path / "empty" / "test_features.parquet"), kept)
