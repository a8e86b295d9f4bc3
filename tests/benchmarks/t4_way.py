"""The way that a T4 takes, on any CUDA card: float16, no flash attention, no bfloat16. Gradients, loss scaling, speed.

python tests/benchmarks/t4_way.py            # 60 s on an H200; --tiny rehearses it without a GPU

For a Llama of the 13B's width and a Gemma 3 of the 12B's, whose residual stream is made larger than float16's largest
number: the LoRA gradients of one batch against float32's from the same 4-bit weights, fifty steps with PyTorch's loss
scaling, and tokens a second. Beside each the way of a newer card: bfloat16 with flash attention. Prints RESULT lines.
"""

import argparse
import json
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from typing import Any

import bitsandbytes as bnb
import torch
from random_base import TAIGI_13B, gemma3, llama_config, random_base
from torch import Tensor, nn

from taigi_lightning.fast_path import attention, prefill
from taigi_lightning.fast_path.apply import apply_fast_path, causal_lm, forward_hidden
from taigi_lightning.fast_path.cross_entropy import linear_cross_entropy_sum
from taigi_lightning.fast_path.decoder_layer import DecoderLayer
from taigi_lightning.model.adapters import LoraSettings, attach_adapter

CUDA = torch.cuda.is_available()
DEVICE = "cuda" if CUDA else "cpu"
HALF, NEWER, FULL = torch.float16, torch.bfloat16, torch.float32
LARGE = 2e4  # mean weight of the norms before Gemma's residual stream


@contextmanager
def without_flash() -> Iterator[None]:
    """Take attention's way of cards before Ampere."""
    has_flash = attention.has_flash
    attention.has_flash = prefill.has_flash = lambda _: False  # type: ignore[assignment]
    try:
        yield
    finally:
        attention.has_flash = prefill.has_flash = has_flash


def bases(layers: int, tiny: bool) -> Iterator[tuple[str, Any]]:
    """Random bases in 4 bits, their names first."""
    narrow: dict[str, Any] = {"hidden": 64, "intermediate": 128, "heads": 4, "kv_heads": 2, "head_size": 16}
    shape = replace(TAIGI_13B, layers=layers, **(narrow | {"vocabulary": 97} if tiny else {}))
    yield "Llama", random_base(llama_config(shape), DEVICE)
    config = gemma3(*((64, 128, layers, 4, 2, 16) if tiny else (3840, 15360, layers, 16, 8, 1024)))
    if tiny:
        config.head_dim, config.vocab_size = 16, 97
    model = random_base(config, DEVICE)
    for layer in model.model.layers:
        for norm in (layer.post_attention_layernorm, layer.post_feedforward_layernorm):
            norm.weight.data.normal_(LARGE, LARGE / 4)
    yield "Gemma 3", model


def cast(model: Any, dtype: torch.dtype) -> Any:
    """The same 4-bit weights under layers that compute in another dtype."""
    for module in model.modules():
        if isinstance(module, bnb.nn.Linear4bit):
            module.weight.quant_state.dtype = module.compute_dtype = dtype
        for name, parameter in module.named_parameters(recurse=False):
            if (
                not isinstance(parameter, bnb.nn.Params4bit)
                and "lora" not in name
                and not parameter.requires_grad
            ):
                parameter.data = parameter.data.to(dtype)
    return apply_fast_path(model, compile=CUDA, activation_budget=0.0)


def batch(model: Any, rows: int, length: int) -> tuple[Tensor, Tensor]:
    """Random tokens (B, T), three documents a row, and their positions."""
    tokens = torch.randint(3, 90, (rows, length), generator=torch.Generator().manual_seed(1)).to(DEVICE)
    cuts = length // 3, length // 2
    places = torch.cat([torch.arange(n) for n in (cuts[0], cuts[1] - cuts[0], length - cuts[1])])
    return tokens, places.to(DEVICE).repeat(rows, 1)


def loss_of(model: Any, tokens: Tensor, positions: Tensor) -> Tensor:
    """Mean loss a token, in nats."""
    hidden = forward_hidden(model, tokens, positions)
    weight = causal_lm(model).get_output_embeddings().weight
    return linear_cross_entropy_sum(hidden, weight, tokens) / tokens.numel()


def gradients(model: Any, tokens: Tensor, positions: Tensor) -> dict[str, Tensor]:
    model.zero_grad(set_to_none=True)
    torch.manual_seed(3)
    (2.0**14 * loss_of(model, tokens, positions)).backward()
    return {n: p.grad.float() / 2.0**14 for n, p in model.named_parameters() if p.grad is not None}


