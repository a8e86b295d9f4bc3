"""What a file holds: its bytes, decompressed within a limit, as text."""

from __future__ import annotations

import gzip
import io
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple

import zstandard

from corpus_tools.errors import InputError
from corpus_tools.files.encodings import as_utf8, lacks_mark, marked_encoding, not_utf8
from corpus_tools.files.sources import COMPRESSIONS
from corpus_tools.windows import explain_windows

_BOM = b"\xef\xbb\xbf"
_GO_ON = "let `clean --skip_bad_files` go on without it."
MEND = f"repair it, or {_GO_ON}"
_STEP = 1 << 24  # bytes decompressed at a time
_ZSTD_STEP = 1 << 12  # bytes given at a time: a block of 128 KiB may take four
_ALWAYS = 64 << 20  # a file may become as large as this, whatever its size


class ReadLimits(NamedTuple):
    """How many times larger a compressed file may become, and the largest row, in millions of characters."""

    max_expansion: int = 100
    max_row_mchars: int = 50

    def most_bytes(self, stored: int) -> int:
        """The most bytes that `stored` ones may become."""
        return max(_ALWAYS, self.max_expansion * stored)


def read_bytes(path: Path) -> bytes:
    """The file as stored.

    Raises:
        InputError: The file cannot be read.
    """
    try:
        return path.read_bytes()
    except OSError as error:
        raise InputError(
            f"{path}: {error.strerror or error}; "
            f"{explain_windows(error) or 'make the file readable or leave it out'}."
        ) from error


def expands_too_much(path: Path, most: int) -> InputError:
    """The error for a file that became larger than it may."""
    return InputError(
        f"{path}: more than {most >> 20:,} MB when decompressed, which no text becomes; "
        "leave the file out, or raise --max_expansion if it is meant."
    )


def decompress(data: bytes, path: Path, limits: ReadLimits) -> bytes:
    """The bytes of a .gz or .zst file, those of another file as they are.

    Raises:
        InputError: The data are damaged, or become larger than the limits allow.
    """
    if not is_compressed(path):
        return data
    return b"".join(decompressed(io.BytesIO(data), path, limits.most_bytes(len(data)), _STEP))


def is_compressed(path: Path) -> bool:
    """Whether a file's name says that it is compressed as a whole."""
    return path.suffix.lower() in COMPRESSIONS


def decompressed(file: BinaryIO, path: Path, most: int, step: int = 1 << 20) -> Iterator[bytes]:
    """What a .gz or .zst file holds, in pieces of about `step` bytes.

    Raises:
        InputError: The data are damaged, or become more than `most` bytes.
    """
    suffix, size = path.suffix.lower(), 0
    try:
        for piece in _gzip_pieces(file, step) if suffix == ".gz" else _zstandard_pieces(file):
            size += len(piece)
            if size > most:
                raise expands_too_much(path, most)
            yield piece
    except (OSError, EOFError, zlib.error, zstandard.ZstdError) as error:
        raise InputError(
            f"{path}: the {suffix} data are damaged or cut off ({error}); fetch it again, or {_GO_ON}"
        ) from error


def _gzip_pieces(stored: BinaryIO, step: int) -> Iterator[bytes]:
    with gzip.GzipFile(fileobj=stored) as file:
        while piece := file.read(step):
            yield piece


def _zstandard_pieces(stored: BinaryIO) -> Iterator[bytes]:
    piece = stored.read(_ZSTD_STEP)
    while piece:
        frame = zstandard.ZstdDecompressor().decompressobj()
        while not frame.eof:
            if not piece:
                raise EOFError("the last frame has no end")
            yield frame.decompress(piece)
            if not frame.eof:
                piece = stored.read(_ZSTD_STEP)
        piece = frame.unused_data or stored.read(_ZSTD_STEP)


def plain_text(data: bytes, path: Path) -> bytes:
    """UTF-8 without a byte order mark, also of a text whose mark says that it is UTF-16 or UTF-32.

    Raises:
        InputError: The file is plainly in another encoding.
    """
    if encoding := marked_encoding(data):
        return b"".join(as_utf8([data], encoding, path))
    if b"\0" in data[:4]:
        raise lacks_mark(path, data[:_STEP])
    return data[len(_BOM) :] if data.startswith(_BOM) else data


def decode(path: Path, data: bytes) -> str:
    """The bytes as text.

    Raises:
        InputError: They are not UTF-8; the line is named.
    """
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise not_utf8(path, f", line {line}", data, error) from error
