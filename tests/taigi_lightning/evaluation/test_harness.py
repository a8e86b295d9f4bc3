"""EleutherAI's harness, run on our task file, agrees with us question by question."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from transformers import AutoModelForCausalLM, LlamaForCausalLM, PreTrainedTokenizerBase

from taigi_lightning.data.predict import encode_questions
from taigi_lightning.errors import InputError
from taigi_lightning.evaluation.answers import predict_batch
from taigi_lightning.evaluation.harness_task import harness_command
from taigi_lightning.tasks.few_shot import solved_examples
from taigi_lightning.tasks.question_batches import QuestionBatch
from taigi_lightning.tasks.question_prompt import FOUR_CHOICE, QuestionPrompt
from taigi_lightning.tasks.questions import Question, read_questions
from tests.taigi_lightning.question_csv import WITH_ANSWERS, write_csv

TASK = Path("configs/lm_eval/taigi_reading.yaml")
pytest.importorskip("lm_eval", reason="pip install lm-eval")


@pytest.fixture
def answered_file(tmp_path: Path) -> Path:
    rows = []
    for n in range(24):
        passage = ("早起時仔，\n阿母佇灶跤煮糜。" * (1 + n % 5), "阮兜蹛佇台南。")[n % 2]
        options = "市仔", "學校", "" if n == 5 else f"厝{n}", "海邊"
        rows.append([passage, f"第{n}个問題？", *options, n % 4 + 1])
    return write_csv(tmp_path / "AI_conv.csv", WITH_ANSWERS, rows)


def test_the_harness_gives_the_same_answers(
    answered_file: Path,
    tiny_llama_dir: Path,
    tiny_tokenizer: PreTrainedTokenizerBase,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    task = yaml.safe_load(TASK.read_text(encoding="utf-8"))
    task["dataset_kwargs"]["data_files"] = {"test": str(answered_file)}
    questions = read_questions(answered_file, need_answers=True)
    check_agreement(task, questions, tiny_llama_dir, tiny_tokenizer)


@pytest.mark.parametrize("shots", [0, 2])
def test_a_task_of_another_prompt_gives_the_same_answers(
    tiny_llama_dir: Path,
    tiny_tokenizer: PreTrainedTokenizerBase,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    shots: int,
) -> None:
    """Three options, letters, an end with a space, and braces and percents in the texts."""
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    style = QuestionPrompt("{passage}\n{question}\n{options}Answer: ", "{label}) {option}\n", 3, "letters")
    for name in ("asked", "solved"):
        rows = []
        for n in range(12):
            passage = f"阮{name}兜{{{{蹛}}}} {{% if %}}佇台南{n}。" * (1 + n % 3)
            rows.append([passage, f"第{n}个？", "市仔", "學校", f"厝{n}", "ABC"[n % 3]])
        columns = [column for column in WITH_ANSWERS if column != "選項4"]
        write_csv(tmp_path / f"{name}.csv", columns, rows)
    asked, examples = tmp_path / "asked.csv", tmp_path / "solved.csv"
    harness_command(
        asked, tmp_path / "task", name="mine", prompt=style, shots=shots, examples=examples if shots else None
    )
    task = yaml.safe_load((tmp_path / "task/mine.yaml").read_text(encoding="utf-8"))
    questions = read_questions(asked, need_answers=True, prompt=style)
    solved = solved_examples(examples, questions, shots, style)
    check_agreement(task, questions, tiny_llama_dir, tiny_tokenizer, style, solved)


@pytest.mark.parametrize(
    ("options", "words"), [({"name": "a b"}, "letters, digits"), ({"shots": -1}, "0 or more")]
)
def test_what_makes_no_task_is_refused(options: dict[str, Any], words: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=words):
        harness_command(tmp_path / "asked.csv", tmp_path, **options)


def check_agreement(
    task: dict[str, Any],
    questions: list[Question],
    base: Path,
    tokenizer: PreTrainedTokenizerBase,
    style: QuestionPrompt = FOUR_CHOICE,
    solved: Sequence[Question] = (),
) -> None:
    """The harness's answers to a task, and its accuracy, are ours."""
    from lm_eval.evaluator import simple_evaluate
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    model: LlamaForCausalLM = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    with torch.no_grad():  # random weights alone answer every question alike
        for number, weight in enumerate(model.parameters()):
            torch.manual_seed(number)
            if weight.dim() == 2:
                torch.nn.init.normal_(weight, std=0.2)
    theirs = simple_evaluate(
        HFLM(pretrained=model, tokenizer=tokenizer, add_bos_token=True, device="cpu", batch_size=4),
        tasks=[task],
        task_manager=TaskManager(include_defaults=False),
        bootstrap_iters=0,
    )
    samples = sorted(theirs["samples"][task["task"]], key=lambda sample: sample["doc_id"])
    sums = [[float(likelihood) for likelihood, _ in sample["filtered_resps"]] for sample in samples]
    answers = [row.index(max(row)) + 1 for row in sums]
    encoded = encode_questions(tokenizer, questions, max_length=2048, examples=solved, style=style)
    ours = predict_batch(model.eval(), tokenizer, QuestionBatch([[q] for q in encoded]), "choice")
    assert [p.answer for p in ours] == answers
    assert len(set(answers)) > 1
    accuracy = sum(p.answer == q.answer for p, q in zip(ours, questions, strict=True)) / len(questions)
    assert theirs["results"][task["task"]]["acc,none"] == pytest.approx(accuracy)
