"""Instruction data of every usual form are the same conversations, and what cannot be used is named by its row."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from taigi_lightning.errors import InputError
from taigi_lightning.tasks.conversation_forms import InstructionTemplate
from taigi_lightning.tasks.conversations import read_conversations

MESSAGES = [
    {"role": "system", "content": "講台語。"},
    {"role": "user", "content": "食飽未？"},
    {"role": "assistant", "content": "食飽矣。"},
]
FORMS: dict[str, dict[str, Any]] = {
    "messages": {"messages": MESSAGES},
    "parts": {
        "messages": [
            {"role": turn["role"], "content": [{"type": "text", "text": part} for part in turn["content"]]}
            for turn in MESSAGES
        ]
    },
    "sharegpt": {
        "conversations": [
            {"from": "system", "value": "講台語。"},
            {"from": "human", "value": "食飽未？"},
            {"from": "gpt", "value": "食飽矣。"},
        ]
    },
    "sharegpt with a system column": {
        "system": "講台語。",
        "conversation": [{"from": "user", "value": "食飽未？"}, {"from": "assistant", "value": "食飽矣。"}],
    },
    "roles in capitals": {"messages": [{**turn, "role": turn["role"].upper()} for turn in MESSAGES]},
    "messages with a system column": {"messages": MESSAGES[1:], "system": "講台語。"},
    "a system column beside a system turn": {"messages": MESSAGES, "system": "講華語。"},
    "prompt and completion with a system column": {
        "system": "講台語。",
        "prompt": "食飽未？",
        "completion": "食飽矣。",
    },
    "alpaca": {"instruction": "食飽未？", "input": " ", "output": "食飽矣。", "system": "講台語。"},
    "turns after the last answer": {"messages": [*MESSAGES, {"role": "user", "content": "好。"}]},
    "prompt and completion as messages": {"prompt": MESSAGES[:2], "completion": MESSAGES[2:]},
}


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    elif path.suffix == ".json":
        path.write_text(json.dumps(rows, ensure_ascii=False, indent=1), encoding="utf-8")
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def test_input_and_output_are_a_question_and_its_answer(tmp_path: Path) -> None:
    row = {"input": "食飽未？", "output": "食飽矣。"}
    (found,) = read_conversations(write(tmp_path / "pairs.jsonl", [row]))
    assert list(found.messages) == MESSAGES[1:]


@pytest.mark.parametrize("suffix", [".jsonl", ".json", ".parquet"])
@pytest.mark.parametrize("form", FORMS)
def test_every_form_is_the_same_conversation(tmp_path: Path, form: str, suffix: str) -> None:
    (found,) = read_conversations(write(tmp_path / f"chat{suffix}", [FORMS[form]]))
    assert list(found.messages) == MESSAGES


def test_alpacas_input_and_history_come_in_order(tmp_path: Path) -> None:
    row = {"instruction": "翻譯", "input": "吃飯", "output": "食飯", "history": [["你好", "汝好"]]}
    (found,) = read_conversations(write(tmp_path / "a.jsonl", [row]))
    assert [message["content"] for message in found.messages] == ["你好", "汝好", "翻譯\n吃飯", "食飯"]


def test_a_csv_of_translation_pairs_by_template(tmp_path: Path) -> None:
    path = tmp_path / "pairs.csv"
    path.write_text('華語,台語\n吃飯,食飯\n"一,二","一、二"\n', encoding="utf-8-sig")
    template = InstructionTemplate(user="翻譯做台語：{華語}", assistant="{台語}", system="譯者")
    found = read_conversations(path, template=template)
    assert [[message["content"] for message in row.messages] for row in found] == [
        ["譯者", "翻譯做台語：吃飯", "食飯"],
        ["譯者", "翻譯做台語：一,二", "一、二"],
    ]


def test_columns_may_have_other_names(tmp_path: Path) -> None:
    rows = [{"question": "一加一？", "response": "二"}, {"question": "一？", "response": "二", "role": "甲"}]
    path = write(tmp_path / "a.jsonl", rows)
    found = read_conversations(path, columns={"prompt": "question", "system": "role"})
    assert [[message["content"] for message in row.messages] for row in found] == [
        ["一加一？", "二"],
        ["甲", "一？", "二"],
    ]
    with pytest.raises(InputError, match=r"no field 'promt'. The fields are messages, .*prompt, .*tools"):
        read_conversations(path, columns={"promt": "question"})
    with pytest.raises(InputError, match=r"prompt is called ask.*found question, response, role"):
        read_conversations(path, columns={"prompt": "ask"})


def test_a_column_that_is_there_twice_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("prompt,completion,completion\n一,二,三\n", encoding="utf-8")
    with pytest.raises(InputError, match="more than one column completion"):
        read_conversations(path)


def test_tool_turns_and_calls_are_kept(tmp_path: Path) -> None:
    call = {"type": "function", "function": {"name": "weather", "arguments": {"place": "台南"}}}
    turns = [
        {"role": "user", "content": "台南天氣？"},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "content": "好天", "name": "weather"},
        {"role": "assistant", "content": "好天。"},
    ]
    row = {"messages": turns, "tools": [{"type": "function", "function": {"name": "weather"}}]}
    (found,) = read_conversations(write(tmp_path / "a.jsonl", [row]))
    assert found.tools == row["tools"]
    assert found.messages[1]["tool_calls"] == [call]
    assert found.messages[2]["name"] == "weather"


def test_a_call_is_the_same_however_a_file_writes_it(tmp_path: Path) -> None:
    function: dict[str, Any] = {"name": "weather", "arguments": {"place": "台南"}}
    call = {"type": "function", "function": function}
    as_text = {"type": "function", "function": {**function, "arguments": json.dumps(function["arguments"])}}
    other = {"type": "function", "function": {"name": "time", "arguments": {"day": 1}}}

    def turns(found: dict[str, Any]) -> dict[str, Any]:
        return {"messages": [MESSAGES[1], {"role": "assistant", "tool_calls": [found]}]}

    sharegpt = {
        "conversations": [
            {"from": "human", "value": "食飽未？"},
            {"from": "function_call", "value": json.dumps(function)},
        ]
    }
    for rows, suffix in (
        ([turns(call), turns(other)], ".jsonl"),
        ([turns(call), turns(other)], ".parquet"),  # where each object has the keys of all
        ([turns(as_text)], ".jsonl"),
        ([sharegpt], ".jsonl"),
    ):
        found = read_conversations(write(tmp_path / f"a{suffix}", rows))
        assert list(found[0].messages) == [
            MESSAGES[1],
            {"role": "assistant", "content": "", "tool_calls": [call]},
        ]


def test_equal_first_questions_are_one_group_and_a_column_can_say_otherwise(tmp_path: Path) -> None:
    rows = [
        {"prompt": prompt, "completion": "a", "doc": doc}
        for prompt, doc in (("一", 1), (" 一", 2), ("二", 2))
    ]
    path = write(tmp_path / "a.jsonl", rows)
    one, same, other = (row.group for row in read_conversations(path))
    assert one == same != other
    first, second, third = (row.group for row in read_conversations(path, group_by="doc"))
    assert first != second == third


@pytest.mark.parametrize(
    ("row", "said"),
    [
        (
            {"text": "一"},
            "columns text.*messages; conversations or conversation; instruction, output; prompt",
        ),
        ({"messages": []}, "line 1: nobody answers"),
        ({"messages": "abc"}, "line 1: messages is no list"),
        ({"messages": None}, "line 1: messages is empty"),
        (
            {"messages": [*MESSAGES[1:], MESSAGES[1], {"role": "assistant", "content": ""}]},
            "line 1: an answer is empty",
        ),
        ({"messages": [MESSAGES[1], {**MESSAGES[2], "weight": 0}]}, "line 1: every answer has the weight 0"),
        ({"messages": [MESSAGES[1], {**MESSAGES[2], "weight": 2}]}, "line 1: a turn's weight is 2"),
        (
            {"messages": [MESSAGES[1], {"role": "assistant", "tool_calls": {"a": 1}}]},
            "line 1: .* no list of calls",
        ),
        (
            {"conversations": [{"from": "function_call", "value": "f(1)"}]},
            "line 1: a turn of function_call is no",
        ),
        ({"conversations": [{"from": "function_call", "value": "[]"}]}, "line 1: .* calls nothing"),
        ({"messages": [{"role": "user", "content": "一"}]}, "line 1: nobody answers"),
        ({"messages": [{"content": "一"}]}, "line 1: a turn has no role; found content"),
        ({"messages": [{"role": "user"}]}, "line 1: a turn of user has no content"),
        ({"messages": [{"role": "user", "content": [{"type": "image", "url": "x"}]}]}, "other than text"),
        ({"prompt": "一", "completion": " "}, "line 1: the answer is empty"),
        ({"instruction": "一", "output": None}, "line 1: output is empty"),
        ({"instruction": "一", "output": {"a": 1}}, "line 1: output is a dict"),
        ({"instruction": "一", "output": "二", "history": ["三"]}, "line 1: history is no list of pairs"),
        ({"prompt": "一", "completion": "二", "tools": "[{"}, "line 1: tools is no list of functions"),
        ({"prompt": "一", "completion": "二", "tools": {"name": "a"}}, "line 1: tools is dict"),
    ],
)
def test_what_cannot_be_used_is_named(tmp_path: Path, row: dict[str, Any], said: str) -> None:
    path = write(tmp_path / "a.jsonl", [row])
    with pytest.raises(InputError, match=said):
        read_conversations(path)


def test_several_bad_rows_are_named_at_once(tmp_path: Path) -> None:
    rows = [{"prompt": "一", "completion": ""} for _ in range(9)]
    with pytest.raises(InputError, match=r"line 1: .* line 5: .* And 4 rows more"):
        read_conversations(write(tmp_path / "a.jsonl", rows))


def test_a_template_that_asks_for_no_column(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", [{"a": "一", "b": "二"}])
    with pytest.raises(InputError, match=r"template.user asks for \{c\}.*found a, b"):
        read_conversations(path, template=InstructionTemplate(user="{c}", assistant="{b}"))
    with pytest.raises(InputError, match=r"template.assistant is '好', without a column .* \{a\}, \{b\}"):
        read_conversations(path, template=InstructionTemplate(user="{a}", assistant="好"))
    with pytest.raises(InputError, match=r"group_by is c.*found a, b"):
        read_conversations(path, template=InstructionTemplate(user="{a}", assistant="{b}"), group_by="c")


@pytest.mark.parametrize("item", [0, "", [], None, 3])
def test_a_list_that_holds_something_else_is_refused(tmp_path: Path, item: Any) -> None:
    path = tmp_path / "a.json"
    path.write_text(json.dumps([{"prompt": "一", "completion": "二"}, item]), encoding="utf-8")
    with pytest.raises(InputError, match="wanted objects with the columns' names"):
        read_conversations(path)
