"""`harness`: a question task for EleutherAI's lm-evaluation-harness, with any prompt, number of options and labels."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path

import yaml

from taigi_lightning.atomic_write import write_text
from taigi_lightning.errors import InputError
from taigi_lightning.tasks.few_shot import solved_examples
from taigi_lightning.tasks.prompts import solved_text
from taigi_lightning.tasks.question_prompt import QuestionPrompt
from taigi_lightning.tasks.questions import read_questions
from taigi_lightning.terminal import print_line


def harness_command(
    questions: Path,
    output: Path,
    *,
    name: str = "taigi_questions",
    columns: dict[str, str] | None = None,
    prompt: QuestionPrompt = QuestionPrompt(),  # noqa: B008  (it becomes the command line's default)
    shots: int = 0,
    examples: Path | None = None,
) -> None:
    """Write a question task for lm-evaluation-harness: each question as this package asks it, to the letter.

    Args:
        questions: questions with their answers.
        output: the folder for NAME.yaml and NAME.jsonl; the harness finds it by --include_path.
        name: what the harness calls the task.
        columns: other column names, as in data.init_args.
        prompt: how a question is written out, how many options it has and what its answers are called.
        shots: solved examples before each question.
        examples: questions with answers to take those from; no passage asked about is used.
    """
    if not re.fullmatch(r"[A-Za-z]\w*", name):
        raise InputError(f"--name is {name!r}. Give letters, digits and _, beginning with a letter.")
    if shots < 0:
        raise InputError(f"--shots is {shots}. Set it to 0 or more.")
    asked = read_questions(questions, columns, need_answers=True, unique_ids=False, prompt=prompt)
    solved = solved_text(solved_examples(examples, asked, shots, prompt), prompt)
    rows = [
        {"id": one.id, "prompt": solved + prompt.render(one), "answer": (one.answer or 1) - 1}
        for one in asked
    ]
    lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in rows]
    write_text(output / f"{name}.jsonl", "".join(lines))
    task = harness_task(name, output / f"{name}.jsonl", prompt)
    write_text(output / f"{name}.yaml", yaml.safe_dump(dict(task), allow_unicode=True, sort_keys=False))
    run = "lm_eval run --model hf --model_args pretrained=MODEL,add_bos_token=True"
    print_line(f"{len(rows):,} questions are in {output / name}.jsonl. Ask them with")
    print_line(f"{run} --include_path {output} --tasks {name}")


def harness_task(name: str, rows: Path, prompt: QuestionPrompt) -> Mapping[str, object]:
    """The task's description, as the harness reads it; the answer follows the prompt without a space."""
    return {
        "task": name,
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(rows)}},
        "test_split": "test",
        "output_type": "multiple_choice",
        "doc_to_text": "{{prompt}}",
        "doc_to_choice": list(prompt.answers),
        "doc_to_target": "{{answer}}",
        "target_delimiter": "",
        "metric_list": [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}],
    }