@contextmanager
def watched(largest: list[float]) -> Iterator[None]:
    """Note the largest number of the residual stream."""
    forward = DecoderLayer.forward

    def noted(self: DecoderLayer, *inputs: Any) -> tuple[Tensor, Tensor]:
        middle, delta = forward(self, *inputs)
        largest.append(float(middle.detach().abs().max()))
        return middle, delta

    DecoderLayer.forward = noted  # type: ignore[method-assign]
    try:
        yield
    finally:
        DecoderLayer.forward = forward  # type: ignore[method-assign]


def compare_gradients(name: str, model: Any, length: int) -> None:
    """Print how far each way's gradients are from float32's: the worst matrix, and all together."""
    tokens, positions = batch(model, 1, length)
    wanted = gradients(cast(model, FULL), tokens, positions)
    for dtype, flash in ((HALF, False), (NEWER, True)):
        largest: list[float] = []
        with nullcontext() if flash else without_flash(), watched(largest):
            found = gradients(cast(model, dtype), tokens, positions)
        apart = {n: float((found[n] - wanted[n]).norm() / wanted[n].norm()) for n in wanted}
        joined = [torch.cat([g[n].flatten() for n in wanted]) for g in (found, wanted)]
        result = {
            "gradients": name, "dtype": str(dtype), "flash": flash, "worst": round(max(apart.values()), 5),
            "together": round(float((joined[0] - joined[1]).norm() / joined[1].norm()), 5),
            "finite": all(bool(torch.isfinite(g).all()) for g in found.values()), "stream": max(largest),
        }  # fmt: skip
        print("RESULT " + json.dumps(result), flush=True)


def fifty_steps(name: str, model: Any, rows: int, length: int, steps: int = 50) -> None:
    """Train each way from the same adapter, print loss, scale and skipped steps, and tokens a second."""
    tokens, positions = batch(model, rows, length)
    trained = [p for p in model.parameters() if p.requires_grad]
    start = [p.detach().clone() for p in trained]
    for dtype, flash in ((HALF, False), (NEWER, True)):
        with torch.no_grad():
            for parameter, value in zip(trained, start, strict=True):
                parameter.copy_(value)
        cast(model, dtype)
        optimizer = torch.optim.AdamW(trained, lr=1e-3)
        scaler = torch.amp.GradScaler(DEVICE, enabled=dtype == HALF)
        losses, skipped, times = [], 0, []
        with nullcontext() if flash else without_flash():
            for step in range(steps):
                torch.manual_seed(step)
                began = time.perf_counter()
                loss = loss_of(model, tokens, positions)
                scaler.scale(loss).backward()
                scaler.unscale_(optimizer)
                nn.utils.clip_grad_norm_(trained, 1.0)
                before = scaler.get_scale()
                scaler.step(optimizer)
                scaler.update()
                optimizer.zero_grad(set_to_none=True)
                skipped += scaler.get_scale() < before
                losses.append(float(loss.detach()))  # waits for the device
                times.append(time.perf_counter() - began)
        median = sorted(times[2:])[len(times[2:]) // 2]
        result = {
            "steps": name, "dtype": str(dtype), "flash": flash, "loss": [round(losses[n], 4) for n in (0, 24, -1)],
            "skipped": skipped, "scale": scaler.get_scale(), "tok_s": round(tokens.numel() / median),
        }  # fmt: skip
        if CUDA:
            result["reserved_gib"] = round(torch.cuda.max_memory_reserved() / 2**30, 2)
        print("RESULT " + json.dumps(result), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--rows", type=int, default=2)
    parser.add_argument("--length", type=int, default=1024)
    parser.add_argument("--tiny", action="store_true", help="narrow layers: a rehearsal without a GPU")
    args = parser.parse_args()
    rows, length = (1, 24) if args.tiny else (args.rows, args.length)
    for name, base in bases(args.layers, args.tiny):
        if CUDA:
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
        base.config.use_cache = False
        model = attach_adapter(base, LoraSettings(16, 32, 0.05)).to(DEVICE).train()
        for parameter_name, parameter in model.named_parameters():
            if "lora_B" in parameter_name:
                nn.init.normal_(parameter, std=0.01)
        compare_gradients(name, model, length)
        fifty_steps(name, model, rows, length)
        del model, base


if __name__ == "__main__":
    main()
