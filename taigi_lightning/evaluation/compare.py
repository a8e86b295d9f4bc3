"""`compare`: several models on the same questions, with and without solved examples, in one table."""

from __future__ import annotations

import gc
import time
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from transformers import PreTrainedTokenizerBase

from taigi_lightning.data.predict import encode_questions
from taigi_lightning.errors import InputError
from taigi_lightning.evaluation.answers import predict_batch
from taigi_lightning.evaluation.comparison_report import ComparedRow, comparison_table, write_comparison
from taigi_lightning.evaluation.model_setup import build_model, take_fast_path
from taigi_lightning.evaluation.perplexity import held_out_texts, perplexity_per_character
from taigi_lightning.evaluation.prediction_writer import write_predictions
from taigi_lightning.evaluation.scoring import Answers, compare, read_answers, score
from taigi_lightning.evaluation.test_report import by_question
from taigi_lightning.model.adapters import check_adapter
from taigi_lightning.model.base_model import Quantization, load_tokenizer
from taigi_lightning.model.hand_off import HandOff, Start, find_start
from taigi_lightning.model.precision import best_dtype
from taigi_lightning.planning.base_files import check_base
from taigi_lightning.tasks.few_shot import solved_examples
from taigi_lightning.tasks.question_batches import plan_batches
from taigi_lightning.tasks.question_prompt import FOUR_CHOICE, QuestionPrompt
from taigi_lightning.tasks.questions import Question, read_questions
from taigi_lightning.windows import path_problem


@dataclass(frozen=True)
class Settings:
    """How every model of a comparison is run."""

    quantization: Quantization
    max_length: int
    batch_tokens: int
    hand_off: HandOff = "stack"
    chat_template: bool = False
    prompt: QuestionPrompt = FOUR_CHOICE

    def start(self, path: str) -> Start:
        """What `BASE` or `BASE+ADAPTER` begins with; an adapter may be compared in other bits than its own."""
        base, _, adapter = path.partition("+")
        return find_start(base, self.quantization, self.hand_off, adapter or None, any_quantization=True)

    @property
    def device(self) -> torch.device:
        """The GPU, if there is one."""
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")

    @property
    def dtype(self) -> torch.dtype:
        """What the device computes well."""
        return best_dtype(self.device)


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
    chat_template: bool = False,
    prompt: QuestionPrompt = QuestionPrompt(),  # noqa: B008  (it becomes the command line's default)
    excel: bool = False,
) -> None:
    """Answer the same questions with several models; write comparison.csv, comparison.html and predictions.

    Args:
        questions: the questions, with their answers unless another file holds those.
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
        chat_template: ask every model in its tokenizer's own chat template; solved examples are earlier turns.
        prompt: how a question is written out, how many options it has and what its answers are called.
        excel: begin comparison.csv with the mark by which Excel knows UTF-8.
    """
    asked = read_questions(questions, need_answers=answers is None, prompt=prompt)
    right = read_answers(answers or questions, prompt)
    score(
        [(question.id, 1) for question in asked], right, str(questions)
    )  # refuses other IDs before any work
    solved = {count: solved_examples(examples, asked, count, prompt) for count in shots}
    texts = held_out_texts(corpus) if corpus else []
    settings = Settings(quantization, max_length, batch_tokens, hand_off, chat_template, prompt)
    check_models(models, settings)
    (output / "predictions").mkdir(parents=True, exist_ok=True)
    rows = run_models(models, asked, right, solved, texts, settings, output / "predictions")
    named: dict[str, object] = {f"model {name}": path for name, path in models.items()}
    named |= {
        "questions": questions,
        "answers": answers,
        "solved examples": examples,
        "held-out texts": corpus,
    }
    write_comparison(output, rows, {**named, "weights": quantization}, excel)
    console = Console()
    console.print(comparison_table(rows))
    console.print(
        f"The table is in {output / 'comparison.csv'}, with a plot in {output / 'comparison.html'}."
    )


def check_models(models: Mapping[str, str], settings: Settings) -> None:
    """Refuse a model or adapter that is not there, before the first one is loaded.

    Raises:
        InputError: there is no model, a name is no file name, a path is wrong, or an adapter was trained on
            another base.
    """
    if not models:
        raise InputError(
            "There is no model to compare. Name one or more, as in {base: PATH, sft: PATH+ADAPTER}."
        )
    for name in models:
        if not name or "/" in name or name.startswith("."):
            raise InputError(f"The model name {name!r} cannot begin a file's name. Use one without a slash.")
        if problem := path_problem(Path(name), more=0):
            raise InputError(f"The model name begins a file's name, and {problem}.")
    for path in models.values():
        base, _, adapter = path.partition("+")
        check_base(base)
        if adapter:
            check_adapter(adapter)
        settings.start(path)


def run_models(
    models: Mapping[str, str],
    asked: Sequence[Question],
    right: Answers,
    solved: Mapping[int, Sequence[Question]],
    texts: Sequence[str],
    settings: Settings,
    folder: Path,
) -> list[ComparedRow]:
    """`run_model` for each, one after the other; each row is tested against the first model's of as many shots."""
    rows: list[ComparedRow] = []
    first: dict[int, Answers] = {}
    for name, path in models.items():
        for given, row in run_model(name, path, asked, right, solved, texts, settings, folder):
            before = first.setdefault(row.shots, given)
            p_value = None if before is given else compare(before, given, right).p_value
            rows.append(row._replace(p_value=p_value))
    return rows


def run_model(
    name: str,
    path: str,
    asked: Sequence[Question],
    right: Answers,
    solved: Mapping[int, Sequence[Question]],
    texts: Sequence[str],
    settings: Settings,
    folder: Path,
) -> list[tuple[Answers, ComparedRow]]:
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
    return runs


def load(path: str, settings: Settings) -> tuple[Any, PreTrainedTokenizerBase]:
    """A model in eval mode, `BASE` or `BASE+ADAPTER`, and its tokenizer."""
    warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing` is deprecated")  # PEFT's to mend
    gc.collect()  # the model before, whose modules refer to one another
    base, _, adapter = path.partition("+")
    start = settings.start(path)
    built: dict[str, Any] = {"device": settings.device, "compute_dtype": settings.dtype, "training": False}
    built["weights_on_host"] = "auto"  # what a card does not hold
    model = build_model(
        start.weights,
        updates=start.updates,
        lora=None,
        adapter=adapter or None,
        quantization=settings.quantization,
        from_scratch=False,
        tokens=settings.batch_tokens,
        **built,
    )
    findings = take_fast_path(
        model, compile=None, activation_budget=1.0, answers=True, row_tokens=settings.batch_tokens, **built
    )
    if findings.sharing:
        print(findings.sharing)
    return model, load_tokenizer(base)


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
