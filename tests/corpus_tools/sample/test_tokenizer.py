"""The tiny tokenizer: whole words, bytes for the rest, nothing lost."""

import json
from pathlib import Path

import pytest
import sentencepiece

from corpus_tools.errors import InputError
from corpus_tools.sample.language import TAIGI_WORDS, words
from corpus_tools.sample.tokenizer import train_tokenizer
from corpus_tools.sample.write import write_sample


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    world = write_sample(
        tmp_path_factory.mktemp("world"),
        articles=0,
        questions=0,
        test_questions=0,
        pretraining_documents=500,
    )
    train_tokenizer(world, world / "tokenizer")
    return world / "tokenizer"


@pytest.fixture(scope="module")
def pieces(folder: Path) -> sentencepiece.SentencePieceProcessor:
    return sentencepiece.SentencePieceProcessor(model_file=str(folder / "tokenizer.model"))


def test_every_word_of_the_language_is_one_piece(pieces: sentencepiece.SentencePieceProcessor) -> None:
    for word in words():
        assert pieces.encode(f"，{word}。", out_type=str) == ["▁", "，", word, "。"]


def test_words_that_the_corpus_teaches_are_spelt(pieces: sentencepiece.SentencePieceProcessor) -> None:
    for word in TAIGI_WORDS.values():
        spelt = pieces.encode(word, out_type=str)
        assert len(spelt) > 2
        assert not any(piece.startswith("<0x") for piece in spelt)


def test_unknown_characters_fall_back_to_bytes(pieces: sentencepiece.SentencePieceProcessor) -> None:
    text = "囉，góa 𪜶"
    assert pieces.unk_id() not in pieces.encode(text)
    assert pieces.decode(pieces.encode(text)) == text


def test_the_files_are_shaped_as_the_real_bases(
    folder: Path, pieces: sentencepiece.SentencePieceProcessor
) -> None:
    assert sorted(path.name for path in folder.iterdir()) == [
        "special_tokens_map.json",
        "tokenizer.model",
        "tokenizer_config.json",
    ]
    assert (pieces.bos_id(), pieces.eos_id(), pieces.pad_id()) == (1, 2, 3)
    assert json.loads((folder / "tokenizer_config.json").read_text())["pad_token"] == "<pad>"


def test_the_embedded_base_holds_every_piece() -> None:
    base = Path("models/tiny-taigi")
    pieces = sentencepiece.SentencePieceProcessor(model_file=str(base / "tokenizer.model"))
    assert len(pieces) <= json.loads((base / "config.json").read_text())["vocab_size"]


def test_a_folder_without_text_is_named_with_the_command_that_fills_it(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="--pretraining_documents"):
        train_tokenizer(tmp_path, tmp_path / "tokenizer")
