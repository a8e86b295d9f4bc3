"""What a mask says: documents and a window, or no more than that it is none of such."""

from __future__ import annotations

import gc

import pytest
import torch
from torch import Tensor

from taigi_lightning.fast_path.attention import seen
from taigi_lightning.fast_path.own_attention import Masks, read_mask
from tests.taigi_lightning.fast_path.document_masks import CPU, B, T, counted, mask_of


@pytest.mark.parametrize("window", [None, 1, 2, 3, 4, 8, 9, 50])
@pytest.mark.parametrize("rows", [([9], [9]), ([4, 5], [1, 7, 1]), ([1] * 9, [9]), ([1, 1, 7], [3, 3, 3])])
def test_documents_and_windows_are_read_from_the_mask(
    rows: tuple[list[int], ...], window: int | None
) -> None:
    mask = mask_of(*rows, window=window)
    found = read_mask(mask)
    assert found is not None
    longest = max(length for row in rows for length in row)
    if window == 1:  # each token sees itself alone: as good as a document of its own
        assert found.documents.starts.tolist() == list(range(B * T + 1))
        return
    ends = torch.tensor([length for row in rows for length in row]).cumsum(0)
    assert found.documents.starts.tolist() == [0, *ends.tolist()]
    assert found.window == (window if window is not None and window < longest else None)
    assert (found.documents.longest, found.documents.whole_rows) == (longest, rows == ([9], [9]))


def remade(mask: Tensor) -> Tensor | None:
    """What `read_mask` says of a mask as a mask again."""
    found = read_mask(mask)
    if found is None:
        return None
    numbers = found.documents.begins.cumsum(1)
    return (numbers[:, :, None] == numbers[:, None]) & seen(T, T, found.window, CPU)


@pytest.mark.parametrize("mask", [mask_of([9]), mask_of([4, 5]), mask_of([1, 7, 1], window=3)])
def test_no_single_pair_that_differs_is_overlooked(mask: Tensor) -> None:
    refused = 0
    for query in range(T):
        for key in range(T):
            other = mask.clone()
            other[0, query, key] ^= True
            found = remade(other)
            refused += found is None
            assert found is None or torch.equal(found, other)
    assert refused >= T * T - 2 * T


def others() -> dict[str, Tensor]:
    """Masks (1, T, T) of other rules."""
    causal, row = mask_of([9]), torch.arange(9)
    prefix = causal | ((row[:, None] < 3) & (row < 3))
    return {
        "sees itself both ways": torch.ones(1, 9, 9, dtype=torch.bool),
        "a prefix that does": prefix,
        "padding before": causal & (row >= 2),
        "padding behind": causal & (row < 6),
        "nothing at all": torch.zeros_like(causal),
        "all but itself": causal & (row[:, None] != row),
        "every other key": causal & ((row[:, None] - row) % 2 == 0),
        "sinks before a window": mask_of([9], window=3) | (causal & (row < 1)),
        "a window by turns": torch.where((row % 2 == 0)[:, None], causal, mask_of([9], window=3)),
        "a document that sees another": mask_of([4, 5]) | ((row[:, None] >= 4) & (row < 2)),
        "later tokens": causal.mT,
    }


@pytest.mark.parametrize("name", others())
def test_other_rules_are_told_apart(name: str) -> None:
    assert read_mask(others()[name]) is None
    together = torch.cat([mask_of([4, 5]), others()[name]])
    assert read_mask(together) is None  # one such row is enough


def test_rows_of_unlike_windows_are_no_pattern() -> None:
    assert read_mask(torch.cat([mask_of([9], window=3), mask_of([9], window=4)])) is None
    chunks = read_mask(torch.cat([mask_of([3, 3, 3]), mask_of([9], window=9)]))
    assert chunks is not None and chunks.window is None


def test_a_mask_is_read_once_and_again_when_it_was_written_to(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = counted(monkeypatch, "read_mask")
    masks, mask = Masks(), mask_of([4, 5])[:, None]
    first = masks.read(mask)
    assert first is not None and masks.read(mask) is first and len(calls) == 1
    mask[0, 0, 8, 0] = True
    assert masks.read(mask) is None and masks.read(mask) is None and len(calls) == 2
    assert masks.read(mask_of([4, 5])[:, None]) is not None and len(calls) == 3
    del mask, calls[:]
    gc.collect()
    assert len(masks._known) == 0
