"""Time QLoRA micro-batches (forward + backward) of a 4-bit base on one CUDA GPU, several points a process.

python tests/benchmarks/qlora_points.py least:budget=0,limit=11.5 most:limit=69.4
--model names a folder with a bitsandbytes NF4 model; without it one of --family's shape is made. Of each point,
NAME:KEY=VALUE,..., one RESULT line of JSON is printed. A step is one micro-batch with its gradients added to those
before it; the median of --steps is taken, and the peaks are those since the point began, its first step included.
Keys of a point:
  budget=auto|0..1   limit=GiB, enforced   unpacked=layers (none: as the budget decides)   profile=1
  matmul=bf16|int8_backward|int8_mixed|int8|fp8_backward|fp8   of products with frozen weights
  path=fast|general|peft     through the fast path, through that of architectures whose layers are not written out, or
                     transformers + PEFT with every layer checkpointed; the last two in this order, at the end
  data=rows          one document a row of random tokens
  data=lengths       4 random documents a micro-batch, as long as the longest of them: every one another length
  data=equal         the same tokens in micro-batches of equal length
  data=corpus        the blocks that `fit` would train on, from --corpus
  data=packed|padded random documents as long as --corpus's, packed into blocks, or one a row, padded; without a
                     corpus of 100 to 2,048 characters
  masked=1           of path=general, in a process of its own: attention through transformers' masks, as it was before
"""

import argparse
import gc
import json
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# Read when torch is loaded, as `fit` sets it.
os.environ.setdefault("PYTORCH_CUDA_ALLOC_CONF", "expandable_segments:True")

import torch
from qlora_batches import PAD, Batch, make_batches
from torch import Tensor

GIB = 2**30


@dataclass
class Point:
    """What to measure; see the module's docstring."""

    name: str
    budget: str = "auto"
    limit: float = 0.0
    unpacked: str = "none"
    path: str = "fast"
    data: str = "rows"
    profile: int = 0
    matmul: str = "bf16"
    masked: int = 0


def parse_point(text: str) -> Point:
    name, _, rest = text.partition(":")
    point = Point(name)
    for pair in filter(None, rest.split(",")):
        key, _, value = pair.partition("=")
        setattr(point, key, type(getattr(point, key))(value))
    return point


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("points", nargs="+", type=parse_point)
    parser.add_argument("--model", help="without one, random weights of --family's shape")
    parser.add_argument("--family", default="Taigi-Llama-2-13B", help="a shape of random_base.py")
    parser.add_argument("--write", type=Path, help="write the base that is made to this folder, for others")
    parser.add_argument("--corpus", type=Path, help="a folder that `corpus_tools clean` made")
    parser.add_argument("--tokenizer", default="models/tiny-taigi", help="for data=corpus")
    parser.add_argument("--bs", type=int, default=4)
    parser.add_argument("--seq", type=int, default=2048)
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--r", type=int, default=64)
    parser.add_argument("--dropout", type=float, default=0.05)
    parser.add_argument("--gate", type=Path, help="a folder through which other processes take turns")
    parser.add_argument("--turns", type=int, default=1, help="how often to time the one point, with --gate")
    return parser.parse_args()


# ---- the step -------------------------------------------------------------------------------------


def load_model(args: argparse.Namespace) -> Any:
    from random_base import FAMILIES, random_base, write_base
    from transformers import AutoModelForCausalLM

    from taigi_lightning.model.adapters import LoraSettings, attach_adapter

    if args.model is None:
        base = random_base(FAMILIES[args.family]())
        if args.write:
            write_base(base, args.write)
    else:
        base = AutoModelForCausalLM.from_pretrained(
            args.model, device_map={"": 0}, dtype=torch.bfloat16, attn_implementation="sdpa"
        ).requires_grad_(False)
    base.config.use_cache = False
    return attach_adapter(base, LoraSettings(args.r, 2 * args.r, args.dropout)).train()


def start_over(model: Any, optimizer: Any, limit: float) -> None:
    """Undo what a point before did to the model, free what it held, and set what the process may take."""
    from taigi_lightning.fast_path.apply import causal_lm

    base = causal_lm(model)
    if (decoder := base.__dict__.pop("fast_decoder", None)) is not None:
        decoder.release()
        del decoder
    base.gradient_checkpointing_disable()
    optimizer.zero_grad(set_to_none=True)
    gc.collect()
    torch.cuda.empty_cache()
    total = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.set_per_process_memory_fraction(min(1.0, limit * GIB / total) if limit else 1.0)
    torch.cuda.reset_peak_memory_stats()


