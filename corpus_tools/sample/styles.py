"""How a reading exercise is laid out: labels, lists of options, the words around questions and answers.

The question files' own layout, digits as answers after 答案, is not among them. Every function is pure.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass

LABEL_SETS = ("甲乙丙丁", "ABCD", "一二三四", "ㄅㄆㄇㄈ", "東南西北")
DIGITS = "1234"
_ITEMS = (
    "{l}、{o}，",
    "{l}是{o}，",
    "選{l}：{o}，",
    "{l}{o}，",
    "選項{l}是{o}，",
    "{o}{l}，",
    "{o}是{l}，",
    "{o}（{l}），",
)
_LINES = ("\n選項{l}：{o}", "\n選項{l}：{o}", "\n選項{l}{o}", "\n選{l}：{o}", "\n{o}：{l}")
_DIGIT_ITEMS = ("第{l}是{o}，", "{l}號{o}，", "選{l}、{o}，", "選項{l}是{o}，", "{o}{l}號，", "{o}（{l}），")
_CHOSEN = ("揀{l}", "是{l}", "選{l}", "{l}", "編號{l}")
_DIGIT_CHOSEN = ("揀{l}", "選{l}", "是第{l}", "編號{l}")
_ANSWERED = ("應{a}", "{a}", "是{a}", "答案：{a}", "正確的答案是{a}", "回答{a}")
_LEADS = ("", "", "前文：", "文章：", "內容是", "根據前文：", "下面的文章：")
_ASKING = ("", "", "問題：", "問：", "問題是", "\n問題：", "\n問：")
_TASKS = ("", "", "根據文章內容，選出正確的。", "從以下的選擇回答，", "從下面選出正確的編號，", "選項有")
_LISTING = ("選擇有", "選項有", "下面是", "內容是", "編號：")


@dataclass(frozen=True)
class Style:
    """How one document writes: its labels, a labelled option, a chosen label, an answer in words."""

    labels: str
    item: str
    chosen: str
    answered: str
    lead: str
    asking: str
    task: str


def draw_style(rng: random.Random) -> Style:
    """Any labels in any layout but the question files' own."""
    digits = rng.random() < 0.2
    labels = DIGITS if digits else rng.choice(LABEL_SETS)
    items = _DIGIT_ITEMS if digits else _ITEMS + _LINES
    chosen = rng.choice(_DIGIT_CHOSEN if digits else _CHOSEN)
    pieces = (rng.choice(group) for group in (_ANSWERED, _LEADS, _ASKING, _TASKS))
    return Style(labels, rng.choice(items), chosen, *pieces)


def listed(
    rng: random.Random, style: Style, options: Sequence[str], right: str = ""
) -> tuple[str, dict[str, str]]:
    """A list of labelled options, and the label of each; digits and half of the others stand in order.

    With `right` given, each option is at once called right or wrong.
    """
    labels = style.labels[: len(options)]
    if not labels.isdigit() and rng.random() < 0.5:
        labels = "".join(rng.sample(style.labels, len(options)))
    entries = [o + (_verdict(o == right) if right else "") for o in options]
    text = "".join(style.item.format(l=label, o=o) for label, o in zip(labels, entries, strict=True))
    if not text.startswith("\n"):  # a line that began with a label would be taken for a numbered one
        text = rng.choice(_LISTING) + text
    return text, dict(zip(options, labels, strict=True))


def _verdict(is_right: bool) -> str:
    return "著" if is_right else "毋著"
