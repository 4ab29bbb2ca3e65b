"""Panels of other kinds: viability alone, gaps, doses in µM or by name, cell lines, other types of perturbation."""

import re

import numpy as np
import pandas as pd
import pytest

from moa_tf.data.read import iter_features, read_dataset, read_features
from moa_tf.data.schema import DOSES, SignatureSpec
from moa_tf.errors import InputError

IDS = [f"s{i}" for i in range(4)]


@pytest.fixture(params=[".csv", ".parquet"])
def table(request, tmp_path):
    def write(**columns):
        path = tmp_path / f"train_features{request.param}"
        frame = pd.DataFrame({"sig_id": IDS, **{re.sub("^_c", "c-", name): v for name, v in columns.items()}})
        write = frame.to_csv if request.param == ".csv" else frame.to_parquet
        write(path, index=False)
        return path

    return write


CELLS = {"_cA": [0.5, -1, 2, 0], "_cB": [1.0, 2, 3, 4]}


def test_viability_alone(table):
    signatures = read_features(table(**CELLS))
    assert signatures.spec == SignatureSpec((), ("c-A", "c-B"), ())
    assert signatures.genes is None
    np.testing.assert_array_equal(signatures.cells[:, 0], np.float32([0.5, -1, 2, 0]))
    assert list(signatures.inputs()) == ["cells"]
    assert SignatureSpec.from_dict(signatures.spec.to_dict()) == signatures.spec


def test_a_panel_with_neither_is_refused(table):
    with pytest.raises(
        InputError, match=r"no expression and no viability, expected columns named g-\* or c-\*"
    ):
        read_features(table(cp_time=[24, 24, 48, 48]))


@pytest.mark.parametrize("gap", [None, "NA"])
def test_missing_values_are_taken_where_they_may_be(table, gap):
    path = table(_cA=["0.5", gap, "2", "0"], _cB=[1.0, 2, 3, 4])
    with pytest.raises(InputError) as error:
        read_features(path)
    (line,) = str(error.value).splitlines()
    assert "1 missing or NaN (row 2, sig_id s1" in line
    assert line.endswith("expected a finite number; a model trained with --missing median takes gaps")
    signatures = read_features(path, missing=True)
    assert signatures.spec.missing
    np.testing.assert_array_equal(np.isnan(signatures.cells), [[0, 0], [1, 0], [0, 0], [0, 0]])
    # A model's panel says whether it takes them.
    read_features(path, signatures.spec)
    with pytest.raises(InputError, match="missing"):
        list(iter_features(path, SignatureSpec((), ("c-A", "c-B"), ())))


def test_what_is_no_number_is_not_missing(table):
    with pytest.raises(InputError, match="1 not a number"):
        read_features(table(_cA=["0.5", "x", "2", "0"]), missing=True)
    with pytest.raises(InputError, match="1 infinite"):
        read_features(table(_cA=[0.5, np.inf, 2, 0]), missing=True)


@pytest.mark.parametrize(
    ("doses", "levels", "codes"),
    [
        (["D1", "D2", "D1", "D1"], DOSES, [0, 1, 0, 0]),
        # The competition's levels, though this table has one of them.
        (["D2", "D2", "D2", "D2"], DOSES, [1, 1, 1, 1]),
        (["low", "high", "low", "low"], ("high", "low"), [1, 0, 1, 1]),
        # Numbers within names by their size.
        (["10 uM", "2 uM", "10 uM", "0.5 uM"], ("0.5 uM", "2 uM", "10 uM"), [2, 1, 2, 0]),
    ],
)
def test_levels_of_dose_whatever_they_are_called(table, doses, levels, codes):
    signatures = read_features(table(cp_dose=doses, **CELLS))
    assert signatures.spec.doses == levels
    assert signatures.cp_dose.tolist() == codes
    assert signatures.spec.inputs["cp_dose"] == ((), "int32")


def test_doses_in_micromolar(table):
    signatures = read_features(table(cp_dose=["10", "0.5", "10.0", "3"], **CELLS))
    assert signatures.spec.doses == ()
    np.testing.assert_allclose(signatures.cp_dose, [10, 0.5, 10, 3])
    assert signatures.spec.inputs["cp_dose"] == ((), "float32")
    assert SignatureSpec.from_dict(signatures.spec.to_dict()) == signatures.spec


