"""The cleaned corpus as token ids, kept in a cache that a changed corpus or tokenizer never hits."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any, NamedTuple

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerBase

from taigi_lightning.errors import InputError
from taigi_lightning.tasks.prompts import encode_text
from taigi_lightning.tasks.text_template import TextTemplate

PLAIN = "{text}"  # a document is its text alone
DOCUMENT = "data.init_args.document"
CACHE_VERSION = "1"  # raise it whenever the same text would give other ids


class TokenizedCorpus(NamedTuple):
    """Documents laid end to end: `tokens` [N] int32, each document's `lengths` [D] int64, and characters."""

    tokens: NDArray[np.int32]
    lengths: NDArray[np.int64]
    characters: int


def corpus_files(data_dir: Path, split: str) -> list[Path]:
    """Find the Parquet files of one split of a corpus folder, in order.

    Raises:
        InputError: there is no such folder or split, or a file has no column `text`.
    """
    if not data_dir.is_dir():
        raise InputError(
            f"There is no corpus folder {data_dir}. Make it with "
            "`python -m corpus_tools clean data/IMA-Taiwan`."
        )
    files = sorted(data_dir.glob(f"{split}-*.parquet"))
    if not files:
        found = (
            ", ".join(sorted(file.name for file in data_dir.glob("*.parquet"))) or "no Parquet file at all"
        )
        raise InputError(
            f"{data_dir} holds no {split}-*.parquet; found {found}. Clean the corpus again, or name "
            "another split."
        )
    for file in files:
        try:
            columns = pq.read_schema(file).names
        except pa.ArrowInvalid as error:
            raise InputError(f"{file} is not a Parquet file ({error}). Clean the corpus again.") from error
        if "text" not in columns:
            raise InputError(f"{file} has no column text; found {', '.join(columns)}. Rename one of them.")
    return files


def tokenize_corpus(
    files: list[Path],
    tokenizer: PreTrainedTokenizerBase,
    cache_dir: Path | None = None,
    template: str = PLAIN,
) -> TokenizedCorpus:
    """Encode the documents: each as BOS, where the tokenizer has one, its text and EOS.

    Args:
        files: Parquet files.
        tokenizer: The base model's.
        cache_dir: Where the ids are kept, under a name made from the files' bytes and the tokenizer; None
            means the cache of the library datasets.
        template: What to make of the columns; a column without a value is empty text.

    Raises:
        InputError: the files hold no document, or the template asks for a column that they lack.
    """
    folder = cache_dir or Path(datasets.config.HF_DATASETS_CACHE) / "taigi_lightning"
    cache = folder / f"{_fingerprint(files, tokenizer, template)}.arrow"
    if not cache.exists():
        folder.mkdir(parents=True, exist_ok=True)
        _write_cache(files, tokenizer, cache, TextTemplate(DOCUMENT, template))
    table = datasets.Dataset.from_file(str(cache)).data
    ids = table.column("input_ids").chunks
    tokens = np.concatenate([chunk.flatten().to_numpy() for chunk in ids])
    lengths = np.concatenate([pc.list_value_length(chunk).to_numpy() for chunk in ids]).astype(np.int64)
    return TokenizedCorpus(tokens, lengths, pc.sum(table.column("characters")).as_py())


def check_template(files: list[Path], template: str) -> None:
    """Refuse a template that asks for columns which the files do not have.

    Raises:
        InputError: it does, or it has none, or a brace is open.
    """
    document = TextTemplate(DOCUMENT, template)
    for file in files:
        document.check(pq.read_schema(file).names, str(file))
    if not document.placeholders:
        raise InputError(
            f"{DOCUMENT} is {template!r}, the same for every document. Name a column, as in {PLAIN!r}."
        )


def _write_cache(
    files: list[Path], tokenizer: PreTrainedTokenizerBase, cache: Path, template: TextTemplate
) -> None:
    names = list(template.placeholders)
    texts = pa.concat_tables([pq.read_table(file, columns=names) for file in files])
    if not texts.num_rows:
        raise InputError(
            f"{files[0].parent} holds no document in {files[0].name}. Were the texts too short or dropped? "
            "report.html in that folder says why."
        )

    def encode(batch: dict[str, list[Any]]) -> dict[str, Any]:
        rows = [
            dict(zip(names, values, strict=True))
            for values in zip(*(batch[name] for name in names), strict=True)
        ]
        documents = [
            template.render({name: "" if value is None else str(value) for name, value in row.items()})
            for row in rows
        ]
        return {
            "input_ids": [[*ids, tokenizer.eos_token_id] for ids in encode_text(tokenizer, documents)],
            "characters": [len(text) for text in documents],
        }

    features = {"input_ids": datasets.List(datasets.Value("int32")), "characters": datasets.Value("int64")}
    datasets.Dataset(texts).map(
        encode,
        batched=True,
        remove_columns=names,
        features=datasets.Features(features),
        cache_file_name=str(cache),  # the library writes it aside and renames it
        new_fingerprint=cache.stem,  # else it hashes the tokenizer's state, which changes with use
        desc="Tokenizing",
    )


def _fingerprint(files: list[Path], tokenizer: PreTrainedTokenizerBase, template: str) -> str:
    version = CACHE_VERSION if template == PLAIN else f"{CACHE_VERSION} {template}"
    digest = hashlib.blake2b(version.encode(), digest_size=16)
    for path in files:
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "blake2b").digest())
    backend = getattr(tokenizer, "backend_tokenizer", None)
    known = backend.to_str() if backend else json.dumps(tokenizer.get_vocab(), sort_keys=True)
    digest.update(f"{type(tokenizer).__name__} {tokenizer.eos_token_id} {known}".encode())
    return digest.hexdigest()
