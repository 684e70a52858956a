"""Input files as plain bytes: decompressed, and text as UTF-8. Files of other programs are refused with a remedy."""

from __future__ import annotations

import codecs
import gzip
import hashlib
import tempfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path
from typing import IO, Any

import pyarrow as pa

from tasks.errors import UserError

MAX_FILE_BYTES = 2_000_000_000
"""Largest decompressed file and largest UTF-16 file."""
GZIP, ZSTANDARD = b"\x1f\x8b", b"\x28\xb5\x2f\xfd"
PARQUET, ARROW_FILE, ARROW_STREAM = b"PAR1", b"ARROW1", b"\xff\xff\xff\xff"
BINARY = (PARQUET, ARROW_FILE, ARROW_STREAM)
_HEAD = 1 << 14
_CHUNK = 1 << 20
_IN_MEMORY = 1 << 26
_WIDE = (  # longer marks first: that of UTF-32 begins with that of UTF-16
    (codecs.BOM_UTF32_LE, "utf-32"), (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16"),
)  # fmt: skip
_EXPORT = "export the sheet as CSV (in Excel: File, Save As, CSV UTF-8) and give that file"
_REFUSED = (
    (b"\xd0\xcf\x11\xe0", f"is an Excel workbook: {_EXPORT}."),
    (b"BZh", "is compressed with bzip2: decompress it first, or compress it with gzip or zstd."),
    (b"\xfd7zXZ", "is compressed with xz: decompress it first, or compress it with gzip or zstd."),
    (b"%PDF", "is a PDF: write its problems as JSON lines or CSV."),
    (b"SQLite format 3", "is an SQLite database: export its table as CSV."),
)


@dataclass(frozen=True, slots=True)
class Plain:
    """An open, seekable file of plain bytes. `notices` describe what was assumed about the bytes on disk."""

    file: IO[bytes]
    notices: tuple[str, ...] = ()


@contextmanager
def opened(path: Path) -> Iterator[Plain]:
    """Open a file for reading, decompressed if it is gzip or zstd, and as UTF-8 if it is UTF-16 or UTF-32.

    Raises `UserError` if it cannot be read, is damaged, is too large when decompressed, or belongs to a program whose files
    are not supported.
    """
    with _on_disk(path) as raw, tempfile.SpooledTemporaryFile(max_size=_IN_MEMORY) as unpacked:
        plain: IO[bytes] = raw
        if _head(raw).startswith((GZIP, ZSTANDARD)):
            _unpack(path, raw, unpacked)
            plain = unpacked
        head = _head(plain)
        _refuse_others(path, head)
        if head.startswith(BINARY):
            yield Plain(plain)
            return
        with tempfile.SpooledTemporaryFile(max_size=_IN_MEMORY) as text:
            encoding, notices = _encoding(path, head)
            if encoding is not None or (b"\r" in head and b"\n" not in head):  # lines that end with CR only
                _transcode(path, plain, encoding or "utf-8", text)
                plain = text
            yield Plain(plain, notices)


def file_digest(path: Path) -> str:
    """Return the SHA-256 (hex) of a file's content, the identity of a file source. Raises `UserError` if it cannot be
    read."""
    with _on_disk(Path(path)) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def _on_disk(path: Path) -> Iterator[BufferedReader]:
    try:
        file = path.open("rb")
    except OSError as error:
        raise UserError(
            f"{path} cannot be read ({error.strerror}): correct the path of this source."
        ) from error
    with file:
        yield file


def _head(file: IO[bytes]) -> bytes:
    file.seek(0)
    head = file.read(_HEAD)
    file.seek(0)
    return head


def _unpack(path: Path, raw: IO[bytes], target: IO[bytes]) -> None:
    stream: Any = (
        gzip.GzipFile(fileobj=raw)
        if _head(raw).startswith(GZIP)
        else pa.CompressedInputStream(pa.PythonFile(raw), "zstd")
    )
    try:
        _copy(path, stream.read, target)
    except (EOFError, OSError, zlib.error, pa.ArrowException) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"{path} cannot be decompressed ({reason}): compress it again.") from error


def _copy(path: Path, read: Callable[[int], bytes], target: IO[bytes]) -> None:
    size = 0
    while chunk := read(_CHUNK):
        size += len(chunk)
        if size > MAX_FILE_BYTES:
            raise UserError(
                f"{path} has more than {MAX_FILE_BYTES:,} bytes when decompressed: divide it into smaller files."
            )
        target.write(chunk)
    target.seek(0)


def _refuse_others(path: Path, head: bytes) -> None:
    for mark, sentence in _REFUSED:
        if head.startswith(mark):
            raise UserError(f"{path} {sentence}")
    if head.startswith(b"PK\x03\x04"):
        if path.suffix.lower() in (".xlsx", ".xlsm", ".ods") or b"xl/" in head or b"spreadsheet" in head:
            raise UserError(f"{path} is a spreadsheet: {_EXPORT}.")
        raise UserError(f"{path} is a zip archive: unpack it and give one of its files.")


def _encoding(path: Path, head: bytes) -> tuple[str | None, tuple[str, ...]]:
    """Return the encoding (None: UTF-8) and a notice if it was recognised without a byte-order mark.

    In UTF-16 every other byte of a delimiter, digit or Latin letter is zero.
    """
    for mark, name in _WIDE:
        if head.startswith(mark):
            return name, ()
    even, odd = head[::2].count(0), head[1::2].count(0)
    if not even and not odd:
        return None, ()
    if max(even, odd) <= 4 * min(even, odd) or 10 * max(even, odd) < len(head):
        raise UserError(f"{path} contains zero bytes, so it is not text: write it as JSON lines or CSV.")
    name = "utf-16-le" if odd > even else "utf-16-be"
    return name, (f"UTF-16 without a byte-order mark, read as {name.upper()}",)


def _one_line_end(text: str) -> str:
    return text if "\n" in text else text.replace("\r", "\n")


def _transcode(path: Path, file: IO[bytes], encoding: str, target: IO[bytes]) -> None:
    decoder = codecs.getincrementaldecoder(encoding)()
    finished = False

    def read(size: int) -> bytes:
        nonlocal finished
        while not finished:
            chunk = file.read(size)
            finished = not chunk
            if text := decoder.decode(chunk, final=finished):
                return _one_line_end(text).encode("utf-8", "surrogatepass")
        return b""

    try:
        _copy(path, read, target)
    except UnicodeDecodeError as error:
        raise UserError(
            f"{path} is not valid {encoding.upper()} ({error.reason}): save it as UTF-8."
        ) from error
