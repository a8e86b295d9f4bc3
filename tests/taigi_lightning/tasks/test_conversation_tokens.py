"""Conversations as ids: exactly the template's own, and labels on all that the assistant says and nothing else."""

from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from taigi_lightning.errors import InputError
from taigi_lightning.tasks.conversation_tokens import encode_conversation_example
from taigi_lightning.tasks.conversations import Conversation
from taigi_lightning.tasks.prompts import IGNORE, Example

TINY = Path(__file__).parents[3] / "models" / "tiny-taigi"
SYSTEM = {"role": "system", "content": "講台語。"}
CHAT = [
    {"role": "user", "content": "食飽未？"},
    {"role": "assistant", "content": " 食飽矣。 "},
    {"role": "user", "content": "欲食啥？"},
    {"role": "assistant", "content": "食飯。"},
]
CALL = {"type": "function", "function": {"name": "weather", "arguments": {"place": "台南"}}}
TOOLS = [
    {"role": "user", "content": "台南天氣？"},
    {"role": "assistant", "content": "", "tool_calls": [CALL]},
    {"role": "tool", "content": "好天"},
    {"role": "assistant", "content": "好天。"},
]
# How the families write a conversation, and what of CHAT the assistant is taught.
HEADERS = (
    "{{ bos_token }}{% for m in messages %}<|start|>{{ m.role }}<|mid|>\n\n{{ m.content | trim }}"
    "{% for c in m.tool_calls or [] %}{{ c.function | tojson }}{% endfor %}<|eot|>{% endfor %}"
    "{% if add_generation_prompt %}<|start|>assistant<|mid|>\n\n{% endif %}"
)
ALTERNATING = (
    "{{ bos_token }}{% if messages[0].role == 'system' %}{% set first = messages[0].content + '\n\n' %}"
    "{% set rest = messages[1:] %}{% else %}{% set first = '' %}{% set rest = messages %}{% endif %}"
    "{% for m in rest %}{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('roles must alternate') }}{% endif %}<|start|>"
    "{{ 'model' if m.role == 'assistant' else m.role }}\n{{ first if loop.first }}{{ m.content | trim }}<|eot|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|start|>model\n{% endif %}"
)
THINKING = (  # the last answer is written with an empty thought, earlier ones without
    "{% for m in messages %}<|start|>{{ m.role }}\n{% if m.role == 'assistant' and loop.last %}<think>\n\n</think>\n\n"
    "{% endif %}{{ m.content }}{% for c in m.tool_calls or [] %}\n<tool_call>\n{{ c.function | tojson }}\n</tool_call>"
    "{% endfor %}<|eot|>\n{% endfor %}{% if add_generation_prompt %}<|start|>assistant\n{% endif %}"
)
BRACKETS = (  # nothing stands before an answer, and EOS ends it
    "{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}[INST] {{ m.content }} [/INST]"
    "{% elif m.role == 'assistant' %} {{ m.content | trim }}{{ eos_token }}"
    "{% elif m.role == 'system' %}<<SYS>>{{ m.content }}{% endif %}{% endfor %}"
)
CALLS_ALONE = (  # beside a call nothing that is said is written, as Llama 3.1's has it
    "{% for m in messages %}<|start|>{{ m.role }}<|mid|>{% if m.tool_calls %}{{ m.tool_calls | tojson }}{% else %}"
    "{{ m.content | tojson if m.role == 'tool' else m.content }}{% endif %}<|eot|>{% endfor %}"
    "{% if add_generation_prompt %}<|start|>assistant<|mid|>{% endif %}"
)
PLAIN_MARKS = (  # what ends a turn is no special token
    "{% for m in messages %}### {{ m.role }}:\n{{ m.content }}\n***\n{% endfor %}"
    "{% if add_generation_prompt %}### assistant:\n{% endif %}"
)
TEMPLATES = {
    "headers": (HEADERS, ["食飽矣。<|eot|>", "食飯。<|eot|>"]),
    "alternating": (ALTERNATING, ["食飽矣。<|eot|>", "食飯。<|eot|>"]),
    "thinking": (THINKING, [" 食飽矣。 <|eot|>", "<think>\n\n</think>\n\n食飯。<|eot|>"]),
    "brackets": (BRACKETS, ["食飽矣。</s>", "食飯。</s>"]),
    "plain marks": (PLAIN_MARKS, [" 食飽矣。 \n***\n", "食飯。\n***\n"]),
}


