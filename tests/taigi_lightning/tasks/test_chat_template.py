"""A question as a conversation: the ids are those of the tokenizer's own template, whatever the template."""

from dataclasses import replace
from pathlib import Path

import pytest
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from taigi_lightning.errors import InputError
from taigi_lightning.tasks.chat_template import encode_conversation
from taigi_lightning.tasks.conversation_tokens import encode_open_conversation
from taigi_lightning.tasks.conversations import Conversation
from taigi_lightning.tasks.prompts import ANSWERS, IGNORE, encode_example, encode_prompt, render_prompt
from taigi_lightning.tasks.questions import Question

TINY = Path(__file__).parents[3] / "models" / "tiny-taigi"
QUESTION = Question("7", "阿明去市仔。" * 5, "去佗位？", ("市仔", "厝", "山", "海"), 3, 1)
SOLVED = [Question("1", "落雨矣。", "天氣按怎？", ("好", "落雨", "風", "雪"), 2, 1)]
# In the manner of several families: a line break after the turn; BOS and EOS; an empty thought before the last answer;
# a system turn put before any (Qwen 2.5), with texts stripped of white space (Llama 3); no system turn, and turns that
# must alternate (Gemma 3).
TEMPLATES = {
    "line break": "{{ bos_token }}{% for m in messages %}<turn>{{ 'model' if m.role == 'assistant' else m.role }}\n"
    "{{ m.content | trim }}<end>\n{% endfor %}",
    "eos": "{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}[INST] {{ m.content }} [/INST]{% else %} "
    "{{ m.content }} {{ eos_token }}{% endif %}{% endfor %}",
    "thought": "{% for m in messages %}<turn>{{ m.role }}\n{% if loop.last and m.role == 'assistant' %}<think>\n\n"
    "</think>\n\n{% endif %}{{ m.content }}<end>\n{% endfor %}",
    "system added": "{% if messages[0].role != 'system' %}<turn>system\nYou help.<end>\n{% endif %}"
    "{% for m in messages %}<turn>{{ m.role }}\n{{ m.content }}<end>\n{% endfor %}",
    "system and strip": "{{ bos_token }}<turn>system\n\nToday is a day.\n\n<end>{% for m in messages %}"
    "<turn>{{ m.role }}\n\n{{ m.content | trim }}<end>{% endfor %}",
    "no system": "{{ bos_token }}"
    "{% if messages[0].role == 'system' %}{{ raise_exception('No system turn') }}{% endif %}"
    "{% for m in messages %}{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('alternate!') }}"
    "{% endif %}<turn>{{ 'model' if m.role == 'assistant' else m.role }}\n{{ m.content | trim }}<end>\n{% endfor %}",
}


@pytest.fixture(params=TEMPLATES)
def tokenizer(request: pytest.FixtureRequest) -> PreTrainedTokenizerBase:
    found: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(TINY)
    found.add_special_tokens({"additional_special_tokens": ["<turn>", "<end>"]})
    found.chat_template = TEMPLATES[request.param]
    return found


def rendered(
    tokenizer: PreTrainedTokenizerBase, question: Question, answer: str, *solved: Question
) -> list[int]:
    messages = []
    for asked, said in (*((q, str(q.answer)) for q in solved), (question, answer)):
        messages += [
            {"role": "user", "content": render_prompt(asked)},
            {"role": "assistant", "content": said},
        ]
    ids: list[int] = tokenizer.apply_chat_template(messages, tokenize=True, return_dict=False)
    return ids


@pytest.mark.parametrize("solved", [[], SOLVED])
def test_prompt_answer_and_ending_are_the_templates_own_ids(
    tokenizer: PreTrainedTokenizerBase, solved: list[Question]
) -> None:
    prompt = encode_prompt(tokenizer, QUESTION, 2048, solved, chat_template=True)
    for answer, ids in zip(ANSWERS, prompt.answers, strict=True):
        assert prompt.input_ids + ids + prompt.ending == rendered(tokenizer, QUESTION, answer, *solved)
        assert tokenizer.decode(ids).strip() == answer


def test_training_supervises_the_answer_and_the_end_of_the_turn(tokenizer: PreTrainedTokenizerBase) -> None:
    example = encode_example(tokenizer, QUESTION, 2048, chat_template=True)
    assert example.input_ids == rendered(tokenizer, QUESTION, "3")
    taught = [token for token in example.labels if token != IGNORE]
    assert taught[-1] in tokenizer.all_special_ids
    assert tokenizer.decode(taught[:-1]).strip() == "3"
    prompt = encode_prompt(tokenizer, QUESTION, 2048, chat_template=True)
    assert example.labels[: len(prompt.input_ids)] == [IGNORE] * len(prompt.input_ids)


def test_a_long_passage_is_cut_and_the_rest_stays(tokenizer: PreTrainedTokenizerBase) -> None:
    long = replace(QUESTION, passage="阿明下晡欲去市仔買菜。" * 40)
    example = encode_example(tokenizer, long, 200, chat_template=True)
    assert len(example.input_ids) <= 200
    assert example.cut_characters > 0
    kept = replace(long, passage=long.passage)
    assert len(rendered(tokenizer, kept, "3")) > 200


def test_special_tokens_in_a_text_are_refused(tokenizer: PreTrainedTokenizerBase) -> None:
    with pytest.raises(InputError, match="question 7 holds '<end>'"):
        encode_prompt(tokenizer, replace(QUESTION, passage="一<end>二"), 2048, chat_template=True)


def test_a_tokenizer_without_a_template_or_with_another_kind_is_refused() -> None:
    tokenizer = AutoTokenizer.from_pretrained(TINY)
    with pytest.raises(InputError, match="has no chat template"):
        encode_prompt(tokenizer, QUESTION, 2048, chat_template=True)
    tokenizer.chat_template = "{{ raise_exception('a system message comes first') }}"
    with pytest.raises(InputError, match="a system message comes first"):
        encode_prompt(tokenizer, QUESTION, 2048, chat_template=True)


def test_a_template_that_writes_the_date_is_told_the_same_one_every_day() -> None:
    tokenizer = AutoTokenizer.from_pretrained(TINY)
    tokenizer.chat_template = (
        "{{ strftime_now('%d %b %Y') }} {% for m in messages %}{{ m.content }} {% endfor %}"
    )
    ids = encode_conversation(tokenizer, [("a", "b")], "it")
    assert tokenizer.decode(ids) == "26 Jul 2024 a b "
    asked = Conversation("line 1", ({"role": "user", "content": "a"},), b"")
    assert tokenizer.decode(encode_open_conversation(tokenizer, asked, True)) == "26 Jul 2024 a "
