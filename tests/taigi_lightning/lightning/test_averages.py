"""Averaging callbacks and schedule-free optimizers: it is the adapter that is averaged, validated, saved, exported."""

from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.callbacks import EMAWeightAveraging, StochasticWeightAveraging, WeightAveraging
from safetensors.torch import load_file

from taigi_lightning.errors import InputError
from taigi_lightning.training.callbacks import ExportModel
from taigi_lightning.training.checkpoint_files import RunCheckpoint
from taigi_lightning.training.module import CausalLMModule
from tests.taigi_lightning.small_runs import (
    Resumable,
    Rows,
    State,
    batches,
    copied,
    loader,
    make,
    same,
    trainer,
)

EPOCHS = 3  # of three steps


def mean(states: list[State]) -> State:
    return {name: torch.stack([state[name] for state in states]).mean(0) for name in states[0]}


def decayed(states: list[State], decay: float = 0.5) -> State:
    average = states[0]
    for state in states[1:]:
        average = {name: decay * average[name] + (1 - decay) * state[name] for name in state}
    return average


def assert_same(found: State, wanted: State) -> None:
    assert found.keys() == wanted.keys()
    for name, value in wanted.items():
        torch.testing.assert_close(found[name], value, rtol=1e-6, atol=1e-7)


class Watch(pl.Callback):
    """The weights after each optimizer step, and those that were validated."""

    def __init__(self) -> None:
        self.steps: list[State] = []
        self.validated: list[State] = []

    def on_train_batch_end(self, trainer: Any, pl_module: Any, *_: Any) -> None:
        self.steps.append(copied(pl_module))

    def on_validation_batch_start(self, trainer: Any, pl_module: Any, *_: Any) -> None:
        self.validated.append(copied(pl_module))


class FromTheThird(WeightAveraging):
    """An average of the user's own: of the steps from the third on."""

    def should_update(self, step_idx: int | None = None, epoch_idx: int | None = None) -> bool:
        return step_idx is not None and step_idx >= 2


CASES: dict[str, tuple[Any, Any]] = {
    "exponential": (lambda: EMAWeightAveraging(decay=0.5), decayed),
    "own": (FromTheThird, lambda steps: mean(steps[2:])),
    # Lightning takes what an epoch begins with, from the second on.
    "stochastic": (lambda: StochasticWeightAveraging(1e-3, 2), lambda steps: mean(steps[2:-1:3])),
}


@pytest.mark.parametrize("name", CASES)
def test_the_adapter_is_averaged_exported_and_resumed(
    tiny_llama_dir: Path, tmp_path: Path, name: str
) -> None:
    average, wanted = CASES[name]
    watch, callback = Watch(), average()
    kept = tmp_path / "kept"
    saving = RunCheckpoint(kept, "{step}", save_top_k=-1, every_n_train_steps=4, monitor="step", mode="max")
    callbacks = [watch, callback, ExportModel(merge=False), saving]
    whole = trainer(tmp_path, max_epochs=EPOCHS, callbacks=callbacks, enable_checkpointing=True)
    module = make(tiny_llama_dir)
    whole.fit(module, Rows(6))
    assert_same(copied(module), wanted(watch.steps))
    assert callback._average_model is not None  # the user's own object, not a copy
    assert "PeftModel.from_pretrained" in (tmp_path / "adapter" / "README.md").read_text(encoding="utf-8")
    exported = load_file(tmp_path / "adapter" / "adapter_model.safetensors")
    assert len(exported) == len(module.state_dict())
    for key, value in copied(module).items():
        name = key.removeprefix("model.").replace(".default", "")
        torch.testing.assert_close(exported[name], value, rtol=1e-6, atol=1e-7)

    again = make(tiny_llama_dir)
    trainer(tmp_path / "again", max_epochs=EPOCHS, callbacks=[average()]).fit(
        again, Rows(6), ckpt_path=kept / "step=4.ckpt", weights_only=True
    )
    assert same(copied(again), copied(module))


