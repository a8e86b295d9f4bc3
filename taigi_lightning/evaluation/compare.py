"""`compare`: several models on the same questions, with and without solved examples, in one table."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from jsonargparse.typing import PositiveInt
from transformers import PreTrainedTokenizerBase

from taigi_lightning.atomic_write import check_place
from taigi_lightning.data.predict import encode_questions
from taigi_lightning.errors import InputError
from taigi_lightning.evaluation.answers import predict_batch
from taigi_lightning.evaluation.compare_written import (
    UseTemplate,
    WrittenRow,
    against_first,
    check_alone,
    holds_conversations,
    read_task,
    write_task,
)
from taigi_lightning.evaluation.compared_models import Settings, check_models, load
from taigi_lightning.evaluation.comparison_report import ComparedRow, comparison_tables, write_comparison
from taigi_lightning.evaluation.perplexity import held_out_texts, perplexity_per_character
from taigi_lightning.evaluation.prediction_writer import write_predictions
from taigi_lightning.evaluation.scoring import Answers, compare, read_answers, score
from taigi_lightning.evaluation.test_report import by_question
from taigi_lightning.model.base_model import Quantization
from taigi_lightning.model.hand_off import HandOff
from taigi_lightning.tasks.conversation_forms import InstructionTemplate
from taigi_lightning.tasks.few_shot import solved_examples
from taigi_lightning.tasks.question_batches import plan_batches
from taigi_lightning.tasks.question_prompt import QuestionPrompt
from taigi_lightning.tasks.questions import Question, read_questions
from taigi_lightning.terminal import console


def compare_command(
    questions: Path,
    models: dict[str, str],
    *,
    answers: Path | None = None,
    output: Path = Path("models/comparison"),
    shots: list[int] = [0],  # noqa: B006  (it becomes the command line's default)
    examples: Path | None = None,
    corpus: Path | None = None,
    quantization: Quantization = "nf4",
    max_length: int = 2048,
    batch_tokens: int = 16384,
    hand_off: HandOff = "stack",
    chat_template: UseTemplate = "auto",
    prompt: QuestionPrompt = QuestionPrompt(),  # noqa: B008  (it becomes the command line's default)
    written: Path | None = None,
    columns: dict[str, str] | None = None,
    template: InstructionTemplate | None = None,
    max_new_tokens: PositiveInt = 256,
    excel: bool = False,
) -> None:
    """Answer the same questions with several models; write comparison.csv, comparison.html and predictions.

    Args:
        questions: the questions, with their answers unless another file holds those; or instruction data alone, for
            which models write answers: these are scored by chrF, BLEU and exact match, in written.csv.
        models: name to model, as in `{base: PATH, sft: PATH+ADAPTER}`; an adapter follows a plus.
        answers: a CSV with ID,Answer, where the questions come without.
        output: the folder to write into.
        shots: numbers of solved examples before each question, such as `[0, 3]`.
        examples: questions with answers to take the examples from; no passage asked about is used.
        corpus: a cleaned corpus; the perplexity per character of its validation split is added.
        quantization: "nf4" for 4-bit weights, "none" for the weights as they are.
        max_length: longest prompt in tokens; a longer passage is cut.
        batch_tokens: tokens in one forward pass.
        hand_off: what a merged model in 4 bits is: stack, its base with its adapter beside; merge, the merged
            weights quantised a second time.
        chat_template: ask every model in its tokenizer's own chat template; solved examples are earlier turns. auto:
            conversations where it has one, questions not, as `fit` and `predict` do by themselves.
        prompt: how a question is written out, how many options it has and what its answers are called.
        written: instruction data, beside the questions.
        columns: other column names of that, as in data.init_args.
        template: what to make of its columns, as in data.init_args.
        max_new_tokens: where a written answer that does not end by itself is cut.
        excel: begin comparison.csv with the mark by which Excel knows UTF-8.
    """
    check_place(output, [f"predictions/{name}-10-shot.probabilities.csv" for name in models] or [""])
    alone = written is None and (template is not None or holds_conversations(questions))
    if alone:
        check_alone({"answers": answers, "examples": examples, "corpus": corpus})
    written = questions if alone else written
    if written is None and columns is not None:
        raise InputError("--columns names columns of instruction data, and --written gives none.")
    sizes = {"max_length": max_length, "max_new_tokens": max_new_tokens, "batch_tokens": batch_tokens}
    task = None if written is None else read_task(written, columns, template, chat_template, **sizes)
    asked, right = ([], []) if alone else _read_asked(questions, answers, prompt)
    solved = {} if alone else {count: solved_examples(examples, asked, count, prompt) for count in shots}
    texts = held_out_texts(corpus) if corpus else []
    chat = chat_template is True
    settings = Settings(quantization, max_length, batch_tokens, hand_off, chat, prompt, task)
    check_models(models, settings)
    (output / "predictions").mkdir(parents=True, exist_ok=True)
    found = run_models(models, asked, right, solved, texts, settings, output / "predictions")
    named: dict[str, object] = {f"model {name}": path for name, path in models.items()}
    named |= {"questions": None if alone else questions, "answers": answers, "solved examples": examples}
    named |= {"conversations": written, "held-out texts": corpus, "weights": quantization}
    _report(output, *found, named, excel)


def _read_asked(
    questions: Path, answers: Path | None, prompt: QuestionPrompt
) -> tuple[list[Question], Answers]:
    asked = read_questions(questions, need_answers=answers is None, prompt=prompt)
    right = read_answers(answers or questions, prompt)
    score(
        [(question.id, 1) for question in asked], right, str(questions)
    )  # refuses other IDs before any work
    return asked, right


def _report(
    output: Path,
    rows: Sequence[ComparedRow],
    written: Sequence[WrittenRow],
    named: Mapping[str, object],
    excel: bool,
) -> None:
    """Write the files and say them."""
    write_comparison(output, rows, named, excel, written)
    screen = console()
    for table in comparison_tables(rows, written):
        screen.print(table)
    files = [name for name, found in (("comparison.csv", rows), ("written.csv", written)) if found]
    screen.print(
        f"The table is in {' and '.join(str(output / name) for name in files)}, with a plot in "
        f"{output / 'comparison.html'}."
    )


def run_models(
    models: Mapping[str, str],
    asked: Sequence[Question],
    right: Answers,
    solved: Mapping[int, Sequence[Question]],
    texts: Sequence[str],
    settings: Settings,
    folder: Path,
) -> tuple[list[ComparedRow], list[WrittenRow]]:
    """`run_model` for each, one after the other; each row is tested against the first model's of as many shots."""
    rows: list[ComparedRow] = []
    written: list[tuple[list[str], WrittenRow]] = []
    first: dict[int, Answers] = {}
    for name, path in models.items():
        answered, wrote = run_model(name, path, asked, right, solved, texts, settings, folder)
        for given, row in answered:
            before = first.setdefault(row.shots, given)
            p_value = None if before is given else compare(before, given, right).p_value
            rows.append(row._replace(p_value=p_value))
        written += [] if wrote is None else [wrote]
    references = settings.written.references if settings.written else []
    return rows, against_first(written, references) if written else []


