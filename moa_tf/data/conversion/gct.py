"""GCT #1.2 and #1.3: text with a line a gene and a column a signature, in #1.3 with fields of both.

Source: the format's description at clue.io/connectopedia/gct_format.
"""

from __future__ import annotations

import codecs
import gzip
import zlib
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from moa_tf.data.conversion.fields import Renaming, check_ids, tidy
from moa_tf.data.conversion.source import MISSING, Progress, Scratch, Source
from moa_tf.data.names import shorten
from moa_tf.errors import InputError

_WORDS = pa.array(["", "na", "n/a", "#n/a", "<na>", "nan", "-nan", "null", "none"])
"""How a missing value is written, in lower case; -666 is found as a number."""


class _Sizes(NamedTuple):
    genes: int
    signatures: int
    gene_fields: int
    signature_fields: int


def is_gct(path: Path) -> bool:
    """Whether a file, gzipped or not, begins as GCT does, in whatever version.

    Raises:
        OSError, EOFError, zlib.error: it cannot be read.
    """
    with _open(path) as file:
        return file.read(6).removeprefix(codecs.BOM_UTF8).startswith(b"#1.")


def open_gct(path: Path, scratch: Path, renaming: Renaming, progress: Progress, stack: ExitStack) -> Source:
    """Reads a GCT file whole, its numbers into the file `scratch`.

    Args:
        path: the file, gzipped or not.
        scratch: where the numbers are put, 4 bytes each, so that they can be read by signatures.
        renaming: which fields to read, and what they are called here.
        progress: told of every gene.
        stack: closes and removes `scratch`.

    Raises:
        InputError: a line that says which line is at fault.
    """
    try:
        with _open(path) as file:
            return _read_lines(path, _split(file), scratch, renaming, progress, stack)
    except (EOFError, zlib.error, gzip.BadGzipFile):
        raise InputError(f"{path}: the compressed file ends or breaks early: is it truncated?") from None
    except UnicodeDecodeError:
        raise InputError(f"{path}: is not UTF-8 text, expected a GCT file in UTF-8") from None


def _open(path: Path) -> BinaryIO:
    with path.open("rb") as raw:
        zipped = raw.read(2) == b"\x1f\x8b"
    return gzip.open(path, "rb") if zipped else path.open("rb")


def _split(file: BinaryIO) -> Iterator[list[str]]:
    for line in file:
        yield (
            line.decode("utf-8-sig" if line.startswith(codecs.BOM_UTF8) else "utf-8")
            .rstrip("\r\n")
            .split("\t")
        )


def _read_lines(
    path: Path,
    lines: Iterator[list[str]],
    scratch: Path,
    renaming: Renaming,
    progress: Progress,
    stack: ExitStack,
) -> Source:
    version = next(lines, [""])[0].strip()
    if version not in ("#1.2", "#1.3"):
        raise InputError(f"{path}: line 1: {version[:20]!r}, expected #1.2 or #1.3")
    sizes = _read_sizes(path, next(lines, []), 2 if version == "#1.2" else 4)
    before = 1 + sizes.gene_fields
    width = before + sizes.signatures
    header = next(lines, [])
    _check_width(path, 3, header, width)
    sig_id = tidy(np.array(header[before:], object))
    check_ids(f"{path}: line 3", "signatures", sig_id)
    columns = {}
    for number in range(4, 4 + sizes.signature_fields):
        cells = next(lines, None)
        if cells is None:
            raise InputError(
                f"{path}: ends before line {number}, expected fields of the signatures: is it truncated?"
            )
        _check_width(path, number, cells, width)
        if renaming.wanted(cells[0]):
            columns[cells[0]] = tidy(np.array(cells[before:], object))
    fields = renaming.apply(columns, sizes.signatures, str(path))

    numbers = Scratch(scratch, by_feature=True, length=sizes.signatures)
    stack.callback(numbers.close)
    genes: list[list[str]] = []
    for number, cells in enumerate(lines, 4 + sizes.signature_fields):
        if cells == [""]:
            continue
        if len(genes) == sizes.genes:
            raise InputError(f"{path}: line {number}: more than the {sizes.genes} genes that line 2 says")
        _check_width(path, number, cells, width)
        genes.append(cells[:before])
        numbers.write(_parse(f"{path}: line {number}, gene {cells[0][:40]}", cells[before:])[None])
        progress("reading genes", len(genes), sizes.genes)
    if len(genes) < sizes.genes:
        raise InputError(
            f"{path}: {len(genes)} genes, expected {sizes.genes}, as line 2 says: is it truncated?"
        )
    table = np.array(genes, object).reshape(-1, before)
    feature_id = tidy(table[:, 0])
    check_ids(str(path), "genes", feature_id)
    named = {name: tidy(table[:, j]) for j, name in enumerate(header[:before]) if j and renaming.wanted(name)}
    features = renaming.apply(named, sizes.genes, str(path))
    return Source(f"GCT {version}", sig_id, feature_id, fields, features, numbers.read)


def _read_sizes(path: Path, cells: list[str], count: int) -> _Sizes:
    while cells and not cells[-1].strip():  # Excel fills lines up.
        cells = cells[:-1]
    if len(cells) != count or not all(cell.strip().isdecimal() for cell in cells):
        expected = "numbers of genes and signatures" + (", and of the fields of each" if count == 4 else "")
        raise InputError(
            f"{path}: line 2: {shorten(cells, 5)!r}, expected {count} whole numbers, the {expected}"
        )
    sizes = [int(cell) for cell in cells]
    if 0 in sizes[:2]:
        raise InputError(f"{path}: line 2: {sizes[0]} genes and {sizes[1]} signatures, expected some")
    return _Sizes(*sizes) if count == 4 else _Sizes(*sizes, 1, 0)


def _check_width(path: Path, number: int, cells: list[str], width: int) -> None:
    if len(cells) != width:
        raise InputError(f"{path}: line {number}: {len(cells)} cells, expected {width}, as line 2 says")


def _parse(where: str, cells: list[str]) -> np.ndarray:
    """[n] numbers, NaN for what is missing."""
    text = pc.utf8_trim_whitespace(pa.array(cells, pa.string()))
    try:
        numbers = text.cast(pa.float64())
    except pa.ArrowInvalid:
        words = pc.is_in(pc.utf8_lower(text), _WORDS)
        text = pc.if_else(words, pa.scalar(None, pa.string()), text)
        try:
            numbers = text.cast(pa.float64())
        except pa.ArrowInvalid:
            wrong = [cell for cell in text.to_pylist() if cell is not None and not _is_number(cell)]
            shown = shorten((repr(cell[:40]) for cell in wrong), 3)
            raise InputError(f"{where}: {len(wrong)} not a number ({shown}), expected numbers") from None
    values = numbers.to_numpy(zero_copy_only=False).copy()
    values[values == MISSING] = np.nan
    return values


def _is_number(cell: str) -> bool:
    try:
        pa.scalar(cell).cast(pa.float64())
    except pa.ArrowInvalid:
        return False
    return True
