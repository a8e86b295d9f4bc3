"""Reading exercises, the pre-training text of the tiny base: passages and what a reader says about them.

Choosing a label takes three steps: find the value in the passage, find it again among the options, copy its
label. Each step has a drill of its own, and there are drills of all three together. A document repeats one
layout and one set of labels, so that after a few lines its answers are all there is to learn. The question
files' layout, with digits as answers after 答案, never occurs. Every function is pure.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass

from corpus_tools.sample_language import OLD_WORDS, RELATIONS, SUBJECTS, TAIGI_WORDS, Fact, draw_facts
from corpus_tools.sample_texts import passage_of

_TAKEN = frozenset((*SUBJECTS, *TAIGI_WORDS.values()))  # no made-up word may be one of these
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


def exercise_document(rng: random.Random, alphabet: Sequence[str], limit: int = 260) -> list[str]:
    """Lines of one pre-training document, about `limit` characters: drills of one kind in one style.

    `alphabet` are the characters of which names are made up.
    """
    kind = rng.choices(_KINDS, _WEIGHTS)[0]
    style = draw_style(rng)
    lines: list[str] = []
    while sum(map(len, lines)) < limit:
        lines += kind(rng, style, alphabet)
    return lines


def draw_style(rng: random.Random) -> Style:
    """Any labels in any layout but the question files' own."""
    digits = rng.random() < 0.2
    labels = DIGITS if digits else rng.choice(LABEL_SETS)
    items = _DIGIT_ITEMS if digits else _ITEMS + _LINES
    chosen = rng.choice(_DIGIT_CHOSEN if digits else _CHOSEN)
    pieces = (rng.choice(group) for group in (_ANSWERED, _LEADS, _ASKING, _TASKS))
    return Style(labels, rng.choice(items), chosen, *pieces)


def _scene(
    rng: random.Random, alphabet: Sequence[str], subjects: Sequence[int], relations: Sequence[int]
) -> list[Fact]:
    """Facts to read about, at times with made-up names or with the old words for their values."""
    facts: list[Fact] = []
    while len(facts) < 2:
        people, kinds = rng.choice(subjects), rng.choice(relations)
        facts = draw_facts(rng, "training", subjects=people, relations=kinds)
    if rng.random() < 0.1:
        names = {fact.subject: _made_up(rng, alphabet) for fact in facts}
        facts = [Fact(names[f.subject], f.relation, f.value, f.word) for f in facts]
    if rng.random() < 0.25:
        facts = [Fact(f.subject, f.relation, f.value, OLD_WORDS.get(f.value, f.word)) for f in facts]
    return facts


def _made_up(rng: random.Random, alphabet: Sequence[str]) -> str:
    while (name := rng.choice(alphabet) + rng.choice(alphabet)) in _TAKEN:
        pass
    return name


def _listed(rng: random.Random, style: Style, options: Sequence[str]) -> tuple[str, dict[str, str]]:
    """A list of labelled options, and the label of each; digits and half of the others stand in order."""
    labels = style.labels[: len(options)]
    if not labels.isdigit() and rng.random() < 0.5:
        labels = "".join(rng.sample(style.labels, len(options)))
    text = "".join(style.item.format(l=label, o=o) for label, o in zip(labels, options, strict=True))
    if not text.startswith("\n"):  # a line that began with a label would be taken for a numbered one
        text = rng.choice(_LISTING) + text
    return text, dict(zip(options, labels, strict=True))


def _question(rng: random.Random, fact: Fact, who: bool) -> str:
    relation = RELATIONS[fact.relation]
    shapes = relation.wondered_who + relation.asked_who if who else relation.wondered + relation.asked
    return rng.choice(shapes).format(s=fact.subject, v=fact.value)


def _options(rng: random.Random, fact: Fact, facts: Sequence[Fact], who: bool) -> list[str]:
    """Two to four options in random order: the right one and, first of all, what else the passage names."""
    right = fact.subject if who else fact.value
    near = [f.subject if who else f.value for f in facts if who or f.relation == fact.relation]
    near = [word for word in dict.fromkeys(near) if word != right]
    rng.shuffle(near)
    kind = SUBJECTS if who else RELATIONS[fact.relation].values
    far = [word for word in rng.sample(kind, 5) if word != right and word not in near]
    options = [right, *(near + far)[: rng.choice((1, 2, 3, 3, 3))]]
    rng.shuffle(options)
    return options


