"""A deterministic Taigi-shaped world of any size: raw corpus, question files, answers, pre-training text.

The files have the real ones' shapes and their noise, so that cleaning and reading are put to work; the
language is small enough for a model of a few million parameters. Standard library only.
"""

import csv
import json
import random
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from itertools import repeat
from multiprocessing import get_context
from pathlib import Path

from corpus_tools.errors import InputError
from corpus_tools.sample.exercises import exercise_document, school_page
from corpus_tools.sample.instructions import instruction_rows
from corpus_tools.sample.texts import SampleQuestion, alphabet_of_texts, article, question_set
from corpus_tools.windows import path_problem, patiently

EXERCISES_A_FILE = 5_000
STORY_SHARE = 0.2  # of the corpus's articles; the others are pages of a schoolbook
WINDOW = 170  # characters in a raw row, as in IMA-Taiwan
DIRECTORIES = ("小說", "散文", "詩")
AUTHORS = ("林清月", "陳阿嬌", "黃土水", "蔡秋雄")
URLS = (
    "https://www.example.org/watch?v=AsKDpyJDYlQ",
    "http://example.net/tw/%E5%8F%B0?id=7#s",
    "www.example.com/2009/new/12.htm",
)
# As typed with the Ministry of Education's older font; the cleaner turns these points into the same characters.
PRIVATE_USE = {"\U0002a736": "\ue701", "\U0002c9b0": "\ue705"}  # 𪜶, 𬦰
TITLES = ("的故事", "記事", "的日子", "風雲", "回憶錄", "心聲")

Row = dict[str, str | int]


def write_sample(
    output_dir: str | Path,
    articles: int = 60,
    questions: int = 1600,
    test_questions: int = 300,
    pretraining_documents: int = 0,
    instructions: int = 600,
    seed: int = 9527,
) -> Path:
    """Write the sample world under `output_dir` and return that folder.

    Args:
        output_dir: Folder for `IMA-Taiwan/`, `AI_conv.csv`, `1001-question-v3.csv` and the answers beside it,
            `instructions.jsonl`, and `vocabulary-question.csv` (with answers): those that need the corpus's own
            words, once more.
        articles: Titles in the raw corpus, most of them 1-3 thousand characters long.
        questions: Training questions.
        test_questions: Held-out questions; none of their facts stands in any other file.
        pretraining_documents: Documents of reading exercises in `pretraining/`, which make the tiny base.
        instructions: Conversations of one question and a written answer.
        seed: The same seed gives the same bytes.

    Raises:
        InputError: A count is negative, or Windows would not take the folder's path.
    """
    counts = {"articles": articles, "questions": questions, "test_questions": test_questions}
    counts |= {"pretraining_documents": pretraining_documents, "instructions": instructions}
    for name, count in counts.items():
        if count < 0:
            raise InputError(f"{name} is {count}; give 0 or more.")
    output = Path(output_dir)
    if problem := path_problem(output):
        raise InputError(f"the sample cannot be written: {problem}.")
    _write_corpus(output / "IMA-Taiwan", articles, random.Random(f"{seed}/corpus"))
    training = question_set(random.Random(f"{seed}/training"), "training", questions)
    _write_training(output / "AI_conv.csv", training, random.Random(f"{seed}/typing"))
    rows = instruction_rows(random.Random(f"{seed}/instructions"), instructions)
    lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in rows]
    _write_text(output / "instructions.jsonl", "".join(lines))
    vocabulary_count = test_questions // 3
    rng = random.Random(f"{seed}/test")
    vocabulary = question_set(rng, "test", vocabulary_count, vocabulary=True)
    plain = question_set(rng, "test", test_questions - vocabulary_count)
    _write_test(output, "1001-question-v3", plain + vocabulary)
    _write_test(output, "vocabulary-question", vocabulary, before=len(plain))
    if pretraining_documents:
        _write_pretraining(output / "pretraining", pretraining_documents, seed)
    return output