def test_a_control_needs_no_dose_and_a_treated_signature_does(table):
    types = ["trt_cp", "ctl_vehicle", "ctl_untrt", "trt_poscon"]
    signatures = read_features(table(cp_type=types, cp_dose=["10", None, "-666", "3"], **CELLS))
    assert signatures.control.tolist() == [False, True, True, False]
    np.testing.assert_allclose(signatures.cp_dose, [10, np.nan, np.nan, 3])
    with pytest.raises(InputError, match=r"column cp_dose: 1 missing \(row 1, sig_id s0.*expected a dose"):
        read_features(table(cp_type=types, cp_dose=[None, "1", "1", "3"], **CELLS))
    named = read_features(table(cp_type=types, cp_dose=["low", None, "low", "high"], **CELLS))
    assert named.cp_dose.tolist() == [1, -1, 1, 0]


@pytest.mark.parametrize("word", ["dmso", "trt_", "TRT_CP"])
def test_types_that_are_no_types(table, word):
    with pytest.raises(InputError, match="column cp_type: 1 unknown"):
        read_features(table(cp_type=["trt_cp", word, "trt_cp", "trt_cp"], **CELLS))


def test_hours_with_and_without_their_unit(table):
    signatures = read_features(table(cp_time=["24 h", "48", "72h", "6 hours"], **CELLS))
    assert signatures.cp_time.tolist() == [24, 48, 72, 6]


def test_cell_lines_and_the_place_for_unknown_ones(table):
    signatures = read_features(table(cp_cell=["MCF7", "A375", None, "MCF7"], **CELLS))
    assert signatures.spec.cell_lines == ("A375", "MCF7")
    assert signatures.cp_cell.tolist() == [1, 0, -1, 1]
    other = read_features(table(cp_cell=["PC3", "A375", "", "MCF7"], **CELLS), signatures.spec)
    assert other.cp_cell.tolist() == [-1, 0, -1, 1]


def test_a_panel_reads_its_own_levels_and_no_others(table):
    spec = read_features(table(cp_dose=["low", "high", "low", "low"], **CELLS)).spec
    again = read_features(table(cp_dose=["high", "low", "low", "low"], **CELLS), spec)
    assert again.cp_dose.tolist() == [0, 1, 1, 1]
    with pytest.raises(
        InputError, match=r"column cp_dose: 1 unknown \(row 2, sig_id s1 'mid'\), expected high or low"
    ):
        read_features(table(cp_dose=["high", "mid", "low", "low"], **CELLS), spec)
    number = read_features(table(cp_dose=["1", "2", "3", "4"], **CELLS)).spec
    for wrong in ("0", "-2", "x"):
        with pytest.raises(InputError, match="column cp_dose"):
            read_features(table(cp_dose=["1", wrong, "3", "4"], **CELLS), number)


def test_the_competitions_panel_is_written_as_before():
    spec = SignatureSpec(("g-0",), ("c-0",))
    assert spec.to_dict() == {
        "genes": ["g-0"],
        "cells": ["c-0"],
        "treatment": ["cp_type", "cp_time", "cp_dose"],
    }
    assert SignatureSpec.from_dict(spec.to_dict()) == spec


def test_a_dataset_with_gaps(table, tmp_path):
    table(_cA=[0.5, None, 2, 0], _cB=[1.0, 2, 3, 4])
    pd.DataFrame({"sig_id": IDS, "t": [0, 1, 0, 1]}).to_csv(
        tmp_path / "train_targets_scored.csv", index=False
    )
    with pytest.raises(InputError, match="--missing median"):
        read_dataset(tmp_path)
    assert read_dataset(tmp_path, missing=True).signatures.spec.missing


def test_levels_and_cell_lines_that_are_spelled_in_two_ways(table):
    with pytest.raises(
        InputError, match="column cp_dose: 1 words are spelled in several ways \\('Low' and 'low'\\)"
    ):
        read_features(table(cp_dose=["low", "high", "Low", "low"], **CELLS))
    with pytest.raises(InputError, match="column cp_cell: 1 words are spelled in several"):
        read_features(table(cp_cell=["A375", "MCF7", "A 375", "MCF7"], **CELLS))
