"""Every stage learns, and nothing of it is lost on the way to the predictions.

A micro Llama is trained from random weights on a small made-up language in which a place decides the digit
that follows. CPT in 4 bits teaches it sentences it has never seen; after the merge, SFT in 4 bits teaches it
other digits for the same places, so that before SFT every answer is wrong. What training itself reports proves
nothing (with unshifted labels its loss falls faster), so plain transformers and PEFT measure what was learned.

Each of these was broken once, on purpose, and caught by:

| broken                                       | failed                                   |
|-|-|
| gradients zeroed before the step             | from_scratch_and_cpt, sft_learns, merge  |
| lora_B kept from the optimizer               | from_scratch_and_cpt, sft_learns         |
| SFT supervises nothing                       | sft_learns, predictions                  |
| labels not shifted, or shifted twice         | from_scratch_and_cpt, sft_learns, logged |
| SFT's labels shifted before they are shifted | sft_learns, predictions                  |
| the merge adds nothing, or forgets alpha / r | merge                                    |
| prediction's prompt has one newline more     | predictions                              |
| training's prompt has one token less         | predictions                              |
| dropout on in prediction                     | predictions                              |
| dropout on in validation                     | logged                                   |
"""

from __future__ import annotations

import itertools
import random
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerBase

from taigi_lightning.__main__ import main
from taigi_lightning.data.sft import SFTDataModule
from taigi_lightning.model.base_model import load_base_model

ROOT = Path(__file__).parents[3]
NAMES = ["阿明", "阿母", "阿公", "囡仔", "伊", "咱"]
PLACES = ["市仔", "學校", "厝", "海邊"]
TIMES = ["下晡", "早起時仔", "昨昏", "暗時"]
SENTENCES = [
    "早起時仔，阿母佇灶跤煮糜，囡仔攏閣咧睏。",
    "阮兜蹛佇台南，厝邊頭尾攏真好鬥陣。",
    "昨昏暗時落大雨，路頂攏是水，阿公行路真細膩。",
    "伊講今仔日的天氣真好，咱來去海邊仔𨑨迌。",
]
PIECES = [sentence[at : at + 2] for sentence in SENTENCES for at in range(0, len(sentence), 2)] + NAMES
COMMON = ["--trainer.accelerator=cpu", "--seed_everything=9527"]


@dataclass(frozen=True)
class Trained:
    """A folder in which all stages have run, and texts of both corpora that no stage saw."""

    folder: Path
    random: Path
    first: list[str]
    second: list[str]

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        return AutoTokenizer.from_pretrained(self.folder / "base")

    def plain(self, base: Path, adapter: Path | None = None) -> Any:
        """A model as plain transformers and PEFT load it, in 16 bits and computed in float32."""
        model: Any = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
        return PeftModel.from_pretrained(model, adapter).eval() if adapter else model

    def four_bit(self, base: Path, *adapters: Path) -> Any:
        """A base in 4 bits, run by plain transformers; with the adapters of all its stages, what they trained."""
        cpu, dtype = torch.device("cpu"), torch.float32
        model: Any = load_base_model(str(base), quantization="nf4", compute_dtype=dtype, device=cpu)
        if not adapters:
            return model
        model = PeftModel.from_pretrained(model, adapters[0])
        for adapter in adapters[1:]:
            model.load_adapter(adapter, adapter_name=adapter.parent.name)
        model.base_model.set_adapter(list(model.peft_config))
        return model.eval()

    @torch.no_grad()
    def loss(self, model: Any, texts: list[str]) -> float:
        """Nats a token, each text's first one left out, as transformers computes them."""
        total, count = 0.0, 0
        for text in texts:
            ids = torch.tensor([[*self.tokenizer(text)["input_ids"], self.tokenizer.eos_token_id]])
            total += float(model(input_ids=ids, labels=ids).loss) * (ids.shape[1] - 1)
            count += ids.shape[1] - 1
        return total / count

    def answers(self, name: str) -> pd.DataFrame:
        return pd.read_csv(self.folder / f"{name}.probabilities.csv")


def write_corpus(folder: Path, lines: list[str]) -> list[str]:
    """A cleaned corpus of documents of six drawn lines each; returns its validation split."""
    draw = random.Random(1)
    folder.mkdir()
    (folder / "manifest.json").write_text("{}")
    texts = ["".join(draw.choices(lines, k=6)) for _ in range(104)]
    pd.DataFrame({"text": texts[8:]}).to_parquet(folder / "train-00000-of-00001.parquet")
    pd.DataFrame({"text": texts[:8]}).to_parquet(folder / "validation-00000-of-00001.parquet")
    return texts[:8]


