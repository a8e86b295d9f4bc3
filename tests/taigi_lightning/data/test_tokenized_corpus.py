import os
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from transformers import PreTrainedTokenizerBase

from taigi_lightning.data.tokenized_corpus import check_template, corpus_files, tokenize_corpus
from taigi_lightning.errors import InputError


def write(folder: Path, texts: list[str], split: str = "train", part: int = 0, column: str = "text") -> Path:
    path = folder / f"{split}-{part:05d}-of-00002.parquet"
    pq.write_table(pa.table({column: pa.array(texts, pa.string()), "title": texts}), path)
    return path


def test_documents_become_bos_text_eos_in_file_order(
    tmp_path: Path, tiny_tokenizer: PreTrainedTokenizerBase
) -> None:
    write(tmp_path, ["阿明</s>"], part=1)
    write(tmp_path, ["Lí hó", ""], part=0)
    corpus = tokenize_corpus(corpus_files(tmp_path, "train"), tiny_tokenizer, tmp_path / "cache")
    bos, eos = tiny_tokenizer.bos_token_id, tiny_tokenizer.eos_token_id
    expected = [
        [*tiny_tokenizer(text, split_special_tokens=True)["input_ids"], eos]
        for text in ("Lí hó", "", "阿明</s>")
    ]
    assert corpus.tokens.tolist() == [token for ids in expected for token in ids]
    assert corpus.lengths.tolist() == [len(ids) for ids in expected]
    assert corpus.tokens.tolist().count(bos) == corpus.tokens.tolist().count(eos) == 3
    assert corpus.characters == 5 + 0 + 6


def test_the_cache_is_used_and_never_for_another_text_or_tokenizer(
    tmp_path: Path, tiny_tokenizer: PreTrainedTokenizerBase, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = tmp_path / "cache"
    file = write(tmp_path, ["阿明"])
    first = tokenize_corpus([file], tiny_tokenizer, cache)
    assert len(list(cache.iterdir())) == 1
    with monkeypatch.context() as patch:
        patch.setattr("taigi_lightning.data.tokenized_corpus.encode_text", None)  # would fail if called
        again = tokenize_corpus([file], tiny_tokenizer, cache)
    assert again.tokens.tolist() == first.tokens.tolist()

    stat = file.stat()
    write(tmp_path, ["阿英"])

    os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns))  # same name, size and time, other text
    assert tokenize_corpus([file], tiny_tokenizer, cache).tokens.tolist() != first.tokens.tolist()

    write(tmp_path, ["阿明"])
    other = type(tiny_tokenizer).from_pretrained(tiny_tokenizer.name_or_path)
    other.add_tokens(["阿明下晡"])
    tokenize_corpus([file], other, cache)
    assert len(list(cache.iterdir())) == 3


def test_what_is_missing_is_named(tmp_path: Path, tiny_tokenizer: PreTrainedTokenizerBase) -> None:
    with pytest.raises(InputError, match=r"There is no corpus folder .*corpus_tools clean"):
        corpus_files(tmp_path / "absent", "train")
    with pytest.raises(InputError, match=r"holds no train-\*.parquet; found no Parquet file at all"):
        corpus_files(tmp_path, "train")
    write(tmp_path, ["甲"], split="validation")
    with pytest.raises(InputError, match="found validation-00000"):
        corpus_files(tmp_path, "train")
    write(tmp_path, ["甲"], column="content")
    with pytest.raises(InputError, match="has no column text; found content, title"):
        corpus_files(tmp_path, "train")
    with pytest.raises(InputError, match="holds no document"):
        tokenize_corpus([write(tmp_path, [])], tiny_tokenizer, tmp_path / "cache")
    (tmp_path / "train-00000-of-00002.parquet").write_text("no")
    with pytest.raises(InputError, match="is not a Parquet file"):
        corpus_files(tmp_path, "train")


def test_a_document_may_be_made_of_several_columns(
    tmp_path: Path, tiny_tokenizer: PreTrainedTokenizerBase
) -> None:
    table = pa.table({"title": ["春天", None], "text": ["花開矣。", "雨落矣。"]})
    pq.write_table(table, tmp_path / "train-00000-of-00001.parquet")
    files = corpus_files(tmp_path, "train")
    found = tokenize_corpus(files, tiny_tokenizer, tmp_path / "cache", "{title}\n{text}")
    eos = tiny_tokenizer.eos_token_id
    expected = [[*tiny_tokenizer(text)["input_ids"], eos] for text in ("春天\n花開矣。", "\n雨落矣。")]
    assert found.tokens.tolist() == [*expected[0], *expected[1]]
    assert found.characters == 7 + 5
    plain = tokenize_corpus(files, tiny_tokenizer, tmp_path / "cache")
    assert plain.characters == 8


@pytest.mark.parametrize(
    ("template", "said"),
    [
        ("{titel}", r"\{titel\}.*found title, text"),
        ("一", "the same for every document"),
        ("{text", "expected"),
    ],
)
def test_a_template_that_fits_no_corpus_is_refused(tmp_path: Path, template: str, said: str) -> None:
    pq.write_table(
        pa.table({"title": ["春天"], "text": ["花開矣。"]}), tmp_path / "train-00000-of-00001.parquet"
    )
    with pytest.raises(InputError, match=said):
        check_template(corpus_files(tmp_path, "train"), template)
