"""Sources in given shares: exact at every place, the first once an epoch, nothing of the others left out for ever."""

import numpy as np
import pytest

from taigi_lightning.data.dataloader import EpochBatches
from taigi_lightning.data.mixture import MixedBlocks, read_weights
from taigi_lightning.data.packing import Blocks, separate_documents
from taigi_lightning.errors import InputError


def blocks(rows: int, first: int) -> Blocks:
    """Rows of three tokens each, which begin with their number."""
    tokens = np.array([token for row in range(rows) for token in (first + row, 1, 2)], dtype=np.int32)
    return Blocks(tokens, tokens, separate_documents(np.full(rows, 3), 8), 0)


def sources(mixed: MixedBlocks, epoch: int, seed: int | None = 7) -> list[int]:
    return [int(mixed[index]["input_ids"][0]) // 1000 for index in mixed.order(seed, epoch)]


def test_an_epoch_is_one_pass_through_the_first_source_and_shares_hold_everywhere() -> None:
    mixed = MixedBlocks([blocks(80, 0), blocks(500, 1000), blocks(3, 2000)], [8, 1, 1])
    order = mixed.order(7, 0)
    assert len(order) == mixed.epoch_rows == 100
    assert sorted(order[order < 80].tolist()) == list(range(80))
    taken = np.array(sources(mixed, 0))
    for source, share in enumerate((0.8, 0.1, 0.1)):
        reached = np.cumsum(taken == source)
        assert np.abs(reached - share * np.arange(1, 101)).max() <= 1.0


def test_a_large_source_goes_on_and_a_small_one_begins_again() -> None:
    mixed = MixedBlocks([blocks(80, 0), blocks(40, 1000), blocks(3, 2000)], [8, 1, 1])
    seen = [int(mixed[i]["input_ids"][0]) for epoch in range(4) for i in mixed.order(7, epoch)]
    assert sorted(number for number in seen if 1000 <= number < 2000) == list(range(1000, 1040))
    counts = np.bincount([number - 2000 for number in seen if number >= 2000])
    assert counts.max() - counts.min() <= 1


def test_the_order_is_that_of_the_seed_and_the_epoch() -> None:
    mixed = MixedBlocks([blocks(80, 0), blocks(500, 1000)], [3, 1])
    same = MixedBlocks([blocks(80, 0), blocks(500, 1000)], [0.75, 0.25])
    assert mixed.order(7, 1).tolist() == same.order(7, 1).tolist() != mixed.order(7, 0).tolist()
    assert mixed.order(8, 1).tolist() != mixed.order(7, 1).tolist()
    assert mixed.digest == same.digest != MixedBlocks(mixed.parts, [1, 1]).digest


def test_ranks_and_batches_divide_a_mixture_without_remainder_or_repetition() -> None:
    mixed = MixedBlocks([blocks(21, 0), blocks(9, 1000)], [2, 1])
    given: list[int] = []
    for rank in range(2):
        sampler = EpochBatches(mixed.epoch_rows, 4, seed=7, rank=rank, ranks=2, order=mixed.order)
        given += [index for batch in sampler for index in batch]
    assert sorted(index for index in given if index >= 0) == sorted(mixed.order(7, 0).tolist())
    fillers = [index for index in given if index < 0]
    assert len(given) % 8 == 0 and all((mixed[index]["labels"] == -100).all() for index in fillers)


def test_targets_are_those_of_the_parts() -> None:
    mixed = MixedBlocks([blocks(5, 0), blocks(2, 1000)], [1, 1])
    assert mixed.targets.tolist() == [2] * 7 and mixed.supervised_tokens == 14
    assert mixed[6]["input_ids"][0] == 1001 and mixed[~6]["input_ids"][0] == 1001
    assert (mixed[~6]["labels"] == -100).all()


@pytest.mark.parametrize("weight", [0, -1, float("nan"), float("inf")])
def test_a_share_is_above_zero(weight: float) -> None:
    with pytest.raises(InputError, match="gives b the weight"):
        read_weights({"a": 1, "b": weight}, "data_dir")
    with pytest.raises(InputError, match="names no source"):
        read_weights({}, "data_dir")
