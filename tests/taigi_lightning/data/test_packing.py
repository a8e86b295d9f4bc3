import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from taigi_lightning.data.packing import Blocks, best_fit_decreasing, pack_documents, separate_documents
from taigi_lightning.tasks.prompts import IGNORE

PAD = 0


def documents(lengths: list[int]) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    """Documents whose tokens count up from 1 through all of them, and their lengths."""
    return np.arange(1, sum(lengths) + 1, dtype=np.int32), np.array(lengths, dtype=np.int64)


def test_a_block_drawn() -> None:
    tokens, lengths = documents([3, 2])
    blocks = Blocks(tokens, tokens, pack_documents(lengths, 8), PAD)
    assert len(blocks) == 1
    row = blocks[0]
    assert row["input_ids"].tolist() == [1, 2, 3, 4, 5, PAD, PAD, PAD]
    assert row["labels"].tolist() == [IGNORE, 2, 3, IGNORE, 5, IGNORE, IGNORE, IGNORE]
    assert row["position_ids"].tolist() == [0, 1, 2, 0, 1, 0, 1, 2]
    assert {values.dtype for values in row.values()} == {np.dtype(np.int64)}
    assert blocks.supervised_tokens == 3


def test_a_filler_has_the_same_tokens_and_no_label() -> None:
    tokens, lengths = documents([3, 2])
    blocks = Blocks(tokens, tokens, pack_documents(lengths, 8), PAD)
    filler = blocks[~0]
    assert filler["input_ids"].tolist() == blocks[0]["input_ids"].tolist()
    assert filler["position_ids"].tolist() == blocks[0]["position_ids"].tolist()
    assert set(filler["labels"].tolist()) == {IGNORE}


def test_unsupervised_tokens_stay_unsupervised() -> None:
    tokens, lengths = documents([3, 3])
    labels = np.array([IGNORE, IGNORE, 3, 4, IGNORE, 6], dtype=np.int32)  # 4 is a document's first token
    blocks = Blocks(tokens, labels, pack_documents(lengths, 6), PAD)
    assert blocks[0]["labels"].tolist() == [IGNORE, IGNORE, 3, IGNORE, IGNORE, 6]
    assert blocks.supervised_tokens == 2


def test_a_document_longer_than_a_block_is_cut_into_consecutive_pieces_and_counted() -> None:
    tokens, lengths = documents([10, 4])
    packing = pack_documents(lengths, 4)
    blocks = Blocks(tokens, tokens, packing, PAD)
    rows = [blocks[i]["input_ids"].tolist() for i in range(len(blocks))]
    assert sorted(rows) == [[1, 2, 3, 4], [5, 6, 7, 8], [9, 10, PAD, PAD], [11, 12, 13, 14]]
    assert packing.cut == 1
    assert packing.padding_share == pytest.approx(2 / 16)


def test_the_best_fit_is_chosen() -> None:
    # First fit would put 3 with 6; best fit fills the bin of 7 exactly and leaves 6 open for the 4.
    assert best_fit_decreasing(np.array([6, 7, 3, 4]), 10).tolist() == [1, 0, 0, 1]


def test_separate_documents_are_rows_of_their_own_length() -> None:
    tokens, lengths = documents([3, 5, 2])
    packing = separate_documents(lengths, 4)
    blocks = Blocks(tokens, tokens, packing, PAD)
    assert [blocks[i]["input_ids"].tolist() for i in range(len(blocks))] == [
        [1, 2, 3],
        [4, 5, 6, 7],
        [8],
        [9, 10],
    ]
    assert packing.cut == 1


@settings(deadline=None)
@given(st.lists(st.integers(1, 50), min_size=1, max_size=60), st.integers(2, 20))
def test_every_token_is_in_exactly_one_block_in_order(sizes: list[int], max_length: int) -> None:
    tokens, lengths = documents(sizes)
    for packing in (pack_documents(lengths, max_length), separate_documents(lengths, max_length)):
        blocks = Blocks(tokens, tokens, packing, PAD)
        rows = [blocks[i] for i in range(len(blocks))]
        seen = np.concatenate([row["input_ids"] for row in rows])
        assert sorted(seen[seen != PAD].tolist()) == tokens.tolist()
        assert all(len(row["input_ids"]) <= max_length for row in rows)
        for row in rows:
            inside = (row["position_ids"][1:] > 0) & (row["input_ids"][1:] != PAD)
            assert (np.diff(row["input_ids"])[inside] == 1).all()  # documents are never mixed
            assert ((row["labels"] == IGNORE) | (row["labels"] == row["input_ids"])).all()
            assert (row["labels"][row["position_ids"] == 0] == IGNORE).all()
        assert sum(int((row["labels"] != IGNORE).sum()) for row in rows) == blocks.supervised_tokens
        assert packing.cut == sum(size > max_length for size in sizes)


def test_blocks_of_corpus_like_documents_are_nearly_full() -> None:
    lengths = np.random.default_rng(9527).integers(60, 2500, 20_000)
    packing = pack_documents(lengths, 2048)
    assert packing.padding_share < 0.005
    assert np.add.reduceat(packing.lengths, packing.offsets[:-1]).max() <= 2048
    assert (pack_documents(lengths, 2048).starts == packing.starts).all()


def test_the_digest_tells_other_data_and_another_packing_apart() -> None:
    tokens, lengths = documents([3, 2])
    digests = {
        Blocks(tokens, tokens, pack_documents(lengths, 8), PAD).digest,
        Blocks(tokens, tokens, pack_documents(lengths, 9), PAD).digest,
        Blocks(tokens, tokens, separate_documents(lengths, 8), PAD).digest,
        Blocks(tokens + 1, tokens, pack_documents(lengths, 8), PAD).digest,
    }
    assert len(digests) == 4
    assert Blocks(tokens, tokens, pack_documents(lengths, 8), PAD).digest in digests
