"""`generate`: let a model write, in the terminal or for a file of prompts."""

from __future__ import annotations

import hashlib
import sys
import warnings
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase

from taigi_lightning.atomic_write import check_place
from taigi_lightning.errors import InputError
from taigi_lightning.evaluation.generation import Sampling, TextWriter
from taigi_lightning.evaluation.generation_files import read_prompts, write_all
from taigi_lightning.evaluation.model_setup import build_model, take_fast_path, working_place
from taigi_lightning.model.adapters import check_adapter
from taigi_lightning.model.base_model import Quantization, load_tokenizer
from taigi_lightning.model.hand_off import HandOff, Start, find_start
from taigi_lightning.planning.base_files import check_base
from taigi_lightning.tasks.conversation_forms import Message
from taigi_lightning.tasks.conversations import Conversation
from taigi_lightning.terminal import print_line


def generate_command(
    model: str,
    prompt: str | None = None,
    *,
    prompts: Path | None = None,
    output: Path | None = None,
    chat: bool = False,
    system: str | None = None,
    sampling: Sampling = Sampling(),  # noqa: B008  (it becomes the command line's default)
    batch_size: int = 8,
    quantization: Quantization = "nf4",
    hand_off: HandOff = "stack",
) -> None:
    """Let a model write on: a prompt given here, prompts typed in, or those of a file.

    Args:
        model: a model's folder or Hub name; an adapter follows a plus, as in models/cpt_model+models/final/adapter.
        prompt: the beginning of a text, or with --chat what is said to the model; without one, lines are read from
            the terminal until its end.
        prompts: a file of prompts: JSON lines, CSV or Parquet with prompt, messages or text.
        output: where the texts for that file go, as JSON lines; a run that was interrupted goes on.
        chat: have it answer, in the tokenizer's chat template where there is one.
        system: with --chat, what stands before the conversation.
        sampling: how the next token is chosen.
        batch_size: prompts of a file that are written at once.
        quantization: "nf4" for 4-bit weights, "none" for the weights as they are.
        hand_off: what a merged model in 4 bits is: stack, its base with its adapter beside; merge, the merged
            weights quantised a second time.
    """
    check_arguments(prompt, prompts, output, chat=chat, system=system, batch_size=batch_size)
    if output is not None:
        check_place(output.with_name(output.name + ".journal"))
    read = read_prompts(prompts) if prompts is not None else []
    base, _, adapter = model.partition("+")
    check_base(base, plus=True)
    if adapter:
        check_adapter(adapter)
    start = find_start(base, quantization, hand_off, adapter or None, any_quantization=True)
    device, dtype = working_place(None, None)
    loaded, tokenizer = _load(start, base, adapter or None, quantization, device, dtype)
    writer = TextWriter(loaded, tokenizer, sampling, chat=chat)
    if chat and not writer.templated:
        print_line(
            f"{base} has no chat template: questions and answers follow each other as text.", error=True
        )
    # As in training on a GPU: adapters are float32, the rest computes in 16 bits.
    with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
        if prompts is None:
            _talk(writer, prompt, system)
            return
        assert output is not None
        identity = {
            "model": dict(start.identity),
            "adapter": adapter and _digest(Path(adapter) / "adapter_model.safetensors"),
            "prompts": _digest(prompts),
            "sampling": sampling.described(),
            "chat": chat,
            "batch_size": batch_size,
        }
        write_all(writer, read, output, identity, batch_size, _said)
    print_line(f"{len(read)} texts are in {output}.")


def check_arguments(
    prompt: str | None,
    prompts: Path | None,
    output: Path | None,
    *,
    chat: bool,
    system: str | None,
    batch_size: int,
) -> None:
    """Refuse what does not go together, before anything is loaded.

    Raises:
        InputError: it does not.
    """
    if (prompts is None) != (output is None):
        raise InputError(
            "--prompts and --output belong together: the file of prompts, and where the texts go."
        )
    if prompts is not None and prompt is not None:
        raise InputError("A prompt and --prompts exclude each other: give one of them.")
    if system is not None and (not chat or prompts is not None):
        raise InputError("--system begins a conversation: use it with --chat, and without --prompts.")
    if batch_size < 1:
        raise InputError(f"--batch_size is {batch_size}. Set it to 1 or more.")
    if output is not None and output.is_dir():
        raise InputError(f"--output {output} is a folder; name a file, such as {output}/texts.jsonl.")


def _load(
    start: Start,
    base: str,
    adapter: str | None,
    quantization: Quantization,
    device: torch.device,
    dtype: torch.dtype,
) -> tuple[Any, PreTrainedTokenizerBase]:
    """The model in eval mode, and its tokenizer."""
    warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing` is deprecated")  # PEFT's to mend
    built: dict[str, Any] = {"device": device, "compute_dtype": dtype, "training": False}
    model = build_model(
        start.weights,
        updates=start.updates,
        lora=None,
        adapter=adapter,
        quantization=quantization,
        from_scratch=False,
        **built,
    )
    tokenizer = load_tokenizer(base, adapter)
    take_fast_path(model, compile=None, activation_budget=1.0, answers=False, generating=tokenizer, **built)
    return model, tokenizer


def _talk(writer: TextWriter, prompt: str | None, system: str | None) -> None:
    """Answer one prompt, or each line that is typed; in a chat, what was said before is remembered."""
    opening: list[Message] = [] if system is None else [{"role": "system", "content": system}]
    said = list(opening)
    for line in [prompt] if prompt is not None else _typed(writer.chat):
        said = [*(said if writer.chat else opening), {"role": "user", "content": line}]
        ids = writer.encode(Conversation("the prompt", tuple(said), b""))
        if not writer.chat:
            print_line(line, end="", flush=True)
        text = writer.stream(ids)
        said.append({"role": "assistant", "content": text})


def _typed(chat: bool) -> Any:
    """Lines from the terminal, or from a pipe."""
    asking = sys.stdin.isatty()
    if asking:
        print_line(
            "Type, and press Enter; Ctrl-D ends."
            if chat
            else "Type a beginning, and press Enter; Ctrl-D ends."
        )
    while True:
        if asking:
            print_line("> ", end="", flush=True)
        line = sys.stdin.readline()
        if not line:
            return
        if line.strip():
            yield line.rstrip("\n")


def _said(done: int, total: int) -> None:
    print_line(f"{done:,} of {total:,} texts", error=True, flush=True)


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "blake2b").hexdigest()[:32]
