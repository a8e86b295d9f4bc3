"""Two stages that log to Weights & Biases, offline: the second knows the first, and shows its answers by step."""

import json
import multiprocessing
import os
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
from lightning.pytorch.loggers import CSVLogger, WandbLogger

from taigi_lightning.data.sft import SFTDataModule
from taigi_lightning.model.adapters import LoraSettings
from taigi_lightning.training.callbacks import ExportModel
from taigi_lightning.training.module import CausalLMModule
from taigi_lightning.training.wandb_artifacts import AnswersByStep, name_stage
from tests.taigi_lightning.small_runs import batches, loader, trainer

wandb = pytest.importorskip("wandb")


def record(folder: Path) -> bytes:
    """What the newest run in a folder recorded for the server."""
    return max(folder.glob("wandb/offline-run-*/run-*.wandb")).read_bytes()


def fit(folder: Path, base: Path, data: Any, *more: pl.Callback) -> None:
    loggers = [
        WandbLogger(name=folder.name, save_dir=folder, offline=True),
        CSVLogger(folder / "logs", name=""),
    ]
    module = CausalLMModule(str(base), lora=LoraSettings(r=2, lora_alpha=4))
    export = ExportModel(log_artifact=True)
    run = trainer(folder, max_steps=2, val_check_interval=1, logger=loggers, callbacks=[export, *more])
    run.fit(module, data)
    wandb.finish()


def two_stages(base: Path, folder: Path) -> None:
    fit(folder / "cpt", base, loader(batches(2)))
    options = {f"選項{number}": text for number, text in enumerate(("市仔", "學校", "厝", "海邊"), 1)}
    passage = "阿明下晡欲去市仔。"
    rows = [{"文章": f"{passage}{n}", "問題": "去佗位？", **options, "正確答案": "1"} for n in range(8)]
    first = folder / "cpt"
    data = SFTDataModule(rows, str(first), batch_size=2, max_length=128, validation_fraction=0.25)
    fit(folder / "sft", first, data, AnswersByStep())


def test_a_stage_names_the_one_before_and_shows_its_answers(
    tiny_llama_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_DATA_DIR", str(tmp_path / "data"))
    # The records are whole once the process has ended.
    process = multiprocessing.get_context("spawn").Process(target=two_stages, args=(tiny_llama_dir, tmp_path))
    process.start()
    process.join(120)
    assert process.exitcode == 0
    first, second = record(tmp_path / "cpt"), record(tmp_path / "sft")
    assert json.loads((tmp_path / "cpt" / "wandb_artifact.json").read_text()) == {"artifact": "cpt-adapter"}
    assert b"report.html" in first
    assert b"uses_artifact" not in first
    for words in (b"uses_artifact", b"cpt-adapter", b"held_out_answers", b"sft-adapter"):
        assert words in second, words
    tables = (tmp_path / "sft").glob("wandb/offline-run-*/files/media/table/held_out_answers_*.json")
    table = json.loads(max(tables, key=lambda path: path.stat().st_size).read_text())
    assert table["columns"] == ["step", "id", "question", "right", "answer", "p1", "p2", "p3", "p4"]
    assert {row[0] for row in table["data"]} == {1, 2}
    assert all(sum(row[5:]) == pytest.approx(1, abs=1e-3) for row in table["data"])


def test_a_run_is_grouped_by_what_its_stages_began_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("WANDB_JOB_TYPE", raising=False)
    monkeypatch.delenv("WANDB_RUN_GROUP", raising=False)
    lineage = {"base": {"name": "models/cpt_model", "lineage": {"base": {"name": "someone/Base-13B"}}}}
    (tmp_path / "lineage.json").write_text(json.dumps(lineage))
    name_stage("sft", str(tmp_path))
    assert (os.environ["WANDB_JOB_TYPE"], os.environ["WANDB_RUN_GROUP"]) == ("sft", "Base-13B")
    name_stage("cpt", "someone/else")
    assert os.environ["WANDB_JOB_TYPE"] == "sft"  # what is set counts
