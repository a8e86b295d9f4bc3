"""What products in 8 bits do to training and to answers, on a real model: gradients, held-out loss, next tokens.

    python -m tests.benchmarks.matmul_fidelity gradients BASE TEXTS
    python -m tests.benchmarks.matmul_fidelity train BASE TEXTS --matmul int8 --seed 1 --steps 500

BASE is a model's folder, as `demo-real` leaves it in `models/demo-real/base`; TEXTS a folder of Parquet files that
`corpus_tools clean` wrote. On a CPU everything is in float32 and 8 bits are emulated.
"""

import argparse
import json
import math
import time
from pathlib import Path
from typing import Any, get_args

import pyarrow.parquet as pq
import torch
from torch import Tensor

from taigi_lightning.fast_path.apply import apply_fast_path, causal_lm, compute_in, forward_hidden
from taigi_lightning.fast_path.cross_entropy import linear_cross_entropy_sum
from taigi_lightning.fast_path.output_head import output_head
from taigi_lightning.kernels.matmul import Matmul
from taigi_lightning.model.adapters import LoraSettings, attach_adapter
from taigi_lightning.model.base_model import load_base_model, load_tokenizer

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
DTYPE = torch.bfloat16 if DEVICE.type == "cuda" else torch.float32
WAYS = get_args(Matmul)
HELD: tuple[Matmul, ...] = ("bf16", "int8_mixed", "int8", "fp8")  # what the held-out loss is computed in
Grads = dict[str, Tensor]


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=("gradients", "train"))
    parser.add_argument("base")
    parser.add_argument("texts", type=Path)
    parser.add_argument("--matmul", choices=WAYS, default="bf16")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--rows", type=int, default=4)
    parser.add_argument("--length", type=int, default=1024)
    parser.add_argument("--rate", type=float, default=2e-4)
    return parser.parse_args()


def blocks(args: argparse.Namespace, split: str) -> Tensor:
    """A split's texts end to end, in rows (n, length)."""
    tokenizer = load_tokenizer(args.base)
    texts = [
        t for f in sorted(args.texts.glob(f"{split}-*.parquet")) for t in pq.read_table(f)["text"].to_pylist()
    ]
    ids = [i for text in texts for i in [*tokenizer(text)["input_ids"], tokenizer.eos_token_id]]
    rows = len(ids) // args.length
    return torch.tensor(ids[: rows * args.length]).view(rows, args.length)


def make_model(args: argparse.Namespace, dtype: torch.dtype = DTYPE) -> Any:
    base = load_base_model(args.base, quantization="nf4", compute_dtype=dtype, device=DEVICE)
    model = attach_adapter(base, LoraSettings(64, 128, 0.05)).to(DEVICE).train()
    return apply_fast_path(model, compile=DEVICE.type == "cuda")


def hidden_of(model: Any, ids: Tensor) -> Tensor:
    positions = torch.arange(ids.shape[1], device=ids.device).expand(ids.shape)
    return forward_hidden(model, ids, positions)


def loss_of(model: Any, ids: Tensor) -> Tensor:
    """Mean loss of rows (B, T)."""
    total = linear_cross_entropy_sum(hidden_of(model, ids), output_head(model), ids)
    return total / (ids.shape[0] * (ids.shape[1] - 1))


def gradients_of(model: Any, ids: Tensor) -> tuple[float, Grads]:
    model.zero_grad(set_to_none=True)
    torch.manual_seed(3)
    loss = loss_of(model, ids)
    loss.backward()
    return float(loss), {n: p.grad.double() for n, p in model.named_parameters() if p.grad is not None}


def cosine(one: Tensor, other: Tensor) -> float:
    return float(torch.nn.functional.cosine_similarity(one.flatten(), other.flatten(), dim=0))


