"""Predictions × answers → accuracy, with what one needs to judge it. Imports neither torch nor lightning."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import NormalDist

from rich.table import Table

from taigi_lightning.atomic_write import check_place, write_json
from taigi_lightning.errors import InputError
from taigi_lightning.evaluation.predictions import NUMBERS
from taigi_lightning.evaluation.text_scores import holds_written, score_written
from taigi_lightning.tasks.question_files import read_table
from taigi_lightning.tasks.question_prompt import (
    FEWEST,
    FOUR_CHOICE,
    MOST,
    Labels,
    QuestionPrompt,
    answer_names,
)
from taigi_lightning.tasks.questions import parse_answer, read_questions
from taigi_lightning.terminal import console

Answers = Sequence[tuple[str, int]]  # (ID, the option's number from 1) in file order


@dataclass(frozen=True)
class Score:
    """How well one set of predictions did.

    Args:
        correct: how many questions are answered correctly.
        total: questions.
        interval: 95 % Wilson interval of the accuracy.
        confusion: [correct answer - 1][predicted answer - 1] counts.
    """

    correct: int
    total: int
    interval: tuple[float, float]
    confusion: tuple[tuple[int, ...], ...]

    @property
    def accuracy(self) -> float:
        """Share of questions answered correctly."""
        return self.correct / self.total

    @property
    def predicted(self) -> tuple[int, ...]:
        """How often each of the answers was given."""
        return tuple(sum(column) for column in zip(*self.confusion, strict=True))

    @property
    def expected(self) -> tuple[int, ...]:
        """How often each of the answers is correct."""
        return tuple(sum(row) for row in self.confusion)


@dataclass(frozen=True)
class Comparison:
    """Two sets of predictions on the same questions.

    Args:
        only_first: questions only the first set answers correctly.
        only_second: questions only the second does.
        p_value: McNemar's exact test, two-sided: how often chance alone splits the questions on which
            the two disagree at least this unevenly.
    """

    only_first: int
    only_second: int
    p_value: float


def score(predictions: Answers, answers: Answers, name: str = "the predictions", options: int = 4) -> Score:
    """Compare predictions with the correct answers.

    Args:
        predictions: (ID, answer), in any order.
        answers: the correct ones.
        name: what an error calls the predictions.
        options: how many each question has.

    Raises:
        InputError: the two do not hold the same IDs, each once; those at fault are named.
    """
    right, given = dict(answers), dict(predictions)
    faults = {
        f"more than once in {name}": _repeated(predictions),
        f"missing from {name}": [i for i in right if i not in given],
        f"in {name} but not among the answers": [i for i in given if i not in right],
        "more than once among the answers": _repeated(answers),
    }
    if any(faults.values()):
        found = "; ".join(f"{_named(ids)} {what}" for what, ids in faults.items() if ids)
        raise InputError(f"{found}. Both files must hold the same IDs, each once.")
    if not right:
        raise InputError("There are no answers to score against. Give a file with at least one question.")
    counts = Counter((right[i], given[i]) for i in right)
    numbers = range(1, options + 1)
    confusion = tuple(tuple(counts[r, p] for p in numbers) for r in numbers)
    correct = sum(confusion[n][n] for n in range(options))
    return Score(correct, len(right), wilson_interval(correct, len(right)), confusion)


def compare(first: Answers, second: Answers, answers: Answers) -> Comparison:
    """McNemar's exact test on two sets of predictions.

    Raises:
        InputError: as `score`, for either set.
    """
    score(first, answers)
    score(second, answers)
    one, two = dict(first), dict(second)
    only_first = sum(one[i] == right != two[i] for i, right in answers)
    only_second = sum(two[i] == right != one[i] for i, right in answers)
    return Comparison(only_first, only_second, mcnemar(only_first, only_second))


def wilson_interval(correct: int, total: int, confidence: float = 0.95) -> tuple[float, float]:
    """Interval of a share (Wilson 1927): unlike the normal one it holds near 0 and 1 and for small samples.

    >>> [round(bound, 4) for bound in wilson_interval(8, 10)]
    [0.4902, 0.9433]
    """
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    share = correct / total
    centre = share + z * z / (2 * total)
    width = z * math.sqrt(share * (1 - share) / total + z * z / (4 * total * total))
    scale = 1 + z * z / total
    return max(0.0, (centre - width) / scale), min(1.0, (centre + width) / scale)


def mcnemar(only_first: int, only_second: int) -> float:
    """Two-sided exact p-value of a split that is even when neither is better (McNemar 1947).

    >>> mcnemar(1, 5), mcnemar(0, 0), mcnemar(3, 3)
    (0.21875, 1.0, 1.0)
    """
    disagreements = only_first + only_second
    term, tail = 1, 0  # how many splits give one side k, and k or fewer
    for k in range(min(only_first, only_second) + 1):
        tail += term
        term = term * (disagreements - k) // (k + 1)
    # Whole numbers until the one division: a float would overflow at some 1,000 disagreements.
    return min(1.0, float(2 * tail / 2**disagreements))


def position_bias(orders: Iterable[str]) -> dict[str, float]:
    """Whether answers follow the option or stay at the position when the options are rotated.

    Args:
        orders: per question as many digits as options, the answers in the input's numbering with the options
            rotated by 0, 1, 2 and so on (the column `AnswerByOrder` of the probabilities file; 0 is the tenth).

    Returns:
        `follows`: share of questions where all name the same option; `position_1` .. `position_4`, or as many as
        there are: share of all answers that named what was shown there, all alike without bias.

    >>> position_bias(["2222", "1234"])  # the second always takes the first position
    {'follows': 0.5, 'position_1': 0.625, 'position_2': 0.125, 'position_3': 0.125, 'position_4': 0.125}
    """
    listed = list(orders)
    follows = sum(len(set(answers)) == 1 for answers in listed) / len(listed)
    count = len(listed[0])
    shown = Counter(
        (NUMBERS.index(answer) - rotation) % count + 1
        for answers in listed
        for rotation, answer in enumerate(answers)
    )
    shares = {f"position_{place}": shown[place] / shown.total() for place in range(1, count + 1)}
    return {"follows": follows, **shares}


# ---- files ----------------------------------------------------------------------------------------


def read_answers(path: Path, prompt: QuestionPrompt = FOUR_CHOICE) -> list[tuple[str, int]]:
    """Read (ID, answer) in file order from predictions, or from questions with their answers.

    Args:
        path: a table with `ID` and `Answer`, or questions with 正確答案 (without IDs a question's row number
            counts as its ID, as it does in prediction).
        prompt: says how many options there are and what the answers are called.

    Raises:
        InputError: the file cannot be read, or an answer is none of these.
    """
    header, rows = read_table(path)
    names = [name.strip().casefold() for name in header]
    if "id" not in names or "answer" not in names:
        if len(names) < len(prompt.answers) + 2:  # passage, question and options are more
            missing = " and ".join(n for n in ("ID", "Answer") if n.casefold() not in names)
            raise InputError(
                f"{path} has no column {missing}; its columns are {', '.join(header)[:300]}. Predictions have ID and "
                "Answer; questions have their options and 正確答案."
            )
        questions = read_questions(path, need_answers=True, prompt=prompt)
        return [(question.id, question.answer) for question in questions if question.answer is not None]
    at_id, at_answer = names.index("id"), names.index("answer")
    pairs = []
    for row in rows:
        if len(row.fields) <= max(at_id, at_answer):
            raise InputError(f"{path}, {row}: it is too short to hold ID and Answer. Complete it.")
        answer = parse_answer(row.fields[at_answer], prompt.answers)
        if answer is None:
            wanted = answer_names(prompt.answers)
            raise InputError(f"{path}, {row}: the answer is {row.fields[at_answer]!r}. Write {wanted}.")
        pairs.append((row.fields[at_id].strip(), answer))
    return pairs


def _repeated(pairs: Answers) -> list[str]:
    return [i for i, count in Counter(i for i, _ in pairs).items() if count > 1]


def _named(ids: list[str]) -> str:
    """Up to five IDs by name.

    >>> _named(["7", "8"]), _named(list("123456"))
    ('2 IDs (7, 8)', '6 IDs (1, 2, 3, 4, 5, ...)')
    """
    shown = ", ".join(ids[:5]) + (", ..." if len(ids) > 5 else "")
    return f"{len(ids)} ID{'s' if len(ids) > 1 else ''} ({shown})"


# ---- the command ----------------------------------------------------------------------------------


def score_command(
    predictions: Path,
    answers: Path,
    *,
    against: Path | None = None,
    json: Path | None = None,
    options: int = 4,
    labels: Labels = "digits",
) -> None:
    """Accuracy of a predictions file, and how it compares with another one; of written answers chrF and BLEU.

    Args:
        predictions: CSV with ID,Answer; or what `generate` wrote.
        answers: the correct answers: CSV with ID,Answer, or questions with 正確答案; for written answers instruction
            data, or a column reference.
        against: a second predictions file on the same questions, compared by McNemar's exact test; written answers
            by paired bootstrap.
        json: also write the figures to this file.
        options: how many options the questions have, 2 to 10.
        labels: what the answers are called: digits from 1, or letters from A.
    """
    if not FEWEST <= options <= MOST:
        raise InputError(f"--options is {options}. Questions have {FEWEST} to {MOST} options.")
    if json is not None:
        check_place(json)
        if json.is_dir():
            raise InputError(f"{json} is a folder; --json needs a file, such as {json}/score.json.")
    if holds_written(predictions):
        score_written(predictions, answers, against, json)
        return
    prompt = QuestionPrompt(options=options, labels=labels)
    first = read_answers(predictions, prompt)
    right = read_answers(answers, prompt)
    result = score(first, right, str(predictions), options)
    second = None if against is None else read_answers(against, prompt)
    other = None if second is None else score(second, right, str(against), options)
    screen = console()
    screen.print(score_table(result, prompt.answers))
    figures: dict[str, object] = {"accuracy": result.accuracy, **asdict(result)}
    if second is not None and other is not None:
        comparison = compare(first, second, right)
        screen.print(
            f"Against {against}: {other.accuracy:.1%}. Only the first is correct {comparison.only_first} "
            f"times, only the second {comparison.only_second} times; "
            f"McNemar's exact p = {comparison.p_value:.3g}."
        )
        figures |= {"against": {"accuracy": other.accuracy, **asdict(other)}, "mcnemar": asdict(comparison)}
    if json is not None:
        write_json(json, figures)


def score_table(result: Score, names: Sequence[str] = FOUR_CHOICE.answers) -> Table:
    """Accuracy with its interval above the confusion matrix, correct answers in rows."""
    low, high = result.interval
    share = f"{result.accuracy:.1%} (95 %: {low:.1%} to {high:.1%})"
    table = Table(title=f"{result.correct} of {result.total} correct: {share}")
    few = len(names) <= len(FOUR_CHOICE.answers)  # more would not fit 80 columns
    table.add_column("correct answer" if few else "correct, predicted:")
    for name in names:
        table.add_column(f"predicted {name}" if few else name, justify="right")
    table.add_column("all", justify="right")
    for name, row in zip(names, result.confusion, strict=True):
        table.add_row(name, *map(str, row), str(sum(row)))
    table.add_row("all", *map(str, result.predicted), str(result.total))
    return table
