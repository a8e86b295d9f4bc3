"""Weights that wait on the host, measured: speed and memory of training steps and of prediction, on one CUDA GPU.

python tests/benchmarks/stream_points.py 13b            # or 70b, gemma27b, predict, loader

Each part is one process and prints RESULT lines of JSON. Limits are enforced with set_per_process_memory_fraction. A
step is one micro-batch, forward and backward, gradients adding up; the optimizer has stepped once before, so its
state is there. The 70B's and the 27B's layers share one layer's packed bytes on the host (their scales are their own),
so that they are made in seconds; every layer's are copied over the link. Keys of a point, joined by commas:
  host=auto|all|none|layers   limit=GiB   budget=auto|0..1   bs=rows   seq=tokens
  optimizer=8bit|paged|adamw   link=GB/s: each copy is made as often as makes the link seem that slow
"""

import argparse
import copy
import gc
import json
import os
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

os.environ.setdefault("PYTORCH_CUDA_ALLOC_CONF", "expandable_segments:True")

import bitsandbytes as bnb
import torch
from random_base import TAIGI_13B, gemma3, llama_config, random_base
from torch import nn

from taigi_lightning.fast_path import attention
from taigi_lightning.fast_path.apply import apply_fast_path, causal_lm, expect_state, forward_hidden
from taigi_lightning.fast_path.cross_entropy import linear_cross_entropy_sum
from taigi_lightning.fast_path.machine_speed import measure_machine
from taigi_lightning.fast_path.weight_stream import WeightStream
from taigi_lightning.kernels.host_memory import hold_in_place, to_host
from taigi_lightning.model.adapters import LoraSettings, attach_adapter
from taigi_lightning.planning.memory import Shape, coming_state_bytes

GIB = 2**30
LLAMA_70B = Shape(80, 8192, 28672, 64, 8, 128, 128256)
CUDA = torch.cuda.is_available()
DEVICE = "cuda" if CUDA else "cpu"
OPTIMIZERS = {"8bit": bnb.optim.AdamW8bit, "paged": bnb.optim.PagedAdamW8bit, "adamw": torch.optim.AdamW}
POINTS: dict[str, list[str]] = {
    "13b": [
        "host=none,limit=11.5,budget=0", "host=all,limit=6", "host=auto,limit=7.2,optimizer=adamw",
        "host=auto,limit=4.5,bs=1,optimizer=paged", "host=auto,limit=15.3", "host=none,limit=15.3",
        "host=all,limit=6,link=12", "host=none,bs=1,budget=0", "host=auto,limit=24", "host=none,limit=24",
    ],
    "70b": ["host=all,limit=12,bs=1", "host=all,limit=24", "host=none,limit=64,budget=0"],
    "gemma27b": ["host=auto,limit=16", "host=auto,limit=16,bs=1"],
}  # fmt: skip


def shared_base(config: Any, layers: int) -> Any:
    """A base of many layers that share one layer's packed weights, on the host; scales and norms are each one's own."""
    config.num_hidden_layers = 1
    model = random_base(config, DEVICE)
    first = model.model.layers[0]
    for module in first.modules():
        if isinstance(module, bnb.nn.Linear4bit):
            if CUDA:
                module.weight.data = to_host(module.weight.data)
            hold_in_place(module)
    for index in range(1, layers):
        layer = copy.deepcopy(first, {id(m.weight): _shared(m) for m in _packed(first)})
        for module in _packed(layer):
            hold_in_place(module)
        layer.self_attn.layer_idx = index
        model.model.layers.append(layer)
    config.num_hidden_layers = layers
    return model.requires_grad_(False)


def _packed(layer: nn.Module) -> list[Any]:
    return [m for m in layer.modules() if isinstance(m, bnb.nn.Linear4bit)]