def _write_corpus(folder: Path, articles: int, rng: random.Random) -> None:
    """Write twenty titles a file, into `folder/<dir>/` and, the last file, into `folder` itself."""
    per_file = 20
    for start in range(0, articles, per_file):
        rows: list[Row] = []
        for number in range(start, min(start + per_file, articles)):
            rows += _article_rows(rng, number)
        last = start + per_file >= articles > per_file
        where = folder if last else folder / DIRECTORIES[start // per_file % 3]
        if start == 0:
            rows = [{**row, "translator": "許文雄"} for row in rows]
        _write_json(where / f"file-{start // per_file:03d}.json", rows)


def _article_rows(rng: random.Random, number: int) -> list[Row]:
    page = article if rng.random() < STORY_SHARE else school_page
    text = page(rng, sentences=rng.randint(80, 160))
    windows = [text[at : at + WINDOW] for at in range(0, len(text), WINDOW)]
    title = f"{rng.choice(AUTHORS)[1:]}{rng.choice(TITLES)}{number + 1}"
    rows: list[Row] = []
    for part, window in enumerate(_noisy(rng, windows), start=1):
        rows.append({"title": title, "author": AUTHORS[number % 4], "text": window, "paragraph_id": part})
        if rng.random() < 0.016:
            rows.append({**rows[-1]})
    return rows


def _noisy(rng: random.Random, windows: Sequence[str]) -> Iterable[str]:
    """The windows as the real files hold them: one in five carries a blemish that cleaning must mend."""
    blemishes: tuple[Callable[[str], str], ...] = (
        lambda text: text.replace("，", "﹐"),
        lambda text: text.replace("，", ",", 2).replace("？", "?"),
        lambda text: "".join(PRIVATE_USE.get(c, c) for c in text),
        lambda text: text[:40] + rng.choice(URLS) + text[40:],
        lambda text: text.replace("。", "。    ", 1),
        lambda text: text.replace("。", "。\xa0", 1) + "\u2028",
        lambda text: text.replace("「", "｢").replace("」", "｣"),
        lambda text: text.replace("。", "......", 1),
    )
    after_sentence = True
    for number, window in enumerate(windows, start=1):
        text = rng.choice(blemishes)(window) if rng.random() < 0.2 else window
        if after_sentence and rng.random() < 0.3:
            text = rng.choice(("{n}. {text}", "（{n}）{text}")).format(n=number, text=text)
        after_sentence = window.endswith("。")
        yield text


def _write_training(path: Path, questions: Sequence[SampleQuestion], rng: random.Random) -> None:
    """Write the training CSV; one answer in fifty is full-width or has a space, as in the real file."""
    header = ["文章", "問題", "選項1", "選項2", "選項3", "選項4", "正確答案"]
    rows = []
    for q in questions:
        odd = (chr(ord("０") + q.answer), f" {q.answer}")
        answer = rng.choice(odd) if rng.random() < 0.02 else str(q.answer)
        rows.append([q.passage, q.question, *q.options, answer])
    _write_csv(path, header, rows)


def _write_test(folder: Path, stem: str, questions: Sequence[SampleQuestion], before: int = 0) -> None:
    """Write `stem.csv` (with BOM, IDs like 12537, counting on from `before`) and `stem-answers.csv`."""
    ids = [f"{before + number}2537" for number in range(1, len(questions) + 1)]
    rows = [[id_, q.passage, q.question, *q.options] for id_, q in zip(ids, questions, strict=True)]
    header = ["ID", "前文", "題幹", "選項1", "選項2", "選項3", "選項4"]
    _write_csv(folder / f"{stem}.csv", header, rows, encoding="utf-8-sig")
    answers = [[id_, str(q.answer)] for id_, q in zip(ids, questions, strict=True)]
    _write_csv(folder / f"{stem}-answers.csv", ["ID", "Answer"], answers)


def _write_pretraining(folder: Path, documents: int, seed: int) -> None:
    """Write reading exercises, five thousand documents a file, each one row of several lines."""
    starts = range(0, documents, EXERCISES_A_FILE)
    counts = [min(EXERCISES_A_FILE, documents - start) for start in starts]
    with ProcessPoolExecutor(mp_context=get_context("spawn")) as pool:
        for start, rows in zip(starts, pool.map(_exercise_rows, starts, counts, repeat(seed)), strict=True):
            _write_json(folder / f"exercises-{start // EXERCISES_A_FILE:03d}.json", rows)


def _exercise_rows(start: int, count: int, seed: int) -> list[Row]:
    """Documents `start` to `start + count`, a pure function of the three."""
    alphabet, rng = alphabet_of_texts(), random.Random(f"{seed}/pretraining/{start}")
    return [
        {
            "title": f"讀冊{number + 1}",
            "author": "先生",
            "text": "\n".join(exercise_document(rng, alphabet)),
            "paragraph_id": 1,
        }
        for number in range(start, start + count)
    ]


def _write_json(path: Path, rows: Sequence[Row]) -> None:
    _write_text(path, json.dumps(rows, ensure_ascii=False, indent=1) + "\n")


def _write_csv(
    path: Path, header: Sequence[str], rows: Iterable[Sequence[str]], encoding: str = "utf-8"
) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.part")
    with aside.open("w", encoding=encoding, newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(header)
        writer.writerows(rows)
    patiently(lambda: aside.replace(path))


def _write_text(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.part")
    aside.write_text(text, encoding="utf-8", newline="\n")
    patiently(lambda: aside.replace(path))
