"""Time one QLoRA micro-batch (forward + backward) of a 4-bit Llama on one CUDA GPU, through the fast path.

python tests/benchmarks/qlora_step.py --model base4 --budget 0                 least memory
python tests/benchmarks/qlora_step.py --model base4 --budget auto --limit 67.5 fills 67.5 GiB
--model names a folder with a bitsandbytes NF4 model. Prints one RESULT line of JSON; a step is one micro-batch
with its gradients added to those before it, the median of --steps is taken, the optimizer's step is apart.
"""

import argparse
import json
import os
import time
from typing import Any

import torch

PROJECTIONS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
GIB = 2**30


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="base4")
    parser.add_argument(
        "--budget", default="auto", help="auto, or 0 (recompute and move out) to 1 (keep all)"
    )
    parser.add_argument(
        "--limit", type=float, default=0.0, help="GiB the process may take, 0 for the card's all"
    )
    parser.add_argument("--bs", type=int, default=4)
    parser.add_argument("--seq", type=int, default=2048)
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--r", type=int, default=64)
    parser.add_argument("--dropout", type=float, default=0.05)
    parser.add_argument("--layers", type=int, default=0, help="keep only the first layers of the model")
    parser.add_argument(
        "--unpacked", type=int, default=0, help="layers with unpacked base weights, -1: that fit"
    )
    parser.add_argument("--offload", type=float, default=-1, help="host GiB for activations, -1 for half")
    parser.add_argument("--compile", type=int, default=1, help="fused kernels")
    parser.add_argument("--host-embedding", type=int, default=-1, help="-1: as the budget asks")
    parser.add_argument("--documents", default="", help="LOW-HIGH: pack documents of that many tokens")
    return parser.parse_args()


def load_model(args: argparse.Namespace) -> Any:
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(
        args.model, device_map={"": 0}, dtype=torch.bfloat16, attn_implementation="sdpa"
    )
    if args.layers:
        model.model.layers = model.model.layers[: args.layers]
        model.config.num_hidden_layers = args.layers
    model.requires_grad_(False)
    lora = LoraConfig(
        r=args.r,
        lora_alpha=2 * args.r,
        lora_dropout=args.dropout,
        target_modules=PROJECTIONS,
        task_type="CAUSAL_LM",
    )
    return get_peft_model(model, lora).train()


def make_batches(args: argparse.Namespace, vocabulary: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Three blocks of random tokens with their positions, one document a row or packed."""
    generator = torch.Generator().manual_seed(1)
    batches = []
    for _ in range(3):
        tokens = torch.randint(3, vocabulary, (args.bs, args.seq), generator=generator)
        positions = torch.arange(args.seq).repeat(args.bs, 1)
        if args.documents:
            low, high = (int(n) for n in args.documents.split("-"))
            for row in positions:
                start = 0
                while start < args.seq:
                    length = int(torch.randint(low, high + 1, (), generator=generator))
                    row[start : start + length] = torch.arange(len(row[start : start + length]))
                    start += length
        batches.append((tokens.cuda(), positions.cuda()))
    return batches


def measure(model: Any, args: argparse.Namespace, optimizer: Any) -> dict[str, Any]:
    """Apply the fast path as args say, then warm up, then time."""
    from taigi_lightning.fast_path import apply_fast_path, causal_lm, forward_hidden
    from taigi_lightning.loss import linear_cross_entropy_sum

    apply_fast_path(
        model,
        compile=bool(args.compile),
        activation_budget="auto" if args.budget == "auto" else float(args.budget),
        offload=True if args.offload < 0 else args.offload,
        embedding_on_host=None if args.host_embedding < 0 else bool(args.host_embedding),
        unpacked_layers=None if args.unpacked < 0 else args.unpacked,
        optimizer_bytes=2.0,
    )
    batches = make_batches(args, model.config.vocab_size)
    weight = model.get_output_embeddings().weight

    def run(index: int) -> tuple[float, float]:
        tokens, positions = batches[index % 3]
        torch.cuda.synchronize()
        start = time.perf_counter()
        hidden = forward_hidden(model, tokens, positions)
        loss, count = linear_cross_entropy_sum(hidden, weight, tokens)
        loss = loss / count
        loss.backward()
        torch.cuda.synchronize()
        return time.perf_counter() - start, loss.item()

    first, _ = run(0)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    run(0)
    torch.cuda.reset_peak_memory_stats()
    times, losses = zip(*(run(i) for i in range(args.steps)), strict=True)
    median = sorted(times)[len(times) // 2]
    plan = next(iter(causal_lm(model).fast_decoder.plans.values()))
    return {
        "variant": "taigi-lightning", "budget": args.budget, "host": sorted(plan[0].host),
        "kept_layers": sum(len(s.device) == 5 for s in plan),
        "unpacked": args.unpacked, "offload": args.offload, "bs": args.bs, "seq": args.seq,
        "layers": args.layers, "drop": args.dropout, "documents": args.documents, "first_s": round(first, 2),
        "step_s": round(median, 4), "tok_s": round(args.bs * args.seq / median), "loss": round(losses[-1], 3),
        "peak_alloc": round(torch.cuda.max_memory_allocated() / GIB, 2),
        "peak_res": round(torch.cuda.max_memory_reserved() / GIB, 2), "card": torch.cuda.get_device_name(),
    }  # fmt: skip


def main() -> None:
    os.environ.setdefault("PYTORCH_CUDA_ALLOC_CONF", "expandable_segments:True")
    import bitsandbytes as bnb

    args = parse_arguments()
    if args.limit:
        total = torch.cuda.get_device_properties(0).total_memory
        torch.cuda.set_per_process_memory_fraction(args.limit * GIB / total)
    model = load_model(args)
    optimizer = bnb.optim.AdamW8bit([p for p in model.parameters() if p.requires_grad], lr=2e-4)
    print("RESULT", json.dumps(measure(model, args, optimizer)), flush=True)


if __name__ == "__main__":
    main()
