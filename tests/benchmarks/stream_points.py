"""Training steps with weights that wait on the host, measured: speed and memory, on one CUDA GPU.

python tests/benchmarks/stream_points.py 13b            # or 70b, gemma27b

Each part is one process and prints RESULT lines of JSON. Limits are enforced with set_per_process_memory_fraction. A
step is one micro-batch, forward and backward, gradients adding up; the optimizer has stepped once before, so its
state is there. Packed weights are random and made in seconds; each layer's have host memory of their own. Keys of a
point, joined by commas:
  host=auto|all|none|layers   limit=GiB   budget=auto|0..1   bs=rows   seq=tokens
  activations=GiB of host memory for activations (else half of what is available)
  optimizer=8bit|paged|adamw   link=GB/s: what crosses the link is copied as often as makes it seem that slow
"""

import argparse
import gc
import json
import os
import time
from dataclasses import replace
from typing import Any

os.environ.setdefault("PYTORCH_CUDA_ALLOC_CONF", "expandable_segments:True")

import bitsandbytes as bnb
import torch
from host_use import resident_bytes
from random_base import TAIGI_13B, llama_config, random_base
from stream_base import CUDA, DEVICE, NARROW, base_on_host, gemma_27b, llama_70b, slow_link

from taigi_lightning.fast_path.apply import apply_fast_path, causal_lm, expect_state, forward_hidden
from taigi_lightning.fast_path.cross_entropy import linear_cross_entropy_sum
from taigi_lightning.fast_path.machine_speed import measure_machine
from taigi_lightning.fast_path.output_head import output_head
from taigi_lightning.model.adapters import LoraSettings, attach_adapter
from taigi_lightning.planning.memory import coming_state_bytes

GIB = 2**30
RANKS = {"13b": 64, "70b": 16, "gemma27b": 32}
OPTIMIZERS = {"8bit": bnb.optim.AdamW8bit, "paged": bnb.optim.PagedAdamW8bit, "adamw": torch.optim.AdamW}
POINTS: dict[str, list[str]] = {
    "13b": [
        "host=all,limit=6,link=12", "host=none,limit=15.3", "host=auto,limit=15.3",
        "host=none,limit=15.3,link=12", "host=all,limit=15.3,link=12", "host=auto,limit=15.3,link=12",
        "host=none,bs=1,budget=0",
    ],
    "70b": [
        "host=all,limit=12,bs=1", "host=all,limit=24", "host=all,limit=24,activations=10",
        "host=none,limit=64,budget=0,activations=10", "host=none",
    ],
    "gemma27b": ["host=auto,limit=16", "host=auto,limit=16,bs=1", "host=none,limit=32,budget=0"],
}  # fmt: skip


def with_adapter(base: Any, rank: int) -> Any:
    base.config.use_cache = False
    return attach_adapter(base, LoraSettings(rank, 2 * rank, 0.05)).to(DEVICE).train()


def limit_to(gib: float) -> None:
    gc.collect()
    if CUDA:
        torch.cuda.empty_cache()
        total = torch.cuda.get_device_properties(0).total_memory
        torch.cuda.set_per_process_memory_fraction(min(1.0, gib * GIB / total) if gib else 1.0)
        torch.cuda.reset_peak_memory_stats()


def sync() -> None:
    if CUDA:
        torch.cuda.synchronize()


def prepare(model: Any, point: dict[str, str]) -> Any:
    """Apply the fast path as a point says; returns the decoder. Weights move before the limit counts."""
    base = causal_lm(model)
    limit_to(0)  # what waited comes back first
    if (earlier := base.__dict__.pop("fast_decoder", None)) is not None:
        earlier.release()
        del earlier
    model.zero_grad(set_to_none=True)
    host: Any = point["host"] if point["host"] in ("auto", "all", "none") else int(point["host"])
    budget: Any = point.get("budget", "auto")
    offload = float(point["activations"]) if "activations" in point else True
    apply_fast_path(model, compile=CUDA, activation_budget=budget if budget == "auto" else float(budget),
                    offload=offload, weights_on_host="all" if host == "auto" else host)  # fmt: skip
    base.fast_decoder.weights_on_host = host
    limit_to(float(point.get("limit", 0)))
    return base.fast_decoder


