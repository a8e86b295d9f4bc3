"""One optimizer over what trains; with LoRA+, B learns faster than A, also on resume."""

from pathlib import Path
from typing import Any

import pytest
import torch

from taigi_lightning.errors import InputError
from taigi_lightning.training.optimizer import make_optimizer
from tests.taigi_lightning.small_runs import batches, loader, trainer
from tests.taigi_lightning.training.test_module import module


def parameters(*names: str) -> dict[str, torch.nn.Parameter]:
    return {name: torch.nn.Parameter(torch.zeros(2), requires_grad="frozen" not in name) for name in names}


def adam(groups: Any) -> torch.optim.AdamW:
    return torch.optim.AdamW(groups, lr=1e-4)


def test_what_is_frozen_is_left_out() -> None:
    optimizer = make_optimizer(adam, parameters("frozen", "x.lora_A.y", "x.lora_B.y"), None)
    assert [len(group["params"]) for group in optimizer.param_groups] == [2]


def test_b_learns_faster_than_a() -> None:
    optimizer = make_optimizer(adam, parameters("frozen", "x.lora_A.y", "x.lora_B.y", "z.lora_B.y"), 16.0)
    assert [(len(group["params"]), group["lr"]) for group in optimizer.param_groups] == [
        (1, 1e-4),
        (2, 1.6e-3),
    ]


def test_without_an_adapter_it_is_refused() -> None:
    with pytest.raises(InputError, match=r"Give --model\.lora\.r"):
        make_optimizer(adam, parameters("weight"), 16.0)
    with pytest.raises(InputError, match="refuses its settings"):
        make_optimizer(lambda groups: torch.optim.AdamW(groups, lr=-1.0), parameters("weight"), None)


def test_a_resumed_run_keeps_both_rates(tiny_llama_dir: Path, tmp_path: Path) -> None:
    def run(steps: int, resume: Path | None = None) -> list[float]:
        fit = trainer(tmp_path, max_steps=steps)
        model = module(
            tiny_llama_dir, optimizer=adam, lr_scheduler="constant_with_warmup", lora_plus_ratio=16.0
        )
        fit.fit(model, loader(batches(4)), ckpt_path=resume, weights_only=True)
        fit.save_checkpoint(tmp_path / f"{steps}.ckpt")
        return [group["lr"] for group in fit.optimizers[0].param_groups]

    assert run(1) == pytest.approx([1e-4, 1.6e-3])
    assert run(2, tmp_path / "1.ckpt") == pytest.approx([1e-4, 1.6e-3])
