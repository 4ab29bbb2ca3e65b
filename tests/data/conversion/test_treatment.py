import numpy as np
import pandas as pd
import pytest

from moa_tf.data.conversion.fields import tidy
from moa_tf.data.conversion.treatment import read_treatment
from moa_tf.data.landmarks import landmark_symbols


def read(**fields):
    return read_treatment(
        "a", pd.DataFrame({name: tidy(np.array(of, object)) for name, of in fields.items()})
    )


@pytest.mark.parametrize(
    ("text", "micromolar"),
    [
        ("10 uM", 10), ("10 µM", 10), ("10 μM", 10), ("10uM", 10), ("10.0 um", 10), ("10000 nM", 10), ("10 nM", 0.01),
        ("0.5 mM", 500), ("1e-3 uM", 0.001), (".04 um", 0.04), ("3 pM", 3e-6), ("10 µmol/L", 10), ("0.12 M", 120_000),
    ],
)  # fmt: skip
def test_doses_in_micromolar(text, micromolar):
    assert read(pert_idose=[text, "-666"]).columns["cp_dose"].tolist()[0] == micromolar
    assert np.isnan(read(pert_idose=[text, "-666"]).columns["cp_dose"][1])


def test_a_dose_and_its_unit_in_two_fields():
    read_doses = read(pert_dose=[10.0, 370, "-666", 1.11], pert_dose_unit=["uM", "nM", "-666", "um"])
    np.testing.assert_array_equal(read_doses.columns["cp_dose"], [10, 0.37, np.nan, 1.11])
    assert read(nearest_dose=["0.37", "10"]).columns["cp_dose"].tolist() == [0.37, 10]


def test_doses_that_are_not_all_molar_stay_as_they_are_and_that_is_said():
    treatment = read(pert_dose=["10", "5", ""], pert_dose_unit=["uM", "ng/mL", ""])
    assert treatment.columns["cp_dose"].tolist() == ["10 uM", "5 ng/mL", None]
    assert treatment.remarks == (
        "pert_dose: 1 doses are not molar (5 ng/mL): cp_dose is as the table words it",
    )
    treatment = read(cp_dose=["D1", "D2"])
    assert treatment.columns["cp_dose"].tolist() == ["D1", "D2"]
    treatment = read(pert_dose=["10", "5"])
    assert treatment.columns["cp_dose"].tolist() == ["10", "5"]
    assert "2 doses have no unit (10, 5)" in treatment.remarks[0]


def test_a_controls_dose_counts_for_nothing():
    treatment = read(pert_type=["ctl_vehicle", "trt_cp"], pert_dose=["0.1", "5"], pert_dose_unit=["%", "uM"])
    np.testing.assert_array_equal(treatment.columns["cp_dose"], [np.nan, 5])


@pytest.mark.parametrize(
    ("text", "hours"),
    [
        ("24 h", 24),
        ("24", 24),
        ("24.0", 24),
        ("24H", 24),
        ("6 hours", 6),
        ("30 min", 0.5),
        ("3 days", 72),
        (24, 24),
    ],
)
def test_times_in_hours(text, hours):
    assert read(pert_itime=[text]).columns["cp_time"].tolist() == [hours]


def test_types_of_cmap():
    kinds = ["trt_cp", "trt_poscon", "trt_sh", "ctl_vehicle", "ctl_untrt", "ctl_vector"]
    treatment = read(pert_type=kinds)
    assert treatment.columns["cp_type"].tolist() == ["trt_cp"] * 3 + ["ctl_vehicle"] * 3
    assert treatment.control.tolist() == [False] * 3 + [True] * 3
    assert read(cell_id=["A375"]).columns.keys() == {"cp_cell"}


def test_landmark_genes():
    table = landmark_symbols()
    assert len(table) == 978
    assert (table["1277"], table["7157"], table["16"]) == ("COL1A1", "TP53", "AARS")
    assert "1" not in table
