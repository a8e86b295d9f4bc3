"""What a model writes: transformers' own text, in batches as alone, ended with its turn, resumed where it stopped."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from taigi_lightning.errors import InputError
from taigi_lightning.evaluation.generation import Sampling, TextWriter
from taigi_lightning.evaluation.generation_files import read_prompts, write_all
from taigi_lightning.tasks.conversations import Conversation

GREEDY = Sampling(max_new_tokens=8, temperature=0)
TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}<|start|>{{ m.role }}\n{{ m.content }}<|eot|>{% endfor %}"
    "{% if add_generation_prompt %}<|start|>assistant\n{% endif %}"
)


@pytest.fixture(scope="module")
def model(tiny_llama_dir: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(tiny_llama_dir, dtype=torch.float32).eval()


@pytest.fixture
def tokenizer(tiny_llama_dir: Path) -> Any:
    return AutoTokenizer.from_pretrained(tiny_llama_dir)


def asked(*texts: str) -> Conversation:
    roles = ("user", "assistant")
    turns = tuple({"role": roles[n % 2], "content": text} for n, text in enumerate(texts))
    return Conversation("the prompt", turns, b"")


def test_greedy_text_is_transformers_own_and_a_batch_changes_nothing(model: Any, tokenizer: Any) -> None:
    writer = TextWriter(model, tokenizer, GREEDY, chat=False)
    prompts = [writer.encode(asked(text)) for text in ("食", "阿明下晡欲去市仔買菜")]
    found = writer.write(prompts)
    for ids, written in zip(prompts, found, strict=True):
        (own,) = model.generate(torch.tensor([ids]), do_sample=False, max_new_tokens=8).tolist()
        expected = tokenizer.decode(own[len(ids) :], skip_special_tokens=True)
        assert written.text == expected


def test_every_sampling_option_reaches_transformers(tokenizer: Any) -> None:
    given = {"temperature": 1.5, "top_p": 0.8, "top_k": 7, "min_p": 0.1, "typical_p": 0.9,
             "repetition_penalty": 1.2, "no_repeat_ngram_size": 3, "max_new_tokens": 5}  # fmt: skip
    config = Sampling(**given).config(tokenizer, [2])
    assert {name: getattr(config, name) for name in given} == given and config.do_sample
    assert set(Sampling().described()) == {*given, "seed"}


def test_the_seed_decides_what_is_drawn(model: Any, tokenizer: Any) -> None:
    def drawn(seed: int, number: int = 0) -> str:
        writer = TextWriter(
            model, tokenizer, Sampling(max_new_tokens=8, temperature=2.0, seed=seed), chat=False
        )
        return writer.write([writer.encode(asked("食"))], number)[0].text

    assert drawn(1) == drawn(1)
    assert len({drawn(1), drawn(2), drawn(1, number=8)}) == 3


def test_a_conversation_is_asked_as_it_is_trained_on(model: Any, tokenizer: Any) -> None:
    plain = TextWriter(model, tokenizer, GREEDY, chat=True)
    eos = tokenizer.eos_token_id
    assert plain.encode(asked("食飽未？")) == tokenizer("食飽未？\n")["input_ids"]
    first = [*tokenizer("食飽未？\n食矣")["input_ids"], eos]
    assert plain.encode(asked("食飽未？", "食矣", "好"))[: len(first)] == first
    assert plain.settings.eos_token_id == [eos]
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|start|>", "<|eot|>"]})
    tokenizer.chat_template = TEMPLATE
    chat = TextWriter(model, tokenizer, GREEDY, chat=True)
    messages = [{"role": "user", "content": "食飽未？"}]
    expected = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
    assert chat.encode(asked("食飽未？")) == expected
    assert chat.settings.eos_token_id == [eos, tokenizer.convert_tokens_to_ids("<|eot|>")]


def test_a_text_ends_where_the_turn_does(model: Any, tokenizer: Any) -> None:
    writer = TextWriter(model, tokenizer, GREEDY, chat=False)
    ids = tokenizer("食飯", add_special_tokens=False)["input_ids"]
    assert writer._written([*ids, tokenizer.eos_token_id, 5]).finished
    assert writer._written([*ids, tokenizer.eos_token_id, 5]).text.strip() == "食飯"
    assert not writer._written(ids).finished


def test_a_prompt_that_fills_the_model_is_refused(model: Any, tokenizer: Any) -> None:
    writer = TextWriter(model, tokenizer, Sampling(max_new_tokens=100_000), chat=False)
    with pytest.raises(InputError, match="max_new_tokens=100000 that is more than"):
        writer.encode(asked("食"))


def test_a_conversation_is_no_text_to_go_on_with(model: Any, tokenizer: Any) -> None:
    writer = TextWriter(model, tokenizer, GREEDY, chat=False)
    with pytest.raises(InputError, match=r"several turns. Give --chat"):
        writer.encode(asked("食飽未？", "食矣", "好"))


def test_an_interrupted_file_goes_on_where_it_stopped(model: Any, tokenizer: Any, tmp_path: Path) -> None:
    path = tmp_path / "prompts.jsonl"
    path.write_text(
        "".join(json.dumps({"prompt": "食" * n, "n": n}) + "\n" for n in range(1, 8)), encoding="utf-8"
    )
    writer = TextWriter(model, tokenizer, Sampling(max_new_tokens=4, temperature=1.5), chat=False)
    prompts = read_prompts(path)

    def write(name: str, identity: dict[str, Any], stop_after: int = 99) -> list[int]:
        seen: list[int] = []

        def said(done: int, total: int) -> None:
            seen.append(done)
            if done >= stop_after:
                raise KeyboardInterrupt

        write_all(writer, prompts, tmp_path / name, identity, 2, said)
        return seen

    assert write("whole.jsonl", {"run": 1}) == [2, 4, 6, 7]
    with pytest.raises(KeyboardInterrupt):
        write("again.jsonl", {"run": 1}, stop_after=4)
    assert not (tmp_path / "again.jsonl").exists()
    assert write("again.jsonl", {"run": 1}) == [6, 7]
    assert (tmp_path / "again.jsonl").read_bytes() == (tmp_path / "whole.jsonl").read_bytes()
    assert not list(tmp_path.glob("*.journal"))
    with pytest.raises(KeyboardInterrupt):
        write("other.jsonl", {"run": 1}, stop_after=4)
    assert write("other.jsonl", {"run": 2}) == [2, 4, 6, 7]  # another model, say
    kept = (tmp_path / "other.jsonl.journal.old").read_text(encoding="utf-8").splitlines()
    assert len(kept) == 1 + 4  # nothing that was written is lost


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"n": 1}, "line 1: there is no prompt"),
        ({"prompt": "a", "generated": "b"}, "column generated already"),
    ],
)
def test_prompts_that_cannot_be_used(tmp_path: Path, row: dict[str, Any], said: str) -> None:
    path = tmp_path / "prompts.jsonl"
    path.write_text(json.dumps(row) + "\n", encoding="utf-8")
    with pytest.raises(InputError, match=said):
        read_prompts(path)
