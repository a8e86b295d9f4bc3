"""Two stages that log to Weights & Biases, offline: the second knows the first, and shows its answers by step."""

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
from lightning.pytorch.loggers import CSVLogger, WandbLogger

from taigi_lightning.data.sft import SFTDataModule
from taigi_lightning.model.adapters import LoraSettings
from taigi_lightning.training.callbacks import ExportModel
from taigi_lightning.training.module import CausalLMModule
from taigi_lightning.training.wandb_artifacts import ARTIFACT, AnswersByStep, name_stage, use_earlier_stage
from tests.taigi_lightning.small_runs import batches, loader, trainer
from tests.warm_python import WarmPython

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
    tiny_llama_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, warm_python: WarmPython
) -> None:
    monkeypatch.setenv("WANDB_DATA_DIR", str(tmp_path / "data"))
    # The records are whole once the process has ended.
    lines = (
        "from pathlib import Path; from tests.taigi_lightning.training.test_wandb_stages import two_stages; "
        f"two_stages(Path({str(tiny_llama_dir)!r}), Path({str(tmp_path)!r}))"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])}
    done = subprocess.run(
        [warm_python.executable, "-c", lines], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    first, second = record(tmp_path / "cpt"), record(tmp_path / "sft")
    sent = {"artifact": "cpt-adapter", "project": "lightning_logs"}
    assert json.loads((tmp_path / "cpt" / "wandb_artifact.json").read_text()) == sent
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


class Online:
    """A run's side of wandb's network: what is told to its server, which knows these artifacts."""

    offline = False

    def __init__(self, known: list[str]) -> None:
        self.known, self.used, self.config = known, [], self  # type: ignore[var-annotated]
        self.settings: dict[str, Any] = {}

    def update(self, settings: dict[str, Any], **options: Any) -> None:
        self.settings |= settings

    def use_artifact(self, name: str, type: str | None = None) -> None:
        if name not in self.known:
            raise ValueError("artifact not found")
        self.used.append((name, type))


class ToServer(WandbLogger):
    """Lightning's logger with a run of ours."""

    def __init__(self, run: Any) -> None:
        self.run = run

    @property
    def experiment(self) -> Any:
        return self.run


@pytest.mark.parametrize("by_adapter", [False, True])
def test_an_online_run_uses_the_artifact_of_the_stage_before(tmp_path: Path, by_adapter: bool) -> None:
    record = {"artifact": "cpt-adapter", "project": "taigi-lightning", "entity": "me"}
    (tmp_path / ARTIFACT).write_text(json.dumps(record))
    places = ("someone/base", str(tmp_path / "adapter")) if by_adapter else (str(tmp_path), None)
    run = Online(["me/taigi-lightning/cpt-adapter:latest"])
    assert use_earlier_stage(ToServer(run), *places) == "me/taigi-lightning/cpt-adapter"
    assert run.used == [("me/taigi-lightning/cpt-adapter:latest", "model")]
    assert run.settings == {"uses_artifact": "me/taigi-lightning/cpt-adapter"}


def test_a_server_that_does_not_know_the_artifact_stops_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / ARTIFACT).write_text('{"artifact": "cpt-adapter"}')  # as earlier versions wrote it
    run = Online([])
    assert use_earlier_stage(ToServer(run), str(tmp_path)) == "cpt-adapter"
    assert run.used == []
    assert "has no artifact cpt-adapter yet (ValueError); the config names it" in capsys.readouterr().out
    assert use_earlier_stage(ToServer(run), "someone/base") is None


def test_a_resumed_run_shows_the_answers_from_before() -> None:
    first, second = AnswersByStep(), AnswersByStep()
    first._rows.append([2, "7", "去佗位？", 1, 1, 0.4, 0.3, 0.2, 0.1])
    second.load_state_dict(first.state_dict())
    assert second._rows == [[2, "7", "去佗位？", 1, 1, 0.4, 0.3, 0.2, 0.1]]
