"""A tiny SentencePiece tokenizer and a tiny Llama whose files look like the real base model's."""

import json
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest
import sentencepiece
import torch
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerBase

from tests.plain_python import PlainPython
from tests.warm_python import WarmPython

TEXT = """\
根據前文內容回答問題
前文：阿明下晡欲去市仔買菜，伊毋知影按怎行。
問題：阿明欲去佗位？
根據問題，從以下四個選項選出正確的選項編號(1-4)
選項1：市仔
選項2：學校
選項3：厝--lìn
選項4：海邊
答案：1 2 3 4
早起時仔，阿母佇灶跤煮糜，囡仔攏閣咧睏。
阮兜蹛佇台南，厝邊頭尾攏真好鬥陣。
Lí hó, lán lâi-khì tâi-uân chia̍h-pn̄g!
伊講：「今仔日的天氣真好，咱來去海邊仔𨑨迌。」
昨昏暗時落大雨，路頂攏是水，阿公行路真細膩。
"""


# Of every command that a test starts: what outlines cannot parse must not fall back to slow imports unseen, and in what
# encoding libraries open their files is not ours to say. In our own packages that is an error where it happens in the
# tests' process (pyproject.toml) or in one that acts Windows; ruff forbids it everywhere.
os.environ["PYTHONWARNINGS"] = (
    "error:The command line could not be read ahead:ImportWarning,ignore::EncodingWarning"
)


def pytest_configure(config: pytest.Config) -> None:
    """The tests' own files are opened without a word on their encoding, and no outcome hangs on how tests are run.

    Signals do what they do in a terminal, and examples take as long as they take.
    """
    if sys.platform == "win32" and not sys.flags.utf8_mode:
        pytest.exit("The tests' files are UTF-8: set PYTHONUTF8=1 before pytest.", returncode=2)
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        # A script's job in the background: the commands that tests stop would ignore Ctrl-C as well.
        signal.signal(signal.SIGINT, signal.default_int_handler)
    # What a crowded machine takes for an example says nothing about the code.
    slow = [hypothesis.HealthCheck.too_slow]
    hypothesis.settings.register_profile("any machine", deadline=None, suppress_health_check=slow)
    hypothesis.settings.load_profile("any machine")


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip, on Windows, what the marker `posix` says cannot run there."""
    marker = item.get_closest_marker("posix")
    if marker is not None and sys.platform == "win32":
        pytest.skip(f"needs what only POSIX has: {marker.args[0]}")


@pytest.fixture(autouse=True)
def same_environment() -> Iterator[None]:
    """No test leaves variables to the next: a trainer sets LOCAL_RANK, which makes of a later one a rank of nothing."""
    before = dict(os.environ)
    yield
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture(scope="session")
def warm_python() -> Iterator[WarmPython | PlainPython]:
    """A Python in which heavy packages are loaded already, for commands as a user types them; elsewhere a new one."""
    with WarmPython() if hasattr(os, "fork") else PlainPython() as python:
        yield python


@pytest.fixture(scope="session")
def tiny_tokenizer_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder holding `tokenizer.model` and its two JSON files: byte fallback, BOS 1, EOS 2, PAD 3."""
    folder = tmp_path_factory.mktemp("tiny-tokenizer")
    with (folder / "tokenizer.model").open("wb") as model:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(TEXT.splitlines() * 4),
            model_writer=model,
            model_type="bpe",
            vocab_size=512,
            character_coverage=0.99,
            byte_fallback=True,
            split_digits=True,
            normalization_rule_name="identity",
            remove_extra_whitespaces=False,
            allow_whitespace_only_pieces=True,
            hard_vocab_limit=False,
            unk_id=0,
            bos_id=1,
            eos_id=2,
            pad_id=3,
            pad_piece="<pad>",
            num_threads=1,
            minloglevel=2,
        )
    tokens = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"}
    (folder / "special_tokens_map.json").write_text(json.dumps(tokens))
    settings = {"tokenizer_class": "LlamaTokenizer", "add_bos_token": True, "add_eos_token": False}
    (folder / "tokenizer_config.json").write_text(json.dumps(tokens | settings))
    return folder


@pytest.fixture(scope="session")
def tiny_tokenizer(tiny_tokenizer_dir: Path) -> PreTrainedTokenizerBase:
    """The tiny tokenizer, loaded."""
    tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(tiny_tokenizer_dir)
    return tokenizer


@pytest.fixture(scope="session")
def tiny_llama_dir(tmp_path_factory: pytest.TempPathFactory, tiny_tokenizer_dir: Path) -> Path:
    """A 2-layer random Llama: bfloat16 safetensors in several shards with an index, and no tokenizer.json.

    Treat it as read-only: the folder is shared by every test of the session.
    """
    folder = tmp_path_factory.mktemp("tiny-llama")
    for file in tiny_tokenizer_dir.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    config = LlamaConfig(
        vocab_size=len(AutoTokenizer.from_pretrained(tiny_tokenizer_dir)),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=4096,
        tie_word_embeddings=False,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=3,
    )
    with torch.random.fork_rng():
        torch.manual_seed(9527)
        model = LlamaForCausalLM(config).to(torch.bfloat16)
    model.save_pretrained(folder, max_shard_size="150KB")
    return folder


# Of two workers one would be left alone with them: they begin first, each file in one worker (--dist loadfile).
LONGEST = [
    "test_wrong_inputs",
    "test_readme",
    "test_processes",
    "test_generations",
    "test_distributed",
    "test_learning",
    "test_machine_errors",
    "test_merge",
    "test_colab",
    "test_sweep",
    "test_windows_like",
    "test_commands",
    "test_every_class",
    "test_outlines",
    "test_consoles",
    "test_command_line",
    "test_packed_loading",
    "test_best_checkpoint",
    "test_lightning_cli",
    "test_another_language",
    "test_shared_weights",
    "test_callbacks",
    "test_hardware_table",
    "test_wandb",
]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the files that take longest before the others, in the order of `LONGEST`."""
    items.sort(key=lambda item: LONGEST.index(item.path.stem) if item.path.stem in LONGEST else len(LONGEST))
