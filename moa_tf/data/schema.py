"""What a table of signatures holds, independent of any file format or framework."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from moa_tf.data.storage import Memory, Storage

TYPES = ("trt_cp", "ctl_vehicle")
"""What `cp_type` comes down to: treated or a control; the first name is what a table of ours says."""
CONTROL = TYPES.index("ctl_vehicle")
TYPE_PREFIXES = ("trt_", "ctl_")
"""Connectivity Map's `pert_type`s by the same codes: `trt_poscon` is treated, `ctl_untrt` is a control."""
DOSES = ("D1", "D2")
"""Levels of `cp_dose` in the competition's tables."""
SPLITS = ("drug", "row", "kaggle")
"""Ways to deal rows into folds, see `moa_tf.data.folds`; any other is a column of `train_drug`."""

TREATMENT = ("cp_type", "cp_time", "cp_dose", "cp_cell")
"""The treatment columns, in the order of a model's inputs."""
CONDITIONS = TREATMENT[1:]
"""What networks read of them: controls are zeroed at the edge, so none need learn what they are."""
HOURS_ABOVE = 0
"""`cp_time` lies above this, in a table and in what is served alike."""
MICROMOLAR_ABOVE = 0
"""`cp_dose` lies above this where it is a number, as its logarithm is what models read."""


@dataclass(frozen=True)
class SignatureSpec:
    """Which inputs a panel has. A panel without genes, cells or a treatment column has no such input.

    Attributes:
        genes: names of the expression columns, in the order of the `genes` input; may be empty.
        cells: names of the viability columns, in the order of the `cells` input; may be empty. A panel has either.
        treatment: those of `TREATMENT` that the panel has.
        doses: the levels of `cp_dose`, whatever they are called; none where it is a number, in µM.
        cell_lines: the cell lines of `cp_cell` that are known.
        missing: whether `genes` and `cells` may hold NaN, which stands for a missing value.
    """

    genes: tuple[str, ...]
    cells: tuple[str, ...] = ()
    treatment: tuple[str, ...] = ("cp_type", "cp_time", "cp_dose")
    doses: tuple[str, ...] = DOSES
    cell_lines: tuple[str, ...] = ()
    missing: bool = False

    @property
    def features(self) -> tuple[str, ...]:
        """Names of the numeric features: genes, then cells."""
        return self.genes + self.cells

    @property
    def columns(self) -> tuple[str, ...]:
        """Every column that a features table of this panel must have, `sig_id` apart."""
        return self.treatment + self.features

    @property
    def codes(self) -> dict[str, tuple[str, ...]]:
        """The treatment columns that are words outside and numbers of words inside -> the words."""
        words = {"cp_type": TYPES, "cp_dose": self.doses, "cp_cell": self.cell_lines}
        return {
            name: words[name]
            for name in self.treatment
            if name in words and (name != "cp_dose" or self.doses)
        }

    @property
    def inputs(self) -> dict[str, tuple[tuple[int, ...], str]]:
        """Name -> (shape without the batch axis, dtype) of the Keras inputs, in a fixed order."""
        inputs: dict[str, tuple[tuple[int, ...], str]] = {}
        for name, columns in (("genes", self.genes), ("cells", self.cells)):
            if columns:
                inputs[name] = ((len(columns),), "float32")
        codes = self.codes
        inputs |= {
            name: ((), "int32" if name in codes else "float32")
            for name in TREATMENT
            if name in self.treatment
        }
        return inputs

    def to_dict(self) -> dict[str, Any]:
        """Plain values; what the competition's panels do not have is left out, so that theirs stay as they were."""
        values = {name: list(getattr(self, name)) for name in ("genes", "cells", "treatment")}
        if "cp_dose" in self.treatment and self.doses != DOSES:
            values["doses"] = list(self.doses)
        if self.cell_lines:
            values["cell_lines"] = list(self.cell_lines)
        return values | ({"missing": True} if self.missing else {})

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> SignatureSpec:
        return cls(
            *(tuple(values[key]) for key in ("genes", "cells", "treatment")),
            tuple(values.get("doses", DOSES)),
            tuple(values.get("cell_lines", ())),
            bool(values.get("missing", False)),
        )


@dataclass(frozen=True)
class Signatures:
    """N signatures of one panel.

    Attributes:
        spec: the panel.
        sig_id: [N] str objects.
        genes: [N, G] float32 expression, or None.
        cells: [N, C] float32 viability, or None.
        cp_type: [N] int32 index into `TYPES`, or None.
        cp_time: [N] float32 hours, or None.
        cp_dose: [N] int32 index into `spec.doses`, or float32 µM where there are none, or None.
        cp_cell: [N] int32 index into `spec.cell_lines`, −1 for others, or None.
    """

    spec: SignatureSpec
    sig_id: np.ndarray
    genes: np.ndarray | None = None
    cells: np.ndarray | None = None
    cp_type: np.ndarray | None = None
    cp_time: np.ndarray | None = None
    cp_dose: np.ndarray | None = None
    cp_cell: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.sig_id)

    @property
    def control(self) -> np.ndarray:
        """[N] bool, true for controls. A panel without `cp_type` has none."""
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
    """A competition directory: training signatures with labels and drugs.

    Attributes:
        signatures: N training signatures.
        targets: [N, T] float32, 0 or 1.
        target_names: T names.
        drug_id: [N] str objects, or None where the directory has no `train_drug`.
        nonscored: [N, U] float32 or None, extra labels that are never scored.
        nonscored_names: U names.
        groups: further columns of `train_drug` -> [N] str objects, '' where a value is missing.
        fingerprint: sha256 over names and values, `groups` apart; two equal fingerprints mean equal data.
        source: where it came from, for messages and `run.json`.
        simulated: whether the values are known to be simulated.
        notes: what is to be said of it.
        storage: where the arrays are, and where others of N rows go that are made of them.
    """

    signatures: Signatures
    targets: np.ndarray
    target_names: tuple[str, ...]
    drug_id: np.ndarray | None = None
    nonscored: np.ndarray | None = None
    nonscored_names: tuple[str, ...] = ()
    groups: Mapping[str, np.ndarray] = field(default_factory=dict)
    fingerprint: str = ""
    source: str = ""
    simulated: bool = False
    notes: dict[str, Any] = field(default_factory=dict)
    storage: Storage = field(default_factory=Memory)

    def __len__(self) -> int:
        return len(self.signatures)
