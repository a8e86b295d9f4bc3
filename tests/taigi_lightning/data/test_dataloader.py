import functools
import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor

from taigi_lightning.data.dataloader import EpochBatches, ResumableLoader
from taigi_lightning.data.packing import Blocks, separate_documents
from taigi_lightning.errors import InputError
from taigi_lightning.internals import move_batches
from tests.warm_python import WarmPython
from tests.working_folder import environment


def blocks(count: int) -> Blocks:
    """`count` documents of two tokens; the first token of each is its number."""
    tokens = np.repeat(np.arange(count, dtype=np.int32), 2)
    return Blocks(tokens, tokens, separate_documents(np.full(count, 2), 8), pad_id=0)


@settings(deadline=None)
@given(st.integers(1, 60), st.integers(1, 5), st.integers(1, 4), st.integers(0, 3))
def test_every_row_is_in_one_batch_of_one_rank_and_ranks_are_even(
    items: int, batch_size: int, ranks: int, epoch: int
) -> None:
    shares = []
    for rank in range(ranks):
        sampler = EpochBatches(items, batch_size, seed=9527, rank=rank, ranks=ranks)
        sampler.set_epoch(epoch)
        batches = list(sampler)
        assert len(batches) == len(sampler) == -(-items // (batch_size * ranks))
        assert {len(batch) for batch in batches} == {batch_size}
        shares += [index for batch in batches for index in batch]
    assert sorted(index for index in shares if index >= 0) == list(range(items))
    assert len(shares) - items < batch_size * ranks  # the rest are fillers, in the last batches only


def test_the_order_depends_on_seed_and_epoch_alone() -> None:
    def order(seed: int | None, epoch: int) -> list[list[int]]:
        sampler = EpochBatches(20, 5, seed=seed)
        sampler.set_epoch(epoch)
        return list(sampler)

    assert order(1, 0) == order(1, 0)
    assert order(1, 0) != order(1, 1)
    assert order(1, 0) != order(2, 0)
    assert order(None, 0) == order(None, 7) == np.arange(20).reshape(4, 5).tolist()


def test_the_ranks_of_a_step_together_take_what_one_rank_takes_with_the_whole_batch() -> None:
    whole = list(EpochBatches(20, 4, seed=1))
    shares = [list(EpochBatches(20, 2, seed=1, rank=rank, ranks=2)) for rank in range(2)]
    assert whole == [first + second for first, second in zip(*shares, strict=True)]


# ---- under a real Trainer ---------------------------------------------------------------------------


class Recorder(pl.LightningModule):
    """A model of one weight that writes down which rows each batch of each epoch held."""

    def __init__(self, log: Path) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.log_file = log

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        real = (batch["labels"] != -100).any(dim=1)
        line = [self.current_epoch, batch_idx, batch["input_ids"][real, 0].tolist()]
        with self.log_file.with_suffix(f".{self.global_rank}").open("a") as file:
            file.write(json.dumps(line) + "\n")
        return self.weight * 1.0

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


class Data(pl.LightningDataModule):
    def __init__(self, rows: int, batch_size: int, num_workers: int, seed: int) -> None:
        super().__init__()
        self.rows, self.batch_size, self.num_workers, self.seed = rows, batch_size, num_workers, seed

    def train_dataloader(self) -> ResumableLoader:
        assert self.trainer is not None
        sampler = EpochBatches(
            self.rows,
            self.batch_size,
            seed=self.seed,
            rank=self.trainer.global_rank,
            ranks=self.trainer.world_size,
        )
        moved = functools.partial(move_batches, self.trainer)
        return ResumableLoader(blocks(self.rows), sampler, num_workers=self.num_workers, moved=moved)


def train(
    folder: Path,
    log: str,
    *,
    max_steps: int,
    every: int = 1,
    resume: str | None = None,
    rows: int = 23,
    batch_size: int = 2,
    num_workers: int = 0,
    devices: int = 1,
    seed: int = 7,
    **settings: Any,
) -> list[list[Any]]:
    """Train until `max_steps`, saving each `every` steps to `step=N.ckpt`; what rank 0 saw."""
    trainer = pl.Trainer(
        accelerator="cpu",
        devices=devices,
        strategy="ddp" if devices > 1 else "auto",
        max_steps=max_steps,
        max_epochs=-1,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[ModelCheckpoint(folder, "{step}", every_n_train_steps=every, save_top_k=-1)],
        **settings,
    )
    checkpoint = folder / resume if resume else None
    data = Data(rows, batch_size, num_workers, seed)
    trainer.fit(Recorder(folder / log), data, ckpt_path=checkpoint, weights_only=True)
    return seen(folder / f"{log}.0")


def seen(file: Path) -> list[list[Any]]:
    return [json.loads(line) for line in file.read_text().splitlines()]


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory: pytest.TempPathFactory) -> Callable[[int], tuple[Path, list[list[Any]]]]:
    """The checkpoints of three epochs, and what they saw, by the number of workers; each is trained once."""

    @functools.cache
    def trained(num_workers: int) -> tuple[Path, list[list[Any]]]:
        folder = tmp_path_factory.mktemp("unbroken")
        return folder, train(folder, "whole", max_steps=36, num_workers=num_workers)

    return trained


