"""The LightningModule under a real Trainer: gradients, checkpoints, resume, refusals."""

from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from torch import Tensor

from taigi_lightning.errors import InputError
from taigi_lightning.fast_path.apply import causal_lm
from taigi_lightning.model.adapters import LoraSettings
from taigi_lightning.training.module import CausalLMModule
from tests.taigi_lightning.small_runs import Batch, Resumable, batches, loader, make, trainer


def module(base: Path, **options: Any) -> CausalLMModule:
    return make(base, **({"lr_scheduler": "linear"} | options))


class Record(pl.Callback):
    """Keeps the gradients of the last optimizer step, and loss and learning rate of every one by its number."""

    def __init__(self) -> None:
        self.losses: dict[int, float] = {}
        self.rates: dict[int, float] = {}
        self.gradients: dict[str, Tensor] = {}

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        def keep(*_: Any) -> None:
            named = pl_module.named_parameters()
            self.gradients = {n: p.grad.clone() for n, p in named if p.grad is not None}

        # After the step: the backward pass itself runs inside optimizer.step, as its closure.
        trainer.optimizers[0].register_step_post_hook(keep)

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        if "train/loss" in trainer.callback_metrics:
            self.losses[trainer.global_step] = float(trainer.callback_metrics["train/loss"])
            self.rates[trainer.global_step] = float(trainer.callback_metrics["train/learning_rate"])


def stack(data: list[Batch]) -> Batch:
    return {key: torch.cat([b[key] for b in data]) for key in ("input_ids", "labels", "position_ids")}


def test_an_accumulated_gradient_is_that_of_one_large_batch(tiny_llama_dir: Path, tmp_path: Path) -> None:
    data = batches(4)
    found = []
    for window, accumulate in ((data, 4), ([stack(data)], 1)):
        record = Record()
        model = module(tiny_llama_dir, lora=LoraSettings(r=4, lora_alpha=8))
        trainer(tmp_path, max_steps=1, accumulate_grad_batches=accumulate, callbacks=[record]).fit(
            model, loader(window, accumulate)
        )
        found.append(record)
    assert found[0].losses[1] == pytest.approx(found[1].losses[1], rel=1e-6)
    assert found[0].gradients.keys() == found[1].gradients.keys()
    assert any(g.abs().max() > 0 for g in found[0].gradients.values())
    for name, gradient in found[0].gradients.items():
        torch.testing.assert_close(gradient, found[1].gradients[name], rtol=1e-5, atol=1e-6)


def test_the_logged_loss_is_the_mean_over_supervised_tokens(tiny_llama_dir: Path, tmp_path: Path) -> None:
    data, record = batches(2), Record()
    model = module(tiny_llama_dir, lora=LoraSettings(r=4, lora_alpha=8), quantization="none")
    trainer(tmp_path, max_steps=1, accumulate_grad_batches=2, callbacks=[record]).fit(model, loader(data, 2))
    fresh = module(tiny_llama_dir, lora=None, quantization="none")
    trainer(tmp_path).validate(fresh, loader(data), verbose=False)
    logits = fresh.model(stack(data)["input_ids"]).logits[:, :-1]
    wanted = torch.nn.functional.cross_entropy(logits.flatten(0, 1), stack(data)["labels"][:, 1:].flatten())
    assert record.losses[1] == pytest.approx(float(wanted), rel=1e-5)


def test_validation_weighs_tokens_not_batches(tiny_llama_dir: Path, tmp_path: Path) -> None:
    data = batches(3)
    model = module(tiny_llama_dir)
    apart = trainer(tmp_path).validate(model, loader(data), verbose=False)[0]
    together = trainer(tmp_path).validate(model, loader([stack(data)]), verbose=False)[0]
    assert apart["val/loss"] == pytest.approx(together["val/loss"], rel=1e-5)
    assert apart["val/perplexity"] == pytest.approx(torch.tensor(apart["val/loss"]).exp().item(), rel=1e-5)


def test_a_checkpoint_holds_what_trains_and_loads_without_pickle(
    tiny_llama_dir: Path, tmp_path: Path
) -> None:
    fit = trainer(tmp_path, max_steps=2)
    fit.fit(module(tiny_llama_dir), loader(batches(2)))
    fit.save_checkpoint(tmp_path / "step=2.ckpt")
    checkpoint = torch.load(tmp_path / "step=2.ckpt", weights_only=True)
    assert checkpoint["state_dict"]
    assert all("lora_" in name for name in checkpoint["state_dict"])
    assert checkpoint["optimizer_states"]
    assert checkpoint["base_identity"]


def test_a_resumed_run_equals_the_unbroken_one_bit_for_bit(tiny_llama_dir: Path, tmp_path: Path) -> None:
    def run(steps: int, resume: Path | None = None) -> tuple[Record, CausalLMModule, pl.Trainer]:
        record = Record()
        model = module(tiny_llama_dir, lr_scheduler="constant_with_warmup", warmup_steps=2)
        fit = trainer(tmp_path, max_steps=steps, accumulate_grad_batches=2, callbacks=[record])
        fit.fit(model, Resumable(batches(12)), ckpt_path=resume, weights_only=True)
        return record, model, fit

    whole, wanted, _ = run(6)
    run(3)[2].save_checkpoint(tmp_path / "step=3.ckpt")
    rest, found, _ = run(6, tmp_path / "step=3.ckpt")
    assert len(whole.losses) == 6
    assert rest.losses == {step: loss for step, loss in whole.losses.items() if step > 3}
    for name, value in wanted.state_dict().items():
        assert torch.equal(value, found.state_dict()[name]), name