def _look_up(rng: random.Random, style: Style, alphabet: Sequence[str]) -> list[str]:
    """A labelled list, then its entries again and again: label by entry, or entry by label.

    Entries are drawn with repetition, or the last label would follow from the others.
    """
    kind = rng.choice([*(relation.values for relation in RELATIONS.values()), SUBJECTS])
    text, labels = _listed(rng, style, rng.sample(kind, rng.choice((2, 3, 4, 4))))
    order = rng.choices(list(labels), k=len(labels) + 3)
    if rng.random() < 0.85:
        return [text.lstrip(), "，".join(o + style.chosen.format(l=labels[o]) for o in order) + "。"]
    return [text.lstrip(), "，".join(labels[o] + style.answered.format(a=o) for o in order) + "。"]


def _restate(rng: random.Random, style: Style, alphabet: Sequence[str]) -> list[str]:
    """A passage, then the same facts in other words and another order."""
    facts = _scene(rng, alphabet, (2, 3, 4), (1, 1, 2))
    return [style.lead + passage_of(rng, facts, plain=True), passage_of(rng, facts, plain=True)]


def _open(rng: random.Random, style: Style, alphabet: Sequence[str]) -> list[str]:
    """A passage, then every fact of it asked for, twice, and answered in words."""
    facts = _scene(rng, alphabet, (1, 2, 3, 4), (1, 1, 2))
    lines = [style.lead + passage_of(rng, facts)]
    for fact in rng.sample(facts * 2, 2 * len(facts)):
        who = rng.random() < 0.3
        answer = style.answered.format(a=fact.subject if who else fact.value)
        lines.append(f"{style.asking.lstrip()}{_question(rng, fact, who)}{answer}。")
    return ["".join(lines[:1]), "".join(lines[1:])]


def _survey(rng: random.Random, style: Style, alphabet: Sequence[str]) -> list[str]:
    """A passage, then lists of its values or people; each list serves questions about all facts.

    Some questions give the entry itself, so that the look-up stays in practice beside its use.
    """
    facts = _scene(rng, alphabet, (2, 2, 3, 4, 4), (1, 1, 1, 2))
    relation = rng.choice(facts).relation
    known = [fact for fact in facts if fact.relation == relation]
    lines = [style.lead + passage_of(rng, facts, plain=True)]
    who, short = rng.random() < 0.25, rng.random() < 0.6
    for _ in range(rng.choice((1, 2, 3))):
        entries = _options(rng, known[0], known, who)
        text, labels = _listed(rng, style, entries)
        asked = [fact for fact in known if (fact.subject if who else fact.value) in labels]
        said = []
        for fact in rng.choices(asked, k=len(asked) + 1):
            given, entry = (fact.value, fact.subject) if who else (fact.subject, fact.value)
            cue = entry if rng.random() < 0.2 else given if short else _question(rng, fact, who)
            said.append(cue + style.chosen.format(l=labels[entry]))
        lines += [text.lstrip(), "，".join(said) + "。"]
    return lines


def _choose(rng: random.Random, style: Style, alphabet: Sequence[str]) -> list[str]:
    """A short passage, then questions with options: the label, or the answer in words and then the label."""
    facts = _scene(rng, alphabet, (1, 2, 2, 3, 4), (1, 1, 2))
    text = style.lead + passage_of(rng, facts, newline_share=0.3)
    by_word = rng.random() < 0.4
    for fact in rng.sample(facts, min(len(facts), rng.choice((1, 2, 3)))):
        who = rng.random() < 0.25
        options, labels = _listed(rng, style, _options(rng, fact, facts, who))
        right = fact.subject if who else fact.value
        answer = (style.answered.format(a=right) + "，") if by_word else ""
        end = "\n" if options.startswith("\n") else ""
        text += style.asking + _question(rng, fact, who) + style.task + options + end
        text += answer + style.chosen.format(l=labels[right]) + "。"
    return text.split("\n")


def _gloss(rng: random.Random, style: Style, alphabet: Sequence[str]) -> list[str]:
    """Old words and the known words for them: the pair alone, then a passage in the one asked in the other."""
    old = rng.random() < 0.5
    facts = _scene(rng, alphabet, (2, 3, 4), (1,))
    other = {f.value: OLD_WORDS.get(f.value, "") if old else _made_up(rng, alphabet) for f in facts}
    facts = [Fact(f.subject, f.relation, f.value, other[f.value]) for f in facts if other[f.value]]
    text = "".join(rng.choice(_GLOSSES).format(o=f.word, v=f.value) for f in facts)
    if len(facts) > 1:
        text += passage_of(rng, facts)
    for fact in rng.sample(facts, len(facts) if len(facts) > 1 else 0):
        text += _question(rng, fact, False) + style.answered.format(a=fact.value) + "。"
    return [text] if text else []


_GLOSSES = ("{o}就是{v}。", "{o}，咱講{v}。", "{v}閣叫做{o}。", "「{o}」佮「{v}」仝款。")
_KINDS = (_look_up, _restate, _open, _survey, _choose, _gloss)
_WEIGHTS = (24, 2, 10, 30, 26, 8)
