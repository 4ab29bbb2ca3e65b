"""Digests by which two tables are known to hold the same, whatever file, format or path they came from."""

from __future__ import annotations

import hashlib
import json

import numpy as np

from moa_tf.data.schema import Signatures


def fingerprint_signatures(signatures: Signatures) -> str:
    """Sha256 over the panel, the ids and the values of signatures without labels, in their order."""
    names = {"spec": signatures.spec.to_dict(), "sig_id": signatures.sig_id.tolist()}
    digest = hashlib.sha256(json.dumps(names).encode())
    for values in signatures.inputs().values():
        digest.update(np.ascontiguousarray(values))
    return digest.hexdigest()
