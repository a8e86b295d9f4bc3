"""What the report shows of held-out questions is what the trained model answers to them."""

import json
from pathlib import Path
from types import SimpleNamespace

import lightning.pytorch as pl
import pytest
import torch

from taigi_lightning.data.sft import SFTDataModule
from taigi_lightning.evaluation.answers import predict_batch
from taigi_lightning.evaluation.sample_answers import SHOWN, HeldOutAnswers, evaluating, spread
from taigi_lightning.model.adapters import LoraSettings
from taigi_lightning.reports.training_report import ANSWERS
from taigi_lightning.tasks.question_batches import plan_batches
from taigi_lightning.training.module import CausalLMModule
from tests.taigi_lightning.question_csv import WITH_ANSWERS, write_csv


@pytest.fixture
def questions(tmp_path: Path) -> Path:
    """Forty questions, each with a passage of its own."""
    options = "市仔", "學校", "厝", "海邊"
    rows = [[f"阿明第{n}工去市仔。", "阿明去佗位？", *options, 1 + n % 4] for n in range(40)]
    return write_csv(tmp_path / "questions.csv", WITH_ANSWERS, rows)


def test_the_trained_model_answers_a_few_of_the_held_out_questions(
    questions: Path, tiny_llama_dir: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / ANSWERS).write_text("from an earlier run")
    module = CausalLMModule(str(tiny_llama_dir), lora=LoraSettings(r=2, lora_alpha=4), activation_budget=1.0)
    data = SFTDataModule(str(questions), str(tiny_llama_dir), validation_fraction=0.5, max_length=128)
    trainer = pl.Trainer(
        default_root_dir=folder, accelerator="cpu", max_steps=2, logger=False, enable_progress_bar=False,
        enable_model_summary=False, enable_checkpointing=False, callbacks=[HeldOutAnswers()],
    )  # fmt: skip
    trainer.fit(module, data)

    found = json.loads((folder / ANSWERS).read_text(encoding="utf-8"))
    assert found["held_out"] == len(data.held_out_questions) == 20
    assert len(found["answers"]) == SHOWN
    module.model.eval()
    batches = plan_batches(data.held_out, 4096)
    expected = {p.row: p.answer for b in batches for p in predict_batch(module.model, None, b, "choice")}
    for answer in found["answers"]:
        assert answer["answer"] == expected[answer["row"]]
        assert answer["passage"].startswith("阿明第")
        assert sum(answer["probabilities"]) == pytest.approx(1)
        assert answer["probabilities"][answer["answer"] - 1] == max(answer["probabilities"])


def test_a_failure_is_logged_and_ends_no_run(caplog: pytest.LogCaptureFixture) -> None:
    module = SimpleNamespace(model=torch.nn.Linear(1, 1).train())
    with evaluating(pl.Trainer(accelerator="cpu", logger=False), module):
        assert not module.model.training
        raise torch.OutOfMemoryError("the card is full")
    assert module.model.training
    assert "the card is full" in caplog.text


def test_the_same_places_are_shown_every_time() -> None:
    assert spread(80, SHOWN) == [0, 10, 20, 30, 40, 50, 60, 70]
    assert spread(3, SHOWN) == [0, 1, 2]
    assert spread(0, SHOWN) == []