def prepare(model: Any, point: Point, optimizer: Any) -> Callable[[Batch], Tensor]:
    """What computes a micro-batch's mean loss."""
    from taigi_lightning.fast_path import families, own_layers
    from taigi_lightning.fast_path.apply import (
        apply_fast_path,
        causal_lm,
        compute_in,
        expect_state,
        forward_hidden,
    )
    from taigi_lightning.fast_path.cross_entropy import linear_cross_entropy_sum
    from taigi_lightning.planning.memory import coming_state_bytes

    if point.path == "peft":
        base = causal_lm(model)
        base.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        base.enable_input_require_grads()

        def plain(batch: Batch) -> Tensor:
            mask = batch["input_ids"] != PAD
            with torch.autocast("cuda", dtype=torch.bfloat16):
                out = model(input_ids=batch["input_ids"], attention_mask=mask, labels=batch["labels"])
            return out.loss  # type: ignore[no-any-return]

        return plain
    if point.path == "general":
        families.FAMILIES.pop(type(causal_lm(model)).__name__, None)
    if point.masked:
        own_layers.fuse_attention = lambda *_: False
    apply_fast_path(
        model,
        compile=True,
        activation_budget="auto" if point.budget == "auto" else float(point.budget),
        unpacked_layers=None if point.unpacked == "none" else int(point.unpacked),
    )
    compute_in(model, point.matmul)  # type: ignore[arg-type]
    weight = model.get_output_embeddings().weight

    def fast(batch: Batch) -> Tensor:
        expect_state(model, coming_state_bytes(optimizer))
        hidden = forward_hidden(model, batch["input_ids"], batch["position_ids"])
        return linear_cross_entropy_sum(hidden, weight, batch["labels"]) / batch["labels"].numel()

    return fast


def measure(model: Any, point: Point, optimizer: Any, args: argparse.Namespace) -> list[dict[str, Any]]:
    """Warm up, then time and print, as often as asked."""
    from turns import wait_for_turn

    from taigi_lightning.fast_path.apply import causal_lm, checkpointed_layers
    from taigi_lightning.planning.activation_plan import keeps_everything

    start_over(model, optimizer, point.limit)
    batches, pad = make_batches(args, point.data, model.config.vocab_size)
    useful = [int((batch["input_ids"] != pad).sum()) for batch in batches]
    batches = [{name: value.cuda() for name, value in batch.items()} for batch in batches]
    loss_of = prepare(model, point, optimizer)

    def run(index: int) -> tuple[float, float]:
        torch.cuda.synchronize()
        start = time.perf_counter()
        loss = loss_of(batches[index % len(batches)])
        loss.backward()
        torch.cuda.synchronize()
        return time.perf_counter() - start, loss.item()

    first, _ = run(0)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    run(0)
    # Documents differ from batch to batch: each is taken once.
    steps = range(args.steps if point.data == "rows" else len(batches))
    computed = [batches[i % len(batches)]["input_ids"].numel() for i in steps]
    results = []
    for turn in range(args.turns):
        if args.gate is not None:
            wait_for_turn(args.gate, point.name, turn)
        times, losses = zip(*(run(i) for i in steps), strict=True)
        median = sorted(times)[len(times) // 2]
        found = {
            "variant": "transformers + PEFT" if point.path == "peft" else "taigi-lightning", **vars(point),
            "first_s": round(first, 2), "step_s": round(median, 4),
            "tok_s": round(sum(computed) / len(computed) / median) if point.data == "rows"
            else round(sum(computed) / sum(times)),
            "useful_tok_s": round(sum(useful[i % len(batches)] for i in steps) / sum(times)),
            "padding": round(1 - sum(useful) / sum(batch["input_ids"].numel() for batch in batches), 3),
            "loss": round(losses[-1], 3), "peak_alloc": round(torch.cuda.max_memory_allocated() / GIB, 2),
            "peak_res": round(torch.cuda.max_memory_reserved() / GIB, 2), "card": torch.cuda.get_device_name(),
        }  # fmt: skip
        if point.path != "peft":
            found["slow_path_reason"] = getattr(causal_lm(model), "slow_path_reason", None)
        if (decoder := getattr(causal_lm(model), "fast_decoder", None)) is not None:
            plan = next(iter(decoder.plans.values()))
            found |= {"kept_layers": sum(map(keeps_everything, plan)), "host": sorted(plan[0].host)}
            found["unpacked"] = decoder.unpacked
        if point.path != "peft" and (layers := checkpointed_layers(model)) is not None:
            found["activations"] = layers.decided
        print("RESULT", json.dumps(found), flush=True)
        results.append(found)
    if args.gate is not None:
        (args.gate / f"{point.name}.{args.turns}.ready").touch()
    if point.profile:
        profile(lambda: run(0))
    return results


def profile(run: Callable[[], object]) -> None:
    """Print the kernels of one step that take most time."""
    from torch.profiler import ProfilerActivity
    from torch.profiler import profile as torch_profile

    with torch_profile(activities=[ProfilerActivity.CUDA]) as recorded:
        run()
    events = sorted(recorded.key_averages(), key=lambda event: -event.self_device_time_total)
    total = sum(event.self_device_time_total for event in events) / 1e3
    print(f"PROFILE {total:.1f} ms in {sum(event.count for event in events)} kernels")
    for event in events[:40]:
        print(f"PROFILE {event.self_device_time_total / 1e3:9.2f} ms {event.count:5d} x {event.key[:90]}")


def main() -> None:
    import bitsandbytes as bnb

    args = parse_arguments()
    model = load_model(args)
    optimizer = bnb.optim.AdamW8bit([p for p in model.parameters() if p.requires_grad], lr=2e-4)
    for point in args.points:
        try:
            measure(model, point, optimizer, args)
        except (torch.OutOfMemoryError, RuntimeError) as error:
            print(f"FAILED {point.name}: {str(error)[:300]!r}", flush=True)


if __name__ == "__main__":
    main()
