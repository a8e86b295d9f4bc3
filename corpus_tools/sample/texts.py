"""What the sample world writes: passages, questions about them, and the articles of its corpus.

Every function is pure: the same `random.Random` state gives the same text.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace

from corpus_tools.sample.language import (
    COMMON_WORDS,
    FILLERS,
    OLD_WORDS,
    RELATIONS,
    ROMANISED,
    SUBJECTS,
    TAIGI_WORDS,
    Fact,
    Purpose,
    draw_facts,
    state,
)

Options = tuple[str, str, str, str]


@dataclass(frozen=True)
class SampleQuestion:
    """A four-choice question; `answer` counts from 1; `facts` are all that its passage states."""

    passage: str
    question: str
    options: Options
    answer: int
    facts: tuple[Fact, ...]


def passage_of(
    rng: random.Random, facts: Sequence[Fact], newline_share: float = 0.0, plain: bool = False
) -> str:
    """State `facts` in a random order, in sentences of one or two clauses, at times with an idle sentence.

    A `plain` passage has no idle sentence.
    """
    order = rng.sample(list(facts), len(facts))
    sentences: list[str] = []
    while order:
        take = min(len(order), rng.choice((1, 1, 2)))
        sentences.append("，".join(state(rng, order.pop()) for _ in range(take)) + "。")
    if not plain and rng.random() < 0.3:
        sentences.insert(rng.randrange(len(sentences) + 1), rng.choice(FILLERS))
    return ("\n" if rng.random() < newline_share else "").join(sentences)


def ask(rng: random.Random, facts: Sequence[Fact], *, answer: int) -> tuple[str, Options]:
    """Ask about one of `facts`: the question and its options, the right one at place `answer` (1-4).

    In six questions of ten the passage names no other option; in the rest it names one to three of the wrong
    ones too, so that only who or what they belong to tells them from the right one.
    """
    fact = rng.choice(facts)
    relation = RELATIONS[fact.relation]
    if rng.random() < 0.25:
        shapes, right, kind = relation.asked_who, fact.subject, list(SUBJECTS)
        named = [f.subject for f in facts]
    else:
        shapes, right = relation.asked, fact.value
        named = [f.value for f in facts if f.relation == fact.relation]
        kind = [v for v in relation.values if (v in TAIGI_WORDS) == (right in TAIGI_WORDS)]
        kind = kind if len(kind) > 6 else list(relation.values)
    other = [word for word in rng.sample(kind, len(kind)) if word not in named]
    named = [word for word in dict.fromkeys(named) if word != right]
    rng.shuffle(named)
    wrong = named[: rng.choices((0, 1, 2, 3), (60, 20, 12, 8))[0]]
    options = [*wrong, *other][:3]
    rng.shuffle(options)
    options.insert(answer - 1, right)
    first, second, third, fourth = options
    return rng.choice(shapes).format(s=fact.subject, v=fact.value), (first, second, third, fourth)


def question_set(
    rng: random.Random, purpose: Purpose, count: int, *, vocabulary: bool = False, newline_share: float = 0.44
) -> list[SampleQuestion]:
    """`count` questions over passages of 2-4 people, answers even over 1-4, every tenth passage twice.

    With `vocabulary` the passage writes the Taigi word (番麥) and the options the word the base knows (玉米).
    Without, every fourth passage writes old words that the base knows as well as the options' words.
    """
    answers = [1 + i % 4 for i in range(count)]
    rng.shuffle(answers)
    questions: list[SampleQuestion] = []
    while len(questions) < count:
        facts = draw_facts(
            rng,
            purpose,
            subjects=rng.choice((2, 3, 3, 4)),
            relations=rng.choice((1, 2, 2)),
            taught=vocabulary,
        )
        if len(facts) < 2:
            continue
        if not vocabulary and rng.random() < 0.25:
            facts = [replace(fact, word=OLD_WORDS.get(fact.value, fact.word)) for fact in facts]
        passage = passage_of(rng, facts, newline_share)
        for answer in answers[len(questions) :][: 2 if rng.random() < 0.1 else 1]:
            questions.append(SampleQuestion(passage, *ask(rng, facts, answer=answer), answer, tuple(facts)))
    return questions


def article(rng: random.Random, sentences: int) -> str:
    """A village story in sentences of about 25 characters that teaches the Taigi words, glosses and all."""
    text: list[str] = []
    known = rng.sample(sorted(TAIGI_WORDS), 4)
    while len(text) < sentences:
        facts = draw_facts(rng, "training", subjects=2, relations=1, taught=True)
        common = rng.choice(known)
        taigi = TAIGI_WORDS[common]
        text.append(rng.choice(TAIGI_GLOSSES).format(common=common, taigi=taigi))
        text += _talk(rng, facts) if rng.random() < 0.6 else _told(rng, facts)
        text.append(rng.choice(SCENES).format(place=rng.choice(RELATIONS["home"].values), taigi=taigi))
        if rng.random() < 0.2:
            text.append(" ".join(rng.sample(ROMANISED, 4)).capitalize() + "! ")
    return "".join(text)


def _told(rng: random.Random, facts: Sequence[Fact]) -> list[str]:
    """Each fact in a sentence or two of its own."""
    return [
        rng.choice(STORIES).format(clause=state(rng, fact), common=fact.value, taigi=fact.word)
        for fact in facts
    ]


def _talk(rng: random.Random, facts: Sequence[Fact]) -> list[str]:
    """The facts in the corpus's words, then what people ask, guess and answer in the known ones."""
    text = [passage_of(rng, facts, plain=True)]
    for fact in rng.sample(list(facts), len(facts)):
        others = [value for value in RELATIONS[fact.relation].values if value != fact.value]
        taught = [value for value in others if value in TAIGI_WORDS]
        asked = rng.choice(RELATIONS[fact.relation].wondered).format(s=fact.subject)
        quiz = rng.choice(QUIZZES)
        text.append(quiz.format(asked=asked, common=fact.value, wrong=rng.choice(taught or others)))
    return text


