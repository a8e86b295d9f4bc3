"""EleutherAI's harness, run on our task file, agrees with us question by question."""

import csv
from pathlib import Path

import pytest
import torch
import yaml
from transformers import AutoModelForCausalLM, LlamaForCausalLM, PreTrainedTokenizerBase

from taigi_lightning.data.predict import encode_questions
from taigi_lightning.evaluation.answers import predict_batch
from taigi_lightning.tasks.question_batches import QuestionBatch
from taigi_lightning.tasks.questions import read_questions

TASK = Path("configs/lm_eval/taigi_reading.yaml")
pytest.importorskip("lm_eval", reason="pip install lm-eval")


@pytest.fixture
def answered_file(tmp_path: Path) -> Path:
    path = tmp_path / "AI_conv.csv"
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["文章", "問題", "選項1", "選項2", "選項3", "選項4", "正確答案"])
        for row in range(24):
            passage = ("早起時仔，\n阿母佇灶跤煮糜。" * (1 + row % 5), "阮兜蹛佇台南。")[row % 2]
            option = "" if row == 5 else f"厝{row}"
            writer.writerow([passage, f"第{row}个問題？", "市仔", "學校", option, "海邊", row % 4 + 1])
    return path


def test_the_harness_gives_the_same_answers(
    answered_file: Path,
    tiny_llama_dir: Path,
    tiny_tokenizer: PreTrainedTokenizerBase,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from lm_eval.evaluator import simple_evaluate
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    task = yaml.safe_load(TASK.read_text(encoding="utf-8"))
    task["dataset_kwargs"]["data_files"] = {"test": str(answered_file)}
    model: LlamaForCausalLM = AutoModelForCausalLM.from_pretrained(tiny_llama_dir, dtype=torch.float32)
    with torch.no_grad():  # random weights alone answer every question alike
        for number, weight in enumerate(model.parameters()):
            torch.manual_seed(number)
            if weight.dim() == 2:
                torch.nn.init.normal_(weight, std=0.2)
    theirs = simple_evaluate(
        HFLM(pretrained=model, tokenizer=tiny_tokenizer, add_bos_token=True, device="cpu", batch_size=4),
        tasks=[task],
        task_manager=TaskManager(include_defaults=False),
        bootstrap_iters=0,
    )
    samples = sorted(theirs["samples"]["taigi_reading"], key=lambda sample: sample["doc_id"])
    sums = [[float(likelihood) for likelihood, _ in sample["filtered_resps"]] for sample in samples]
    answers = [row.index(max(row)) + 1 for row in sums]
    questions = read_questions(answered_file, need_answers=True)
    encoded = encode_questions(tiny_tokenizer, questions, max_length=2048)
    ours = predict_batch(model.eval(), tiny_tokenizer, QuestionBatch([[q] for q in encoded]), "choice")
    assert [p.answer for p in ours] == answers
    assert len(set(answers)) > 1
    accuracy = sum(p.answer == q.answer for p, q in zip(ours, questions, strict=True)) / len(questions)
    assert theirs["results"]["taigi_reading"]["acc,none"] == pytest.approx(accuracy)
