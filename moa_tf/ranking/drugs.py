"""Which drug a signature is of."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from moa_tf.data.faults import Faults
from moa_tf.data.names import shorten
from moa_tf.data.opening import open_table
from moa_tf.data.read import read_drugs
from moa_tf.errors import InputError


def find_drugs(
    features: Path, drugs: Path | None = None, tell: Callable[[str], None] = lambda line: None
) -> Callable[[np.ndarray], np.ndarray]:
    """A function from ids of signatures [N] to names of their drugs [N].

    Args:
        features: the signatures' table. Its own column `drug_id` counts, if there is one.
        drugs: a table of `sig_id` and `drug_id`, which counts more.
        tell: as for `read_drugs`.

    Returns:
        The function. Where nothing says it, each signature is a drug of its own.

    Raises:
        InputError: faults of a table; and by the function, an id that `drugs` lacks.
    """
    if drugs is not None:
        path, table = drugs, read_drugs(drugs, tell)
    elif "drug_id" in open_table(features, Faults()).columns:
        path, table = features, read_drugs(features, groups=False)
    else:
        return lambda ids: ids
    drug = dict(zip(table.sig_id, table.drug_id, strict=True))

    def find(ids: np.ndarray) -> np.ndarray:
        lost = [name for name in ids if name not in drug]
        if lost:
            raise InputError(
                f"{path.name}: column sig_id: {len(lost)} ids of the signatures are missing ({shorten(lost, 3)}), "
                "expected each of them"
            )
        return np.array([drug[name] for name in ids], object)

    return find
