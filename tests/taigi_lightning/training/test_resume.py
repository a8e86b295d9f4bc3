"""What is not the checkpoint's on resume is refused, or used and said: every setting, not a list of them."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader

from taigi_lightning.errors import InputError
from taigi_lightning.model.adapters import LoraSettings
from taigi_lightning.training.resume import changed_settings, plain
from tests.taigi_lightning.small_runs import batches, trainer
from tests.taigi_lightning.training.test_module import module


def run(base: Path, folder: Path, steps: int, *, rows: int = 2, resume: bool = False, **options: Any) -> Any:
    settings = {name: options.pop(name) for name in ("accumulate_grad_batches",) if name in options}
    fit = trainer(folder, max_steps=steps, **settings)
    data: Any = DataLoader(batches(8, rows=rows), batch_size=None)  # type: ignore[arg-type]
    checkpoint = folder / "step.ckpt" if resume else None
    fit.fit(module(base, **options), data, ckpt_path=checkpoint, weights_only=True)
    if not resume:
        fit.save_checkpoint(folder / "step.ckpt")
    return fit


@pytest.mark.parametrize(
    ("changed", "name"),
    [
        ({"lora": LoraSettings(r=4, lora_alpha=32, lora_dropout=0.1)}, r"lora_alpha is 32.* trained with 8"),
        ({"optimizer": lambda p: torch.optim.SGD(p, lr=1e-2)}, r"optimizer is torch\.optim\.sgd\.SGD"),
    ],
)
def test_another_function_is_refused(
    tiny_llama_dir: Path, tmp_path: Path, changed: dict[str, Any], name: str
) -> None:
    run(tiny_llama_dir, tmp_path, 1)
    with pytest.raises(InputError, match=name):
        run(tiny_llama_dir, tmp_path, 2, resume=True, **changed)


def test_everything_else_is_used_and_said(
    tiny_llama_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(tiny_llama_dir, tmp_path, 1)
    capsys.readouterr()
    fit = run(
        tiny_llama_dir, tmp_path, 2, resume=True,
        optimizer=lambda p: torch.optim.AdamW(p, lr=1e-2, weight_decay=0.3, betas=(0.8, 0.9)),
        lora=LoraSettings(r=4, lora_alpha=8, lora_dropout=0.3), accumulate_grad_batches=2,
    )  # fmt: skip
    group = fit.optimizers[0].param_groups[0]
    assert (group["weight_decay"], group["betas"]) == (0.3, (0.8, 0.9))
    said = capsys.readouterr().out
    for sentence in (
        "model.optimizer.weight_decay: 0.01 in the checkpoint, 0.3 in this run; using 0.3.",
        "model.optimizer.betas: [0.9, 0.999] in the checkpoint, [0.8, 0.9] in this run",
        "model.lora.lora_dropout: 0.1 in the checkpoint, 0.3 in this run",
        "trainer.accumulate_grad_batches: 1 in the checkpoint, 2 in this run",
        "trainer.max_steps: 1 in the checkpoint, 2 in this run",
    ):
        assert sentence in said


def test_nothing_is_said_where_nothing_changed(
    tiny_llama_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(tiny_llama_dir, tmp_path, 1)
    capsys.readouterr()
    run(tiny_llama_dir, tmp_path, 1, resume=True)
    assert "in the checkpoint" not in capsys.readouterr().out


def test_a_checkpoint_whose_weights_changed_on_disk_is_refused(tiny_llama_dir: Path, tmp_path: Path) -> None:
    run(tiny_llama_dir, tmp_path, 1)
    content = bytearray((tmp_path / "step.ckpt").read_bytes())
    content[len(content) // 2] ^= 1
    (tmp_path / "step.ckpt").write_bytes(content)
    with pytest.raises(InputError, match="is damaged"):
        run(tiny_llama_dir, tmp_path, 2, resume=True)


def test_settings_that_only_one_side_knows_are_said_too() -> None:
    said = list(changed_settings({"model.own": 1}, {"model.new": 2}))
    assert said == [
        "model.new: not set in the checkpoint, 2 in this run; using 2.",
        "model.own: 1 in the checkpoint, not set in this run; using not set.",
    ]


def test_settings_are_plain_values() -> None:
    assert plain({"a": (1, Path("b")), "c": {"x"}}) == {"a": [1, "b"], "c": ["x"]}
