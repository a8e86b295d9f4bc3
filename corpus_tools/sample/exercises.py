"""Reading exercises: the pre-training text of the tiny base and, in the corpus's own words, its schoolbook pages.

Choosing a label takes three steps: find the value in the passage, find it again among the options, copy its
label. Each step has a drill of its own: answering in words, calling each option right (著) or wrong (毋著), and
looking labels up; and there are drills of all three together. Stories give a taste of prose. A document repeats one
layout and one set of labels, so that after a few lines its answers are all there is to learn. The question
files' layout, with digits as answers after 答案, never occurs. Every function is pure.
"""

import random
from collections.abc import Sequence

from corpus_tools.sample.language import OLD_WORDS, RELATIONS, SUBJECTS, TAIGI_WORDS, Fact, draw_facts
from corpus_tools.sample.styles import Style, draw_style, listed
from corpus_tools.sample.texts import gloss, passage_of, tale

_TAKEN = frozenset((*SUBJECTS, *TAIGI_WORDS.values()))  # no made-up word may be one of these


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


def school_page(rng: random.Random, sentences: int) -> str:
    """A page of the corpus: what its words mean, short passages in them, and which label is right, in running text.

    The exercises' layouts but not their words: so continued pre-training keeps the base's habit of reading while
    it adds words to it.
    """
    text: list[str] = []
    while len(text) < sentences:
        style = draw_style(rng)
        facts = draw_facts(rng, "training", subjects=rng.choice((1, 1, 2)), relations=1, taught=True)
        if not facts or style.labels.isdigit():
            continue
        text.append(gloss(rng, facts[0]))
        lesson = rng.choices((_word_quiz, _reading, _answers), (4, 4, 2))[0]
        text += lesson(rng, style, facts)
    return "".join(text)


def _word_quiz(rng: random.Random, style: Style, facts: Sequence[Fact]) -> list[str]:
    """Which of some known words a taught one means."""
    text: list[str] = []
    for fact in facts:
        called = fact.value if rng.random() < 0.5 else ""
        options, labels = listed(rng, style, _options(rng, fact, (), False), called)
        text += [rng.choice(_MEANING_QUESTIONS).format(o=fact.word), *options.split("\n")]
        text.append(style.chosen.format(l=labels[fact.value]) + "。")
    return text


def _reading(rng: random.Random, style: Style, facts: Sequence[Fact]) -> list[str]:
    return _choices(rng, style, facts, judged=0.4, near=0.2)


def _answers(rng: random.Random, style: Style, facts: Sequence[Fact]) -> list[str]:
    """A passage, and answers in known words."""
    answers = [_question(rng, f, False) + style.answered.format(a=f.value) + "。" for f in facts]
    return [passage_of(rng, facts, plain=True), *answers]


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


def _question(rng: random.Random, fact: Fact, who: bool) -> str:
    relation = RELATIONS[fact.relation]
    shapes = relation.wondered_who + relation.asked_who if who else relation.wondered + relation.asked
    return rng.choice(shapes).format(s=fact.subject, v=fact.value)


def _options(
    rng: random.Random, fact: Fact, facts: Sequence[Fact], who: bool, near_share: float = 1.0
) -> list[str]:
    """Two to four options in random order: the right one and, in a share, first of all what else is named."""
    right = fact.subject if who else fact.value
    near = [f.subject if who else f.value for f in facts if who or f.relation == fact.relation]
    near = [word for word in dict.fromkeys(near) if word != right]
    rng.shuffle(near)
    kind = SUBJECTS if who else RELATIONS[fact.relation].values
    far = [word for word in rng.sample(kind, 5) if word != right and word not in near]
    if rng.random() >= near_share:
        near = []
    options = [right, *(near + far)[: rng.choice((1, 2, 3, 3, 3))]]
    rng.shuffle(options)
    return options


def _look_up(rng: random.Random, style: Style, alphabet: Sequence[str]) -> list[str]:
    """A labelled list, then its entries again and again: label by entry, or entry by label.

    Entries are drawn with repetition, or the last label would follow from the others.
    """
    kind = rng.choice([*(relation.values for relation in RELATIONS.values()), SUBJECTS])
    text, labels = listed(rng, style, rng.sample(kind, rng.choice((2, 3, 4, 4))))
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
        text, labels = listed(rng, style, entries)
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
    return _choices(rng, style, facts, by_word=rng.random() < 0.4)


def _choices(
    rng: random.Random,
    style: Style,
    facts: Sequence[Fact],
    *,
    by_word: bool = False,
    judged: float = 0.0,
    near: float = 1.0,
) -> list[str]:
    """A passage that states `facts`, and questions about some.

    The options of a share of the questions, `judged`, are called right or wrong one by one before the label is
    chosen; a share, `near`, has what else the passage names among them; `by_word` gives the answer in words first.
    """
    text = style.lead + passage_of(rng, facts, newline_share=0.3)
    for fact in rng.sample(list(facts), min(len(facts), rng.choice((1, 2, 3)))):
        who = rng.random() < 0.25
        right = fact.subject if who else fact.value
        called = right if rng.random() < judged else ""
        options, labels = listed(rng, style, _options(rng, fact, facts, who, near), called)
        answer = (style.answered.format(a=right) + "，") if by_word else ""
        end = "\n" if options.startswith("\n") else ""
        text += style.asking + _question(rng, fact, who) + style.task + options + end
        text += answer + style.chosen.format(l=labels[right]) + "。"
    return text.split("\n")


def _judge(rng: random.Random, style: Style, alphabet: Sequence[str]) -> list[str]:
    """As `_choose`, most options called right or wrong: what the choice rests on is said aloud."""
    facts = _scene(rng, alphabet, (1, 2, 2, 3, 4), (1, 1, 2))
    return _choices(rng, style, facts, by_word=rng.random() < 0.1, judged=0.65)


def _story(rng: random.Random, style: Style, alphabet: Sequence[str]) -> list[str]:
    """Prose about two people, with old words and known ones, in other sentences than the corpus's."""
    return [tale(rng) for _ in range(4)]


def _synonyms(rng: random.Random, style: Style, alphabet: Sequence[str]) -> list[str]:
    """Old words and the known words for them: the pair alone, then a passage in the one asked in the other."""
    old = rng.random() < 0.5
    facts = _scene(rng, alphabet, (2, 3, 4), (1,))
    other = {f.value: OLD_WORDS.get(f.value, "") if old else _made_up(rng, alphabet) for f in facts}
    facts = [Fact(f.subject, f.relation, f.value, other[f.value]) for f in facts if other[f.value]]
    text = "".join(rng.choice(_SYNONYM_SENTENCES).format(o=f.word, v=f.value) for f in facts)
    if len(facts) > 1:
        text += passage_of(rng, facts)
    for fact in rng.sample(facts, len(facts) if len(facts) > 1 else 0):
        text += _question(rng, fact, False) + style.answered.format(a=fact.value) + "。"
    return [text] if text else []


_MEANING_QUESTIONS = ("「{o}」是啥物？", "{o}是佗一个？", "{o}，咱講啥物？")
_SYNONYM_SENTENCES = ("{o}就是{v}。", "{o}，咱講{v}。", "{v}閣叫做{o}。", "「{o}」佮「{v}」仝款。")
_KINDS = (_look_up, _restate, _open, _survey, _choose, _judge, _synonyms, _story)
_WEIGHTS = (17, 2, 10, 17, 18, 22, 7, 7)
