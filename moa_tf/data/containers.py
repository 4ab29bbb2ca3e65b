"""What a file is, by its bytes: its name may say something else."""

from __future__ import annotations

import gzip
import zipfile
from pathlib import Path

TEXT, GZIP, PARQUET = "CSV text", "gzipped CSV text", "Parquet"

_OTHERS = (
    (b"\xff\xfe\0\0", "UTF-32 text"),
    (b"\0\0\xfe\xff", "UTF-32 text"),
    (b"\xff\xfe", "UTF-16 text"),
    (b"\xfe\xff", "UTF-16 text"),
    (b"\x1f\x8b", "a gzip file"),
    (b"\x1f\x9d", "a compress (.Z) file"),
    (b"BZh", "a bzip2 file"),
    (b"\xfd7zXZ\0", "an xz file"),
    (b"\x28\xb5\x2f\xfd", "a Zstandard file"),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive"),
    (b"Rar!", "a RAR archive"),
    (b"\x89HDF\r\n", "an HDF5 file"),
    (b"\xd0\xcf\x11\xe0", "an Excel workbook"),
    (b"ARROW1", "an Arrow or Feather file"),
    (b"FEA1", "a Feather file"),
    (b"ORC", "an ORC file"),
    (b"Obj\x01", "an Avro file"),
    (b"\x93NUMPY", "a NumPy array"),
    (b"SQLite format 3\0", "an SQLite database"),
    (b"\x80\x02", "a pickle"),
    (b"\x80\x03", "a pickle"),
    (b"\x80\x04", "a pickle"),
    (b"\x80\x05", "a pickle"),
    (b"%PDF", "a PDF file"),
    (b"#1.2", "a GCT file"),
    (b"#1.3", "a GCT file"),
    (b"version https://git-lfs", "a Git LFS pointer, not the file itself"),
    (b"<", "HTML or XML"),
    (b"{", "JSON"),
    (b"[{", "JSON"),
)


def identify(path: Path) -> str:
    """`TEXT`, `GZIP` or `PARQUET`, or else in words what the file is.

    Raises:
        OSError, EOFError, zlib.error: it cannot be read or decompressed.
    """
    with path.open("rb") as file:
        head = file.read(512)
    if head.startswith(b"PK\x03\x04"):
        return _name_zip(path)
    if not head.startswith(b"\x1f\x8b"):
        return _name(head)
    with gzip.open(path) as unpacked:
        inner = _name(unpacked.read(512))
    return GZIP if inner == TEXT else f"a gzip file that holds {inner}"


def _name(head: bytes) -> str:
    if head.startswith(b"PAR1"):
        return PARQUET
    if head.startswith(b"PK\x03\x04"):
        return "a zip archive"
    if head[257:262] == b"ustar":
        return "a tar archive"
    for magic, what in _OTHERS:
        if head.startswith(magic):
            return what
    if len(head) > 3 and (head[1:4:2] == b"\0\0" or head[:3:2] == b"\0\0"):
        return "UTF-16 text"
    return TEXT


def _name_zip(path: Path) -> str:
    try:
        names = zipfile.ZipFile(path).namelist()
    except (zipfile.BadZipFile, OSError):
        return "a broken zip archive"
    if "xl/workbook.xml" in names or "xl/workbook.bin" in names:
        return "an Excel workbook"
    if "mimetype" in names:
        return "an OpenDocument file"
    return "a zip archive, to be unpacked first"