def tokenizer_with(template: str | None) -> PreTrainedTokenizerBase:
    found: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(TINY)
    found.add_special_tokens({"additional_special_tokens": ["<|start|>", "<|mid|>", "<|eot|>"]})
    found.chat_template = template
    return found


def conversation(messages: list[dict[str, Any]], **more: Any) -> Conversation:
    return Conversation("line 1", tuple(messages), b"", **more)


def taught(tokenizer: PreTrainedTokenizerBase, example: Example) -> list[str]:
    """Each run of labelled tokens as text."""
    runs: list[list[int]] = [[]]
    for label in example.labels:
        if label == IGNORE:
            runs.append([])
        else:
            runs[-1].append(label)
    return [tokenizer.decode(run) for run in runs if run]


@pytest.mark.parametrize("system", [[], [SYSTEM]], ids=["bare", "system"])
@pytest.mark.parametrize("name", TEMPLATES)
def test_ids_are_the_templates_and_each_answer_is_taught_with_its_end(
    name: str, system: list[dict[str, Any]]
) -> None:
    template, answers = TEMPLATES[name]
    tokenizer = tokenizer_with(template)
    messages = [*system, *CHAT]
    example = encode_conversation_example(tokenizer, conversation(messages), 4096, chat_template=True)
    assert example is not None
    assert example.input_ids == tokenizer.apply_chat_template(messages, tokenize=True, return_dict=False)
    assert all(
        label in (token, IGNORE) for token, label in zip(example.input_ids, example.labels, strict=True)
    )
    assert [text.strip() for text in taught(tokenizer, example)] == [answer.strip() for answer in answers]


@pytest.mark.parametrize("template", [HEADERS, THINKING])
def test_a_call_of_a_tool_is_taught_and_what_the_tool_says_is_not(template: str) -> None:
    tokenizer = tokenizer_with(template)
    example = encode_conversation_example(tokenizer, conversation(TOOLS), 4096, chat_template=True)
    assert example is not None
    call, answer = taught(tokenizer, example)
    assert '"name": "weather"' in call and call.endswith("<|eot|>")
    assert answer.endswith("好天。<|eot|>") and "tool" not in answer


@pytest.mark.parametrize(
    ("messages", "more", "said"),
    [
        (TOOLS, {}, "a call of weather"),
        ([TOOLS[0], {"role": "tool", "content": "好天"}, TOOLS[3]], {}, "what the tool says"),
        (CHAT, {"tools": [{"type": "function", "function": {"name": "weather"}}]}, "the tool weather"),
    ],
)
def test_what_a_template_would_leave_out_is_refused(
    messages: list[dict[str, Any]], more: dict[str, Any], said: str
) -> None:
    with pytest.raises(InputError, match=f"line 1: the tokenizer's chat template leaves out .*{said}"):
        encode_conversation_example(
            tokenizer_with(BRACKETS), conversation(messages, **more), 4096, chat_template=True
        )


def test_words_beside_a_call_that_are_left_out_are_refused_and_a_tools_in_json_are_not() -> None:
    tokenizer = tokenizer_with(CALLS_ALONE)
    found = [TOOLS[0], TOOLS[1], {"role": "tool", "content": '{"sky": "好"}'}, TOOLS[3]]
    example = encode_conversation_example(tokenizer, conversation(found), 4096, chat_template=True)
    assert example is not None
    call, answer = taught(tokenizer, example)
    assert "weather" in call and "台南" in call and call.endswith("<|eot|>")
    assert answer == "好天。<|eot|>"
    found[1] = {**TOOLS[1], "content": "我看覓。"}
    with pytest.raises(InputError, match="leaves out what the assistant says"):
        encode_conversation_example(tokenizer, conversation(found), 4096, chat_template=True)


@pytest.mark.parametrize("template", [HEADERS, None])
def test_an_answer_of_weight_0_is_read_and_not_learnt(template: str | None) -> None:
    tokenizer = tokenizer_with(template)
    unlearnt = [CHAT[0], {**CHAT[1], "weight": 0}, *CHAT[2:]]
    found, whole = (
        encode_conversation_example(tokenizer, conversation(rows), 4096, chat_template=template is not None)
        for rows in (unlearnt, CHAT)
    )
    assert found is not None and whole is not None and found.input_ids == whole.input_ids
    assert taught(tokenizer, found) == taught(tokenizer, whole)[1:]