# 23 rows in batches of 2 are 12 batches an epoch: the stops lie inside, before, at and behind its end.
@pytest.mark.parametrize(
    ("stop", "num_workers"), [(1, 0), (11, 0), (12, 0), (13, 0), (24, 0), (5, 2), (12, 2)]
)
def test_a_resumed_run_sees_the_batches_an_unbroken_one_sees(
    unbroken: Callable[[int], tuple[Path, list[list[Any]]]], num_workers: int, stop: int
) -> None:
    folder, whole = unbroken(num_workers)
    assert [line[:2] for line in whole] == [[epoch, batch] for epoch in range(3) for batch in range(12)]
    for epoch in range(3):
        rows = [row for line in whole if line[0] == epoch for row in line[2]]
        assert sorted(rows) == list(range(23))
    assert whole[0][2] != whole[12][2] != whole[24][2]  # each epoch has its own order
    resume = f"step={stop}.ckpt"
    rest = train(folder, f"rest{stop}", max_steps=36, num_workers=num_workers, resume=resume, every=99)
    assert rest == whole[stop:]


def test_resume_with_accumulation_and_a_limited_epoch(tmp_path: Path) -> None:
    options: dict[str, Any] = {"max_steps": 8, "accumulate_grad_batches": 3, "limit_train_batches": 9}
    whole = train(tmp_path, "whole", **options)
    assert len(whole) == 24
    for stop in (2, 3, 4):
        rest = train(tmp_path, f"rest{stop}", resume=f"step={stop}.ckpt", **options)
        assert rest == whole[3 * stop :]


def test_resume_in_a_new_process(tmp_path: Path, warm_python: WarmPython) -> None:
    whole = train(tmp_path, "whole", max_steps=20)
    code = (
        "from pathlib import Path; from tests.taigi_lightning.data.test_dataloader import train; "
        f"train(Path({str(tmp_path)!r}), 'rest', max_steps=20, every=99, resume='step=9.ckpt')"
    )
    subprocess.run([warm_python.executable, "-c", code], check=True, capture_output=True)
    assert seen(tmp_path / "rest.0") == whole[9:]


def test_another_batch_size_goes_on_where_it_comes_out_even(tmp_path: Path) -> None:
    whole = train(tmp_path, "whole", max_steps=12)
    rest = train(tmp_path, "rest", max_steps=4 + 4, batch_size=4, resume="step=4.ckpt", every=99)
    assert [row for line in rest for row in line[2]] == [row for line in whole[4:] for row in line[2]]
    with pytest.raises(
        InputError, match="6 rows in, which 1 processes with batches of 4 cannot reach evenly"
    ):
        train(tmp_path, "odd", max_steps=12, batch_size=4, resume="step=3.ckpt")
    rest = train(tmp_path, "next", max_steps=12 + 6, batch_size=4, resume="step=12.ckpt", every=99)
    assert [line[:2] for line in rest] == [[1, batch] for batch in range(6)]
    assert sorted(row for line in rest for row in line[2]) == list(range(23))


def test_other_data_or_another_seed_cannot_go_on_inside_an_epoch(tmp_path: Path) -> None:
    train(tmp_path, "whole", max_steps=5)
    with pytest.raises(InputError, match="The training data are not those of the checkpoint"):
        train(tmp_path, "other", max_steps=9, rows=24, resume="step=5.ckpt")
    with pytest.raises(InputError, match="Set seed_everything to 7"):
        train(tmp_path, "other", max_steps=9, seed=8, resume="step=5.ckpt")


RANKS = """
from pathlib import Path
from tests.taigi_lightning.data.test_dataloader import train
train(Path({folder!r}), "two", max_steps=9, devices=2)
"""


@pytest.mark.posix("two processes")
def test_two_ranks_share_the_epoch_and_one_can_finish_it(tmp_path: Path, warm_python: WarmPython) -> None:
    script = tmp_path / "two.py"
    script.write_text(RANKS.format(folder=str(tmp_path)))
    variables = {**environment(), "PYTHON_EXEC": warm_python.executable}
    done = subprocess.run(
        [warm_python.executable, script], env=variables, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    first, second = seen(tmp_path / "two.0"), seen(tmp_path / "two.1")
    assert [line[:2] for line in first] == [line[:2] for line in second]
    epoch = [row for line in (*first, *second) if line[0] == 0 for row in line[2]]
    assert sorted(epoch) == list(range(23))  # 6 steps of 2 x 2, the last one filled up without labels

    # In the middle of the first epoch: one rank takes the eleven rows that are left, each once.
    rest = train(tmp_path, "one", max_steps=3 + 6, resume="step=3.ckpt", every=99)
    before = [row for line in (*first, *second) if line[0] == 0 and line[1] < 3 for row in line[2]]
    assert sorted([*before, *(row for line in rest for row in line[2])]) == list(range(23))

    # At its end: the second epoch begins.
    rest = train(tmp_path, "next", max_steps=6 + 12, resume="step=6.ckpt", every=99)
    assert [line[:2] for line in rest] == [[1, batch] for batch in range(12)]
    assert sorted(row for line in rest for row in line[2]) == list(range(23))
