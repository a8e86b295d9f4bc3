"""Templates of a config: text with the names of columns in braces, checked before anything is read."""

from __future__ import annotations

import string
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from taigi_lightning.errors import InputError


@dataclass(frozen=True)
class TextTemplate:
    """A text with placeholders such as `{title}`; `{{` and `}}` are braces.

    Only plain names are placeholders: neither attributes nor indices nor formats, so that a template from anywhere can
    read nothing but the columns.

    Args:
        name: what an error calls it, such as `data.init_args.template.user`.
        text: the template.

    Raises:
        InputError: a brace is open, or a placeholder is no plain name.

    >>> TextTemplate("document", "{title}: {text}").render({"title": "甲", "text": "乙{丙}"})
    '甲: 乙{丙}'
    """

    name: str
    text: str

    def __post_init__(self) -> None:
        self._parts()

    @property
    def placeholders(self) -> tuple[str, ...]:
        """The names in braces, each once, in order."""
        return tuple(dict.fromkeys(field for _, field in self._parts() if field is not None))

    def render(self, values: Mapping[str, str]) -> str:
        """Put values in place of the names.

        Raises:
            KeyError: a name has no value; `check` says so beforehand.
        """
        return "".join(text + ("" if field is None else values[field]) for text, field in self._parts())

    def check(self, columns: Iterable[str], where: str) -> None:
        """Refuse placeholders that are no columns.

        Args:
            columns: what may be named.
            where: whose columns they are, such as a file's path.

        Raises:
            InputError: a placeholder is none of them.
        """
        known = list(columns)
        if missing := [name for name in self.placeholders if name not in known]:
            raise InputError(
                f"{self.name} asks for {', '.join(f'{{{name}}}' for name in missing)}, which {where} does not have; "
                f"found {', '.join(known)}. Write one of these, or double the braces if they are text."
            )

    def _parts(self) -> list[tuple[str, str | None]]:
        """Literal texts, each with the name after it, None at the end."""
        try:
            parsed = list(string.Formatter().parse(self.text))
        except ValueError as error:
            raise InputError(
                f"{self.name} is {self.text!r}: {error}. Write {{column}} for a column, {{{{ and }}}} for braces."
            ) from error
        for _, field, form, conversion in parsed:
            if field is not None and (
                not field or form or conversion or any(mark in field for mark in ".[]!")
            ):
                raise InputError(
                    f"{self.name} has the placeholder {{{field}}}; wanted the bare name of a column, as in "
                    "{title}. Write {{ and }} for braces that are text."
                )
        return [(text, field) for text, field, _, _ in parsed]
