"""Texts in other encodings than UTF-8: read where a byte order mark says which, else named, with what converts them."""

from __future__ import annotations

import codecs
import shlex
from collections.abc import Iterable, Iterator
from pathlib import Path

from corpus_tools.errors import InputError
from corpus_tools.windows import other_encoding

_MARKS = {
    codecs.BOM_UTF32_LE: "utf-32",  # before UTF-16's, with which it begins
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
_LOOKED_AT = 1 << 16  # bytes
# Double-byte encodings: their names, and the first bytes of the characters that are common in them.
_DOUBLE = {"cp950": ("Big5", 0xA4, 0xC6), "gb18030": ("GB 18030 or GBK", 0xB0, 0xD7)}
_MOSTLY = 0.7  # of the Han are common ones where the encoding is the right one


def marked_encoding(start: bytes) -> str:
    """The encoding that a file's first four bytes name; "" for UTF-8 or none.

    >>> marked_encoding("阮".encode("utf-16")), marked_encoding("阮".encode("utf-8-sig"))
    ('utf-16', '')
    """
    return next((encoding for mark, encoding in _MARKS.items() if start.startswith(mark)), "")


def as_utf8(pieces: Iterable[bytes], encoding: str, path: Path) -> Iterator[bytes]:
    """Pieces of a text in another encoding, in UTF-8.

    Raises:
        InputError: They are not what the byte order mark says.
    """
    try:
        for text in codecs.iterdecode(iter(pieces), encoding):
            yield text.encode()
    except UnicodeError as error:
        raise InputError(
            f"{path}: its byte order mark says {encoding.upper()}, which it is not ({error}); fetch it again."
        ) from error


def not_utf8(path: Path, where: str, data: bytes, error: UnicodeDecodeError) -> InputError:
    """The error for bytes that are not UTF-8: what they seem to be, and how to convert the file.

    >>> error = UnicodeDecodeError("utf-8", b"\\xa4", 0, 1, "")
    >>> print(not_utf8(Path("a b.txt"), ", line 1", "我们家在台南。".encode("gbk"), error))
    a b.txt, line 1: byte 0xa4 is not UTF-8; save the file as UTF-8. It reads as GB 18030 or GBK: 我们家在台南。. \
Or convert it: iconv -f GB18030 -t UTF-8 'a b.txt' > NEW_FILE
    """
    encoding = _guess(data[:_LOOKED_AT])
    said = other_encoding(data) if encoding == "cp950" else ""
    if encoding and not said:
        name = _DOUBLE[encoding][0] if encoding in _DOUBLE else encoding.upper()
        start = "".join(c for c in data[:64].decode(encoding, "ignore")[:12] if c.isprintable())
        said = f" It reads as {name}: {start}."
    command = f" Or convert it: {_command(path, encoding)}"
    return InputError(
        f"{path}{where}: byte 0x{error.object[error.start]:02x} is not UTF-8; save the file as UTF-8.{said}"
        f"{command if encoding else ''}"
    )


def lacks_mark(path: Path, data: bytes) -> InputError:
    """The error for a text in UTF-16 or UTF-32 that does not say which."""
    command = _command(path, _guess(data[:_LOOKED_AT]))
    return InputError(f"{path}: the file is UTF-16 or UTF-32; save it as UTF-8, or convert it: {command}")


def _command(path: Path, encoding: str) -> str:
    return f"iconv -f {encoding.upper()} -t UTF-8 {shlex.quote(path.name)} > NEW_FILE"


def _guess(data: bytes) -> str:
    """What the encoding seems to be; "" where nothing speaks for one.

    >>> text = "我們兜佇台南，Lí hó。"
    >>> [_guess(text.encode(name, "ignore")) for name in ("cp950", "utf-16-le", "latin-1")]
    ['cp950', 'utf-16le', 'cp1252']
    """
    if b"\0" in data:
        even = data[::2].count(0) > data[1::2].count(0)
        return "utf-16be" if even else "utf-16le"
    shares = {
        encoding: _common(data, encoding, first, last) for encoding, (_, first, last) in _DOUBLE.items()
    }
    best = max(shares, key=lambda encoding: shares[encoding])
    if shares[best] >= _MOSTLY:
        return best
    letters = [byte for byte in data if byte > 0x7F]
    alone = sum(byte >= 0xC0 for byte in letters)
    return "cp1252" if alone >= _MOSTLY * len(letters) else ""


def _common(data: bytes, encoding: str, first: int, last: int) -> float:
    """Which share of the characters that are not ASCII, read by an encoding, are common Han in it."""
    foreign = [c for c in data.decode(encoding, "replace") if c > "\x7f"]
    common = 0
    for c in foreign:
        if "\u4e00" <= c <= "\u9fff":
            common += first <= c.encode(encoding)[0] <= last
        else:  # marks of the text, neither for nor against it
            common += "\u3000" <= c <= "\u303f" or "\uff00" <= c <= "\uff65"
    return common / max(1, len(foreign))
