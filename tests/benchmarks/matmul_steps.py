"""Fifty steps of a few layers of the 13B's width, by PEFT and transformers and by the fast path in 16 and in 8 bits.

    python -m tests.benchmarks.matmul_steps --matmul bf16 int8_backward int8      # one CUDA GPU, a minute
    python -m tests.benchmarks.matmul_steps --tiny                                # a rehearsal anywhere

All begin with the same random 4-bit base and adapter, r 64, and learn the same packed documents of 60 to 500 random
tokens by heart, without dropout. A RESULT line has the losses of some steps and the largest difference from PEFT's in
any step. What PEFT differs from itself by, when the rows of the batch change places, is the measure of that.
"""

import argparse
import json
import time
from dataclasses import replace
from typing import Any, get_args

import torch
from torch import Tensor, nn

from taigi_lightning.fast_path.apply import apply_fast_path, compute_in, forward_hidden
from taigi_lightning.fast_path.cross_entropy import linear_cross_entropy_sum
from taigi_lightning.kernels.matmul import Matmul
from taigi_lightning.model.adapters import LoraSettings, attach_adapter
from tests.benchmarks.random_base import TAIGI_13B, llama_config, random_base

CUDA = torch.cuda.is_available()
DEVICE, DTYPE = ("cuda", torch.bfloat16) if CUDA else ("cpu", torch.float32)
NARROW = {"hidden": 128, "intermediate": 256, "heads": 2, "kv_heads": 2, "head_size": 64, "vocabulary": 512}
SHOWN = (0, 9, 24, 39, 49)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--matmul", nargs="+", choices=get_args(Matmul), default=["bf16", "int8_backward", "int8"]
    )
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--rows", type=int, default=2)
    parser.add_argument("--length", type=int, default=1024)
    parser.add_argument("--rate", type=float, default=1e-3)
    parser.add_argument("--tiny", action="store_true", help="narrow layers: a rehearsal")
    return parser.parse_args()


def make_model(args: argparse.Namespace) -> Any:
    torch.manual_seed(1)
    base = random_base(
        llama_config(replace(TAIGI_13B, **(NARROW if args.tiny else {}), layers=args.layers)), DEVICE
    )
    for module in base.modules():
        if hasattr(getattr(module, "weight", None), "quant_state"):
            module.compute_dtype = module.weight.quant_state.dtype = DTYPE
            module.support_avx512bf16_for_cpu = False  # see `base_model`
    for parameter in base.parameters():
        if parameter.is_floating_point():
            parameter.data = parameter.data.to(DTYPE)
    base.config.use_cache = False
    return attach_adapter(base, LoraSettings(64, 128, 0.0)).to(DEVICE).train()


def packed(args: argparse.Namespace, vocabulary: int) -> tuple[Tensor, Tensor]:
    """Tokens (B, T), and the positions of documents of 60 to 500 of them."""
    generator = torch.Generator().manual_seed(2)
    tokens = torch.randint(3, vocabulary, (args.rows, args.length), generator=generator)
    rows = []
    for _ in range(args.rows):
        cuts = torch.randint(60, 500, (args.length // 60 + 1,), generator=generator).tolist()
        rows.append(torch.cat([torch.arange(cut) for cut in cuts])[: args.length])
    return tokens.to(DEVICE), torch.stack(rows).to(DEVICE)


def fifty_steps(model: Any, tokens: Tensor, where: Tensor, rate: float) -> tuple[list[float], float]:
    """Loss of every step, and seconds of the median one; the adapter is as before afterwards."""
    trained = [p for p in model.parameters() if p.requires_grad]
    start = [p.detach().clone() for p in trained]
    optimizer = torch.optim.AdamW(trained, lr=rate)
    weight, losses, times = model.get_output_embeddings().weight, [], []
    for _ in range(50):
        began = time.perf_counter()
        with torch.autocast(DEVICE, dtype=torch.bfloat16, enabled=CUDA):
            hidden = forward_hidden(model, tokens, where)
            loss = linear_cross_entropy_sum(hidden, weight, tokens) / tokens.numel()
        loss.backward()
        nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        losses.append(float(loss.detach()))  # waits for the device
        times.append(time.perf_counter() - began)
    with torch.no_grad():
        for parameter, value in zip(trained, start, strict=True):
            parameter.copy_(value)
    return losses, sorted(times)[25]


def main() -> None:
    args = parse_arguments()
    model = make_model(args)
    tokens, where = packed(args, model.config.vocab_size)
    wanted: list[float] = []
    turns: list[tuple[str, Matmul | None, Tensor, Tensor]] = [
        ("PEFT", None, tokens, where),
        ("PEFT, rows swapped", None, tokens.flip(0), where.flip(0)),
        *[(f"fast path, {way}", way, tokens, where) for way in args.matmul],
    ]
    for name, way, ids, positions in turns:
        if way is not None:
            apply_fast_path(model, compile=CUDA, activation_budget=1.0)
            compute_in(model, way)
        losses, seconds = fifty_steps(model, ids, positions, args.rate)
        wanted = wanted or losses
        apart = [abs(a - b) for a, b in zip(losses, wanted, strict=True)]
        found = {
            "name": name, "losses": [round(losses[n], 4) for n in SHOWN], "largest_difference": round(max(apart), 4),
            "at_step": apart.index(max(apart)) + 1, "mean_difference": round(sum(apart) / 50, 5),
            "last_difference": round(apart[-1], 5), "step_s": round(seconds, 4),
        }  # fmt: skip
        print("RESULT", json.dumps(found), flush=True)


if __name__ == "__main__":
    main()
