"""What a merge keeps of an update after a second 4-bit quantisation, and what that does to a trained model.

    python -m tests.benchmarks.merge_retention layer     # one 13B-shaped weight, updates of chosen sizes
    python -m tests.benchmarks.merge_retention model     # a small model, pre-trained, adapted, merged, scored

Both run on a GPU if there is one. `taigi_lightning/model/merge_precision.py` defines what "kept" means.

Measured on one H100 (torch 2.11, bitsandbytes 0.50.2, 2026-11-24). One weight, 5120 x 13824, Gaussian, with a
rank-64 update whose singular values fall as 1/k; "error" is the 4-bit merged weight against the trained
function's (4-bit weight + update), over the weight's norm:

| dtype | update | onto | rounding | kept in 16 bits | kept in 4 bits | error |
|-|-|-|-|-|-|-|
| bfloat16 | 0.1 % | original | nearest | 58.7 % | 59.1 % | 0.9 % |
| bfloat16 | 0.1 % | original | stochastic | 100.0 % | 99.4 % | 1.7 % |
| bfloat16 | 0.1 % | dequantized | stochastic | 100.0 % | 1.7 % | 0.2 % |
| bfloat16 | 1 % | original | nearest | 99.9 % | 99.5 % | 4.7 % |
| bfloat16 | 1 % | original | stochastic | 100.0 % | 99.6 % | 4.8 % |
| bfloat16 | 1 % | dequantized | stochastic | 100.0 % | 1.6 % | 1.1 % |
| bfloat16 | 3 % | original | stochastic | 100.0 % | 99.6 % | 7.8 % |
| bfloat16 | 3 % | dequantized | stochastic | 100.0 % | 12.6 % | 3.2 % |
| bfloat16 | 10 % | original | stochastic | 100.0 % | 99.6 % | 11.5 % |
| bfloat16 | 10 % | dequantized | stochastic | 100.0 % | 83.5 % | 7.4 % |
| float16 | 0.1 % | original | nearest | 99.8 % | 99.6 % | 1.5 % |
| float16 | 0.1 % | original | stochastic | 100.0 % | 99.8 % | 1.6 % |

A Llama of 8 layers, 512 wide, over bytes: 4,000 steps on Python's standard library, then LoRA on its 4-bit
base on the language reference. Held-out loss in nats a byte: 4-bit base 1.1143. "gain" is what the 4-bit
merged model keeps of the trained adapter's improvement; KL (nats) is from the trained function (4-bit base +
adapter) to the merged model in 16 and in 4 bits. Stochastic rounding, unless it says nearest:

| update | loss trained | onto | kept | loss 16-bit | loss 4-bit | gain | KL 16 | KL 4 |
|-|-|-|-|-|-|-|-|-|
| 0.07 % | 1.1088 | original, nearest | 47.5 % | 1.1105 | 1.1113 | 55 % | 0.0048 | 0.0001 |
| 0.07 % | 1.1088 | original | 99.9 % | 1.1081 | 1.1087 | 103 % | 0.0048 | 0.0001 |
| 0.07 % | 1.1088 | dequantized | 1.5 % | 1.1089 | 1.1141 | 4 % | 0.0000 | 0.0001 |
| 0.92 % | 1.0311 | original | 99.8 % | 1.0316 | 1.0313 | 100 % | 0.0036 | 0.0010 |
| 0.92 % | 1.0311 | dequantized | 1.7 % | 1.0311 | 1.1111 | 4 % | 0.0000 | 0.0418 |
| 7.1 % | 0.8714 | original | 99.6 % | 0.8749 | 0.8758 | 98 % | 0.0035 | 0.0041 |
| 7.1 % | 0.8714 | dequantized | 66.9 % | 0.8714 | 0.9325 | 75 % | 0.0000 | 0.0483 |
| 21 % | 0.8228 | original | 99.6 % | 0.8282 | 0.8329 | 97 % | 0.0065 | 0.0123 |
| 21 % | 0.8228 | dequantized | 98.4 % | 0.8227 | 0.8238 | 100 % | 0.0000 | 0.0073 |

So the merge adds to the original weights and rounds stochastically: it is the one way that loses nothing for
the update sizes of a real stage, though a weight error alone (first table) would have pointed elsewhere: the
rounding's error is spread over all directions and the update's is not. Onto the dequantised weights a model
kept in 16 bits is exactly the trained one, and above a fifth of the weights' norm it is the better way.
"""

import math
import sys
import sysconfig
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from pydoc_data.topics import topics

import torch
from torch.func import functional_call
from transformers import LlamaConfig, LlamaForCausalLM

