"""`generate` as a user calls it: one prompt, a typed conversation, a file."""

import io
import json
from pathlib import Path

import pytest

from taigi_lightning.cli.generate import generate_command
from taigi_lightning.errors import InputError
from taigi_lightning.evaluation.generation import Sampling, TextWriter
from taigi_lightning.tasks.conversations import Conversation

SHORT = Sampling(max_new_tokens=4)


def test_a_prompt_is_written_on(tiny_llama_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    generate_command(str(tiny_llama_dir), "早起時仔", quantization="none", sampling=SHORT)
    assert capsys.readouterr().out.startswith("早起時仔")


def test_a_typed_conversation_is_remembered(
    tiny_llama_dir: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[list[str]] = []
    encode = TextWriter.encode

    def noted(self: TextWriter, conversation: Conversation) -> list[int]:
        asked.append([message["content"] for message in conversation.messages])
        return encode(self, conversation)

    monkeypatch.setattr(TextWriter, "encode", noted)
    monkeypatch.setattr("sys.stdin", io.StringIO("食飽未？\n\n欲食啥？\n"))
    options = {"chat": True, "system": "講台語。", "quantization": "none", "sampling": SHORT}
    generate_command(str(tiny_llama_dir), **options)  # type: ignore[arg-type]
    out, err = capsys.readouterr()
    assert out.count("\n") >= 2
    assert "has no chat template: questions and answers follow each other" in err
    first, second = asked
    assert first == ["講台語。", "食飽未？"]
    assert second[:2] == first and len(second) == 4 and second[3] == "欲食啥？"


def test_a_file_of_prompts(tiny_llama_dir: Path, tmp_path: Path) -> None:
    prompts, output = tmp_path / "prompts.csv", tmp_path / "texts.jsonl"
    prompts.write_text("prompt,id\n早起時仔,a\n下晡,b\n", encoding="utf-8")
    generate_command(str(tiny_llama_dir), prompts=prompts, output=output, quantization="none", sampling=SHORT)
    rows = [json.loads(line) for line in output.read_text(encoding="utf-8").splitlines()]
    assert [row["id"] for row in rows] == ["a", "b"]
    assert all(isinstance(row["generated"], str) and not row["finished"] for row in rows)


def test_what_does_not_go_together_is_refused_before_anything_loads(tmp_path: Path) -> None:
    for arguments, said in (
        ({"prompts": tmp_path / "a"}, "belong together"),
        ({"prompt": "a", "prompts": tmp_path / "a", "output": tmp_path / "b"}, "exclude each other"),
        ({"prompt": "a", "system": "b"}, "use it with --chat"),
        ({"prompt": "a", "batch_size": 0}, "Set it to 1 or more"),
        ({"prompts": tmp_path / "a", "output": tmp_path}, "is a folder"),
    ):
        with pytest.raises(InputError, match=said):
            generate_command("nowhere", **arguments)
