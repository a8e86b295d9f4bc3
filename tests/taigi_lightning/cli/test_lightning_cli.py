"""The command line as a user meets it: defaults filled in, mistakes answered in one sentence."""

import json
import logging
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import torch
import yaml
from peft import PeftModel
from transformers import AutoModelForCausalLM

from taigi_lightning.__main__ import main
from tests.working_folder import CPT, TEXT, environment

PREDICT = ["--config", "configs/predict.yaml", "--model.base", "models/base", "--model.adapter", "null"]


def call(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    """The exit code of `python -m taigi_lightning arguments`, run in this process."""
    monkeypatch.setattr(sys, "argv", ["taigi_lightning", *arguments])
    # Lightning's log handler may hold the stream of an earlier test, which pytest has closed.
    monkeypatch.setattr(logging, "raiseExceptions", False)
    try:
        return main()
    except SystemExit as stop:
        return int(stop.code or 0)


# ---- mistakes -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["fti"], 2, "there is no command 'fti'"),
        (["fit", "--config", "configs/nope.yaml"], 2, "nope.yaml"),
        ([*CPT, "--model.lorra.r", "4"], 2, "lorra"),
        ([*CPT, "--trainer.max_steps", "many"], 2, "max_steps"),
        ([*CPT, "--model.base", "models/cpt_modle"], 1, "no model folder models/cpt_modle"),
        ([*CPT, "--data.init_args.data_dir", "data/nowhere"], 1, "data/nowhere"),
        ([*CPT, "--ckpt_path", "last"], 1, "no complete checkpoint"),
        ([*CPT, "--ckpt_path", "configs/cpt.yaml"], 1, "configs/cpt.yaml is no complete checkpoint"),
        ([*CPT, "--trainer.accumulate_grad_batches", "0"], 2, "wanted 1 or more"),
        ([*CPT, "--trainer.accelerator", "gpuu"], 1, "Lightning refuses the settings of trainer"),
        ([*CPT, "--data.init_args.batch_size", "0"], 2, "data.batch_size is '0'"),
        ([*CPT, "--model.lora.r", "-3"], 2, "model.lora.r is '-3'"),
        ([*CPT, "--data.tokenizer", "models/base"], 2, "(--data.tokenizer) follows from model.base."),
        ([*CPT, "--config", "own.yaml"], 2, "tokenizer (own.yaml, line 3) follows from model.base. Set that"),
        (
            ["merge", "--base", "models/base", "--adapter", "nowhere", "--device", "cudaa"],
            1,
            "'cudaa' cannot be used",
        ),
        (
            ["predict", "--model.base", "models/base", "--model.adapter", "models/none"],
            1,
            "adapter_config.json",
        ),
        (["score", "a.csv", "b.csv"], 1, "There is no file"),
        (["test", *CPT[1:]], 1, "CPTDataModule has no test_dataloader. Give the config of another stage"),
        (["validate", *PREDICT], 1, "PredictDataModule has no val_dataloader"),
        (["fit", *PREDICT], 1, "or --data CPTDataModule, SFTDataModule or InstructionDataModule"),
        (["validate", *CPT[1:], "--data.validation_split", "null"], 1, "Nothing is held out to validate on"),
    ],
)
def test_a_mistake_gets_a_sentence_and_an_exit_code(
    home: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    code: int,
    words: str,
) -> None:
    (home / "own.yaml").write_text("data:\n  init_args:\n    tokenizer: models/another\n")
    assert call(monkeypatch, *arguments) == code
    printed = capsys.readouterr().err
    assert words in printed
    assert "Traceback" not in printed


