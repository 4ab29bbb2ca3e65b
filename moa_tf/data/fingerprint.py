"""Digests by which two tables are known to hold the same, whatever file, format or path they came from."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from itertools import chain
from typing import Any

import numpy as np

from moa_tf.data.schema import Dataset, Signatures
from moa_tf.data.storage import blocks


def fingerprint_dataset(dataset: Dataset) -> str:
    """Sha256 over names and values, in order; the same for every file format and column order.

    Columns of `train_drug` other than the drug are not in it, see `fingerprint_names`.
    """
    signatures = dataset.signatures
    names = {
        "spec": signatures.spec.to_dict(),
        "targets": dataset.target_names,
        "nonscored": dataset.nonscored_names,
        "sig_id": signatures.sig_id.tolist(),
        "drug_id": None if dataset.drug_id is None else dataset.drug_id.tolist(),
    }
    labels = [values for values in (dataset.targets, dataset.nonscored) if values is not None]
    bits = (np.packbits(values[part] != 0, axis=1) for values in labels for part in blocks(len(values)))
    return _digest(names, chain(signatures.inputs().values(), bits))


def fingerprint_signatures(signatures: Signatures) -> str:
    """Sha256 over the panel, the ids and the values of signatures without labels, in their order."""
    names = {"spec": signatures.spec.to_dict(), "sig_id": signatures.sig_id.tolist()}
    return _digest(names, signatures.inputs().values())


def fingerprint_names(names: np.ndarray) -> str:
    """Sha256 over [N] names, in their order."""
    return _digest(names.tolist(), [])


def _digest(names: Any, arrays: Iterable[np.ndarray]) -> str:
    digest = hashlib.sha256(json.dumps(names).encode())
    for values in arrays:
        digest.update(np.ascontiguousarray(values))
    return digest.hexdigest()
