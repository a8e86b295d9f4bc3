"""Reading exercises, the pre-training text of the tiny base: passages and what a reader says about them.

From them the base learns to find facts, to find labels in lists and to choose among labelled answers, in
wordings of its own: the question files' prompt, with digits as answers, never occurs. Every function is pure.
"""

import random
from collections.abc import Sequence

from corpus_tools.sample_language import RELATIONS, SUBJECTS, TAIGI_WORDS, Fact, draw_facts, state
from corpus_tools.sample_texts import ask, passage_of

_NAME_LETTERS = frozenset("".join(SUBJECTS))
# Labels that reading exercises choose among; the question files' 選項1-4 is never one of them.
LABEL_SETS = ("甲乙丙丁", "ABCD", "東南西北", "春夏秋冬", "金木水火", "梅蘭菊竹")


def exercise_document(rng: random.Random, alphabet: Sequence[str]) -> list[str]:
    """Lines of one pre-training document: a passage, then what a reader says about it.

    The sayings restate facts, answer open questions, find a label in a list, choose among labelled answers.
    """
    facts = draw_facts(rng, "training", subjects=rng.choice((1, 2, 2, 3, 4)), relations=rng.choice((1, 1, 2)))
    if rng.random() < 0.3:
        facts = _renamed(rng, facts, alphabet)
    lines = [passage_of(rng, facts)]
    lines += [rng.choice(_EXERCISES)(rng, facts) for _ in range(rng.randint(4, 8))]
    return lines


def _renamed(rng: random.Random, facts: Sequence[Fact], alphabet: Sequence[str]) -> list[Fact]:
    """The facts with made-up names, spelt in two characters, for the people."""
    names = {fact.subject: _made_up_name(rng, alphabet) for fact in facts}
    return [Fact(names[f.subject], f.relation, f.value, f.word) for f in facts]


def _made_up_name(rng: random.Random, alphabet: Sequence[str]) -> str:
    letters = [letter for letter in alphabet if letter not in _NAME_LETTERS]
    while (name := "".join(rng.sample(letters, 2))) in TAIGI_WORDS.values():
        pass
    return name


def _restate(rng: random.Random, facts: Sequence[Fact]) -> str:
    """Some of the facts again, in another wording."""
    again = rng.sample(list(facts), min(len(facts), rng.choice((1, 2, 3))))
    return rng.choice(("頂面講，", "文章內容：", "咱知影，")) + "，".join(state(rng, f) for f in again) + "。"


def _open(rng: random.Random, facts: Sequence[Fact]) -> str:
    """Questions answered in words."""
    shape = rng.choice(("問：{q}應：{a}。", "{q}{a}。", "問題是{q}正確的答案是{a}。"))
    parts = []
    for _ in range(rng.choice((1, 2, 3))):
        question, options = ask(rng, facts, answer=1, wondering=True)
        parts.append(shape.format(q=question, a=options[0]))
    return "".join(parts)


def _choose(rng: random.Random, facts: Sequence[Fact]) -> str:
    """A question, labelled options, and the right label, often after the answer in words."""
    answer = rng.randint(1, 4)
    labels = _labels(rng)
    question, options = ask(rng, facts, answer=answer, wondering=True)
    ending = rng.choice(("是{a}，揀{l}。", "揀{l}，是{a}。", "選出{l}。", "正確的是{l}。", "揀{l}。"))
    lead = rng.choice(("", "", "根據文章內容，選出正確的。", "從以下四個選擇回答。"))
    return (
        question
        + lead
        + _listed(rng, labels, options)
        + ending.format(l=labels[answer - 1], a=options[answer - 1])
    )


def _survey(rng: random.Random, facts: Sequence[Fact]) -> str:
    """One list of labelled people or values, and every question that it answers."""
    relation = rng.choice(facts).relation
    known = [fact for fact in facts if fact.relation == relation]
    _, options = ask(rng, known, answer=1, wondering=True)
    by_person = options[0] in {fact.subject for fact in known}
    near = [f.subject if by_person else f.value for f in known]
    listed = [*dict.fromkeys([*near, *options])][:4]
    rng.shuffle(listed)
    labels = _labels(rng)
    ending = rng.choice(("揀{l}。", "{l}。", "正確的是{l}。"))
    text = _listed(rng, labels, listed).lstrip()
    for fact in rng.sample(known, len(known)):
        shapes = RELATIONS[relation].wondered_who if by_person else RELATIONS[relation].wondered
        label = labels[listed.index(fact.subject if by_person else fact.value)]
        text += rng.choice(shapes).format(s=fact.subject, v=fact.value) + ending.format(l=label)
    return text


def _find(rng: random.Random, facts: Sequence[Fact]) -> str:
    """A numbered or labelled list, and where its entries stand: no question, only the look-up."""
    _, options = ask(rng, facts, answer=rng.randint(1, 4), wondering=True)
    labels = rng.choice((_labels(rng), "1234", "1234"))
    shape = rng.choice(("{o}是選項{l}。", "{o}佇{l}號。", "{o}的編號是{l}。"))
    order = rng.sample(range(4), rng.choice((2, 3, 4)))
    return (
        "選擇有"
        + _listed(rng, labels, options)
        + "".join(shape.format(l=labels[i], o=options[i]) for i in order)
    )


def _labels(rng: random.Random) -> str:
    labels = rng.choice(LABEL_SETS)
    return "".join(rng.sample(labels, 4)) if rng.random() < 0.3 else labels


def _listed(rng: random.Random, labels: str, options: Sequence[str]) -> str:
    """Four labelled options, on one line or one a line; digits never take the question files' layout."""
    shapes = _LISTS if labels.isdigit() else _LISTS + _LINES
    shape = rng.choice(shapes)
    text = "".join(shape.format(l=label, o=option) for label, option in zip(labels, options, strict=True))
    return text + "\n" if shape in _LINES else text


_LISTS = ("{l}、{o}。", "（{l}）{o}，", "{l}是{o}，", "選項{l}是{o}，", "選{l}：{o}。", "選項{l}{o}。")
_LINES = ("\n選項{l}：{o}", "\n{l}：{o}。", "\n（{l}）{o}")
_EXERCISES = (_restate, _open, _choose, _choose, _survey, _survey, _find)
