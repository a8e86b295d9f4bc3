"""Multiple-choice reading-comprehension questions: one record type and its reader."""

from __future__ import annotations

import logging
import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from taigi_lightning.errors import InputError
from taigi_lightning.tasks.question_files import Row, read_table
from taigi_lightning.tasks.question_prompt import (
    FEWEST,
    FOUR_CHOICE,
    MOST,
    QuestionPrompt,
    answer_names,
    option_fields,
)

logger = logging.getLogger(__name__)

SENTENCE_END = re.compile(r"[。！？!?…」』]\s*$")
NUMBERS = ("two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
SHOWN = 5  # problems named in one error


@dataclass(frozen=True, slots=True)
class Question:
    """One question about one passage, as its file has it.

    `answer` counts the options from 1, or is None where the file has no usable one; `row` counts its data rows from 1;
    `id` is the row number as text where the file has no ID column.
    """

    id: str
    passage: str
    question: str
    options: tuple[str, ...]
    answer: int | None
    row: int


def read_questions(
    path: str | Path,
    columns: Mapping[str, str] | None = None,
    *,
    need_answers: bool,
    unique_ids: bool = True,
    prompt: QuestionPrompt = FOUR_CHOICE,
) -> list[Question]:
    """Read questions in file order from CSV, JSON lines or Parquet (`tables.FORMATS`).

    The columns of the training file (文章, 問題, 選項1-4, 正確答案) and of the test file (前文, 題幹, ...)
    are recognised. Passages, questions and options are kept letter by letter; they may be empty or equal.
    Where answers are needed, a row with commas that should have been quoted is put back together when
    there is one way to do so, and the log says which rows were.

    Args:
        path: The file.
        columns: Other column names, from the field (id, passage, question, option1-option4, answer) or
            its usual name to the name used in this file.
        need_answers: Refuse rows without an answer 1-4; full-width digits and spaces around it are fine.
        unique_ids: Refuse empty or repeated IDs. Training needs no IDs and can pass False.
        prompt: Says how many options the questions have, and what their answers are called.

    Raises:
        InputError: the file cannot be read, a column is missing, there are no rows, or rows are unusable;
            the message names the rows.
    """
    path = Path(path)
    header, rows = read_table(path)
    where = _find_columns(
        path, header, columns or {}, _column_names(prompt.options), need_answers=need_answers
    )
    if not rows:
        raise InputError(f"{path} has a header but no rows. Add one row for each question.")
    questions, problems, repaired = [], [], []
    for row in rows:
        try:
            fields = _fit_fields(row.fields, header, where if need_answers else {}, prompt.answers)
            questions.append(_question(row, fields, where, prompt, need_answers=need_answers))
        except InputError as error:
            problems.append(f"{row}: {error}")
            continue
        if len(row.fields) > len(header) and any(row.fields[len(header) :]):
            repaired.append(row.number)
    if unique_ids:
        problems += _id_problems(questions)
    if problems:
        more = f" And {len(problems) - SHOWN} rows more." if len(problems) > SHOWN else ""
        raise InputError(f"{path}, " + " ".join(problems[:SHOWN]) + more)
    _warn_of_options(path, header, where, questions, prompt.options)
    if repaired:
        logger.warning("%s: put unquoted commas back into their field in rows %s", path, repaired)
    return questions


def _column_names(options: int) -> dict[str, tuple[str, ...]]:
    """What each field of a question is called in the training file and in the test file."""
    return {
        "id": ("ID",),
        "passage": ("文章", "前文"),
        "question": ("問題", "題幹"),
        **{field: (f"選項{number}",) for number, field in enumerate(option_fields(options), start=1)},
        "answer": ("正確答案",),
    }


def _warn_of_options(
    path: Path, header: list[str], where: Mapping[str, int], questions: list[Question], count: int
) -> None:
    """Say which rows have options that are empty or the same, and which column might be one more of them."""
    faults: dict[str, list[int]] = {"an empty option": [], "the same option twice": []}
    for question in questions:
        written = [option.strip() for option in question.options if option.strip()]
        if len(written) < len(question.options):
            faults["an empty option"].append(question.row)
        if len(set(written)) < len(written):
            faults["the same option twice"].append(question.row)
    for fault, rows in faults.items():
        if rows:
            more = f" and {len(rows) - SHOWN} more" if len(rows) > SHOWN else ""
            logger.warning("%s has %s in rows %s%s.", path, fault, str(rows[:SHOWN]).strip("[]"), more)
    if count == MOST:
        return
    next_one = re.compile(
        rf"(?:選項|option ?)(?:{count + 1}|{'abcdefghij'[count]}|{'一二三四五六七八九十'[count]})"
    )
    unread = [
        name for n, name in enumerate(header) if n not in where.values() and next_one.fullmatch(_fold(name))
    ]
    if unread:
        said = f"questions have {NUMBERS[count - FEWEST]} options (--data.init_args.prompt.options)"
        logger.warning("%s: column %s is not read; %s.", path, ", ".join(unread), said)


def parse_answer(text: str, answers: Sequence[str] = FOUR_CHOICE.answers) -> int | None:
    """Return the number of the option that a cell names, or None.

    Args:
        text: the cell.
        answers: what the options are called; where they are letters, their numbers will do too.

    >>> [parse_answer(text) for text in ("2", " ３ ", "4.0", "④", "5", "", "1 或 2")]
    [2, 3, 4, 4, None, None, None]
    >>> [parse_answer(text, ("A", "B", "C")) for text in ("b", "Ｃ", "3", "D")]
    [2, 3, 3, None]
    """
    said = unicodedata.normalize("NFKC", text).strip().upper()
    if said in answers:
        return answers.index(said) + 1
    match = re.fullmatch(r"([1-9]|10)(?:\.0+)?", said)
    return int(match[1]) if match and int(match[1]) <= len(answers) else None


def _find_columns(
    path: Path,
    header: list[str],
    columns: Mapping[str, str],
    usual: Mapping[str, tuple[str, ...]],
    *,
    need_answers: bool,
) -> dict[str, int]:
    """Map each field to its position in the header."""
    wanted = dict(usual)
    for key, name in columns.items():
        fields = [field for field, names in usual.items() if key == field or key in names]
        if not fields:
            raise InputError(f"columns: there is no field {key!r}. The fields are {', '.join(usual)}.")
        wanted[fields[0]] = (name,)
    folded = [_fold(name) for name in header]
    where, missing = {}, []
    for field, names in wanted.items():
        found = [i for i, name in enumerate(folded) if name in {_fold(name) for name in names}]
        if len(found) > 1:
            twice = " and ".join(repr(header[i]) for i in found)
            raise InputError(f"{path} has more than one column for the {field}: {twice}. Keep one of them.")
        if found:
            where[field] = found[0]
        elif field in columns or field not in ("id", "answer") or (field == "answer" and need_answers):
            missing.append("/".join(names))
    if missing:
        options = [field for field in wanted if field.startswith("option")]
        there = [field for field in options if field in where]
        fewer = (
            len(there) >= FEWEST
            and there == options[: len(there)]
            and len(missing) == len(options) - len(there)
        )
        raise InputError(
            f"{path} has no column {', '.join(missing)}; its columns are {', '.join(header)[:300]}. "
            "Rename them, or map them with `columns` (for example `columns: {passage: context}`)."
            + (
                f" If its questions have {len(there)} options, say so: prompt.options {len(there)}."
                if fewer
                else ""
            )
        )
    return where


def _fold(name: str) -> str:
    return unicodedata.normalize("NFKC", name).strip().casefold()


def _fit_fields(
    fields: list[str], header: list[str], where: dict[str, int], answers: Sequence[str]
) -> list[str]:
    """Give a row exactly as many fields as the header has; `where` is empty if commas may not be put back."""
    width = len(header)
    if len(fields) > width and not any(fields[width:]):  # a spreadsheet's empty cells
        fields = fields[:width]
    if len(fields) < width:
        raise InputError(
            f"it has {len(fields)} fields where the header has {width}. Write the missing ones, if only as "
            "commas, and quote a field that holds a line break."
        )
    if len(fields) == width:
        return fields
    ways = _comma_repairs(fields, width, where, answers) if where else {}
    if len(ways) != 1:
        could = ", ".join(header[column] for column in ways) or "no single column"
        raise InputError(
            f"it has {len(fields)} fields where the header has {width}, and the surplus commas could belong "
            f"to {could}. Put double quotes around each field that holds a comma."
        )
    return next(iter(ways.values()))


def _comma_repairs(
    fields: list[str], width: int, where: dict[str, int], answers: Sequence[str]
) -> dict[int, list[str]]:
    """Every sensible way to give all surplus commas of a row to one column.

    A way is sensible if the answer then is 1-4 and the question asks. If several remain, those whose
    passage ends a sentence are kept; between passage and question it is the passage, which is prose.
    """
    surplus = len(fields) - width
    marked = any(_asks(field, marked=True) for field in fields)
    ways = {}
    for column in range(width):
        if column in (where["answer"], where.get("id")):
            continue
        end = column + surplus + 1
        joined = [*fields[:column], ",".join(fields[column:end]), *fields[end:]]
        if parse_answer(joined[where["answer"]], answers) and _asks(joined[where["question"]], marked=marked):
            ways[column] = joined
    ended = {column: way for column, way in ways.items() if SENTENCE_END.search(way[where["passage"]])}
    ways = ended or ways
    if set(ways) == {where["passage"], where["question"]}:
        del ways[where["question"]]
    return ways


def _asks(text: str, *, marked: bool) -> bool:
    """Whether a text is one question: by its only question mark, or if the row has none, by its words."""
    if marked:
        return re.fullmatch(r"[^？?。]+[？?][」』）)\s]*", text) is not None
    return re.search(r"[佗啥何哪誰幾]|按怎|什麼|如何|正確|siánn|tó", text) is not None


def _question(
    row: Row, fields: list[str], where: dict[str, int], prompt: QuestionPrompt, *, need_answers: bool
) -> Question:
    answer = parse_answer(fields[where["answer"]], prompt.answers) if "answer" in where else None
    if need_answers and answer is None:
        wanted = answer_names(prompt.answers)
        raise InputError(f"the answer is {fields[where['answer']]!r}. Write {wanted}.")
    return Question(
        id=fields[where["id"]].strip() if "id" in where else str(row.number),
        passage=fields[where["passage"]],
        question=fields[where["question"]],
        options=tuple(fields[where[option]] for option in prompt.fields()),
        answer=answer,
        row=row.number,
    )


def _id_problems(questions: list[Question]) -> list[str]:
    first: dict[str, int] = {}
    problems = []
    for question in questions:
        if not question.id:
            problems.append(f"row {question.row}: the ID is empty. Give it one.")
        elif question.id in first:
            other = first[question.id]
            problems.append(f"row {question.row}: row {other} has ID {question.id} too. Make IDs unique.")
        first.setdefault(question.id, question.row)
    return problems


def rotate_options(question: Question, rotation: int) -> Question:
    """The question with its options moved `rotation` places towards the front, the first ones to the end."""
    if rotation == 0:
        return question
    return replace(question, options=question.options[rotation:] + question.options[:rotation])
