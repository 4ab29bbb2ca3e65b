"""Which signatures are good enough: LINCS 2020's `is_hiq`, `tas` above a value, or any field like them."""

from __future__ import annotations

import operator
import re

import numpy as np
import pandas as pd

from moa_tf.data.conversion.fields import list_fields
from moa_tf.errors import InputError

_RULE = re.compile(r"\s*(\w+)\s*(?:(>=|<=|>|<)\s*([-+.\deE]+))?\s*")
_COMPARE = {">": operator.gt, ">=": operator.ge, "<": operator.lt, "<=": operator.le}


def field_of(rule: str) -> str:
    """The field that a rule is about: `tas` of `tas>0.2`, `is_hiq` of `is_hiq`.

    Raises:
        InputError: it is no rule.
    """
    return _parse(rule)[0]


def satisfies(where: str, fields: pd.DataFrame, rule: str) -> np.ndarray:
    """[N] whether signatures meet a rule: `FIELD`, which is to be 1 or true, or `FIELD>NUMBER` (>=, <, <=).

    A signature whose value is missing does not.

    Raises:
        InputError: there is no such field, or it holds no numbers.
    """
    name, compare, limit = _parse(rule)
    if name not in fields:
        raise InputError(
            f"--quality {rule}: {where} has no field {name} (known: {list_fields(fields.columns)})"
        )
    values = fields[name]
    if compare is None:
        return values.str.lower().isin(("1", "true", "yes")).to_numpy()
    numbers = pd.to_numeric(values, errors="coerce").to_numpy(np.float64)
    if np.isnan(numbers).all():
        raise InputError(f"--quality {rule}: {where} has no numbers in its field {name}")
    return _COMPARE[compare](numbers, limit)


def _parse(rule: str) -> tuple[str, str | None, float]:
    found = _RULE.fullmatch(rule)
    try:
        if found:
            return found[1], found[2], float(found[3] or 0)
    except ValueError:
        pass
    raise InputError(f"--quality {rule!r}: expected a field (is_hiq), or one and a number (tas>0.2)")
