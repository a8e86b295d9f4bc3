"""Others' ways to keep frozen 4-bit weights off the card, on the same shape, on one CUDA GPU.

python tests/benchmarks/stream_peer.py hooks       # or fsdp; resident: weights on the card

transformers' own Llama of the 13B's shape with PEFT's LoRA r 64 and activation checkpointing, 4 x 2048, random packed
weights. `hooks` fetches each 4-bit Linear's weight from pinned memory before its forward pass and drops it after, which
is what accelerate's AlignDevicesHook does for other weights (1.15 moves a 4-bit weight's scales to the meta device and
fails); `fsdp` wraps each layer in torch's FSDP with CPUOffload, one rank, weights stored as bfloat16 as FSDP asks
for. Prints a RESULT line.
"""

import argparse
import json
import os
import time
from functools import partial
from typing import Any

os.environ.setdefault("PYTORCH_CUDA_ALLOC_CONF", "expandable_segments:True")

import bitsandbytes as bnb
import torch
from peft import LoraConfig, get_peft_model
from random_base import TAIGI_13B, llama_config, random_base
from transformers import LlamaConfig
from transformers.models.llama.modeling_llama import LlamaDecoderLayer

GIB = 2**30
PROJECTIONS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def offload_with_hooks(model: Any) -> Any:
    def fetch(module: Any, *_: Any) -> None:
        module.weight.data = module.host.to("cuda", non_blocking=True)

    def drop(module: Any, *_: Any) -> None:
        module.weight.data = module.host

    for module in model.modules():
        if isinstance(module, bnb.nn.Linear4bit):
            module.host = module.weight.data.cpu().pin_memory()
            drop(module)
            module.register_forward_pre_hook(fetch)
            module.register_forward_hook(drop)
    return model


def offload_with_fsdp(model: Any) -> Any:
    from torch.distributed import init_process_group
    from torch.distributed.fsdp import CPUOffload, FullyShardedDataParallel
    from torch.distributed.fsdp.wrap import _or_policy, lambda_auto_wrap_policy, transformer_auto_wrap_policy

    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29501", "RANK": "0", "WORLD_SIZE": "1"}
    init_process_group("nccl", rank=0, world_size=1)
    for module in model.modules():
        if isinstance(module, bnb.nn.Linear4bit):
            module.weight.data = module.weight.data.view(torch.bfloat16)
            module.quant_storage = torch.bfloat16

    def trains(module: Any) -> bool:
        return not list(module.children()) and getattr(
            getattr(module, "weight", None), "requires_grad", False
        )

    layers = partial(transformer_auto_wrap_policy, transformer_layer_cls={LlamaDecoderLayer})
    adapters = partial(lambda_auto_wrap_policy, lambda_fn=trains)
    policy = partial(_or_policy, policies=[layers, adapters])
    return FullyShardedDataParallel(
        model, auto_wrap_policy=policy, cpu_offload=CPUOffload(offload_params=True), use_orig_params=False,
        device_id=0, limit_all_gathers=True,
    )  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("way", choices=["hooks", "fsdp", "resident"])
    parser.add_argument("--rows", type=int, default=4)
    parser.add_argument("--steps", type=int, default=3)
    args = parser.parse_args()
    config: LlamaConfig = llama_config(TAIGI_13B)
    config.use_cache = False
    base = random_base(config)
    model: Any = get_peft_model(
        base, LoraConfig(r=64, lora_alpha=128, lora_dropout=0.05, target_modules=PROJECTIONS)
    )
    if args.way == "fsdp":  # all of one wrapper in one dtype
        model = model.to(torch.bfloat16)
    model.train()
    base.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    model.enable_input_require_grads()
    if args.way == "hooks":
        model = offload_with_hooks(model)
    elif args.way == "fsdp":
        model = offload_with_fsdp(model)
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    held = torch.cuda.memory_allocated() / GIB
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = (
        torch.optim.AdamW(trained, lr=1e-5) if args.way == "fsdp" else bnb.optim.AdamW8bit(trained, lr=1e-5)
    )
    tokens = torch.randint(3, TAIGI_13B.vocabulary, (args.rows, 2048), device="cuda")
    times = []
    for number in range(args.steps + 2):
        torch.cuda.synchronize()
        start = time.perf_counter()
        with torch.autocast("cuda", torch.bfloat16):
            loss = model(input_ids=tokens, labels=tokens).loss
        loss.backward()
        torch.cuda.synchronize()
        times.append(time.perf_counter() - start)
        if number == 0:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
    median = sorted(times[2:])[len(times[2:]) // 2]
    result = {
        "way": args.way, "tok_s": round(tokens.numel() / median), "step_s": [round(t, 3) for t in times],
        "loss": float(loss), "held_gib": round(held, 2),
        "alloc": round(torch.cuda.max_memory_allocated() / GIB, 2),
        "reserved": round(torch.cuda.max_memory_reserved() / GIB, 2),
    }  # fmt: skip
    print("RESULT " + json.dumps(result), flush=True)


if __name__ == "__main__":
    main()