def test_the_average_is_validated_and_saved(tiny_llama_dir: Path, tmp_path: Path) -> None:
    watch = Watch()
    run = trainer(
        tmp_path, max_epochs=1, num_sanity_val_steps=0, callbacks=[EMAWeightAveraging(decay=0.5), watch]
    )
    module = make(tiny_llama_dir)
    run.fit(module, loader(batches(4)), loader(batches(1)))
    assert_same(watch.validated[0], decayed(watch.steps))
    run.save_checkpoint(tmp_path / "average.ckpt")
    loaded = CausalLMModule.load_from_checkpoint(tmp_path / "average.ckpt")
    assert_same(copied(loaded), copied(module))


@pytest.mark.parametrize(
    "average",
    [lambda: EMAWeightAveraging(update_starting_at_step=9), lambda: StochasticWeightAveraging(1e-3, 9)],
    ids=["exponential", "stochastic"],
)
def test_an_average_that_never_began_replaces_nothing(
    tiny_llama_dir: Path, tmp_path: Path, average: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    watch = Watch()
    module = make(tiny_llama_dir)
    run = trainer(tmp_path, max_steps=3, callbacks=[watch, average()], num_sanity_val_steps=0)
    run.fit(module, loader(batches(4)), loader(batches(1)))
    assert_same(copied(module), watch.steps[-1])
    assert "averaged nothing: the run ended before its first update" in capsys.readouterr().out


def test_training_on_without_the_average_says_so(
    tiny_llama_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = trainer(tmp_path, max_epochs=1, callbacks=[EMAWeightAveraging(decay=0.5)])
    first.fit(make(tiny_llama_dir), loader(batches(2)))
    first.save_checkpoint(tmp_path / "first.ckpt")
    second = trainer(tmp_path, max_epochs=2)
    second.fit(make(tiny_llama_dir), loader(batches(2)), ckpt_path=tmp_path / "first.ckpt", weights_only=True)
    assert "it goes on from the average" in capsys.readouterr().out


class NoCallbacks(CausalLMModule):
    def configure_callbacks(self) -> list[pl.Callback]:
        return []


def test_an_average_of_nothing_is_refused(tiny_llama_dir: Path, tmp_path: Path) -> None:
    run = trainer(tmp_path, max_steps=2, callbacks=[StochasticWeightAveraging(1e-3, 1)])
    with pytest.raises(InputError, match=r"Return \[\*super\(\)\.configure_callbacks"):
        run.fit(NoCallbacks(str(tiny_llama_dir)), loader(batches(2)))


def test_a_schedule_free_optimizer_uses_the_weights_it_means(tiny_llama_dir: Path, tmp_path: Path) -> None:
    schedulefree = pytest.importorskip("schedulefree")

    def fit(folder: Path, resume: Path | None = None) -> tuple[CausalLMModule, Watch, Any]:
        module = make(tiny_llama_dir, optimizer=lambda p: schedulefree.AdamWScheduleFree(p, lr=1e-2))
        watch = Watch()
        saving = RunCheckpoint(
            folder, "{step}", save_top_k=-1, every_n_train_steps=3, monitor="step", mode="max"
        )
        validating: dict[str, Any] = {"val_check_interval": 2, "num_sanity_val_steps": 0}
        callbacks = [watch, saving]
        run = trainer(folder, max_steps=6, callbacks=callbacks, enable_checkpointing=True, **validating)
        run.fit(module, Resumable(batches(6)), loader(batches(1)), ckpt_path=resume, weights_only=True)
        return module, watch, run.optimizers[0]

    module, watch, optimizer = fit(tmp_path)
    z = {name: optimizer.state[p]["z"] for name, p in module.named_parameters() if p.requires_grad}
    average = {name: y + (z[name] - y) * (1 - 1 / 0.9) for name, y in watch.steps[-1].items()}
    assert_same(copied(module), average)
    assert_same(watch.validated[-1], average)
    kept = torch.load(tmp_path / "step=3.ckpt")
    assert_same(kept["stepped_state"], watch.steps[2])
    assert not all(torch.equal(kept["state_dict"][name], value) for name, value in watch.steps[2].items())
    resumed, _, _ = fit(tmp_path / "again", tmp_path / "step=3.ckpt")
    assert same(copied(resumed), copied(module))
