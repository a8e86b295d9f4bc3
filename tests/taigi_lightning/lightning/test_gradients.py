"""Gradients and losses are true numbers wherever a user of Lightning looks, and whatever hook is overridden."""

from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.utilities import grad_norm
from torch import Tensor

from taigi_lightning.data.dataloader import EpochBatches, ResumableLoader
from taigi_lightning.model.adapters import LoraSettings
from taigi_lightning.training.module import CausalLMModule
from tests.taigi_lightning.small_runs import Rows, batches, blocks, loader, trainer

SETTINGS: dict[str, Any] = {
    "lora": LoraSettings(r=4, lora_alpha=8),
    "optimizer": lambda parameters: torch.optim.AdamW(parameters, lr=1e-2),
    "activation_budget": 1.0,
}


class Watch(pl.Callback):
    """What a user's callback sees: gradients before the step, each batch's outputs, the logged loss."""

    def __init__(self) -> None:
        self.gradients: dict[str, Tensor] = {}
        self.outputs: list[float] = []
        self.logged: dict[str, float] = {}

    def on_before_optimizer_step(self, trainer: Any, pl_module: Any, optimizer: Any) -> None:
        self.gradients = {n: p.grad.clone() for n, p in pl_module.named_parameters() if p.grad is not None}

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, *_: Any) -> None:
        self.outputs.append(float(outputs["loss"]))
        self.logged = {name: float(value) for name, value in trainer.callback_metrics.items()}


class GradientNorm(CausalLMModule):
    """Lightning's documentation: log the gradients' norm in this hook, without calling ours."""

    norm = 0.0

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        self.norm = float(grad_norm(self, norm_type=2)["grad_2.0_norm_total"])


class OwnLoss(CausalLMModule):
    """Returns an ordinary mean."""

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return self.loss_sum(batch) / batch["supervised_tokens"]


def fit(
    base: Path,
    folder: Path,
    data: Any,
    accumulate: int,
    kind: type[CausalLMModule] = CausalLMModule,
    **options: Any,
) -> tuple[Watch, Any]:
    pl.seed_everything(9527)
    watch = Watch()
    module = kind(str(base), **SETTINGS)
    run = trainer(folder, max_steps=1, accumulate_grad_batches=accumulate, callbacks=[watch], **options)
    run.fit(module, data)
    return watch, module


@pytest.fixture(scope="module")
def whole(tiny_llama_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Watch:
    """One step on one batch with all the rows."""
    return fit(tiny_llama_dir, tmp_path_factory.mktemp("whole"), Rows(16), 1)[0]


def test_accumulated_micro_batches_are_one_large_batch(
    tiny_llama_dir: Path, tmp_path: Path, whole: Watch
) -> None:
    watch, _ = fit(tiny_llama_dir, tmp_path, Rows(2), 8)
    assert watch.logged["train/loss"] == pytest.approx(whole.logged["train/loss"], rel=1e-6)
    assert watch.logged["train/grad_norm"] == pytest.approx(whole.logged["train/grad_norm"], rel=1e-5)
    for name, gradient in watch.gradients.items():
        torch.testing.assert_close(gradient, whole.gradients[name], rtol=1e-5, atol=1e-6)
    assert sum(watch.outputs) == pytest.approx(watch.logged["train/loss"], rel=1e-5)
    assert whole.outputs == [pytest.approx(whole.logged["train/loss"], rel=1e-6)]


def test_a_last_window_that_is_short_weighs_its_own_tokens(
    tiny_llama_dir: Path, tmp_path: Path, whole: Watch
) -> None:
    watch, _ = fit(tiny_llama_dir, tmp_path, Rows(8), 3)  # two batches an epoch
    for name, gradient in watch.gradients.items():
        torch.testing.assert_close(gradient, whole.gradients[name], rtol=1e-5, atol=1e-6)


def test_another_gradient_hook_sees_the_true_norm(tiny_llama_dir: Path, tmp_path: Path, whole: Watch) -> None:
    watch, module = fit(tiny_llama_dir, tmp_path, Rows(2), 8, GradientNorm)
    assert module.norm == pytest.approx(
        whole.logged["train/grad_norm"], abs=2e-4
    )  # grad_norm rounds to 4 digits
    assert watch.logged["train/loss"] == pytest.approx(whole.logged["train/loss"], rel=1e-6)


def test_an_own_training_step_is_plain_lightning(tiny_llama_dir: Path, tmp_path: Path, whole: Watch) -> None:
    watch, _ = fit(tiny_llama_dir, tmp_path, Rows(16), 1, OwnLoss)
    assert watch.logged["train/grad_norm"] == pytest.approx(whole.logged["train/grad_norm"], rel=1e-5)
    assert "train/loss" not in watch.logged


def test_own_data_without_counts_weigh_batches_and_say_so_once(
    tiny_llama_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data: Any = torch.utils.data.DataLoader(batches(4), batch_size=None)  # type: ignore[arg-type]
    watch, _ = fit(tiny_llama_dir, tmp_path, data, 4)
    assert capsys.readouterr().out.count("hold no window_tokens") == 1
    means = [
        fit(tiny_llama_dir, tmp_path, loader([batch]), 1)[0].logged["train/loss"] for batch in batches(4)
    ]
    assert watch.logged["train/loss"] == pytest.approx(sum(means) / 4, rel=1e-5)


def test_windows_are_counted_over_all_ranks() -> None:
    rows, found = blocks(), []
    for rank in range(2):
        sampler = EpochBatches(16, 2, seed=1, rank=rank, ranks=2)  # four batches, in windows of three and one
        found.append(
            [batch["window_tokens"] for batch in ResumableLoader(rows, sampler, windows=lambda: (3, 4))]
        )
    (order,) = [EpochBatches(16, 2, seed=1, rank=0, ranks=2).order()]
    wanted = [int(rows.targets[order[:3]].sum())] * 3 + [int(rows.targets[order[3]].sum())]
    assert found == [wanted, wanted]


def test_a_window_that_a_resumed_run_finishes_counts_what_is_left() -> None:
    """Stopped after two batches, resumed with windows of three: the first one has a single batch left."""
    rows, sampler = blocks(), EpochBatches(16, 4, seed=1)
    loader = ResumableLoader(rows, sampler, windows=lambda: (3, 4))
    loader.load_state_dict(loader.state_dict() | {"batches": 2})
    order = sampler.order()
    assert [batch["window_tokens"] for batch in loader] == [
        int(rows.targets[order[number]].sum()) for number in (2, 3)
    ]
