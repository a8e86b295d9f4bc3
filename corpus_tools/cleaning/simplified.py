"""Simplified articles as Taiwan writes, by phrases, for 里 and 干 stand for several characters."""

from __future__ import annotations

import re
from functools import cache
from typing import Any

from corpus_tools.cleaning.language import TAIGI_MARKERS, taigi_score

_TAIGI = 0.5  # score of an article that is Taigi written in Simplified characters, rather than Mandarin
# Traditional in their own right, in whatever article.
_ALWAYS_OWN = {"台": "臺", "娘": "孃"}
_OWN_IN_TAIGI = frozenset("庄才欲个" + TAIGI_MARKERS)
# 干 is no 乾 and 里 no 裡 in these words; 幹, which OpenCC writes for want of a phrase, is another word in Taigi.
_OWN_WORDS = re.compile("干(?=[焦单單证證若])|(?<=若)干|(?<=[庄莊村鄉乡街邻鄰])里")
# Words that OpenCC takes for parts of others: 瞭如指掌, 被髮左衽.
_MISREAD = ((re.compile("了(?=如(?!指掌))"), "了"), (re.compile("(?<=被)发(?![左文缨])"), "發"))
_TRUNKS = frozenset("部线線")


@cache
def _opencc() -> Any:
    import opencc

    # `s2t`, then the forms that Taiwan writes (吃 床 群 灶 為 instead of 喫 牀 羣 竈 爲).
    return opencc.OpenCC("s2tw")


def to_traditional(text: str) -> str:
    """An article that is itself Simplified, see `language.looks_simplified`, in Traditional characters.

    Whether it is Taigi is judged by the whole of it: then characters that Taigi writes in its own right stay.

    >>> to_traditional("他们的房间里面很干净，一个台湾人走了五公里。")
    '他們的房間裡面很乾淨，一個台灣人走了五公里。'
    >>> to_traditional("阮干焦欲去庄里，个个拢讲，厝里面真干净，伊毋知。")
    '阮干焦欲去庄里，个个攏講，厝裡面真乾淨，伊毋知。'
    """
    converted: str = _opencc().convert(text)
    if len(converted) != len(text):  # no phrase does so today; then character by character
        converted = "".join(map(_opencc().convert, text))
    written = list(converted)
    taigi = taigi_score(converted) >= _TAIGI
    for i, (old, new) in enumerate(zip(text, converted, strict=True)):
        if old == new:
            continue
        keeps = _ALWAYS_OWN.get(old) == new
        if taigi and not keeps:
            keeps = old in _OWN_IN_TAIGI or (new == "幹" and text[i + 1 : i + 2] not in _TRUNKS)
        if keeps:
            written[i] = old
    for pattern, right in _MISREAD:
        for match in pattern.finditer(text):
            written[match.start()] = right
    for match in _OWN_WORDS.finditer(text) if taigi else ():
        written[match.start()] = match[0]
    return "".join(written)
