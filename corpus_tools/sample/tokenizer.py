"""The tiny base's SentencePiece model, trained on the sample's reading exercises.

    python -m corpus_tools.sample.tokenizer FOLDER OUTPUT

FOLDER is what `corpus_tools sample` wrote; OUTPUT gets `tokenizer.model` and two small JSON files, shaped
like a Llama-2 model's: byte fallback, `<s>`, `</s>`, and a `<pad>` apart from `</s>`.
"""

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path

from corpus_tools.errors import InputError
from corpus_tools.sample.language import words
from corpus_tools.sample.texts import alphabet_of_texts

DELIMITER = "\t"
SPECIAL = {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>"}


def cut_words(text: str) -> str:
    """Put a tab between words, and between the characters of what is no listed word.

    >>> cut_words("阿明蹛佇台南。").split(DELIMITER)
    ['阿明', '蹛佇', '台南', '。']
    """
    return DELIMITER.join(_WORD.findall(text))


def train_tokenizer(sample_dir: str | Path, output_dir: str | Path) -> Path:
    """Write the tokenizer's files into `output_dir` and return the path of `tokenizer.model`.

    Pieces are the whole words of the sample language, every character of its texts, and 256 bytes.

    Raises:
        InputError: `sample_dir` holds no pre-training text.
    """
    import sentencepiece

    texts = sorted((Path(sample_dir) / "pretraining").glob("*.json"))
    if not texts:
        raise InputError(
            f"{sample_dir} holds no pretraining/*.json. Write it with: "
            f"python -m corpus_tools sample {sample_dir} --pretraining_documents 10000"
        )
    output = Path(output_dir)
    output.mkdir(parents=True, exist_ok=True)
    aside = output / ".tokenizer.model.part"
    with aside.open("wb") as file:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=_sentences(texts[0]),
            model_writer=file,
            model_type="bpe",
            vocab_size=2000,
            hard_vocab_limit=False,
            character_coverage=1.0,
            byte_fallback=True,
            split_digits=True,
            pretokenization_delimiter=DELIMITER,
            normalization_rule_name="identity",
            remove_extra_whitespaces=False,
            unk_id=0,
            bos_id=1,
            eos_id=2,
            pad_id=3,
            num_threads=1,
            minloglevel=2,
        )
    aside.replace(output / "tokenizer.model")
    settings = {"tokenizer_class": "LlamaTokenizer", "add_bos_token": True, "add_eos_token": False, **SPECIAL}
    for name, content in (("special_tokens_map.json", SPECIAL), ("tokenizer_config.json", settings)):
        (output / name).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8", newline="\n")
    return output / "tokenizer.model"


_WORD = re.compile("|".join(map(re.escape, words())) + "|.", re.DOTALL)


def _sentences(path: Path) -> Iterator[str]:
    """The exercises, then every word and character once more, so that none is missing.

    Each begins with a tab, or SentencePiece's opening space would make a second piece of the first word.
    """
    for row in json.loads(path.read_text(encoding="utf-8")):
        for line in row["text"].splitlines():
            yield DELIMITER + cut_words(line)
    letters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"
    yield DELIMITER.join(["", *words(), *alphabet_of_texts(), *letters, *"，。！？：；「」、（）()-,.!?"])


if __name__ == "__main__":
    print(train_tokenizer(sys.argv[1], sys.argv[2]))
