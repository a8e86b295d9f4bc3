"""What files call the fields of a row: as given, or else in other case or in Chinese."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from unicodedata import normalize

from corpus_tools.documents import Row

# The names of a field in Chinese.
_CHINESE = {
    "內容": "text", "內文": "text", "本文": "text", "正文": "text", "文章": "text",
    "标题": "title", "標題": "title", "題名": "title", "篇名": "title",
    "作者": "author", "段落編號": "paragraph_id", "段號": "paragraph_id",
}  # fmt: skip


def _field_of(name: str) -> str:
    """The field that a name may stand for; "" if none."""
    plain = normalize("NFKC", name).strip().lower().replace(" ", "_")
    return plain if plain in Row.__struct_fields__ else _CHINESE.get(plain, "")


def names_of(field: str) -> list[str]:
    """The names that may stand for a field, in lower case."""
    return [field, *(name for name, stands_for in _CHINESE.items() if stands_for == field)]


def names_found(fields: Mapping[str, str], names: Iterable[str]) -> dict[str, str]:
    """`fields` and, for each field that neither they nor the file names, the one name in the file that stands for it.

    Of several names that could, none is taken.

    >>> names_found({}, ["Title", "內容", "author", "Author"])
    {'title': 'Title', 'text': '內容'}
    >>> names_found({"title": "ID"}, ["Title", "text"])
    {'title': 'ID'}
    """
    known = dict.fromkeys(names)
    found: dict[str, list[str]] = {}
    for name in known:
        field = _field_of(name)
        if field and field not in known and field not in fields:
            found.setdefault(field, []).append(name)
    return dict(fields) | {field: same[0] for field, same in found.items() if len(same) == 1}