from taigi_lightning.model.merge_precision import (
    Survival,
    measure_survival,
    nf4_round_trip,
    pool,
    round_stochastically,
)

Weights = dict[str, torch.Tensor]
WAYS = [(onto, rounding) for onto in ("original", "dequantized") for rounding in ("nearest", "stochastic")]
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def merge(
    weight: torch.Tensor, left: torch.Tensor, right: torch.Tensor, onto: str, rounding: str
) -> tuple[torch.Tensor, Survival]:
    """Add left @ right to a 16-bit weight in float32, round once, and measure what is kept."""
    start = weight if onto == "original" else nf4_round_trip(weight)
    total = torch.addmm(start.float(), left, right)
    if rounding == "nearest":
        merged = total.to(weight.dtype)
    else:
        merged = round_stochastically(total, weight.dtype, torch.Generator(weight.device).manual_seed(9527))
    return merged, measure_survival(weight, start, merged, left, right)


def layer_table(rows: int = 5120, columns: int = 13824, rank: int = 64) -> Iterator[str]:
    """Yield the table of one weight; the singular values of its update fall as 1/k."""
    yield "| dtype | update | onto | rounding | kept in 16 bits | kept in 4 bits | 4-bit error |"
    yield "|-|-|-|-|-|-|-|"
    generator = torch.Generator().manual_seed(9527)
    original = torch.randn(rows, columns, generator=generator).mul_(0.02).to(DEVICE)
    spectrum = 1 / torch.arange(1, rank + 1)
    left = (torch.randn(rows, rank, generator=generator) * spectrum).to(DEVICE)
    right = torch.randn(rank, columns, generator=generator).to(DEVICE)
    left *= original.norm() / (left @ right).norm()
    for dtype in (torch.bfloat16, torch.float16):
        weight = original.to(dtype)
        trained = nf4_round_trip(weight).float()
        for size in (0.0001, 0.001, 0.01, 0.03, 0.1):
            for onto, rounding in WAYS:
                merged, kept = merge(weight, left * size, right, onto, rounding)
                error = (nf4_round_trip(merged).float() - trained).addmm_(left, right, alpha=-size)
                yield (
                    f"| {str(dtype)[6:]} | {size:.2%} | {onto} | {rounding} | {kept.fraction_16bit:.1%} "
                    f"| {kept.fraction_4bit:.1%} ± {kept.standard_error:.1%} "
                    f"| {error.norm() / original.norm():.2%} |"
                )


def as_tokens(text: bytes) -> torch.Tensor:
    return torch.frombuffer(bytearray(text), dtype=torch.uint8).long().to(DEVICE)


def python_sources(limit: int = 20_000_000) -> bytes:
    """The standard library's modules, without the documentation that the model is adapted to."""
    folder = Path(sysconfig.get_paths()["stdlib"])
    skipped = {"site-packages", "dist-packages", "test", "pydoc_data"}
    files = [path for path in sorted(folder.rglob("*.py")) if not skipped & set(path.parts)]
    return b"\n".join(path.read_bytes() for path in files)[:limit]


def batches(tokens: torch.Tensor, steps: int, length: int = 256, size: int = 32) -> Iterator[torch.Tensor]:
    """Yield random windows [size, length]."""
    generator = torch.Generator().manual_seed(1)
    for _ in range(steps):
        starts = torch.randint(0, len(tokens) - length, (size, 1), generator=generator)
        yield tokens[(starts + torch.arange(length)).to(DEVICE)]


def train(
    parameters: Sequence[torch.Tensor],
    loss_of: Callable[[torch.Tensor], torch.Tensor],
    tokens: torch.Tensor,
    *,
    steps: int,
    rate: float,
) -> None:
    """AdamW with warm-up and a cosine schedule."""
    optimizer = torch.optim.AdamW(parameters, lr=rate, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min((step + 1) / 50, 0.5 + 0.5 * math.cos(math.pi * step / steps))
    )
    for step, ids in enumerate(batches(tokens, steps)):
        loss = loss_of(ids)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        if step % 200 == 0 or step == steps - 1:
            print(f"  step {step}: {loss.item():.4f}", file=sys.stderr, flush=True)


