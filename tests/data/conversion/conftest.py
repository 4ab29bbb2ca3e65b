"""A plate of a few wells, written by hand in each of the formats."""

from types import SimpleNamespace

import h5py
import numpy as np
import pytest

SIGNATURES = ["p:A01", "p:A02", "p:A03", "p:A04", "p:A05"]
GENES = ["16", "1277", "7157", "1"]
"""Entrez numbers; the last one is no landmark gene."""
VALUES = np.array(
    [
        [0.1, -1.25, 3.0, 1e-7],
        [2.5, np.nan, -0.3333333, 10.0],
        [-7.125, 0.0, 5.5, -10.0],
        [1.0, 2.0, 3.0, 4.0],
        [0.5, 0.25, 0.125, 123456.789],
    ]
)
FIELDS = {
    "pert_id": ["DMSO", "BRD-K00000001-001-02-5", "BRD-K00000001", "BRD-K00000002", "BRD-K00000003"],
    "pert_iname": ["DMSO", "one", "one", "two", "three"],
    "pert_type": ["ctl_vehicle", "trt_cp", "trt_cp", "trt_poscon", "trt_cp"],
    "pert_idose": ["-666", "10 uM", "10000 nM", "0.37 um", "3.33 µM"],
    "pert_itime": ["24 h", "24 h", "6 h", "24", "24 h"],
    "cell_id": ["A375"] * 5,
}
SYMBOLS = ["AARS", "COL1A1", "TP53", "-666"]
COLUMNS = ["g-AARS", "g-COL1A1", "g-TP53", "g-1"]


def cell(value, missing="NaN"):
    return missing if np.isnan(value) else repr(float(value))


def write_gct12(path, values=VALUES, signatures=SIGNATURES, genes=GENES, missing="NaN"):
    lines = ["#1.2", f"{len(genes)}\t{len(signatures)}", "\t".join(["Name", "Description", *signatures])]
    lines += [
        "\t".join([gene, "na", *(cell(v, missing) for v in row)])
        for gene, row in zip(genes, values.T, strict=True)
    ]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def write_gct13(path, values=VALUES, fields=FIELDS, missing="NaN"):
    lines = ["#1.3", f"{len(GENES)}\t{len(SIGNATURES)}\t1\t{len(fields)}"]
    lines += ["\t".join(["id", "pr_gene_symbol", *SIGNATURES])]
    lines += ["\t".join([name, "na", *of]) for name, of in fields.items()]
    lines += [
        "\t".join([gene, symbol, *(cell(v, missing) for v in row)])
        for gene, symbol, row in zip(GENES, SYMBOLS, values.T, strict=True)
    ]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def write_gctx(path, values=VALUES, fields=FIELDS, signatures=SIGNATURES, genes=GENES, dtype="f4", **storage):
    with h5py.File(path, "w") as file:
        file.attrs["version"] = np.bytes_("GCTX1.0")
        file.create_dataset("0/DATA/0/matrix", data=np.asarray(values, dtype), **storage)
        file["0/META/ROW/id"] = np.array(genes, "S")
        file["0/META/COL/id"] = np.array(signatures, "S")
        if len(genes) == len(SYMBOLS):
            file["0/META/ROW/pr_gene_symbol"] = np.array(SYMBOLS, "S")
        for name, of in fields.items():
            file[f"0/META/COL/{name}"] = np.array([value.encode() for value in of])
    return path


@pytest.fixture
def plate():
    return SimpleNamespace(
        signatures=SIGNATURES,
        genes=GENES,
        values=VALUES.copy(),
        fields={name: list(values) for name, values in FIELDS.items()},
        columns=COLUMNS,
        gct12=write_gct12,
        gct13=write_gct13,
        gctx=write_gctx,
    )
