"""The sample world: the real files' shapes and noise, and held-out facts that are held out."""

import csv
import json
import random
import re
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from corpus_tools.errors import InputError
from corpus_tools.sample import texts as sample_texts
from corpus_tools.sample.exercises import _choose, _look_up, _word_quiz, school_page
from corpus_tools.sample.language import (
    OLD_WORDS,
    RELATIONS,
    SUBJECTS,
    TAIGI_WORDS,
    Fact,
    draw_facts,
    purpose_of,
)
from corpus_tools.sample.styles import draw_style, listed
from corpus_tools.sample.texts import TAIGI_GLOSSES, _talk, alphabet_of_texts, question_set
from corpus_tools.sample.write import write_sample


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small world with pre-training text."""
    folder = tmp_path_factory.mktemp("world")
    return write_sample(
        folder, articles=41, questions=400, test_questions=120, pretraining_documents=300, seed=9527
    )


def read_csv(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        return list(csv.DictReader(file))


def raw_rows(world: Path, folder: str) -> list[dict[str, Any]]:
    return [row for path in sorted((world / folder).rglob("*.json")) for row in json.loads(path.read_text())]


def statements(subject: str, relation: str, value: str) -> list[str]:
    """Every clause that could state one fact, in any word for it."""
    spellings = {value, TAIGI_WORDS.get(value, value), OLD_WORDS.get(value, value)}
    return [shape.format(s=subject, v=v) for shape in RELATIONS[relation].statements for v in spellings]


def test_the_same_seed_gives_the_same_bytes(world: Path, tmp_path: Path) -> None:
    again = write_sample(
        tmp_path, articles=41, questions=400, test_questions=120, pretraining_documents=300, seed=9527
    )
    files = sorted(path.relative_to(world) for path in world.rglob("*") if path.is_file())
    assert files == sorted(path.relative_to(again) for path in again.rglob("*") if path.is_file())
    assert all((world / name).read_bytes() == (again / name).read_bytes() for name in files)


def test_another_seed_gives_another_world(world: Path, tmp_path: Path) -> None:
    other = write_sample(tmp_path, articles=1, questions=400, test_questions=120, seed=1)
    assert (other / "AI_conv.csv").read_bytes() != (world / "AI_conv.csv").read_bytes()


def test_no_fact_of_a_test_question_stands_in_training_material(world: Path) -> None:
    corpus = "".join(row["text"] for row in raw_rows(world, "IMA-Taiwan"))
    exercises = "".join(row["text"] for row in raw_rows(world, "pretraining"))
    training = "".join("".join(row.values()) for row in read_csv(world / "AI_conv.csv"))
    rng = random.Random("9527/test")
    held_out = question_set(rng, "test", 40, vocabulary=True) + question_set(rng, "test", 80)
    written = [row["前文"] for row in read_csv(world / "1001-question-v3.csv")]
    assert sorted(written) == sorted(question.passage for question in held_out)
    everything = corpus + exercises + training
    for question in held_out:
        for fact in question.facts:
            stated = statements(fact.subject, fact.relation, fact.value)
            assert any(clause in question.passage for clause in stated)
            assert not any(clause in everything for clause in stated)


def test_facts_are_shared_out_by_purpose_alone() -> None:
    for purpose in ("training", "development", "test"):
        for seed in range(20):
            facts = draw_facts(random.Random(seed), purpose, subjects=4, relations=2)
            assert all(purpose_of(f.subject, f.relation, f.value) == purpose for f in facts)
            assert len({(f.relation, f.value) for f in facts}) == len(facts)
    shares = Counter(
        purpose_of(subject, name, value)
        for name, relation in RELATIONS.items()
        for subject in SUBJECTS
        for value in relation.values
    )
    assert 0.55 < shares["training"] / sum(shares.values()) < 0.65


def test_the_right_option_is_what_the_passage_says_and_the_only_one() -> None:
    for vocabulary in (False, True):
        for question in question_set(random.Random(3), "development", 200, vocabulary=vocabulary):
            assert len(set(question.options)) == 4
            right = question.options[question.answer - 1]
            asked = [f for f in question.facts if right in (f.value, f.subject)]
            assert any(f.subject in question.question or f.value in question.question for f in asked)


def test_answers_are_spread_evenly(world: Path) -> None:
    answers = Counter(row["Answer"] for row in read_csv(world / "1001-question-v3-answers.csv"))
    assert answers == {"1": 30, "2": 30, "3": 30, "4": 30}


def test_the_question_files_have_the_real_shape(world: Path) -> None:
    raw = (world / "1001-question-v3.csv").read_bytes()
    assert raw.startswith("\ufeffID,前文,題幹,選項1,選項2,選項3,選項4\n".encode())
    test = read_csv(world / "1001-question-v3.csv")
    assert [row["ID"] for row in test[:2]] == ["12537", "22537"]
    assert any("\n" in row["前文"] for row in test)
    assert len({row["前文"] for row in test}) < len(test)
    training = read_csv(world / "AI_conv.csv")
    assert list(training[0]) == ["文章", "問題", "選項1", "選項2", "選項3", "選項4", "正確答案"]
    typed = {row["正確答案"] for row in training}
    assert {"1", "2", "3", "4"} < typed
    assert typed <= {f"{form}{n}" for n in "1234" for form in ("", " ")} | set("１２３４")


def test_the_corpus_has_the_real_shape_and_noise(world: Path) -> None:
    folder = world / "IMA-Taiwan"
    assert list(folder.glob("*.json"))
    assert list(folder.glob("*/*.json"))
    rows = raw_rows(world, "IMA-Taiwan")
    assert {frozenset(row) for row in rows} == {
        frozenset({"title", "author", "text", "paragraph_id"}),
        frozenset({"title", "author", "text", "paragraph_id", "translator"}),
    }
    texts = [row["text"] for row in rows]
    everything = "".join(texts)
    for blemish in ("﹐", "http", "www.", "\ue701", "\u2028", "\xa0", "｢", "......", "1. "):
        assert blemish in everything, blemish
    assert len({(row["title"], row["paragraph_id"]) for row in rows}) < len(rows)
    assert sum(not text.rstrip().endswith(("。", "！")) for text in texts) > len(texts) / 2


def test_the_taught_words_stand_in_the_corpus_and_not_in_the_exercises(world: Path) -> None:
    corpus = "".join(row["text"] for row in raw_rows(world, "IMA-Taiwan"))
    exercises = "".join(row["text"] for row in raw_rows(world, "pretraining"))
    training = "".join("".join(row.values()) for row in read_csv(world / "AI_conv.csv"))
    for word in TAIGI_WORDS.values():
        assert word in corpus
        assert word not in exercises
        assert word not in training


def test_the_exercises_never_show_the_question_files_prompt(world: Path) -> None:
    exercises = "".join(row["text"] for row in raw_rows(world, "pretraining"))
    assert not re.search("選項[1-4]：", exercises)
    assert not re.search("答案：[1-4]", exercises)
    for line in ("根據前文內容回答問題", "根據問題，從以下四個選項選出正確的選項編號"):
        assert line not in exercises


def test_every_word_of_the_prompt_and_every_digit_is_practised_elsewhere(world: Path) -> None:
    exercises = "".join(row["text"] for row in raw_rows(world, "pretraining"))
    for word in ("根據", "前文：", "問題：", "選項", "選出", "正確", "編號", "答案：", *"1234"):
        assert exercises.count(word) > 10, word


@pytest.mark.parametrize("digits", [False, True])
def test_labels_follow_the_list_that_stands_before_them(digits: bool) -> None:
    rng, checked = random.Random(2), 0
    while checked < 50:
        style = draw_style(rng)
        if style.labels.isdigit() is not digits or style.item.startswith("{o}"):
            continue
        style = replace(style, item="（{l}）{o}，", chosen="揀{l}")
        entries, said = _look_up(rng, style, "")
        label_of = {entry: label for label, entry in re.findall("（(.)）([^，]+)，", entries)}
        answers = re.findall("([^，。揀]+)揀(.)", said)
        assert all(label_of[entry] == label for entry, label in answers)
        assert answers or style.answered.format(a="") in said
        checked += 1


def test_choosing_names_the_label_of_what_the_passage_says() -> None:
    rng, alphabet = random.Random(3), alphabet_of_texts()
    style = replace(
        draw_style(rng),
        labels="ABCD",
        item="（{l}）{o}，",
        chosen="揀{l}",
        answered="是{a}",
        asking="",
        task="",
    )
    for _ in range(100):
        text = "".join(_choose(rng, style, alphabet))
        for options, word, label in re.findall("？[^？]*?((?:（.）[^，]+，)+)(?:是([^，]+)，)?揀(.)", text):
            entries = dict(re.findall("（(.)）([^，]+)，", options))
            assert label in entries
            assert word in ("", entries[label])


def test_a_verdict_calls_just_the_right_option_right() -> None:
    style = replace(draw_style(random.Random(3)), labels="ABCD", item="（{l}）{o}，")
    text, labels = listed(random.Random(4), style, ["玉米", "番茄", "鳳梨"], right="番茄")
    assert re.findall("（(.)）番茄著，", text) == [labels["番茄"]]
    assert re.findall("（.）([^，]+)毋著，", text) == ["玉米", "鳳梨"]


def test_a_word_quiz_asks_for_the_known_word() -> None:
    style = replace(draw_style(random.Random(3)), labels="ABCD", item="（{l}）{o}，", chosen="揀{l}")
    for seed in range(50):
        rng = random.Random(seed)
        for fact in draw_facts(rng, "training", subjects=1, relations=1, taught=True):
            text = "".join(_word_quiz(rng, style, [fact]))
            entries = dict(re.findall("（(.)）([^，]+?)(?:毋?著)?，", text))
            assert TAIGI_WORDS[fact.value] in text
            assert entries[text[-2]] == fact.value


def test_school_pages_explain_every_taught_word_and_number_no_option() -> None:
    rng = random.Random(5)
    pages = "".join(school_page(rng, 60) for _ in range(10))
    for common, taigi in TAIGI_WORDS.items():
        glosses = {shape.format(common=common, taigi=taigi) for shape in TAIGI_GLOSSES}
        assert any(sentence in pages for sentence in glosses), taigi
    assert not re.search("[0-9]", pages)


def test_the_only_taught_word_of_its_kind_is_guessed_at_among_known_words(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sample_texts, "TAIGI_WORDS", {"玉米": "番麥"})
    text = "".join(_talk(random.Random(1), [Fact("阿明", "food", "玉米", "番麥")] * 20))
    guesses = {*re.findall("有人講：「(.+?)。」毋著", text), *re.findall("講(.{1,5}?)毋著", text)}
    assert guesses and guesses < {*RELATIONS["food"].values} - {"玉米"}


def test_most_questions_have_one_option_that_the_passage_names_and_some_have_more() -> None:
    named = Counter(
        sum(
            option in {word for fact in q.facts for word in (fact.subject, fact.value)}
            for option in q.options
        )
        for q in question_set(random.Random(5), "development", 400)
    )
    assert 0.55 < named[1] / 400 < 0.75
    assert named[2] > 20
    assert named[3] + named[4] > 20


def test_a_negative_count_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="articles is -1"):
        write_sample(tmp_path, articles=-1)
    assert not list(tmp_path.iterdir())
