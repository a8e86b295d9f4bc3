"""The optional rule for what printers and layout programs leave between a text's lines."""

from __future__ import annotations

import re

from corpus_tools.cleaning.rules import LINE_BREAK, SEPARATOR, Log, rewritten

_GAP = r"[ \t\u3000\xa0]"
_START, _END = rf"(?:(?<=[\n{SEPARATOR}{LINE_BREAK}])|\A)", rf"(?=[\n{SEPARATOR}{LINE_BREAK}]|\Z)"
_DATE = r"[0-9]{1,4}[/.-][0-9]{1,2}[/.-][0-9]{1,4}"
_TIME = rf"(?:上午|下午|[AaPp]\.?[Mm]\.?)?{_GAP}?[0-9]{{1,2}}:[0-9]{{2}}(?::[0-9]{{2}})?(?:{_GAP}?[AaPp]\.?[Mm]\.?)?"
_NAME = r"[^\s。！？，；：、」』）…<>]+"
# InDesign's footer, anywhere: file, page, date, time; or without the date, alone on its line.
_FOOTER = (
    rf"{_NAME}\.ind[db]{_GAP}+[0-9]+(?:[-–][0-9]+)?"
    rf"(?:{_GAP}+{_DATE}{_GAP}+{_TIME}|(?={_GAP}*[\n{SEPARATOR}{LINE_BREAK}])|{_GAP}*\Z)"
)
# The tags of InDesign's text export: <ParaStyle:Body>, <cTypeface:>, <ASCII-WIN>.
_TAGGED_TEXT = (
    r"<(?:(?:ASCII|UNICODE|ANSI|BIG5|SJIS)-(?:WIN|MAC)|/?[A-Za-z][A-Za-z0-9]{3,40}:[^<>\n]{0,200})>"
)
_NUMBER = r"[0-9０-９]{1,4}"
# Front matter has small ones; of a large one alone on its line, a heading, nothing is known.
_ROMAN = "(?:[ivx]{1,8}|[IVX]{1,8})"
_SMALL_ROMAN = "(?-i:(?=[ivx]{2})x{0,3}(?:ix|iv|v?i{0,3}))"
_HAN_DIGITS = "[〇零一二三四五六七八九]{2,4}"  # a number as in 1·2: headings are counted by 十二
_HAN_NUMBER = "[〇零一二三四五六七八九十百]{1,5}"
_SIGN = r"[-–—‒―─﹣－‧·・•●○◎◆◇■□*＊~～|｜/／]"
_LINES = (
    rf"(?:PAGE{_GAP}+)+-?{_GAP}*{_NUMBER}{_GAP}*-?",
    rf"{_SIGN}{{1,3}}{_GAP}*(?:{_NUMBER}|{_HAN_DIGITS}|(?-i:{_ROMAN})){_GAP}*{_SIGN}{{1,3}}",
    rf"{_NUMBER}(?:[-–—]{_NUMBER})?",
    _SMALL_ROMAN,
    _HAN_DIGITS,
    rf"[〈《\[【〔]{_GAP}*{_NUMBER}{_GAP}*[〉》\]】〕]",
    rf"(?:page|p\.){_GAP}*{_NUMBER}(?:{_GAP}*(?:of|/){_GAP}*{_NUMBER})?",
    rf"{_NUMBER}{_GAP}*[/／]{_GAP}*{_NUMBER}",
    rf"頁{_GAP}*{_NUMBER}",
    rf"第{_GAP}*(?:{_NUMBER}|{_HAN_NUMBER}|(?-i:{_ROMAN})){_GAP}*頁(?:{_GAP}*[,，/／]?{_GAP}*[共/／]?{_GAP}*{_NUMBER}{_GAP}*頁)?",
    # The footer's, on its own line; and that of a file which has no ending yet: Untitled-1 3 2020/1/2 9:00.
    rf"(?:{_NAME}{_GAP}+{_NUMBER}{_GAP}+)?{_DATE}{_GAP}+{_TIME}",
    # A line of a table of contents: a title, a leader and the page.
    rf"[^\n{SEPARATOR}{LINE_BREAK}]{{1,80}}?(?:(?:[.．‧·・]{_GAP}?){{5,}}|…{{3,}}|(?:…{_GAP}){{2,}}…)[.．‧·・…]*"
    rf"{_GAP}*[(（]?{_NUMBER}[)）]?",
)
_LONE = "|".join(_LINES)
_FURNITURE = re.compile(rf"{_FOOTER}|{_TAGGED_TEXT}|{_START}{_GAP}*(?:{_LONE}){_GAP}*{_END}", re.I)


def remove_page_marks(text: str, log: Log) -> str:
    """Printers' furniture goes: InDesign's footers and tags anywhere; on lines of their own page marks, lone page
    numbers, and what a table of contents says.

    >>> remove_page_marks("阮兜。\\nPAGE PAGE - 21 -\\n伊。冊皮-初校0101.indd 7 2020/1/2 上午9:00\\n第 3 頁\\n7 隻", [])
    '阮兜。\\n\\n伊。\\n\\n7 隻'
    >>> remove_page_marks("第一章 春天…………23\\n「等……」\\n｜22｜\\n20 / 200", [])
    '\\n「等……」\\n\\n'
    """
    return rewritten(_FURNITURE, lambda _: "", text, log)