def test_an_empty_corpus_is_named(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for file in (home / "data" / "cpt_corpus").glob("*.parquet"):
        pd.DataFrame({"text": pd.Series([], dtype=str)}).to_parquet(file)
    assert call(monkeypatch, *CPT) == 1
    assert "data/cpt_corpus" in capsys.readouterr().err
    assert not (home / "models" / "cpt_model" / "adapter").exists()


@pytest.mark.parametrize(
    "arguments",
    [
        "--help",
        "merge --help",
        "score --help",
        "demo --help",
        "demo-real --help",
        "fti",
        "fit --config nope.yaml",
    ],
)
def test_help_and_the_plainest_mistakes_wait_for_no_heavy_import(arguments: str) -> None:
    code = (
        f"import atexit, runpy, sys; sys.argv = ['', *{arguments.split()!r}]; "
        "heavy = {'torch', 'lightning', 'transformers', 'datasets', 'pandas', 'bitsandbytes'}; "
        "atexit.register(lambda: print('loaded', sorted(heavy & set(sys.modules)))); "
        "runpy.run_module('taigi_lightning', run_name='__main__', alter_sys=True)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment(), capture_output=True, text=True, check=False
    )
    assert done.stdout.splitlines()[-1] == "loaded []"


# ---- runs -----------------------------------------------------------------------------------------


def test_a_run_leaves_its_config_its_log_and_a_model(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    steps = ["--trainer.max_steps", "4", "--checkpoint.every_n_train_steps", "2"]
    assert call(monkeypatch, *CPT, *steps) == 0
    folder = home / "models" / "cpt_model"
    assert yaml.safe_load((folder / "config.yaml").read_text())["model"]["lora"]["r"] == 64
    log = pd.read_csv(next(folder.glob("logs/**/metrics.csv")))
    assert log["train/loss"].dropna().size == 4
    assert {f.name for f in (folder / "checkpoints").iterdir()} == {"step=2.ckpt", "step=4.ckpt"}
    assert json.loads((folder / "lineage.json").read_text())["base"]["name"] == "models/base"
    assert call(monkeypatch, "validate", "--config", "models/cpt_model/config.yaml") == 0


def test_validate_shows_each_metric_once(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = "\n".join(f"{TEXT}{n},佗位？,市仔,學校,厝,海邊,{1 + n % 4}" for n in range(8))
    Path("data/questions.csv").write_text(f"文章,問題,選項1,選項2,選項3,選項4,正確答案\n{rows}\n")
    arguments = [
        "--config", "configs/sft.yaml", "--config", "configs/tiny.yaml", "--model.base", "models/base",
        "--data.train_file", "data/questions.csv", "--data.validation_fraction", "0.5",
    ]  # fmt: skip
    assert call(monkeypatch, "validate", *arguments) == 0
    printed = capsys.readouterr().out
    for name in ("val/loss", "val/perplexity", "val/accuracy"):
        assert len(re.findall(rf"^\W*{name}\W+[\d.]+\W*$", printed, re.MULTILINE)) == 1, printed
    assert call(monkeypatch, "validate", *arguments, "--verbose", "false") == 0
    assert "val/loss" not in capsys.readouterr().out


def test_validate_logs_where_the_command_line_says(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stage = ["validate", *CPT[1:3], "--model.base", "models/base", "--data.init_args.max_length", "64"]
    stage += ["--trainer.accelerator", "cpu"]
    assert call(monkeypatch, *stage) == 0
    assert not (home / "wandb").exists()  # what the config names is for `fit`
    assert (
        call(monkeypatch, *stage, "--trainer.logger", "CSVLogger", "--trainer.logger.save_dir", "asked") == 0
    )
    (log,) = (home / "asked").rglob("metrics.csv")
    assert "val/loss" in log.read_text()


def test_validate_asks_for_the_held_out_split_alone(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    corpus = home / "data" / "cpt_corpus"
    (corpus / "train-00000-of-00001.parquet").unlink()
    assert call(monkeypatch, "validate", *CPT[1:]) == 0
    assert "val/loss" in capsys.readouterr().out
    assert call(monkeypatch, *CPT, "--trainer.max_steps", "1") == 1
    assert "holds no train-*.parquet" in capsys.readouterr().err
    (corpus / "validation-00000-of-00001.parquet").unlink()
    assert call(monkeypatch, "validate", *CPT[1:]) == 1
    assert "holds no validation-*.parquet; found no Parquet file at all" in capsys.readouterr().err


def test_a_second_run_into_the_same_folder_does_not_clash(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for _ in range(2):
        assert call(monkeypatch, *CPT, "--trainer.max_steps", "1", "--run.overwrite", "true") == 0


def test_checkpoints_can_be_off(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    off = ["--trainer.enable_checkpointing", "false", "--trainer.max_steps", "1", "--export.merge", "false"]
    assert call(monkeypatch, *CPT, *off) == 0
    assert not (home / "models" / "cpt_model" / "checkpoints").exists()
    assert (home / "models" / "cpt_model" / "adapter").is_dir()


def test_two_runs_of_one_config_write_the_same_files(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for folder in ("models/one", "models/two"):
        steps = ["--trainer.max_steps", "3", "--trainer.default_root_dir", folder]
        assert call(monkeypatch, *CPT, *steps) == 0
    written = sorted((home / "models" / "one").rglob("*.safetensors"))
    assert len(written) > 2
    for file in written:
        twin = home / "models" / "two" / file.relative_to(home / "models" / "one")
        assert file.read_bytes() == twin.read_bytes(), file.name


def test_a_finished_run_whose_export_was_lost_is_exported_on_resume(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps = ["--trainer.max_steps", "2", "--checkpoint.every_n_train_steps", "2"]
    assert call(monkeypatch, *CPT, *steps) == 0
    folder = home / "models" / "cpt_model"
    shutil.rmtree(folder / "adapter")
    (folder / "config.json").unlink()
    assert call(monkeypatch, *CPT, *steps, "--ckpt_path", "last") == 0
    assert (folder / "adapter" / "adapter_model.safetensors").is_file()
    assert (folder / "config.json").is_file()


def test_a_corpus_without_a_manifest_is_refused_before_training(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (home / "data" / "cpt_corpus" / "manifest.json").unlink()
    assert call(monkeypatch, *CPT, "--trainer.max_steps", "1") == 1
    assert "manifest.json" in capsys.readouterr().err
    assert not (home / "models" / "cpt_model" / "adapter").exists()


def test_a_finished_model_is_plain_transformers_and_its_adapter_plain_peft(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert call(monkeypatch, *CPT, "--trainer.max_steps", "3") == 0
    ids = torch.tensor([[1, 5, 9, 14, 20, 31]])
    merged = AutoModelForCausalLM.from_pretrained("models/cpt_model", dtype=torch.float32)
    base = AutoModelForCausalLM.from_pretrained("models/base", dtype=torch.float32)
    with torch.no_grad():
        before = base(ids).logits
        adapted = PeftModel.from_pretrained(base, "models/cpt_model/adapter").eval()(ids).logits
        found = merged(ids).logits
    assert (adapted - before).abs().max() > 1e-3
    # What is left is the merged weights' rounding to 16 bits.
    assert (found - adapted).norm() < 0.05 * (adapted - before).norm() + 0.02
