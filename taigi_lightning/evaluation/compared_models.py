"""The models of a comparison: how each is run, whether it is there, and loading it."""

from __future__ import annotations

import gc
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase

from taigi_lightning.errors import InputError
from taigi_lightning.evaluation.compare_written import WrittenTask, check_task
from taigi_lightning.evaluation.model_setup import build_model, take_fast_path
from taigi_lightning.model.adapters import check_adapter
from taigi_lightning.model.base_model import Quantization, load_tokenizer
from taigi_lightning.model.hand_off import HandOff, Start, find_start
from taigi_lightning.model.longest_row import check_row_length
from taigi_lightning.model.precision import best_dtype
from taigi_lightning.planning.base_files import check_base
from taigi_lightning.tasks.question_prompt import FOUR_CHOICE, QuestionPrompt
from taigi_lightning.terminal import print_line
from taigi_lightning.windows import path_problem


@dataclass(frozen=True)
class Settings:
    """How every model of a comparison is run."""

    quantization: Quantization
    max_length: int
    batch_tokens: int
    hand_off: HandOff = "stack"
    chat_template: bool = False
    prompt: QuestionPrompt = FOUR_CHOICE
    written: WrittenTask | None = None

    def start(self, path: str) -> Start:
        """What `BASE` or `BASE+ADAPTER` begins with; an adapter may be compared in other bits than its own."""
        base, _, adapter = path.partition("+")
        return find_start(base, self.quantization, self.hand_off, adapter or None, any_quantization=True)

    @property
    def device(self) -> torch.device:
        """The GPU, if there is one."""
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")

    @property
    def dtype(self) -> torch.dtype:
        """What the device computes well."""
        return best_dtype(self.device)


def check_models(models: Mapping[str, str], settings: Settings) -> None:
    """Refuse a model or adapter that is not there, before the first one is loaded.

    Raises:
        InputError: there is no model, a name is no file name, a path is wrong, an adapter was trained on another base,
            or a model cannot be given the conversations that it is to answer.
    """
    if not models:
        raise InputError(
            "There is no model to compare. Name one or more, as in {base: PATH, sft: PATH+ADAPTER}."
        )
    for name in models:
        if not name or "/" in name or name.startswith("."):
            raise InputError(f"The model name {name!r} cannot begin a file's name. Use one without a slash.")
        if problem := path_problem(Path(name), more=0):
            raise InputError(f"The model name begins a file's name, and {problem}.")
    for name, path in models.items():
        base, _, adapter = path.partition("+")
        check_base(base, plus=True)
        if adapter:
            check_adapter(adapter)
        check_row_length(settings.start(path).weights, settings.max_length, "--max_length")
        if settings.written is not None:
            check_task(name, base, settings.written)


def load(path: str, settings: Settings) -> tuple[Any, PreTrainedTokenizerBase]:
    """A model in eval mode, `BASE` or `BASE+ADAPTER`, and its tokenizer."""
    warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing` is deprecated")  # PEFT's to mend
    gc.collect()  # the model before, whose modules refer to one another
    base, _, adapter = path.partition("+")
    start = settings.start(path)
    built: dict[str, Any] = {"device": settings.device, "compute_dtype": settings.dtype, "training": False}
    built["weights_on_host"] = "auto"  # what a card does not hold
    model = build_model(
        start.weights,
        updates=start.updates,
        lora=None,
        adapter=adapter or None,
        quantization=settings.quantization,
        from_scratch=False,
        tokens=settings.batch_tokens,
        **built,
    )
    tokenizer = load_tokenizer(base, adapter or None)
    writes = settings.written is not None
    findings = take_fast_path(
        model,
        compile=None,
        activation_budget=1.0,
        answers=True,
        generating=tokenizer if writes else None,
        row_tokens=None if writes else settings.batch_tokens,  # unpacked layers cannot generate
        **built,
    )
    if findings.sharing:
        print_line(findings.sharing)
    return model, tokenizer
