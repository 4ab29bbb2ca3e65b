"""From a matrix of signatures and its metadata to a directory in the competition's layout."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from moa_tf.data.containers import GZIP, PARQUET, TEXT, identify
from moa_tf.data.conversion.features import name_features
from moa_tf.data.conversion.fields import ALIASES, Renaming, find_field, values_of
from moa_tf.data.conversion.gct import is_gct, open_gct
from moa_tf.data.conversion.gctx import open_gctx
from moa_tf.data.conversion.labels import Labels, Mechanisms, find_drugs, label, shorten_id
from moa_tf.data.conversion.metadata import read_compounds, read_genes, read_signatures
from moa_tf.data.conversion.quality import field_of, satisfies
from moa_tf.data.conversion.source import Progress, Source
from moa_tf.data.conversion.table import open_table
from moa_tf.data.conversion.treatment import Treatment, keep_types, read_treatment
from moa_tf.data.conversion.workspace import check_new, workspace
from moa_tf.data.conversion.write import Layout, write_features, write_labels, write_rows
from moa_tf.data.names import shorten
from moa_tf.errors import InputError

GROUPS = {
    "pert_iname": "name", "pert_type": "type", "cell": "cell", "plate": "plate", "batch": "batch",
    "smiles": "smiles", "scaffold": "scaffold",
}  # fmt: skip
"""Columns of `train_drug` beside the drug -> the field that fills them."""


@dataclass(frozen=True)
class Options:
    """How a source is converted.

    Attributes:
        signatures: a table with a row a signature, or None.
        compounds: a table with drugs and their mechanisms, or None.
        genes: a table with genes and their symbols, or None.
        landmarks: keep the 978 landmark genes only.
        kind: `genes` or `viability`: what the features are.
        min_drugs: drugs that a mechanism needs to be kept.
        types: keep signatures of these types only; empty for all.
        quality: keep treated signatures only that meet these rules, see `satisfies`.
        rename: what a field is called -> what it is to be called here.
    """

    signatures: Path | None = None
    compounds: Path | None = None
    genes: Path | None = None
    landmarks: bool = False
    kind: str = "genes"
    min_drugs: int = 1
    types: tuple[str, ...] = ()
    quality: tuple[str, ...] = ()
    rename: dict[str, str] = field(default_factory=dict)


def convert(
    source: Path,
    out: Path,
    options: Options | None = None,
    tell: Callable[[str], None] = lambda line: None,
    progress: Progress = lambda what, done, of: None,
) -> dict[str, Any]:
    """Writes the directory `out`, which appears whole or not at all; what a killed call has written is kept and used.

    Signatures of drugs whose mechanism is known, and controls, go to training; a drug whose mechanism is not known
    is no negative: its signatures go to `test_features`. Where no mechanism is known, all do.

    Args:
        source: a GCT, GCTX, CSV or Parquet file, which of them its bytes say.
        out: a directory that does not exist yet, or is empty.
        options: how.
        tell: called with lines that the user should know.
        progress: see `Progress`.

    Returns:
        Counts of all that was written and dropped.

    Raises:
        InputError: the tables or options are at fault, or `out` cannot be written.
    """
    source, out, options = Path(source), Path(out), options or Options()
    if not source.is_file():
        raise InputError(
            f"{source}: no such file" if not source.exists() else f"{source}: is no file, expected one"
        )
    check_new(out)
    others = frozenset(field_of(rule) for rule in options.quality)
    renaming = Renaming(options.rename, others)
    compounds = read_compounds(options.compounds, renaming) if options.compounds else None
    genes = read_genes(options.genes, renaming) if options.genes else None
    with ExitStack() as stack:
        directory = stack.enter_context(workspace(out, _plan(source, options), tell))
        files = stack.enter_context(ExitStack())
        read = _open(source, directory / "numbers", renaming, progress, files)
        fields, figures = read.fields, {"source": str(source), "kind": read.kind}
        if options.signatures:
            table, rows = read_signatures(options.signatures, read.sig_id, renaming)
            fields = pd.concat([table, fields.drop(columns=table.columns, errors="ignore")], axis=1)
            if rows > len(table):
                tell(
                    f"{options.signatures}: {rows - len(table):,} of {rows:,} rows are of no signature of {source.name}"
                )
        renaming.check()
        return figures | _write(
            directory, read, fields, compounds, genes, options, str(source), tell, progress, files
        )


def _plan(source: Path, options: Options) -> dict[str, Any]:
    """What makes two conversions the same: the files as they are now, and the options."""
    tables = (source, options.signatures, options.compounds, options.genes)
    stats = {}
    for path in tables:
        if path is not None:
            try:
                stat = path.stat()
            except OSError as error:
                raise InputError(f"{path}: cannot be read ({error.strerror})") from None
            stats[str(path)] = {"bytes": stat.st_size, "modified": stat.st_mtime_ns}
    return {"layout": 1, "source": str(source), "files": stats, "options": asdict(options)}


def _open(path: Path, scratch: Path, renaming: Renaming, progress: Progress, stack: ExitStack) -> Source:
    try:
        gct, kind = is_gct(path), identify(path)
    except (EOFError, zlib.error, gzip.BadGzipFile):
        raise InputError(f"{path}: cannot be decompressed: is it truncated?") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from None
    if kind == "an HDF5 file":
        return open_gctx(path, scratch, renaming, progress, stack)
    if gct:
        return open_gct(path, scratch, renaming, progress, stack)
    if kind in (TEXT, GZIP, PARQUET):
        return open_table(path, kind, scratch, renaming, progress, stack)
    raise InputError(f"{path}: is {kind}, expected GCT #1.2 or #1.3, GCTX, CSV or Parquet")


def _write(
    directory: Path,
    source: Source,
    fields: pd.DataFrame,
    compounds: pd.DataFrame | None,
    genes: pd.DataFrame | None,
    options: Options,
    where: str,
    tell: Callable[[str], None],
    progress: Progress,
    files: ExitStack,
) -> dict[str, Any]:
    features, names, remarks = name_features(source, options.kind, genes, options.landmarks)
    treatment = read_treatment(where, fields)
    for remark in (*treatment.remarks, *remarks):
        tell(remark)
    keep, dropped = _select(where, fields, treatment, options)
    drugs, unnamed = find_drugs(fields, treatment.control, source.sig_id)
    if unnamed:
        tell(f"{unnamed:,} treated signatures have neither the id nor the name of a drug: each counts as one")
    labels = _label(fields, drugs, keep, treatment, compounds, options, source.sig_id)
    train = keep & (treatment.control | (labels.row >= 0)) if labels else np.zeros(len(keep), bool)
    if not labels:
        tell(
            "no mechanism of action is known (neither --compounds nor a field moa): all signatures go to "
            "test_features, to be predicted"
        )
    tables = {"train_features": train, "test_features": keep & ~train}
    groups = _group(fields, drugs, compounds)
    for stem, rows in tables.items():
        if groups and rows.any():
            there = {name: values[rows] for name, values in groups.items() if (values[rows] != "").any()}
            columns = {name: np.where(values == "", None, values) for name, values in there.items()}
            write_rows(directory / f"{stem[:-9]}_drug.parquet", {"sig_id": source.sig_id[rows]} | columns)
    if labels:
        path = directory / "train_targets_scored.parquet"
        write_labels(path, source.sig_id[train], labels.names, labels.matrix, labels.row[train])
    layout = Layout(source, {"sig_id": source.sig_id} | treatment.columns, features, names, tables)
    try:
        missing = write_features(directory, layout, progress)
    except InputError as error:
        if error.__cause__ is None:
            raise InputError(f"{where}: {error}") from None
        raise
    files.close()
    treated = ~treatment.control
    return {
        "signatures": len(keep),
        "features": len(features),
        "first_features": list(names[:3]),
        "treatment": list(treatment.columns),
        "train": {"treated": int((train & treated).sum()), "controls": int((train & ~treated).sum())},
        "test": {"signatures": int((keep & ~train).sum()), "controls": int((keep & ~train & ~treated).sum())},
        "drugs": None if drugs is None else {
            "train": int(pd.unique(drugs[train & treated]).size),
            "test": int(pd.unique(drugs[keep & ~train & treated]).size),
        },
        "mechanisms": len(labels.names) if labels else 0,
        "dropped": {
            **dropped,
            "features": len(source.feature_id) - len(features),
            "mechanisms": len(labels.dropped) if labels else 0,
        },
        "missing_values": missing,
        "values": int(keep.sum()) * len(features),
    }  # fmt: skip


def _select(
    where: str, fields: pd.DataFrame, treatment: Treatment, options: Options
) -> tuple[np.ndarray, dict[str, int]]:
    """[N] which signatures to keep, and how many each option drops."""
    keep = np.ones(len(fields), bool)
    dropped: dict[str, int] = {}
    if options.types:
        keep = keep_types(where, treatment, options.types)
        dropped["--types"] = int((~keep).sum())
    for rule in options.quality:
        good = satisfies(where, fields, rule) | treatment.control
        dropped[f"--quality {rule}"] = int((keep & ~good).sum())
        keep &= good
    if not keep.any():
        raise InputError(f"{where}: --types and --quality leave none of {len(keep)} signatures")
    return keep, dropped


def _label(
    fields: pd.DataFrame,
    drugs: np.ndarray | None,
    keep: np.ndarray,
    treatment: Treatment,
    compounds: pd.DataFrame | None,
    options: Options,
    sig_id: np.ndarray,
) -> Labels | None:
    """The labels, or None where nothing tells a mechanism."""
    names = values_of(fields, "name")
    treated = keep & ~treatment.control
    if compounds is not None:
        if drugs is None:
            known = ", ".join((*ALIASES["drug"], *ALIASES["name"]))
            raise InputError(
                f"--compounds: no field tells the drugs of the signatures, expected one of {known}"
            )
        table, keys = compounds, values_of(compounds, "drug")
    elif find_field(fields[treated], "mechanism"):
        # Without a drug each signature is one.
        table, keys = fields[treated], (sig_id if drugs is None else drugs)[treated]
    else:
        return None
    text = values_of(table, "mechanism")
    assert text is not None
    mechanisms = Mechanisms.collect(keys, values_of(table, "name"), text)
    drugs = sig_id if drugs is None else drugs
    labels = label(drugs, names, treated, mechanisms, options.min_drugs)
    if not len(labels.matrix):
        there = pd.unique(drugs[treated])
        shown = shorten(there, 3)
        raise InputError(
            f"{options.compounds or 'moa'}: none of the {len(there)} drugs has a mechanism ({shown})"
        )
    if not labels.names:
        most = max(labels.dropped.values())
        raise InputError(
            f"--min-drugs {options.min_drugs}: no mechanism is left, the most drugs that one has are {most}"
        )
    return labels


def _group(
    fields: pd.DataFrame, drugs: np.ndarray | None, compounds: pd.DataFrame | None
) -> dict[str, np.ndarray]:
    """[N] the drug and whatever else rows can be grouped by, '' where it is not known."""
    groups = {} if drugs is None else {"drug_id": drugs}
    for name, meaning in GROUPS.items():
        values = values_of(fields, meaning)
        if (
            values is None
            and compounds is not None
            and drugs is not None
            and meaning in ("smiles", "scaffold")
        ):
            keys, of = values_of(compounds, "drug"), values_of(compounds, meaning)
            if keys is not None and of is not None:
                known = {shorten_id(key): value for key, value in zip(keys, of, strict=True) if value}
                values = np.array([known.get(drug, "") for drug in drugs], object)
        if values is not None and groups:
            groups[name] = values
    return groups