def gloss(rng: random.Random, fact: Fact) -> str:
    """A sentence that says what the fact's word means."""
    return rng.choice(TAIGI_GLOSSES).format(common=fact.value, taigi=fact.word)


def tale(rng: random.Random) -> str:
    """A few sentences of prose in known and old words; the base's only prose, unlike the corpus's."""
    text: list[str] = []
    for fact in draw_facts(rng, "training", subjects=2, relations=2):
        told = replace(fact, word=OLD_WORDS.get(fact.value, fact.word)) if rng.random() < 0.5 else fact
        words = {"clause": state(rng, told), "s": told.subject, "v": told.value, "old": told.word}
        text.append(rng.choice(TALES).format(**words))
        if rng.random() < 0.3:
            text.append(rng.choice(FILLERS))
    return "".join(text)


TAIGI_GLOSSES = (
    "咱講的{taigi}，冊裡寫做{common}。",
    "{taigi}就是{common}，序大人攏按呢叫。",
    "少年人講{common}，阮阿媽講{taigi}。",
    "「{common}」佮「{taigi}」是仝款物件，干焦叫法無仝。",
)
STORIES = (
    "聽講{clause}，毋過{common}這種代誌，逐家攏知影。",
    "彼當陣{clause}；{taigi}若無，伊就袂歡喜。",
    "{clause}，庄裡的人攏笑講：「{common}遐爾好喔？」",
    "自細漢開始，{clause}，著是{common}啦！",
)
QUIZZES = (
    "有人問：「{asked}」囡仔應：「是{common}。」",
    "阿公問：「{asked}」逐家攏應{common}。",
    "「{asked}」有人講：「{wrong}。」毋著；「{common}。」著！",
    "「{asked}」囡仔講{common}著，講{wrong}毋著。",
)
TALES = (
    "彼年{clause}，這馬猶是按呢。",
    "{clause}，逐家攏講{v}好。",
    "有一日，{clause}，伊講：「無{old}阮就袂歡喜。」",
    "有人來揣{s}，看著{clause}，心內誠歡喜。",
    "人問{s}，{s}應講：「{v}。」原來{clause}。",
    "{clause}，這是老人講的。",
)
SCENES = (
    "彼年{place}做風颱，{taigi}的代誌猶原有人會記得。",
    "佇{place}的廟埕，序大人咧講{taigi}的故事予囡仔聽。",
    "1947年的{place}，欲揣{taigi}毋是簡單的代誌。",
    "後來𪜶搬去{place}，這馬想著{taigi}，心肝頭猶是燒烙。",
    "𪜶做伙去{place}𬦰山，講著{taigi}就歡喜。",
)


def alphabet_of_texts() -> list[str]:
    """Every character that a word list or sentence shape holds, so that the base meets all of them."""
    parts = [*TAIGI_WORDS.values(), *OLD_WORDS.values(), *COMMON_WORDS, *FILLERS]
    parts += [*TAIGI_GLOSSES, *STORIES, *QUIZZES, *SCENES, *TALES]
    return sorted({c for part in parts for c in part if "㐀" <= c <= "鿿"})
