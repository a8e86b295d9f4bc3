"""A misspelt word is refused where a module is made in Python, as the command line refuses it in a config."""

from pathlib import Path
from typing import Any

import pytest

from taigi_lightning.errors import InputError
from taigi_lightning.training.module import CausalLMModule


@pytest.mark.parametrize(
    ("option", "value", "wanted"),
    [
        ("matmul", "int8_mixd", "one of bf16, fp8_backward, fp8, int8_backward, int8_mixed, int8."),
        ("matmul", "int8_backwards", "one of bf16"),  # which begins as one does
        ("matmul", "fp16", "one of bf16"),
        ("matmul", None, "one of bf16"),
        ("matmul", True, "one of bf16"),
        ("quantization", "8bit", "one of nf4, none."),
        ("answer_strategy", "Choice", "one of choice, generate."),
        ("hand_off", "", "one of stack, continue, merge."),
        ("lr_scheduler", "cosin", "one of linear, cosine, constant_with_warmup, or another kind of value."),
        ("weights_on_host", "al", "one of auto, all, none, or another"),
        ("activation_budget", "0.5", "one of auto, or another"),
    ],
)
def test_a_word_that_means_nothing_is_refused(
    tiny_llama_dir: Path, option: str, value: Any, wanted: str
) -> None:
    with pytest.raises(InputError) as refused:
        CausalLMModule(str(tiny_llama_dir), **{option: value})
    assert f"{option} is {value!r}; wanted {wanted}" in str(refused.value)


def test_what_is_known_passes(tiny_llama_dir: Path) -> None:
    module = CausalLMModule(str(tiny_llama_dir), weights_on_host=2, activation_budget=0.5, matmul="int8")
    assert module.hparams["matmul"] == "int8"