def run_model(
    name: str,
    path: str,
    asked: Sequence[Question],
    right: Answers,
    solved: Mapping[int, Sequence[Question]],
    texts: Sequence[str],
    settings: Settings,
    folder: Path,
) -> tuple[list[tuple[Answers, ComparedRow]], tuple[list[str], WrittenRow] | None]:
    """All measurements of one model, which is loaded once and dropped at the end.

    Args:
        name: what the table calls it.
        path: `BASE` or `BASE+ADAPTER`.
        asked: the questions.
        right: their answers.
        solved: number of solved examples to these.
        texts: for the perplexity; none is measured without them.
        settings: how to run it.
        folder: where the predictions go.
    """
    model, tokenizer = load(path, settings)
    runs = []
    # As in training on a GPU: adapters are float32, the rest computes in 16 bits.
    with torch.autocast(settings.device.type, settings.dtype, enabled=settings.dtype != torch.float32):
        perplexity = (
            perplexity_per_character(model, tokenizer, texts, settings.max_length, settings.batch_tokens)
            if texts
            else None
        )
        for shots, examples in solved.items():
            began = time.perf_counter()
            given = answer(model, tokenizer, asked, examples, settings, folder / f"{name}-{shots}-shot.csv")
            took = time.perf_counter() - began
            result = score(given, right, options=settings.prompt.options)
            runs.append((given, ComparedRow(name, shots, result, None, perplexity, took)))
        task = settings.written
        wrote = None if task is None else write_task(name, model, tokenizer, task, folder)
    return runs, wrote


def answer(
    model: Any,
    tokenizer: PreTrainedTokenizerBase,
    questions: Sequence[Question],
    examples: Sequence[Question],
    settings: Settings,
    output: Path,
) -> Answers:
    """Answer all questions by choice and write the predictions."""
    encoded = encode_questions(
        tokenizer,
        questions,
        settings.max_length,
        examples=examples,
        chat_template=settings.chat_template,
        style=settings.prompt,
    )
    batches = plan_batches(encoded, settings.batch_tokens)
    predictions = [p for batch in batches for p in predict_batch(model, tokenizer, batch, "choice")]
    write_predictions(output, sorted(predictions, key=lambda prediction: prediction.row))
    return by_question(predictions)[0]
