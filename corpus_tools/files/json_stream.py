"""JSON of any size, value by value: never more of a file in memory than one row and a buffer."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import BinaryIO

import msgspec

from corpus_tools.errors import InputError
from corpus_tools.files.contents import MEND
from corpus_tools.files.json_rows import Outline, has_text

_STEP = 1 << 20  # bytes read at a time
_SPACES = re.compile(r"[ \n\r\t]*")
_AT_END = 32  # characters: an error so near to the end of what was read may be for want of the rest


class Scanner:
    """The values of a JSON text in order. Its bytes are looked at as Latin-1, for structure is ASCII alone."""

    def __init__(self, file: BinaryIO, path: Path, most: int) -> None:
        self.path = path
        self._file = file
        self._most = most
        self._text = ""
        self._at = 0
        self._lines = 1  # of what was left behind
        self._decoder = json.JSONDecoder()

    def peek(self) -> str:
        """The next character that is no space; "" at the end."""
        while True:
            self._at = _SPACES.match(self._text, self._at).end()  # type: ignore[union-attr]
            if self._at < len(self._text) or not self._read():
                return self._text[self._at : self._at + 1]

    def take(self, wanted: str) -> str:
        """The next character, which must be one of some.

        Raises:
            InputError: It is another one.
        """
        found = self.peek()
        if not found or found not in wanted:
            raise self._damaged(f"expected {' or '.join(wanted)}")
        self._at += 1
        return found

    def value(self) -> bytes:
        """The next value as it stands in the file.

        Raises:
            InputError: It is none, ends with the file, or is larger than a row may be.
        """
        self.peek()
        while True:
            try:
                end = self._decoder.raw_decode(self._text, self._at)[1]
            except json.JSONDecodeError as error:
                cut_off = error.msg.startswith("Unterminated") or error.pos > len(self._text) - _AT_END
                if cut_off and self._read():
                    continue
                raise self._damaged(error.msg, error.pos) from error
            except RecursionError as error:
                raise self._damaged("nested too deeply; wanted flat objects") from error
            if end < len(self._text) or not self._read():  # a number might go on
                found, self._at = self._text[self._at : end], end
                return found.encode("latin-1")

    def values(self) -> Iterator[bytes]:
        """All values up to the end."""
        while self.peek():
            yield self.value()

    def members(self) -> Iterator[bytes]:
        """The keys of the object that begins here; the caller takes each one's value before it asks for the next."""
        self.take("{")
        if self.peek() == "}":
            self.take("}")
            return
        while True:
            if self.peek() != '"':
                raise self._damaged("expected a key")
            yield self.value()
            if self.take(",}") == "}":
                return

    def lists(self) -> Iterator[bytes]:
        """The values of all lists up to the end, one list after the other."""
        while self.peek():
            yield from self.items()

    def items(self) -> Iterator[bytes]:
        """The values of the list that begins here."""
        self.take("[")
        if self.peek() == "]":
            self.take("]")
            return
        while True:
            yield self.value()
            if self.take(",]") == "]":
                return

    @property
    def line(self) -> int:
        """The line that has been reached, from 1."""
        return self._lines + self._text.count("\n", 0, self._at)

    def _read(self) -> bool:
        """Read on, more where a long value waits; False at the end of the file."""
        kept = self._text[self._at :]
        if len(kept) > self._most:
            raise InputError(f"{self.path}, line {self.line}: {TOO_LONG}")
        piece = self._file.read(max(_STEP, len(kept)))
        if piece:
            self._lines, self._at = self.line, 0
            self._text = kept + piece.decode("latin-1")
        return bool(piece)

    def _damaged(self, what: str, at: int | None = None) -> InputError:
        line = self._lines + self._text.count("\n", 0, self._at if at is None else at)
        return InputError(f"{self.path}, line {line}: {what}; the file is damaged or cut off; {MEND}")


TOO_LONG = "a row is longer than --max_row_mchars allows; part it into rows, or raise the limit."


def outline_of(scanner: Scanner, fields: Mapping[str, str]) -> Outline | None:
    """What the one object of a file holds, see `json_rows.rows_under`; None if something follows it.

    Args:
        fields: Names in the file, as in `read_rows`.
    """
    found = Outline([], {}, True)
    only_objects = True
    for raw in scanner.members():
        key = msgspec.json.decode(raw, type=str, strict=False)
        found.keys.append(key)
        scanner.take(":")
        only_objects &= scanner.peek() == "{"
        if scanner.peek() != "[":
            scanner.value()
            continue
        count, objects, with_text = 0, True, False
        for item in scanner.items():
            objects &= item[:1] == b"{"
            with_text = with_text or (not count and has_text(item, fields))
            count += 1
        if count and objects:
            found.lists[key] = with_text
    return None if scanner.peek() else found._replace(only_objects=only_objects)


def values_under(scanner: Scanner, key: str | None) -> Iterator[bytes]:
    """The rows of an object: the items of the list under a key, or, without one, the object's values."""
    for raw in scanner.members():
        scanner.take(":")
        if key is None:
            yield scanner.value()
        elif msgspec.json.decode(raw, type=str) == key and scanner.peek() == "[":
            yield from scanner.items()
            return
        else:
            for _ in scanner.items() if scanner.peek() == "[" else [scanner.value()]:
                pass
