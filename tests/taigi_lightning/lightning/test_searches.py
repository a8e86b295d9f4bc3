"""Rates and batch sizes that Lightning searches or lets follow a metric: the run goes on with what was found."""

from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import callbacks as c
from lightning.pytorch.cli import ReduceLROnPlateau
from lightning.pytorch.tuner import Tuner

from taigi_lightning.data.cpt import CPTDataModule
from taigi_lightning.training.module import CausalLMModule
from tests.taigi_lightning.small_runs import batches, copied, loader, make, same, trainer
from tests.working_folder import TEXT


def test_a_found_rate_is_followed(tiny_llama_dir: Path, tmp_path: Path) -> None:
    module = make(tiny_llama_dir, lora_plus_ratio=16)
    run = trainer(tmp_path, max_steps=2)
    search: Any = Tuner(run).lr_find(module, loader(batches(8)), num_training=15)
    run.fit(module, loader(batches(4)))
    groups = [group["lr"] for group in run.optimizers[0].param_groups]
    assert groups == pytest.approx([search.suggestion(), 16 * search.suggestion()])
    finder = c.LearningRateFinder(num_training_steps=15)
    again = trainer(tmp_path, max_steps=2, callbacks=[finder])
    again.fit(make(tiny_llama_dir, lora_plus_ratio=16), loader(batches(8)))
    assert finder.optimal_lr is not None
    rate = finder.optimal_lr.suggestion()
    assert [g["lr"] for g in again.optimizers[0].param_groups] == pytest.approx([rate, 16 * rate])


def rows(base: Path, batch_size: int) -> CPTDataModule:
    return CPTDataModule(
        [{"text": f"{TEXT}{n}"} for n in range(12)], str(base), batch_size=batch_size, max_length=64
    )


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("by_callback", [False, True])
def test_a_found_batch_size_trains_as_if_it_had_been_given(
    tiny_llama_dir: Path, tmp_path: Path, by_callback: bool
) -> None:
    settings: dict[str, Any] = {"mode": "power", "steps_per_trial": 1, "max_trials": 2, "init_val": 1}
    data, module = rows(tiny_llama_dir, 1), make(tiny_llama_dir)
    callbacks = [c.BatchSizeFinder(**settings)] if by_callback else []
    run = trainer(tmp_path, max_steps=2, callbacks=callbacks)
    if not by_callback:
        assert Tuner(run).scale_batch_size(module, datamodule=data, **settings) == 2
    run.fit(module, data)
    assert data.batch_size == 2
    assert run.global_step == 2
    given = make(tiny_llama_dir)
    trainer(tmp_path, max_steps=2).fit(given, rows(tiny_llama_dir, 2))
    assert same(copied(module), copied(given))


def test_a_plateau_counts_validations(tiny_llama_dir: Path, tmp_path: Path) -> None:
    def falling(optimizer: Any) -> Any:
        return ReduceLROnPlateau(
            optimizer, monitor="val/loss", patience=0, factor=0.5, threshold=9.0, threshold_mode="abs"
        )

    run = trainer(tmp_path, max_steps=6, val_check_interval=2)
    run.fit(make(tiny_llama_dir, lr_scheduler=falling), loader(batches(6)), loader(batches(1)))
    assert (
        run.optimizers[0].param_groups[0]["lr"] == 1e-2 / 4
    )  # three validations, of which the first is the best


class OwnPlateau(CausalLMModule):
    """As Lightning's documentation configures one: asked once an epoch."""

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.SGD(self.parameters(), lr=1e-2)
        options: dict[str, Any] = {"patience": 0, "factor": 0.5, "threshold": 9.0, "threshold_mode": "abs"}
        plateau = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, **options)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": plateau, "monitor": "val/loss"}}


def test_a_plateau_of_ones_own_goes_on_when_lightning_says(tiny_llama_dir: Path, tmp_path: Path) -> None:
    run = trainer(tmp_path, max_epochs=3, val_check_interval=0.5)
    run.fit(make(tiny_llama_dir, OwnPlateau), loader(batches(4)), loader(batches(1)))
    assert run.optimizers[0].param_groups[0]["lr"] == 1e-2 / 4  # three epochs, six validations