def step_point(model: Any, point: dict[str, str], seq: int, steps: int) -> dict[str, Any]:
    """Time one point."""
    bs, seq = int(point.get("bs", 4)), int(point.get("seq", seq))
    decoder = prepare(model, point)
    optimizer = OPTIMIZERS[point.get("optimizer", "8bit")](
        [p for p in model.parameters() if p.requires_grad], lr=1e-5
    )
    generator = torch.Generator().manual_seed(1)
    tokens = torch.randint(3, model.config.vocab_size, (bs, seq), generator=generator).to(DEVICE)
    positions = torch.arange(seq, device=DEVICE).repeat(bs, 1)

    def run() -> float:
        sync()
        start = time.perf_counter()
        expect_state(model, coming_state_bytes(optimizer))
        hidden = forward_hidden(model, tokens, positions)
        loss = linear_cross_entropy_sum(hidden, output_head(model), tokens) / tokens.numel()
        loss.backward()
        sync()
        return time.perf_counter() - start

    first = run()
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    run()
    times = sorted(run() for _ in range(steps))
    median = times[len(times) // 2]
    plan = next(iter(decoder.plans.values()))
    found = {
        **point, "tok_s": round(tokens.numel() / median), "step_s": round(median, 4), "first_s": round(first, 2),
        "on_host": len(decoder.stream.hosts), "kept": sum(len(s.device) >= 5 for s in plan),
        "moved": sorted(plan[0].host), "unpacked": decoder.unpacked,
        "head_on_host": output_head(model).on_host,
        "weights_gib": round(decoder.stream.host_bytes() / GIB, 2), **resident_bytes(),
    }  # fmt: skip
    if CUDA:
        found |= {
            "alloc": round(torch.cuda.max_memory_allocated() / GIB, 2),
            "reserved": round(torch.cuda.max_memory_reserved() / GIB, 2),
        }
    return found


def make(part: str, layers: int, tiny: bool) -> Any:
    """The model of a part, with its adapter."""
    if part == "gemma27b":
        base = base_on_host(gemma_27b(tiny))
    elif part == "70b":
        base = base_on_host(llama_70b(tiny))
    else:
        shape = replace(TAIGI_13B, **NARROW, layers=6) if tiny else TAIGI_13B
        base = random_base(llama_config(replace(shape, layers=layers or shape.layers)), DEVICE)
    return with_adapter(base if CUDA else base.float(), RANKS[part])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("part", choices=list(POINTS))
    parser.add_argument("points", nargs="*", help="without any, those of the part")
    parser.add_argument("--layers", type=int, default=0)
    parser.add_argument("--seq", type=int, default=2048)
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--tiny", action="store_true", help="narrow layers: a rehearsal without a GPU")
    args = parser.parse_intermixed_args()
    started = time.perf_counter()
    model = make(args.part, args.layers, args.tiny)
    result: dict[str, Any] = {"made_s": round(time.perf_counter() - started, 1)}
    if CUDA:
        machine = measure_machine(torch.device(DEVICE, 0), torch.bfloat16)
        result |= {"link_gb_s": machine.link / 1e9, "tflop_s": machine.rate / 1e12}
    print("RESULT " + json.dumps(result), flush=True)
    for text in args.points or POINTS[args.part]:
        point = dict(pair.split("=") for pair in text.split(","))
        try:
            with slow_link(float(point["link"]) if "link" in point else None):
                result = step_point(model, point, args.seq, args.steps)
        except torch.OutOfMemoryError as error:
            result = {"point": text, "failed": str(error)[:200]}
        print("RESULT " + json.dumps(result), flush=True)


if __name__ == "__main__":
    main()
