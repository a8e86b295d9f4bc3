"""Checkpoints of Lightning's callbacks: found by their names, and gone on from as if nothing had happened."""

from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint, OnExceptionCheckpoint

from taigi_lightning.errors import InputError
from taigi_lightning.training.checkpoint_files import RunCheckpoint
from taigi_lightning.training.checkpoints import find_checkpoint
from taigi_lightning.training.module import CausalLMModule
from tests.taigi_lightning.small_runs import Rows, State, batches, copied, loader, make, same, trainer


@pytest.mark.filterwarnings("ignore")
def test_a_run_of_epochs_goes_on_in_the_middle_of_one(tiny_llama_dir: Path, tmp_path: Path) -> None:
    def fit(folder: Path, resume: Any = None) -> CausalLMModule:
        saving = RunCheckpoint(
            folder, "{step}", save_top_k=-1, every_n_train_steps=2, monitor="step", mode="max"
        )
        module = make(tiny_llama_dir)
        run = trainer(folder, max_epochs=2, callbacks=[saving], enable_checkpointing=True)
        run.fit(module, Rows(6), ckpt_path=resume, weights_only=True)
        return module

    whole = fit(tmp_path / "whole")
    again = fit(tmp_path / "again", tmp_path / "whole" / "step=2.ckpt")
    assert same(copied(again), copied(whole))


class Fails(pl.Callback):
    """An error before the batch of this number is trained on."""

    def __init__(self, number: int) -> None:
        self.number = number

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
        if trainer.fit_loop.total_batch_idx == self.number:
            raise RuntimeError("out of memory")


@pytest.fixture(scope="module")
def unbroken(tiny_llama_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> State:
    """What two epochs of eight batches train, three or two of them a step."""
    module = make(tiny_llama_dir)
    options: dict[str, Any] = {"max_epochs": 2, "accumulate_grad_batches": 3}
    trainer(tmp_path_factory.mktemp("unbroken"), **options).fit(module, Rows(2))
    return copied(module)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("number", [0, 2, 3, 7, 8, 12])
def test_a_run_that_an_error_broke_off_goes_on_as_if_unbroken(
    tiny_llama_dir: Path, tmp_path: Path, unbroken: State, number: int
) -> None:
    options: dict[str, Any] = {"max_epochs": 2, "accumulate_grad_batches": 3}
    callbacks = [Fails(number), OnExceptionCheckpoint(tmp_path, "broken")]
    with pytest.raises(RuntimeError, match="out of memory"):
        trainer(tmp_path, callbacks=callbacks, enable_checkpointing=True, **options).fit(
            make(tiny_llama_dir), Rows(2)
        )
    module = make(tiny_llama_dir)
    run = trainer(tmp_path, **options)
    run.fit(module, Rows(2), ckpt_path=tmp_path / "broken.ckpt", weights_only=True)
    assert run.global_step == 6
    assert same(copied(module), unbroken)


class SaveAfter(pl.Callback):
    """A checkpoint after the batch of this number, as one by the clock may be."""

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: Any, *rest: Any) -> None:
        if trainer.fit_loop.total_batch_idx == 4:
            trainer.save_checkpoint(Path(trainer.default_root_dir) / "within.ckpt")


@pytest.mark.filterwarnings("ignore")
def test_a_checkpoint_within_a_window_leaves_none_of_its_batches_out(
    tiny_llama_dir: Path, tmp_path: Path, unbroken: State
) -> None:
    options: dict[str, Any] = {"max_epochs": 2, "accumulate_grad_batches": 3}
    trainer(tmp_path, callbacks=[SaveAfter()], **options).fit(make(tiny_llama_dir), Rows(2))
    module = make(tiny_llama_dir)
    trainer(tmp_path, **options).fit(module, Rows(2), ckpt_path=tmp_path / "within.ckpt", weights_only=True)
    assert same(copied(module), unbroken)


def test_weights_alone_are_no_run_to_go_on_with(tiny_llama_dir: Path, tmp_path: Path) -> None:
    saving = ModelCheckpoint(tmp_path, "alone", save_weights_only=True)
    run = trainer(tmp_path, max_steps=1, callbacks=[saving], enable_checkpointing=True)
    module = make(tiny_llama_dir)
    run.fit(module, loader(batches(1)))
    with pytest.raises(InputError, match="holds weights alone"):
        trainer(tmp_path, max_steps=2).fit(
            make(tiny_llama_dir), loader(batches(2)), ckpt_path=tmp_path / "alone.ckpt"
        )
    assert same(copied(CausalLMModule.load_from_checkpoint(tmp_path / "alone.ckpt")), copied(module))


def test_checkpoints_with_metrics_in_their_names_are_found(tiny_llama_dir: Path, tmp_path: Path) -> None:
    folder = tmp_path / "checkpoints"
    saving = RunCheckpoint(
        folder,
        "{step}-{val/loss:.3f}",
        save_top_k=2,
        save_last=True,
        every_n_train_steps=2,
        monitor="val/loss",
    )
    run = trainer(tmp_path, max_steps=6, val_check_interval=2, callbacks=[saving], enable_checkpointing=True)
    run.fit(make(tiny_llama_dir), loader(batches(6)), loader(batches(1)))
    names = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.ckpt"))
    assert len(names) == 3
    assert all(name == "last.ckpt" or "-val_loss=" in name for name in names)
    scores = {path: float(score) for path, score in saving.best_k_models.items()}
    for path, score in scores.items():
        assert f"val_loss={score:.3f}" in path
    assert find_checkpoint("best", tmp_path) == min(scores, key=lambda path: scores[path])
    assert torch.load(find_checkpoint("last", tmp_path))["global_step"] == 6