def test_a_learning_rate_changed_on_resume_is_used_and_said(
    tiny_llama_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = trainer(tmp_path, max_steps=2)
    first.fit(module(tiny_llama_dir, lr_scheduler="constant_with_warmup"), loader(batches(4)))
    first.save_checkpoint(tmp_path / "step=2.ckpt")
    model = module(
        tiny_llama_dir,
        lr_scheduler="constant_with_warmup",
        optimizer=lambda parameters: torch.optim.AdamW(parameters, lr=5e-4),
    )
    again = trainer(tmp_path, max_steps=4)
    again.fit(model, loader(batches(4)), ckpt_path=tmp_path / "step=2.ckpt", weights_only=True)
    assert again.optimizers[0].param_groups[0]["lr"] == pytest.approx(5e-4)
    assert "0.01 in the checkpoint, 0.0005 in the config; using 0.0005" in capsys.readouterr().out


@pytest.mark.parametrize("schedule", ["linear", "cosine"])
def test_a_run_made_longer_on_resume_has_the_longer_ones_learning_rates_from_its_first_step(
    schedule: str, tiny_llama_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(steps: int, resume: Path | None = None) -> tuple[Record, pl.Trainer]:
        record = Record()
        model = module(tiny_llama_dir, lr_scheduler=schedule, warmup_steps=1)
        fit = trainer(tmp_path, max_steps=steps, callbacks=[record])
        fit.fit(model, Resumable(batches(8)), ckpt_path=resume, weights_only=True)
        return record, fit

    whole, _ = run(8)
    short, fit = run(3)
    fit.save_checkpoint(tmp_path / "step=3.ckpt")
    assert fit.optimizers[0].param_groups[0]["lr"] == 0.0  # where the short run's schedule ended
    assert short.rates[3] < whole.rates[3]
    capsys.readouterr()
    rest, _ = run(8, tmp_path / "step=3.ckpt")
    assert rest.rates == {step: rate for step, rate in whole.rates.items() if step > 3}
    said = f"of the next step: 0 by the checkpoint's schedule, {whole.rates[4]:.6g} by this config's"
    assert said in capsys.readouterr().out


def test_a_checkpoint_of_another_base_or_rank_is_refused(tiny_llama_dir: Path, tmp_path: Path) -> None:
    fit = trainer(tmp_path, max_steps=1)
    fit.fit(module(tiny_llama_dir), loader(batches(1)))
    fit.save_checkpoint(tmp_path / "step=1.ckpt")
    other = module(tiny_llama_dir, lora=LoraSettings(r=8, lora_alpha=8))
    with pytest.raises(InputError, match="trained parameters"):
        trainer(tmp_path, max_steps=2).fit(other, loader(batches(2)), ckpt_path=tmp_path / "step=1.ckpt")
    unquantised = module(tiny_llama_dir, quantization="none")
    with pytest.raises(InputError):
        trainer(tmp_path, max_steps=2).fit(
            unquantised, loader(batches(2)), ckpt_path=tmp_path / "step=1.ckpt"
        )


def test_a_16_bit_adapter_and_a_run_that_trains_nothing_are_refused(
    tiny_llama_dir: Path, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match="Nothing would train"):
        trainer(tmp_path, max_steps=1).fit(module(tiny_llama_dir, lora=None), loader(batches(1)))
    with pytest.raises(InputError, match="bf16-true"):
        trainer(tmp_path, max_steps=1, precision="bf16-true").fit(module(tiny_llama_dir), loader(batches(1)))


def test_training_from_scratch_works_under_autocast(tiny_llama_dir: Path, tmp_path: Path) -> None:
    record = Record()
    model = module(tiny_llama_dir, lora=None, quantization="none", from_scratch=True)
    options: dict[str, Any] = {"max_steps": 8, "precision": "bf16-mixed", "callbacks": [record]}
    trainer(tmp_path, **options).fit(model, loader(batches(1) * 8))
    assert record.losses[8] < record.losses[1]


def test_an_adapter_on_random_weights_is_refused(tiny_llama_dir: Path) -> None:
    with pytest.raises(InputError, match="random weights"):
        module(tiny_llama_dir, quantization="none", from_scratch=True)


class Expected(pl.Callback):
    """The optimizer state that the fast path leaves headroom for, micro-batch by micro-batch."""

    def __init__(self) -> None:
        self.bytes: list[int] = []

    def on_train_batch_end(
        self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self.bytes.append(causal_lm(pl_module.model).fast_decoder.optimizer_state)


def test_room_is_left_for_the_optimizers_state_until_it_is_there(
    tiny_llama_dir: Path, tmp_path: Path
) -> None:
    expected = Expected()
    model = module(tiny_llama_dir)
    options: dict[str, Any] = {"max_steps": 2, "accumulate_grad_batches": 2, "callbacks": [expected]}
    trainer(tmp_path, **options).fit(model, loader(batches(4)))
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert expected.bytes == [8 * trained, 8 * trained, 0, 0]