def write_questions(folder: Path) -> None:
    """Questions whose last option decides the answer: one digit more than the base has learned for it."""
    known = list(itertools.product(NAMES, TIMES, range(4)))
    random.Random(1).shuffle(known)
    for file, part in (("train.csv", known[:64]), ("test.csv", known[64:])):
        rows = [
            {
                "ID": row, "文章": f"{name}{time}欲去{PLACES[place]}。", "問題": f"{name}欲去佗位？",
                "選項1": "灶跤", "選項2": "台南", "選項3": "路", "選項4": PLACES[place],
                "正確答案": (place + 1) % 4 + 1,
            }
            for row, (name, time, place) in enumerate(part)
        ]  # fmt: skip
        pd.DataFrame(rows).to_csv(folder / file, index=False)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, tiny_llama_dir: Path) -> Trained:
    """The real commands with the real configs: from scratch, CPT, SFT, predict before and after SFT."""
    home = tmp_path_factory.mktemp("learning")
    draw = random.Random(2)
    pairs = [f"選項4：{place}\n答案：{digit}\n" for digit, place in enumerate(PLACES, start=1)]
    first = write_corpus(home / "first", [a + "".join(draw.sample(PIECES, 6)) + "。\n" for a in pairs * 64])
    second = write_corpus(home / "second", SENTENCES)
    write_questions(home)

    def run(*arguments: str) -> None:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sys, "argv", ["taigi_lightning", *arguments, *COMMON])
            assert main() == 0

    def fit(stage: str, base: Path, config: str, steps: int, rate: float, *more: str) -> None:
        run(
            "fit", "--config", str(ROOT / "configs" / config), f"--model.base={base}",
            f"--trainer.default_root_dir={home / stage}", "--trainer.logger=null",
            "--trainer.enable_progress_bar=false", f"--trainer.max_steps={steps}",
            "--trainer.accumulate_grad_batches=2", f"--trainer.val_check_interval={2 * steps}",
            f"--model.optimizer.init_args.lr={rate}", "--model.warmup_steps=4", "--data.init_args.batch_size=4",
            "--data.init_args.max_length=256", *more,
        )  # fmt: skip

    def predict(name: str, adapter: str) -> None:
        run(
            "predict", "--config", str(ROOT / "configs" / "predict.yaml"), f"--model.base={home / 'cpt'}",
            f"--model.adapter={adapter}", f"--data.init_args.questions={home / 'test.csv'}",
            f"--trainer.callbacks.init_args.output={home / name}.csv",
        )  # fmt: skip

    scratch = ("--model.from_scratch=true", "--model.quantization=none", "--model.lora=null")
    fit(
        "base", tiny_llama_dir, "cpt.yaml", 200, 5e-3, *scratch, f"--data.init_args.data_dir={home / 'first'}"
    )
    fit("cpt", home / "base", "cpt.yaml", 32, 3e-3, f"--data.init_args.data_dir={home / 'second'}")
    fit("sft", home / "cpt", "sft.yaml", 24, 1e-2, f"--data.init_args.train_file={home / 'train.csv'}")
    predict("before", "null")
    predict("after", str(home / "sft" / "adapter"))
    return Trained(home, tiny_llama_dir, first, second)


def test_from_scratch_and_cpt_learn(trained: Trained) -> None:
    untrained = trained.loss(trained.plain(trained.random), trained.first)
    base = trained.plain(trained.folder / "base")
    assert trained.loss(base, trained.first) < 0.4 * untrained
    adapted = trained.plain(trained.folder / "base", trained.folder / "cpt" / "adapter")
    assert trained.loss(adapted, trained.second) < 0.4 * trained.loss(base, trained.second)


def test_the_merge_keeps_what_cpt_learned_in_4_bits_too(trained: Trained) -> None:
    base = trained.loss(trained.plain(trained.folder / "base"), trained.second)
    adapted = trained.plain(trained.folder / "base", trained.folder / "cpt" / "adapter")
    gain = base - trained.loss(adapted, trained.second)
    merged = trained.folder / "cpt"
    assert base - trained.loss(trained.plain(merged), trained.second) == pytest.approx(gain, rel=0.02)
    assert base - trained.loss(trained.four_bit(merged), trained.second) == pytest.approx(gain, rel=0.1)


def test_the_logged_validation_loss_is_that_of_transformers(trained: Trained) -> None:
    (log,) = (trained.folder / "cpt" / "logs").rglob("metrics.csv")
    (logged,) = pd.read_csv(log)["val/loss"].dropna()
    model = trained.four_bit(trained.folder / "base", trained.folder / "cpt" / "adapter")
    assert logged == pytest.approx(trained.loss(model, trained.second), rel=1e-4)


def test_sft_learns(trained: Trained) -> None:
    right = pd.read_csv(trained.folder / "test.csv")["正確答案"]
    assert (trained.answers("before")["Answer"] == right).mean() <= 0.25
    assert (trained.answers("after")["Answer"] == right).mean() >= 0.9


def test_predictions_are_those_of_the_training_prompt_without_dropout(trained: Trained) -> None:
    """The very tokens that training would supervise, through plain transformers, give the same probabilities."""
    data = SFTDataModule(
        str(trained.folder / "test.csv"), str(trained.folder / "cpt"), validation_fraction=0.0
    )
    data.setup("fit")
    adapters = (trained.folder / stage / "adapter" for stage in ("cpt", "sft"))
    model = trained.four_bit(trained.folder / "base", *adapters)
    digits = [trained.tokenizer.encode(f"：{digit}")[-1] for digit in "1234"]
    blocks = data.splits["train"].blocks
    found = trained.answers("after")[[f"Probability{digit}" for digit in "1234"]].to_numpy()
    assert len(blocks) == len(found)
    for row in range(len(blocks)):
        ids, labels = (torch.tensor(blocks[row][name]) for name in ("input_ids", "labels"))
        answer = int((labels != -100).nonzero()[0, 0])
        with torch.no_grad():
            logits = model(ids[None, :answer]).logits[0, -1, digits]
        assert found[row] == pytest.approx(logits.softmax(-1).numpy(), abs=1e-4)