def _shared(module: Any) -> Any:
    """A weight of its own over the same packed bytes."""
    weight = module.weight
    return bnb.nn.Params4bit(
        weight.data, requires_grad=False, quant_state=copy.deepcopy(weight.quant_state), blocksize=64,
        compress_statistics=True, quant_type="nf4", bnb_quantized=True,
    )  # fmt: skip


def with_adapter(base: Any, rank: int) -> Any:
    base.config.use_cache = False
    return attach_adapter(base, LoraSettings(rank, 2 * rank, 0.05)).to(DEVICE).train()


def parse(text: str) -> dict[str, str]:
    return dict(pair.split("=") for pair in text.split(","))


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


def step_point(model: Any, point: dict[str, str], seq: int, steps: int) -> dict[str, Any]:
    """Time one point."""
    base, bs = causal_lm(model), int(point.get("bs", 4))
    seq = int(point.get("seq", seq))
    host: Any = point["host"] if point["host"] in ("auto", "all", "none") else int(point["host"])
    WeightStream._fetch = throttled(float(point["link"])) if "link" in point else FETCH  # type: ignore[method-assign]
    if (earlier := base.__dict__.pop("fast_decoder", None)) is not None:
        earlier.release()
        del earlier
    model.zero_grad(set_to_none=True)
    limit_to(0)
    budget: Any = point.get("budget", "auto")
    # Before the limit counts: what was resident leaves for the host.
    apply_fast_path(model, compile=CUDA, activation_budget=budget if budget == "auto" else float(budget),
                    weights_on_host="all" if host == "auto" and float(point.get("limit", 0)) < 8 else host)  # fmt: skip
    base.fast_decoder.weights_on_host = host
    limit_to(float(point.get("limit", 0)))
    optimizer = OPTIMIZERS[point.get("optimizer", "8bit")](
        [p for p in model.parameters() if p.requires_grad], lr=1e-5
    )
    generator = torch.Generator().manual_seed(1)
    tokens = torch.randint(3, model.config.vocab_size, (bs, seq), generator=generator).to(DEVICE)
    positions = torch.arange(seq, device=DEVICE).repeat(bs, 1)
    weight = model.get_output_embeddings().weight

    def run() -> float:
        sync()
        start = time.perf_counter()
        expect_state(model, coming_state_bytes(optimizer))
        loss = (
            linear_cross_entropy_sum(forward_hidden(model, tokens, positions), weight, tokens)
            / tokens.numel()
        )
        loss.backward()
        sync()
        return time.perf_counter() - start

    first = run()
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    run()
    times = sorted(run() for _ in range(steps))
    decoder, median = base.fast_decoder, times[len(times) // 2]
    plan = next(iter(decoder.plans.values()))
    found = {
        **point, "tok_s": round(tokens.numel() / median), "step_s": round(median, 4), "first_s": round(first, 2),
        "on_host": len(decoder.stream.hosts), "kept": sum(len(s.device) >= 5 for s in plan),
        "moved": sorted(plan[0].host),
        "unpacked": decoder.unpacked, "host_gib": round(decoder.stream.host_bytes() / GIB, 2),
    }  # fmt: skip
    if CUDA:
        found |= {
            "alloc": round(torch.cuda.max_memory_allocated() / GIB, 2),
            "reserved": round(torch.cuda.max_memory_reserved() / GIB, 2),
        }
    return found


FETCH = WeightStream._fetch


def throttled(gigabytes: float) -> Any:
    """A fetch that copies so often that the link seems that slow."""
    times = (
        round(measure_machine(torch.device(DEVICE, 0), torch.bfloat16).link / 1e9 / gigabytes) if CUDA else 2
    )

    def fetch(self: WeightStream, slot: Any, layer: int) -> None:
        for _ in range(times):
            FETCH(self, slot, layer)

    return fetch


def gradients_agree(model: Any, seq: int) -> None:
    """How many gradients of one batch are the same bits, of streamed weights and of resident ones.

    cuDNN's attention adds in no fixed order: so once with it, and once with flash attention told to.
    """
    tokens = torch.randint(
        3, model.config.vocab_size, (2, seq), generator=torch.Generator().manual_seed(2)
    ).to(DEVICE)
    positions = torch.arange(seq, device=DEVICE).repeat(2, 1)
    weight = model.get_output_embeddings().weight
    has_cudnn = attention._has_cudnn
    for fixed in (True, False):
        torch.use_deterministic_algorithms(fixed, warn_only=True)
        attention._has_cudnn = (lambda *_: False) if fixed else has_cudnn  # type: ignore[assignment]
        reference: list[Any] = []
        for host, passes in (("none", 2), ("all", 3)):
            apply_fast_path(model, compile=CUDA, activation_budget=0.0, weights_on_host=host)
            for _ in range(passes):
                model.zero_grad(set_to_none=True)
                torch.manual_seed(5)
                hidden = forward_hidden(model, tokens, positions)
                linear_cross_entropy_sum(hidden, weight, tokens).backward()
                sync()
                found = [
                    hidden.detach().cpu(),
                    *(p.grad.cpu() for p in model.parameters() if p.grad is not None),
                ]
                reference = reference or found
                same = [torch.equal(x, y) for x, y in zip(found, reference, strict=True)]
                apart = max(
                    float((x - y).norm() / y.norm().clamp(min=1e-30))
                    for x, y in zip(found, reference, strict=True)
                )
                print("RESULT " + json.dumps({"fixed_order": fixed, "host": host, "hidden_same": same[0],
                                              "gradients_same": sum(same[1:]), "of": len(same) - 1,
                                              "apart": apart}), flush=True)  # fmt: skip
    torch.use_deterministic_algorithms(False)


def predict(model: Any, rows: int, tokens: int) -> None:
    """Prediction's forward pass over rows of questions, resident and streamed."""
    from taigi_lightning.fast_path.prefill import last_hidden, unpack_what_fits
    from taigi_lightning.tasks.prefix_tree import pack_trees, token_tree

    model.eval()
    trees = pack_trees([token_tree([[(n + i) % 90 + 3 for i in range(256)]]) for n in range(tokens // 256)])
    wanted = torch.arange(255, tokens, 256, device=DEVICE)
    for host, limit in (("auto", 0.0), ("none", 12.0), ("auto", 6.0)):
        base = causal_lm(model)
        if (earlier := base.__dict__.pop("fast_decoder", None)) is not None:
            earlier.release()
            del earlier
        limit_to(0)
        apply_fast_path(model, compile=CUDA, activation_budget=1.0, offload=False,
                        weights_on_host="all" if limit == 6.0 else "none")  # fmt: skip
        base.fast_decoder.weights_on_host = host
        limit_to(limit)
        unpack_what_fits(model, tokens=tokens)
        last_hidden(base.fast_decoder, trees, wanted)
        sync()
        start = time.perf_counter()
        for _ in range(rows):
            last_hidden(base.fast_decoder, trees, wanted)
        sync()
        seconds = time.perf_counter() - start
        result = {"predict": host, "limit": limit, "tok_s": round(rows * tokens / seconds),
                  "questions_s": round(rows * len(wanted) / seconds, 1),
                  "on_host": len(base.fast_decoder.stream.hosts), "unpacked": base.fast_decoder.unpacked}  # fmt: skip
        if CUDA:
            result["reserved"] = round(torch.cuda.max_memory_reserved() / GIB, 2)
        print("RESULT " + json.dumps(result), flush=True)


def loader(folder: Path, layers: int) -> None:
    """A 16-bit base of the 13B's width, loaded plainly and with its weights waiting on the host: bits, peaks."""
    from transformers import LlamaForCausalLM

    from taigi_lightning.model.base_model import load_base_model

    small = {} if CUDA else {"hidden": 128, "intermediate": 256, "heads": 4, "kv_heads": 4, "head_size": 32}
    shape = replace(TAIGI_13B, layers=layers, vocabulary=1024, **small)
    with torch.device(DEVICE):
        model = LlamaForCausalLM(llama_config(shape)).to(torch.bfloat16)
    model.save_pretrained(folder, max_shard_size="1GB")
    del model
    device, found = torch.device(DEVICE), []
    for on_host in (False, True):
        limit_to(0)
        start = time.perf_counter()
        loaded = load_base_model(str(folder), quantization="nf4", compute_dtype=torch.bfloat16, device=device,
                                 weights_on_host=on_host)  # fmt: skip
        seconds = time.perf_counter() - start
        peak = torch.cuda.max_memory_allocated() / GIB if CUDA else 0.0
        found.append({n: p.data.cpu() for n, p in loaded.named_parameters()})
        for name, p in loaded.named_parameters():
            if isinstance(p, bnb.nn.Params4bit):
                found[-1] |= {f"{name}.{k}": v.cpu() for k, v in p.quant_state.as_dict(packed=True).items()}
        result = {
            "loader": "host" if on_host else "card",
            "seconds": round(seconds, 2),
            "card_peak_gib": round(peak, 2),
        }
        del loaded
        print("RESULT " + json.dumps(result), flush=True)
    same = sum(torch.equal(found[1][n], found[0][n]) for n in found[0])
    print("RESULT " + json.dumps({"loader": "tensors", "all": len(found[0]), "same": same}), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("part", choices=["13b", "70b", "gemma27b", "predict", "loader"])
    parser.add_argument("points", nargs="*", help="without any, those of the part")
    parser.add_argument("--layers", type=int, default=0)
    parser.add_argument("--seq", type=int, default=2048)
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--tiny", action="store_true", help="narrow layers: a rehearsal without a GPU")
    args = parser.parse_intermixed_args()
    started = time.perf_counter()
    if args.part == "loader":
        loader(Path("stream_base"), args.layers or 6)
        return
    narrow: dict[str, Any] = {
        "hidden": 64,
        "intermediate": 128,
        "heads": 4,
        "kv_heads": 2,
        "head_size": 16,
        "vocabulary": 97,
    }
    if args.part == "gemma27b":
        config = gemma3(*((64, 128, 6, 4, 2, 16) if args.tiny else (5376, 21504, 62, 32, 16, 1024)))
        config.head_dim, config.query_pre_attn_scalar = (16, 16) if args.tiny else (128, 168)
        config.vocab_size = 97 if args.tiny else config.vocab_size
        base = shared_base(config, args.layers or config.num_hidden_layers)
    elif args.part == "70b":
        shape = replace(LLAMA_70B, **narrow) if args.tiny else LLAMA_70B
        base = shared_base(llama_config(shape), args.layers or (6 if args.tiny else 80))
    else:
        shape = replace(TAIGI_13B, **narrow, layers=6) if args.tiny else TAIGI_13B
        base = random_base(llama_config(replace(shape, layers=args.layers or shape.layers)), DEVICE)
    if not CUDA:
        base = base.float()
    model = with_adapter(base, {"13b": 64, "70b": 16, "gemma27b": 32, "predict": 16}[args.part])
    if CUDA:
        machine = measure_machine(torch.device(DEVICE, 0), torch.bfloat16)
        print("RESULT " + json.dumps({"link_gb_s": machine.link / 1e9, "tflop_s": machine.rate / 1e12,
                                      "made_s": round(time.perf_counter() - started, 1)}), flush=True)  # fmt: skip
    if args.part == "predict":
        predict(model, 4, 16384 if CUDA else 1024)
        return
    if args.part == "13b":
        gradients_agree(model, 512 if CUDA else 32)
    for text in args.points or POINTS[args.part]:
        try:
            result = step_point(model, parse(text), args.seq, args.steps)
        except torch.OutOfMemoryError as error:
            result = {"point": text, "failed": str(error)[:200]}
        print("RESULT " + json.dumps(result), flush=True)


if __name__ == "__main__":
    main()
