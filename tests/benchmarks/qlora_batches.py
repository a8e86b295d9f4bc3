"""Micro-batches for `qlora_points.py`: rows of equal or varying length, documents packed or padded, `fit`'s blocks."""

import argparse
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

CHARACTERS_PER_TOKEN = 1.2
PAD = 0
Batch = dict[str, Tensor]


def random_rows(args: argparse.Namespace, vocabulary: int) -> list[Batch]:
    generator = torch.Generator().manual_seed(1)
    positions = torch.arange(args.seq).repeat(args.bs, 1)
    drawn = (torch.randint(3, vocabulary, (args.bs, args.seq), generator=generator) for _ in range(3))
    return [{"input_ids": tokens, "labels": tokens, "position_ids": positions} for tokens in drawn]


def varying_rows(args: argparse.Namespace, vocabulary: int, equal: bool, count: int = 30) -> list[Batch]:
    """Short micro-batches as in SFT: rows of 150 to 600 tokens, another length each time, or all of the mean one."""
    generator = torch.Generator().manual_seed(0)
    lengths = torch.randint(150, 600, (count,), generator=generator).tolist()
    if equal:
        lengths = [round(sum(lengths) / count)] * count
    batches = []
    for length in lengths:
        tokens = torch.randint(3, vocabulary, (args.bs, length), generator=generator)
        positions = torch.arange(length).repeat(args.bs, 1)
        batches.append({"input_ids": tokens, "labels": tokens, "position_ids": positions})
    return batches


def document_lengths(corpus: Path | None) -> np.ndarray:
    """Tokens of each document of a corpus, at a stated number of characters each: no tokenizer is needed.

    Without a corpus, of 2,000 documents of 100 to 2,048 characters, every length as likely as another.
    """
    if corpus is None:
        characters = np.random.default_rng(0).integers(100, 2049, 2000)
        return np.ceil(characters / CHARACTERS_PER_TOKEN).astype(np.int64)
    import pyarrow.parquet as pq

    files = sorted(corpus.glob("train-*.parquet"))
    characters = np.concatenate([pq.read_table(f, columns=["characters"])["characters"] for f in files])
    return np.ceil(characters / CHARACTERS_PER_TOKEN).astype(np.int64)


def random_documents(args: argparse.Namespace, vocabulary: int, packed: bool, count: int = 6) -> list[Batch]:
    """Batches of random tokens in documents of the corpus's lengths, in an order drawn once."""
    from taigi_lightning.data.collate import pad_right
    from taigi_lightning.data.packing import Blocks, pack_documents, separate_documents

    lengths = document_lengths(args.corpus)
    tokens = np.random.default_rng(1).integers(3, vocabulary, int(lengths.sum()), dtype=np.int32)
    packing = (pack_documents if packed else separate_documents)(lengths, args.seq)
    blocks = Blocks(tokens, tokens, packing, PAD)
    order = np.random.default_rng(2).permutation(len(blocks))
    rows = [blocks[i] for i in order[: count * args.bs]]
    return [pad_right(rows[i : i + args.bs], PAD) for i in range(0, len(rows), args.bs)]


def corpus_blocks(args: argparse.Namespace, count: int = 6) -> tuple[list[Batch], int]:
    from taigi_lightning.data.cpt import CPTDataModule

    data = CPTDataModule(
        str(args.corpus), args.tokenizer, batch_size=args.bs, max_length=args.seq, validation_split=None
    )
    data.prepare_data()
    data.setup("fit")
    taken = [batch for batch, _ in zip(data.train_dataloader(), range(count), strict=False)]
    return taken, data.splits["train"].blocks.pad_id


def make_batches(args: argparse.Namespace, data: str, vocabulary: int) -> tuple[list[Batch], int]:
    """Batches on the CPU, and the token that pads them."""
    if data == "rows":
        return random_rows(args, vocabulary), PAD
    if data in ("lengths", "equal"):
        return varying_rows(args, vocabulary, equal=data == "equal"), PAD
    if data == "corpus":
        return corpus_blocks(args)
    return random_documents(args, vocabulary, packed=data == "packed"), PAD
