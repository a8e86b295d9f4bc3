"""What `predict_speed` times: a random 4-bit model in the 13B shape and made-up questions as long as the real ones."""

from __future__ import annotations

import random
from typing import Any

import bitsandbytes as bnb
import numpy as np
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from taigi_lightning.data.predict import PredictDataModule
from taigi_lightning.tasks.question_batches import EncodedQuestion

VOCABULARY = 56_064
TOKENS_PER_CHARACTER = 0.9
REPEATED = 114 / 1001
CUDA = torch.cuda.is_available()
DEVICE, DTYPE = ("cuda", torch.bfloat16) if CUDA else ("cpu", torch.float32)


def make_model(layers: int, hidden: int) -> Any:
    """A 4-bit Llama with random weights and the proportions of Llama-2-13B."""
    config = LlamaConfig(
        vocab_size=VOCABULARY, hidden_size=hidden, intermediate_size=hidden * 27 // 10, num_hidden_layers=layers,
        num_attention_heads=max(1, hidden // 128), max_position_embeddings=4096, rms_norm_eps=1e-5, pad_token_id=0,
    )  # fmt: skip
    torch.set_default_dtype(DTYPE)
    with torch.device(DEVICE):
        model: Any = LlamaForCausalLM(config)
    torch.set_default_dtype(torch.float32)
    for layer in model.model.layers:
        for block in (layer.self_attn, layer.mlp):
            for name, plain in list(block.named_children()):
                if isinstance(plain, torch.nn.Linear):
                    setattr(block, name, four_bit(plain))
    model.is_loaded_in_4bit = True  # PEFT asks
    return model.requires_grad_(False).eval()


def four_bit(plain: torch.nn.Linear) -> Any:
    """The same layer as `load_base_model` would make it."""
    linear = bnb.nn.Linear4bit(
        plain.in_features, plain.out_features, bias=False, compute_dtype=DTYPE, compress_statistics=True,
        quant_type="nf4", device="meta",
    )  # fmt: skip
    linear.weight = bnb.nn.Params4bit(
        plain.weight.data, requires_grad=False, compress_statistics=True, quant_type="nf4", module=linear
    ).to(DEVICE)
    linear.support_avx512bf16_for_cpu = False  # see `base_model`
    return linear


def make_questions(count: int) -> list[EncodedQuestion]:
    """Prompts of random tokens with the lengths and repeated passages of the test questions."""
    draw = random.Random(9527)

    def tokens(characters: float) -> list[int]:
        return [draw.randrange(100, VOCABULARY) for _ in range(round(characters * TOKENS_PER_CHARACTER))]

    # Characters of the prompt's fixed parts: up to the passage, to the question, to the options, of each option.
    before, ask, choose, label = (tokens(count) for count in (13, 4, 27, 5))
    lengths = np.interp((np.arange(count) + 0.5) / count, [0, 0.5, 0.95, 1], [21, 147, 303, 469]).tolist()
    draw.shuffle(lengths)
    passages = [tokens(length) for length in lengths]
    for row in sorted(draw.sample(range(1, count), round(count * REPEATED))):
        passages[row] = passages[row - 1]
    questions = []
    for row, passage in enumerate(passages, start=1):
        options = [token for _ in range(4) for token in label + tokens(draw.randint(2, 14))]
        prompt = [1, *before, *passage, *ask, *tokens(draw.randint(8, 25)), *choose, *options, *tokens(3)]
        questions.append(EncodedQuestion(row, str(row), prompt, ([50], [51], [52], [53])))
    return questions


class MadeUpQuestions(PredictDataModule):
    """`PredictDataModule` without a file."""

    def __init__(self, encoded: list[EncodedQuestion], batch_tokens: int) -> None:
        super().__init__(batch_tokens=batch_tokens)
        self.made_up = encoded

    def setup(self, stage: str) -> None:
        self.encoded = self.made_up
