"""The published recipe's two configs, run whole on a small random Gemma 3 of the class that the hubs hold."""

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml

from taigi_lightning.planning.run_log import read_run_log
from tests.taigi_lightning.architectures.small_bases import gemma3_wrapper, save_base
from tests.taigi_lightning.architectures.small_configs import small_config
from tests.taigi_lightning.architectures.test_commands import QUESTIONS, run
from tests.taigi_lightning.tasks.test_chat_template import TEMPLATES
from tests.working_folder import ROOT, TEXT, link

BASES = {"wrapper": gemma3_wrapper, "text": lambda: small_config("gemma3_text", sliding_window=16)}
SIZES = ["--trainer.accelerator", "cpu", "--trainer.logger", "null", "--trainer.accumulate_grad_batches", "2"]


def write_corpus(folder: Path, texts: list[str], held_out: int) -> None:
    folder.mkdir(parents=True)
    rows = pd.DataFrame({"title": [f"第{n}篇" for n in range(len(texts))], "text": texts})
    rows[:-held_out].to_parquet(folder / "train-00000-of-00001.parquet")
    rows[-held_out:].to_parquet(folder / "validation-00000-of-00001.parquet")
    (folder / "manifest.json").write_text("{}")


def lay_out(kind: str) -> None:
    """A small base whose chat template takes no system turn, a corpus, a dictionary, and two instruction files."""
    base = save_base(BASES[kind](), Path("models/base"))
    template = TEMPLATES["no system"].replace("<end>", "{{ eos_token }}")
    (base / "chat_template.jinja").write_text(template, encoding="utf-8")
    write_corpus(Path("data/cpt_corpus"), [f"{TEXT * (1 + n % 3)}{n}" for n in range(20)], held_out=4)
    write_corpus(Path("data/dictionary"), [f"詞{n}：意思{n}。" for n in range(12)], held_out=2)
    alpaca = [{"instruction": f"第{n}項", "input": "食飽未？", "output": f"食飽矣{n}。"} for n in range(10)]
    pairs = [{"input": f"你好{n}", "output": f"汝好{n}"} for n in range(10)]
    for name, rows in (("alpaca", alpaca), ("input_output", pairs)):
        lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        Path(f"data/{name}.jsonl").write_text(lines, encoding="utf-8")
    pd.DataFrame(QUESTIONS).to_csv("data/questions.csv", index=False)


def read(folder: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """An adapter's settings and lineage."""
    return tuple(
        json.loads(Path(folder, "adapter", name).read_text(encoding="utf-8"))
        for name in ("adapter_config.json", "lineage.json")
    )


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", ["wrapper", pytest.param("text", marks=pytest.mark.slow)])
def test_both_stages_run_and_go_on_from_the_best(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    link(Path("configs"), ROOT / "configs")
    lay_out(kind)

    run(monkeypatch, "fit", "--config", "configs/gemma3_cpt.yaml", *SIZES, "--model.base", "models/base")
    settings, lineage = read("models/gemma3_cpt")
    assert (settings["r"], settings["lora_alpha"], settings["lora_dropout"]) == (32, 64, 0.05)
    assert lineage["run"]["checkpoint"]["which"] == "best"
    logged = read_run_log(Path("models/gemma3_cpt")).metrics
    # 16 texts and their tenth of the dictionary's, by twos, two of those a step
    assert [step for step, _ in logged["train/loss"]] == [1, 2, 3, 4, 5]
    assert {"val/loss/cpt_corpus", "val/loss/dictionary"} <= logged.keys()
    rates = [value for _, value in logged["train/learning_rate"]]
    assert rates == pytest.approx(
        [0, 2.5e-4, 2.5e-4 * 3 / 4, 2.5e-4 / 2, 2.5e-4 / 4]
    )  # a warm-up of one step
    assert len(list(Path("models/gemma3_cpt/checkpoints/best").glob("*.ckpt"))) >= 1

    run(monkeypatch, "fit", "--config", "configs/gemma3_sft.yaml", *SIZES)
    settings, lineage = read("models/gemma3_sft")
    assert (settings["r"], settings["lora_alpha"], settings["lora_dropout"]) == (32, 64, 0.1)
    assert lineage["continues"]["run"]["checkpoint"]["which"] == "best"
    assert lineage["base"]["name"] == "models/base"

    asked = ["--data.init_args.questions", "data/questions.csv", "--data.init_args.chat_template", "true"]
    model = ["--model.base", "models/base", "--model.adapter", "models/gemma3_sft/adapter"]
    cpu = ["--trainer.accelerator", "cpu", "--trainer.callbacks.init_args.output", "data/answers.csv"]
    run(monkeypatch, "predict", *model, *asked, *cpu)
    assert len(pd.read_csv("data/answers.csv")) == len(QUESTIONS)


def test_the_settings_are_the_published_ones() -> None:
    cpt, sft = (
        yaml.safe_load((ROOT / f"configs/gemma3_{stage}.yaml").read_text(encoding="utf-8")) for stage in ("cpt", "sft")
    )  # fmt: skip
    for config, dropout, decay, schedule, rows, epochs in (
        (cpt, 0.05, 0.005, "linear", 24, 1.0),
        (sft, 0.1, 0.01, "cosine", 192, 1.5),
    ):
        trainer, model, data = config["trainer"], config["model"], config["data"]["init_args"]
        assert model["lora"] == {"r": 32, "lora_alpha": 64, "lora_dropout": dropout}
        assert model["optimizer"]["init_args"] == {"lr": 2.5e-4, "weight_decay": decay}
        assert model["optimizer"]["class_path"].endswith("PagedAdamW8bit")
        assert (model["lr_scheduler"], model["warmup_steps"]) == (schedule, 0.05)
        assert data["batch_size"] * trainer["accumulate_grad_batches"] == rows
        assert trainer["max_epochs"] * trainer.get("limit_train_batches", 1) == epochs
        assert data["max_length"] == 2880
    assert cpt["data"]["init_args"]["document"] == "{title}\n{text}"
