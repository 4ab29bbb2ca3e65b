"""What a table of signatures holds, independent of any file format or framework."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

TYPES = ("trt_cp", "ctl_vehicle")
DOSES = ("D1", "D2")
CONTROL = TYPES.index("ctl_vehicle")
SPLITS = ("drug", "row", "kaggle")
"""Ways to deal rows into folds, see `moa_tf.data.folds`."""

TREATMENT = ("cp_type", "cp_time", "cp_dose")
"""The treatment columns, in the order in which the competition's tables have them."""
HOURS_ABOVE = 0
"""`cp_time` lies above this, in a table and in what is served alike."""


@dataclass(frozen=True)
class SignatureSpec:
    """Which inputs a panel has. A panel without cells or without treatment columns has no such inputs.

    Attributes:
        genes: names of the expression columns, in the order of the `genes` input.
        cells: names of the viability columns, in the order of the `cells` input; may be empty.
        treatment: those of `cp_type`, `cp_time`, `cp_dose` that the panel has.
    """

    genes: tuple[str, ...]
    cells: tuple[str, ...] = ()
    treatment: tuple[str, ...] = TREATMENT

    @property
    def features(self) -> tuple[str, ...]:
        """Names of the numeric features: genes, then cells."""
        return self.genes + self.cells

    @property
    def columns(self) -> tuple[str, ...]:
        """Every column that a features table of this panel must have, `sig_id` apart."""
        return self.treatment + self.features

    @property
    def inputs(self) -> dict[str, tuple[tuple[int, ...], str]]:
        """Name -> (shape without the batch axis, dtype) of the Keras inputs, in a fixed order."""
        inputs: dict[str, tuple[tuple[int, ...], str]] = {"genes": ((len(self.genes),), "float32")}
        if self.cells:
            inputs["cells"] = ((len(self.cells),), "float32")
        dtypes = {"cp_type": "int32", "cp_time": "float32", "cp_dose": "int32"}
        inputs |= {name: ((), dtypes[name]) for name in TREATMENT if name in self.treatment}
        return inputs

    def to_dict(self) -> dict[str, list[str]]:
        return {"genes": list(self.genes), "cells": list(self.cells), "treatment": list(self.treatment)}

    @classmethod
    def from_dict(cls, values: dict[str, Sequence[str]]) -> SignatureSpec:
        return cls(*(tuple(values[key]) for key in ("genes", "cells", "treatment")))


@dataclass(frozen=True)
class Signatures:
    """N signatures of one panel, in memory.

    Attributes:
        spec: the panel.
        sig_id: [N] str objects.
        genes: [N, G] float32 expression.
        cells: [N, C] float32 viability, or None.
        cp_type: [N] int32 index into `TYPES`, or None.
        cp_time: [N] float32 hours, or None.
        cp_dose: [N] int32 index into `DOSES`, or None.
    """

    spec: SignatureSpec
    sig_id: np.ndarray
    genes: np.ndarray
    cells: np.ndarray | None = None
    cp_type: np.ndarray | None = None
    cp_time: np.ndarray | None = None
    cp_dose: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.sig_id)

    @property
    def control(self) -> np.ndarray:
        """[N] bool, true for vehicle controls. A panel without `cp_type` has none."""
        if self.cp_type is None:
            return np.zeros(len(self), bool)
        return self.cp_type == CONTROL

    def take(self, rows: np.ndarray) -> Signatures:
        """The signatures at `rows` (indices or a boolean mask), copied."""
        values = {name: getattr(self, name) for name in ("genes", "cells", *TREATMENT)}
        picked = {name: None if value is None else value[rows] for name, value in values.items()}
        return Signatures(self.spec, self.sig_id[rows], **picked)

    def inputs(self) -> dict[str, np.ndarray]:
        """The model's named inputs: `spec.inputs` filled with these rows."""
        return {name: getattr(self, name) for name in self.spec.inputs}


@dataclass(frozen=True)
class Dataset:
    """A competition directory in memory: training signatures with labels and drugs.

    Attributes:
        signatures: N training signatures.
        targets: [N, T] float32, 0 or 1.
        target_names: T names.
        drug_id: [N] str objects, or None where the directory has no `train_drug`.
        nonscored: [N, U] float32 or None, extra labels that are never scored.
        nonscored_names: U names.
        fingerprint: sha256 over names and values; two equal fingerprints mean equal data.
        source: where it came from, for messages and `run.json`.
        simulated: whether the values are known to be simulated.
    """

    signatures: Signatures
    targets: np.ndarray
    target_names: tuple[str, ...]
    drug_id: np.ndarray | None = None
    nonscored: np.ndarray | None = None
    nonscored_names: tuple[str, ...] = ()
    fingerprint: str = ""
    source: str = ""
    simulated: bool = False
    notes: dict[str, Any] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.signatures)
