"""The optional rule for spaces that a PDF or a layout left between Han characters."""

from __future__ import annotations

import re

from corpus_tools.cleaning.characters import HAN
from corpus_tools.cleaning.rules import Log, rewritten

_GAPS = r"[ \t\xa0\u2000-\u200a\u202f\u3000]"
_GAP = re.compile(f"{_GAPS}+")
_SPACED_HAN = re.compile(f"[{HAN}]+(?:{_GAPS}+[{HAN}]+)+")
_MARKS = "，。、；：！？…「」『』（）《》〈〉"
_SPACED_MARK = re.compile(f"(?<=[{HAN}{_MARKS}]){_GAPS}+(?=[{_MARKS}])|(?<=[{_MARKS}]){_GAPS}+(?=[{HAN}])")


def close_han(text: str, log: Log) -> str:
    """Spaces of any kind go that a layout left between Han characters, or between them and full-width marks.

    Those between Han stay that part clauses (each of four characters or more: verse) or a list (each as long as the
    others, of two or more): a layout's spaces cut pieces of any length. Several spaces together go only where every
    character stands alone.

    >>> close_han("咱 五分鐘就好，定定 嘛 浸甲昏去", []), close_han("台 語 文 學", [])
    ('咱五分鐘就好，定定嘛浸甲昏去', '台語文學')
    >>> close_han("台  語\u3000文  學", []), close_han("時間  早起", []), close_han("「好」 。 伊 講", [])
    ('台語文學', '時間  早起', '「好」。伊講')
    >>> close_han("一更更鼓月照山 牽君的手摸心肝", []), close_han("春天 熱天 秋天", [])
    ('一更更鼓月照山 牽君的手摸心肝', '春天 熱天 秋天')
    """

    def new(match: re.Match[str]) -> str:
        gaps = _GAP.findall(match[0])
        lengths = {len(piece) for piece in _GAP.split(match[0])}
        means_something = min(lengths) >= 4 or (len(lengths) == 1 and min(lengths) > 1)
        if max(map(len, gaps)) > 1:
            means_something = lengths != {1}
        return match[0] if means_something else _GAP.sub("", match[0])

    return rewritten(_SPACED_MARK, lambda _: "", rewritten(_SPACED_HAN, new, text, log), log)