def pretrain(steps: int, width: int, layers: int) -> LlamaForCausalLM:
    """A Llama over bytes, trained on code."""
    torch.manual_seed(9527)
    shape = {"hidden_size": width, "intermediate_size": 11 * width // 4, "num_hidden_layers": layers}
    config = LlamaConfig(**shape, vocab_size=256, num_attention_heads=width // 64, num_key_value_heads=2)
    model = LlamaForCausalLM(config).to(DEVICE)
    sources = as_tokens(python_sources())
    train(list(model.parameters()), lambda ids: model(ids, labels=ids).loss, sources, steps=steps, rate=1e-3)
    return model


def adapt(
    model: LlamaForCausalLM, base: Weights, names: list[str], tokens: torch.Tensor, *, steps: int, rate: float
) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """Train LoRA (r 16, alpha 32) on `base` in float32; return the scaled left and right of each weight."""
    torch.manual_seed(9527)
    left = {name: torch.zeros(base[name].shape[0], 16, device=DEVICE).requires_grad_() for name in names}
    right = {name: torch.empty(16, base[name].shape[1], device=DEVICE) for name in names}
    for value in right.values():
        torch.nn.init.kaiming_uniform_(value, a=5**0.5).requires_grad_()

    def loss_of(ids: torch.Tensor) -> torch.Tensor:
        changed = {name: base[name] + 2 * left[name] @ right[name] for name in names}
        loss: torch.Tensor = functional_call(model, {**base, **changed}, (ids,), {"labels": ids}).loss
        return loss

    train([*left.values(), *right.values()], loss_of, tokens, steps=steps, rate=rate)
    return {name: (2 * left[name].detach(), right[name].detach()) for name in names}


@torch.no_grad()
def log_probabilities(model: LlamaForCausalLM, weights: Weights, windows: torch.Tensor) -> torch.Tensor:
    """[windows, T - 1, vocabulary]"""
    parts = [functional_call(model, weights, (part,)).logits[:, :-1] for part in torch.split(windows, 16)]
    return torch.cat(parts).log_softmax(-1)


def divergence(wanted: torch.Tensor, found: torch.Tensor) -> float:
    """Kullback-Leibler divergence of two sets of log-probabilities, nats a position."""
    return float((wanted.exp() * (wanted - found)).sum(-1).mean())


def model_table(steps: int = 4000, width: int = 512, layers: int = 8) -> Iterator[str]:
    """Yield the table of a model trained on code, adapted to prose in 4 bits, merged and quantised again."""
    model = pretrain(steps, width, layers)
    stored = {name: weight.detach().bfloat16() for name, weight in model.state_dict().items()}
    names = [name for name, weight in stored.items() if weight.ndim == 2 and ".layers." in name]
    full = {name: weight.float() for name, weight in stored.items()}
    base = full | {name: nf4_round_trip(stored[name]).float() for name in names}
    prose = as_tokens("\n".join(text for _, text in sorted(topics.items())).encode())
    windows = prose[-100 * 256 :].view(100, 256)

    def score(weights: Weights) -> tuple[float, torch.Tensor]:
        logs = log_probabilities(model, weights, windows)
        return -logs.gather(-1, windows[:, 1:, None]).mean().item(), logs

    before, _ = score(base)
    yield f"Held-out loss, nats a byte: 16-bit base {score(full)[0]:.4f}, 4-bit base {before:.4f}."
    yield "| rate | update | trained | onto | rounding | kept | 16-bit | 4-bit | gain | KL 16 | KL 4 |"
    yield "|-|-|-|-|-|-|-|-|-|-|-|"
    for rate, count in ((1e-5, 100), (5e-5, 200), (2e-4, 400), (1e-3, 400), (3e-3, 800)):
        update = adapt(model, base, names, prose[: -100 * 256], steps=count, rate=rate)
        trained_loss, trained = score(base | {n: torch.addmm(base[n], *update[n]) for n in names})
        for onto, rounding in WAYS:
            merged, kept = {}, []
            for name in names:
                merged[name], survival = merge(stored[name], *update[name], onto, rounding)
                kept.append(survival)
            untouched = full if onto == "original" else base
            loss16, logs16 = score(untouched | {n: merged[n].float() for n in names})
            loss4, logs4 = score(base | {n: nf4_round_trip(merged[n]).float() for n in names})
            far16, far4 = (
                float((trained.exp() * (trained - logs)).sum(-1).mean()) for logs in (logs16, logs4)
            )
            gain = (before - loss4) / (before - trained_loss)
            whole = pool(kept)
            yield (
                f"| {rate:g} x {count} | {whole.size:.2%} | {trained_loss:.4f} | {onto} | {rounding} "
                f"| {whole.fraction_4bit:.1%} ± {whole.standard_error:.1%} | {loss16:.4f} | {loss4:.4f} "
                f"| {gain:.1%} | {far16:.5f} | {far4:.5f} |"
            )


if __name__ == "__main__":
    for line in {"layer": layer_table, "model": model_table}[sys.argv[1]]():
        print(line, flush=True)