def test_without_a_template_tools_and_calls_are_json() -> None:
    tokenizer = tokenizer_with(None)
    example = encode_conversation_example(
        tokenizer, conversation(TOOLS, tools=[{"name": "weather"}]), 4096, chat_template=False
    )
    assert example is not None
    call = '{"name": "weather", "arguments": {"place": "台南"}}</s>'
    assert [text.strip() for text in taught(tokenizer, example)] == [call, "好天。</s>"]
    assert tokenizer.decode(example.input_ids).startswith('<s> {"name": "weather"}\n台南天氣？\n{"name"')


def test_without_a_template_question_and_answer_follow_each_other() -> None:
    tokenizer = tokenizer_with(None)
    example = encode_conversation_example(tokenizer, conversation([SYSTEM, *CHAT]), 4096, chat_template=False)
    assert example is not None
    eos = tokenizer.eos_token_id
    first = tokenizer("講台語。\n食飽未？\n 食飽矣。 ")["input_ids"]
    second = [
        token for token in tokenizer("欲食啥？\n食飯。")["input_ids"] if token != tokenizer.bos_token_id
    ]
    assert example.input_ids == [*first, eos, *second, eos]
    assert taught(tokenizer, example)[-1].strip() == "食飯。</s>"


def test_prompt_and_completion_are_joined_as_they_are() -> None:
    tokenizer = tokenizer_with(None)
    rows = [{"role": "user", "content": "一加一是"}, {"role": "assistant", "content": "二"}]
    example = encode_conversation_example(tokenizer, conversation(rows, joint=""), 4096, chat_template=False)
    assert example is not None
    assert example.input_ids == [*tokenizer("一加一是二")["input_ids"], tokenizer.eos_token_id]


@pytest.mark.parametrize("template", [HEADERS, None])
def test_what_is_too_long_loses_its_oldest_exchange_then_the_middle_of_its_question(
    template: str | None,
) -> None:
    tokenizer = tokenizer_with(template)

    def encode(messages: list[dict[str, Any]], most: int) -> Example | None:
        return encode_conversation_example(
            tokenizer, conversation(messages), most, chat_template=template is not None
        )

    whole = encode([SYSTEM, *CHAT], 4096)
    assert whole is not None
    shorter = encode([SYSTEM, *CHAT], len(whole.input_ids) - 1)
    assert shorter == Example(encode([SYSTEM, *CHAT[2:]], 4096).input_ids, shorter.labels, 4 + 6)  # type: ignore[union-attr]
    long = [{"role": "user", "content": "頭" + "話" * 500 + "尾"}, CHAT[3]]
    cut = encode(long, 60)
    assert cut is not None and 55 <= len(cut.input_ids) <= 60 and cut.cut_characters > 400
    assert "頭" in tokenizer.decode(cut.input_ids) and "尾" in tokenizer.decode(cut.input_ids)
    assert taught(tokenizer, cut)[-1].startswith("食飯。")
    assert encode([CHAT[0], {"role": "assistant", "content": "話" * 500}], 60) is None


def test_a_conversation_that_the_template_refuses_is_named() -> None:
    tokenizer = tokenizer_with(ALTERNATING)
    with pytest.raises(
        InputError, match=r"line 1: .*\(user, assistant, tool, assistant\): roles must alternate"
    ):
        encode_conversation_example(tokenizer, conversation(TOOLS), 4096, chat_template=True)
    with pytest.raises(InputError, match=r"line 1 holds '<\|eot\|>'"):
        rows = [{"role": "user", "content": "<|eot|>"}, CHAT[1]]
        encode_conversation_example(tokenizer, conversation(rows), 4096, chat_template=True)
    with pytest.raises(InputError, match=r"line 1 holds '<\|eot\|>'"):
        call = {**CALL, "function": {"name": "weather", "arguments": {"place": "<|eot|>"}}}
        rows = [TOOLS[0], {**TOOLS[1], "tool_calls": [call]}]
        encode_conversation_example(tokenizer, conversation(rows), 4096, chat_template=True)
    with pytest.raises(InputError, match="has no chat template"):
        encode_conversation_example(tokenizer_with(None), conversation(CHAT), 4096, chat_template=True)
