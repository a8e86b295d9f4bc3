"""Questions a second: choice scoring against the way of a usual notebook, and against the matrix bound.

    python -m tests.benchmarks.predict_speed BASE [--layers 40] [--questions 1001] [--fast]

BASE is a model folder; where there is none, one of the 13B shape with random weights is made there. Both
ways run the same 4-bit base with the same LoRA adapter. The notebook's way is transformers' `generate` in
batches of 4 in input order, left-padded, `max_new_tokens` 5; it is timed on the first 200 questions. The
prompts' lengths follow the 1,001 test questions: passages of 21 to 469 characters (median 147), every ninth
repeated.
"""

from __future__ import annotations

import argparse
import json
import random
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from transformers import LlamaConfig, LlamaForCausalLM

from taigi_lightning.adapters import PROJECTIONS
from taigi_lightning.answers import answer_log_probabilities, generate_tokens
from taigi_lightning.base_model import load_base_model
from taigi_lightning.fast_path import apply_fast_path
from taigi_lightning.question_batches import EncodedQuestion, QuestionBatch, plan_batches

VOCABULARY = 56_064
NOTEBOOK_QUESTIONS = 200


def make_base(folder: Path, layers: int, device: str) -> None:
    """Random 16-bit weights in the shape of Llama-2-13B with a larger vocabulary."""
    config = LlamaConfig(
        vocab_size=VOCABULARY, hidden_size=5120, intermediate_size=13824, num_hidden_layers=layers,
        num_attention_heads=40, max_position_embeddings=4096, pad_token_id=0,
    )  # fmt: skip
    torch.set_default_dtype(torch.bfloat16)
    with torch.device(device):
        LlamaForCausalLM(config).save_pretrained(folder, max_shard_size="4GB")
    torch.set_default_dtype(torch.float32)


def make_questions(count: int, vocabulary: int) -> list[EncodedQuestion]:
    """Prompts of random tokens whose lengths and repeated passages are those of the test questions."""
    draw = random.Random(9527)

    def tokens(number: int) -> list[int]:
        return [draw.randrange(100, vocabulary) for _ in range(number)]

    instruction, middle, labels = tokens(13), tokens(28), [tokens(5) for _ in range(5)]
    passage: list[int] = []
    questions = []
    for row in range(1, count + 1):
        if row % 9 or not passage:
            passage = tokens(min(469, max(21, round(draw.gauss(155, 75)))))
        asked = [token for label in labels for token in label + tokens(draw.randint(2, 14))]
        prompt = [1, *instruction, *passage, *middle, *asked]
        questions.append(EncodedQuestion(row, str(row), prompt, ([50], [51], [52], [53])))
    return questions


def seconds(work: Callable[[], object]) -> float:
    """Wall-clock seconds of work, with the device idle before and after."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    began = time.perf_counter()
    work()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - began


def choose_all(model: Any, batches: Sequence[QuestionBatch]) -> None:
    """Answer every batch, results brought to the CPU as `predict` does."""
    for batch in batches:
        answer_log_probabilities(model, batch).tolist()


def notebook_way(model: Any, questions: Sequence[EncodedQuestion]) -> None:
    """Four at a time, in input order."""
    tokenizer: Any = SimpleNamespace(pad_token_id=0, eos_token_id=2, bos_token_id=1)
    for start in range(0, len(questions), 4):
        generate_tokens(model, tokenizer, [q.prompt for q in questions[start : start + 4]], 5)


def matrix_rate(device: str, dtype: torch.dtype, rows: int) -> float:
    """Flop/s this device reaches on products of the model's largest shape, the bound's yardstick."""
    x = torch.randn(rows, 5120, device=device, dtype=dtype)
    w = torch.randn(5120, 13824, device=device, dtype=dtype)
    seconds(lambda: [x @ w for _ in range(5)])
    return 2 * rows * 5120 * 13824 * 20 / seconds(lambda: [x @ w for _ in range(20)])


def main() -> None:
    """Print one JSON object a measurement."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else "")
    parser.add_argument("base", type=Path)
    parser.add_argument("--layers", type=int, default=40)
    parser.add_argument("--questions", type=int, default=1001)
    parser.add_argument("--batch-tokens", type=int, nargs="+", default=[8192, 16384, 32768])
    parser.add_argument("--fast", action="store_true", help="also with the training's fast path applied")
    options = parser.parse_args()
    cuda = torch.cuda.is_available()
    device, dtype = ("cuda", torch.bfloat16) if cuda else ("cpu", torch.float32)
    if not (options.base / "config.json").exists():
        make_base(options.base, options.layers, device)
    model: Any = load_base_model(
        str(options.base), quantization="nf4", compute_dtype=dtype, device=torch.device(device)
    )
    model = get_peft_model(model, LoraConfig(r=16, lora_alpha=32, target_modules=PROJECTIONS)).eval()
    questions = make_questions(options.questions, model.config.vocab_size)
    tokens = sum(len(q.prompt) for q in questions)
    products = sum(
        m.in_features * m.out_features for n, m in model.named_modules() if n.endswith("base_layer")
    )
    rate = matrix_rate(device, dtype, 16384 if cuda else 16)
    about = {"device": torch.cuda.get_device_name() if cuda else "cpu", "TFLOP/s": round(rate / 1e12, 1)}
    print(json.dumps({**about, "questions": len(questions), "prompt tokens": tokens}), flush=True)
    with torch.autocast(device, dtype=torch.bfloat16, enabled=cuda):
        some = questions[:NOTEBOOK_QUESTIONS]
        notebook_way(model, some[:8])
        notebook = len(some) / seconds(lambda: notebook_way(model, some))
        print(json.dumps({"way": "notebook", "questions/s": round(notebook, 2)}), flush=True)
        for fast in (False, True) if options.fast else (False,):
            if fast:
                apply_fast_path(model, compile=True, activation_budget=1.0, offload=False)
            for size in options.batch_tokens:
                for share in (False, True):
                    batches = plan_batches(questions, size, share=share)
                    choose_all(model, batches[:2])
                    took = seconds(lambda batches=batches: choose_all(model, batches))  # type: ignore[misc]
                    bound = 2 * products * tokens / rate  # of every prompt, shared or not
                    result = {
                        "way": "choice", "fast path": fast, "batch tokens": size, "shared": share,
                        "questions/s": round(len(questions) / took, 2),
                        "times notebook": round(len(questions) / took / notebook, 2),
                        "share of matrix bound": round(bound / took, 3),
                        "peak GiB": round(torch.cuda.max_memory_allocated() / 2**30, 1) if cuda else None,
                    }  # fmt: skip
                    print(json.dumps(result), flush=True)


if __name__ == "__main__":
    main()
