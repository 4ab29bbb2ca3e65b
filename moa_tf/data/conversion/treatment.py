"""The treatment of signatures: from the fields that others use to `cp_type`, `cp_time`, `cp_dose` and `cp_cell`."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from moa_tf.data.conversion.fields import ALIASES, find_field, values_of
from moa_tf.data.faults import EXAMPLES
from moa_tf.data.names import shorten, spelling_key
from moa_tf.errors import InputError

VEHICLE = "dmso"
"""The drug whose wells are controls where a table does not say the type."""

_QUANTITY = re.compile(r"([-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?)\s*(.*)")
_HOURS = {
    "h": 1,
    "hr": 1,
    "hrs": 1,
    "hour": 1,
    "hours": 1,
    "min": 1 / 60,
    "minutes": 1 / 60,
    "d": 24,
    "days": 24,
}
_MICROMOLAR = {
    **{"m": 1e6, "mm": 1e3, "um": 1.0, "nm": 1e-3, "pm": 1e-6},
    **{"mol/l": 1e6, "mmol/l": 1e3, "umol/l": 1.0, "nmol/l": 1e-3, "pmol/l": 1e-6},
    **{"molar": 1e6, "millimolar": 1e3, "micromolar": 1.0, "nanomolar": 1e-3, "picomolar": 1e-6},
}


@dataclass(frozen=True)
class Treatment:
    """What was done to the cells.

    Attributes:
        type: [N] the type as the table has it (`trt_poscon`), or None.
        control: [N] bool.
        columns: name -> [N] values, for those of `cp_type`, `cp_time`, `cp_dose`, `cp_cell` that are known.
        remarks: what is to be said.
    """

    type: np.ndarray | None
    control: np.ndarray
    columns: dict[str, np.ndarray]
    remarks: tuple[str, ...]


def read_treatment(where: str, fields: pd.DataFrame) -> Treatment:
    """Reads the treatment from the fields of signatures.

    Types: each `ctl_*` (`ctl_vehicle`, `ctl_untrt`, `ctl_vector`) is a control, each `trt_*` (`trt_cp`,
    `trt_poscon`, `trt_sh`) is treated. Where a table has no types, the drug DMSO is the control.

    Raises:
        InputError: a type, a time or a dose that is not understood.
    """
    rows, remarks = len(fields), []
    columns: dict[str, np.ndarray] = {}
    kinds, names = values_of(fields, "type"), [values_of(fields, what) for what in ("drug", "name")]
    control = np.zeros(rows, bool)
    if kinds is not None:
        control = np.array([kind.startswith("ctl_") for kind in kinds])
        odd = ~control & ~np.array([kind.startswith("trt_") for kind in kinds])
        if odd.any():
            raise _not_understood(where, find_field(fields, "type"), kinds, odd, "trt_… or ctl_…")
    elif known := [name for name in names if name is not None]:
        for name in known:
            control |= np.array([value.lower() == VEHICLE for value in name])
        remarks.append(
            f"no types (pert_type): the {control.sum()} signatures of DMSO are controls, all others treated"
        )
    if kinds is not None or control.any():
        columns["cp_type"] = np.where(control, "ctl_vehicle", "trt_cp").astype(object)
    time = find_field(fields, "time")
    if time:
        units = values_of(fields, "time_unit") if time == "pert_time" else None
        columns["cp_time"] = _read_quantities(where, time, fields[time], units, _to_hours, "hours (24, 24 h)")
    dose = find_field(fields, "dose")
    if dose:
        units = values_of(fields, "dose_unit") if dose == "pert_dose" else None
        columns["cp_dose"], remark = _read_doses(dose, fields[dose], units, control)
        remarks += [remark] if remark else []
    cell = values_of(fields, "cell")
    if cell is not None:
        columns["cp_cell"] = np.where(cell == "", None, cell)
    return Treatment(kinds, control, columns, tuple(remarks))


def keep_types(where: str, treatment: Treatment, types: Sequence[str]) -> np.ndarray:
    """[N] whether a signature is of one of these types.

    Raises:
        InputError: the table has no types, or not one of these.
    """
    if treatment.type is None:
        raise InputError(
            f"--types: {where} has no field of types, expected one of {', '.join(ALIASES['type'])}"
        )
    unknown = [kind for kind in types if kind not in set(treatment.type)]
    if unknown:
        there = ", ".join(sorted(set(treatment.type)))
        raise InputError(
            f"--types: no signature is of type {shorten(unknown, EXAMPLES)}, expected some of {there}"
        )
    return np.isin(treatment.type, list(types))


def _read_doses(
    name: str, field: pd.Series, units: np.ndarray | None, control: np.ndarray
) -> tuple[np.ndarray, str]:
    """[N] doses: µM as float64 if those of all treated signatures are molar, else as the table words them."""
    number, unit = _split_quantities(field, units)
    if name == "nearest_dose":  # LINCS 2020 has it in µM, without a unit.
        unit = np.where(unit == "", "um", unit)
    given = (field != "").to_numpy()
    factors = {of: _MICROMOLAR.get(spelling_key(of).replace("μ", "u"), np.nan) for of in set(unit)}
    factor = np.array([factors[of] for of in unit])
    # 10 nM is to be 0.01 µM to the last bit, not 10 × 0.001.
    molar = np.where(factor < 1, number / np.round(1 / np.minimum(factor, 1)), number * factor)
    odd = given & ~control & ~np.isfinite(molar)
    if not odd.any():
        return np.where(given, molar, np.nan), ""
    if (given & ~control & ~np.isfinite(molar) & (unit != "")).any() or np.isnan(number[odd]).any():
        why = f"{odd.sum()} doses are not molar ({shorten(_worded(field, units)[odd], EXAMPLES)})"
    else:
        why = f"{odd.sum()} doses have no unit ({shorten(field[odd], EXAMPLES)}); what reads them takes numbers for µM"
    return np.where(given, _worded(field, units), None), f"{name}: {why}: cp_dose is as the table words it"


def _worded(field: pd.Series, units: np.ndarray | None) -> np.ndarray:
    text = field.to_numpy(object)
    return (
        text
        if units is None
        else np.array([f"{a} {b}".strip() for a, b in zip(text, units, strict=True)], object)
    )


def _read_quantities(
    where: str,
    name: str,
    field: pd.Series,
    units: np.ndarray | None,
    convert: Callable[[float, str], float],
    expected: str,
) -> np.ndarray:
    number, unit = _split_quantities(field, units)
    values = np.array([convert(value, of) for value, of in zip(number, unit, strict=True)])
    odd = (field != "").to_numpy() & ~np.isfinite(values)
    if odd.any():
        raise _not_understood(where, name, _worded(field, units), odd, expected)
    return values


def _to_hours(number: float, unit: str) -> float:
    return number * _HOURS.get(unit.lower(), np.nan) if unit else number


def _split_quantities(field: pd.Series, units: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    """[N] numbers and [N] units of text such as `10 uM`; NaN and '' for what is neither."""
    codes, words = pd.factorize(field.to_numpy(object))
    parts = [_QUANTITY.fullmatch(word) for word in words]
    number = np.array([float(part[1]) if part else np.nan for part in parts])[codes]
    unit = np.array([part[2] if part else "" for part in parts], object)[codes]
    return number, unit if units is None else np.where(unit == "", units, unit)


def _not_understood(
    where: str, name: str | None, values: np.ndarray, odd: np.ndarray, expected: str
) -> InputError:
    words = pd.unique(values[odd])
    shown = shorten((repr(word[:40]) if word else "missing" for word in words), EXAMPLES)
    return InputError(f"{where}: {name}: {odd.sum()} are not understood ({shown}), expected {expected}")
