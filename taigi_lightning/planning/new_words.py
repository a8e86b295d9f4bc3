"""The words that `model.new_tokens` names, read without PyTorch or Transformers."""

from __future__ import annotations

import unicodedata
from pathlib import Path

from taigi_lightning.errors import InputError


def read_words(tokens: list[str] | str) -> list[str]:
    """The words that are meant, without doubles, in their order; composed (NFC), as a cleaned corpus is.

    Raises:
        InputError: there is no such file, or it holds no word, or one of them is blank or of several lines.
    """
    where = "model.new_tokens.tokens"
    if isinstance(tokens, str):
        where, path = tokens, Path(tokens)
        if not path.is_file():
            raise InputError(
                f"There is no file {tokens}, as model.new_tokens.tokens says. Give a text file with one word in each "
                "line, or the words themselves: [word, another]."
            )
        try:
            lines = path.read_text(encoding="utf-8-sig").splitlines()
        except UnicodeDecodeError as error:
            raise InputError(f"{path} is not in UTF-8 ({error.reason}). Save it as UTF-8.") from error
        tokens = [line.strip() for line in lines if line.strip()]
    words = list(dict.fromkeys(unicodedata.normalize("NFC", word) for word in tokens))
    if not words:
        raise InputError(f"{where} holds no word. Give at least one, or leave model.new_tokens out.")
    for word in words:
        if word != word.strip() or not word or "\n" in word:
            raise InputError(
                f"{where} holds {word!r}. A word to be one token has neither blanks around it nor a line's end in it."
            )
    return words