def compare(found: Grads, wanted: Grads) -> dict[str, float]:
    """Median cosine of each projection's A and B over the layers; the median and the least of all; of all as one."""
    by_name: dict[str, list[float]] = {}
    for name, gradient in wanted.items():
        _, _, rest = name.partition("layers.")
        key = ".".join(rest.split(".")[2:4]).replace("lora_", "")
        by_name.setdefault(key, []).append(cosine(found[name], gradient))
    every = sorted(value for values in by_name.values() for value in values)
    whole = [torch.cat([g[n].flatten() for n in wanted]) for g in (found, wanted)]
    medians = {key: sorted(values)[len(values) // 2] for key, values in by_name.items()}
    summary = {"median": every[len(every) // 2], "least": every[0], "whole": cosine(*whole)}
    return {key: round(value, 5) for key, value in (medians | summary).items()}


def gradients(args: argparse.Namespace) -> None:
    """At an adapter that is under way: after some steps in 16 bits, each way and other rows against those gradients and
    against exact ones."""
    model = make_model(args)
    ids = blocks(args, "train").to(DEVICE)
    fit(model, ids, args, steps=min(args.steps, 60))
    here, others = ids[: args.rows], ids[args.rows : 2 * args.rows]
    loss, wanted = gradients_of(model, here)
    found = {"other rows": gradients_of(model, others)}
    compute_in(model, "int8_mixed")
    gradients_of(model, others)  # whose strongest directions are kept
    for way in WAYS:
        compute_in(model, way)
        found[way] = gradients_of(model, here)
    references = {"bf16": (loss, wanted)}
    if torch.float32 != DTYPE:
        references["float32"] = exactly(args, model, here)
    for to, (loss, wanted) in references.items():
        for name, (its, other) in found.items():
            line = {
                "name": name,
                "to": to,
                "loss": round(loss, 5),
                "its": round(its, 5),
                **compare(other, wanted),
            }
            print("GRADIENTS", json.dumps(line), flush=True)


def exactly(args: argparse.Namespace, model: Any, ids: Tensor) -> tuple[float, Grads]:
    """Loss and gradients of the same 4-bit weights and adapter with everything in float32."""
    exact = make_model(args, torch.float32)
    trained = {name: p.detach() for name, p in model.named_parameters() if p.requires_grad}
    for name, parameter in exact.named_parameters():
        if parameter.requires_grad:
            parameter.data.copy_(trained[name])
    return gradients_of(exact, ids)


def fit(model: Any, ids: Tensor, args: argparse.Namespace, steps: int) -> list[float]:
    """AdamW with a warm-up and a cosine; losses of the steps."""
    optimizer = torch.optim.AdamW(
        [p for p in model.parameters() if p.requires_grad], lr=args.rate, weight_decay=0.0
    )
    generator, losses = torch.Generator().manual_seed(args.seed), []
    for step in range(steps):
        rate = args.rate * min(1.0, (step + 1) / 20) * 0.5 * (1 + math.cos(math.pi * step / steps))
        optimizer.param_groups[0]["lr"] = rate
        rows = torch.randint(len(ids), (args.rows,), generator=generator).to(ids.device)
        loss = loss_of(model, ids[rows])
        loss.backward()
        torch.nn.utils.clip_grad_norm_([p for p in model.parameters() if p.requires_grad], 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        losses.append(loss.detach())
    return [float(loss) for loss in losses]


@torch.no_grad()
def held_out(model: Any, ids: Tensor) -> tuple[float, Tensor]:
    """Mean loss, and the likeliest next token everywhere."""
    losses, likeliest = [], []
    for row in ids:
        losses.append(float(loss_of(model, row[None])))
        logits = torch.cat(list(output_head(model).logits(hidden_of(model, row[None])[0])), dim=-1)
        likeliest.append(logits.argmax(-1))
    return sum(losses) / len(losses), torch.cat(likeliest)


def train(args: argparse.Namespace) -> None:
    """One run; its held-out loss in its own products and in every other kind, and how many next tokens agree."""
    torch.manual_seed(args.seed)
    model = make_model(args)
    compute_in(model, args.matmul)
    ids, held = blocks(args, "train").to(DEVICE), blocks(args, "validation")[:24].to(DEVICE)
    causal_lm(model).fast_decoder.fill = False  # evaluations switch between kinds
    start = time.monotonic()
    losses = fit(model, ids, args, args.steps)
    seconds = time.monotonic() - start
    model.eval()
    found = {}
    for way in HELD:
        compute_in(model, way)
        found[way] = held_out(model, held)
    norm = sum(float((m.lora_B["default"].weight @ m.lora_A["default"].weight).square().sum())
               for m in model.modules() if hasattr(m, "lora_A")) ** 0.5  # fmt: skip
    line = {
        "matmul": args.matmul, "seed": args.seed, "rows": len(ids), "last 50": round(sum(losses[-50:]) / 50, 4),
        "first": round(losses[0], 4), **{f"held out, {way}": round(loss, 4) for way, (loss, _) in found.items()},
        **{f"next tokens agree, {way}": round(float((found["bf16"][1] == likeliest).float().mean()), 4)
           for way, (_, likeliest) in found.items()},
        "update": round(norm, 3), "seconds": round(seconds, 1),
    }  # fmt: skip
    print("TRAINED", json.dumps(line), flush=True)


if __name__ == "__main__":
    arguments = parse_arguments()
    {"gradients": gradients, "train": train}[arguments.what](arguments)
