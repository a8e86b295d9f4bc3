"""Compare `plan` with the measured peaks of QLoRA runs of 7B and 13B shapes on one CUDA GPU.

python tests/benchmarks/plan_accuracy.py            # about 3 minutes on an H100, 60 GB at most
python tests/benchmarks/plan_accuracy.py --smoke    # small shapes, to try the script out

Weights are random and made in 4 bits on the card, so nothing is downloaded or written. A run is three optimizer
steps of one micro-batch each, through the fast path, as `fit` sets it up. A row with a card's size enforces it,
and a budget of "auto" then fills that card. Prints a table, and beside it writes JSON if --output names a file:
planned and measured GiB (what PyTorch allocated, and what it reserved), and by how much the plan is off. CUDA's
own memory, outside PyTorch's, is in the plan but not in these figures.
"""

import argparse
import gc
import json
import os
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

# Read when torch is loaded, as `fit` sets it.
os.environ.setdefault("PYTORCH_CUDA_ALLOC_CONF", "expandable_segments:True")

import torch
from random_base import llama_config, random_base
from transformers import MistralConfig, PretrainedConfig, Qwen2Config

from taigi_lightning.fast_path.apply import apply_fast_path, causal_lm, expect_state, forward_hidden
from taigi_lightning.fast_path.cross_entropy import linear_cross_entropy_sum
from taigi_lightning.model.adapters import LoraSettings, attach_adapter
from taigi_lightning.planning.base_shape import KNOWN
from taigi_lightning.planning.memory import CONTEXT, GIB, Shape, coming_state_bytes
from taigi_lightning.planning.settings import Settings
from taigi_lightning.planning.training_needs import needs

LLAMA_7B = llama_config(KNOWN["meta-llama/Llama-2-7b-hf"])
TAIGI_13B = llama_config(KNOWN["Bohanlu/Taigi-Llama-2-13B"])
MISTRAL_7B = MistralConfig(
    vocab_size=32768, hidden_size=4096, intermediate_size=14336, num_hidden_layers=32, num_attention_heads=32,
    num_key_value_heads=8, head_dim=128, sliding_window=None, tie_word_embeddings=False,
)  # fmt: skip
QWEN_7B = Qwen2Config(
    vocab_size=152064, hidden_size=3584, intermediate_size=18944, num_hidden_layers=28, num_attention_heads=28,
    num_key_value_heads=4, tie_word_embeddings=False,
)  # fmt: skip
EIGHT_BIT = "bitsandbytes.optim.AdamW8bit"


@dataclass
class Run:
    """One row: a base, a stage's settings, and perhaps a smaller card than the one at hand, in GiB."""

    name: str
    base: PretrainedConfig
    settings: Settings
    card: float | None = None


RUNS = [
    Run("Mistral-7B r 16, 4 x 2048, auto", MISTRAL_7B, Settings(rank=16), 24),
    Run("Llama-2-7B r 16, 4 x 2048, budget 0", LLAMA_7B, Settings(rank=16, activation_budget=0.0)),
    Run("Llama-2-7B r 64, 2 x 2048, budget 1", LLAMA_7B,
        Settings(rank=64, activation_budget=1.0, batch_size=2)),
    Run("Qwen2-7B r 16, 2 x 2048, 8-bit AdamW, auto", QWEN_7B,
        Settings(rank=16, batch_size=2, optimizer=EIGHT_BIT), 16),
    Run("13B r 64, 4 x 2048, budget 0", TAIGI_13B, Settings(rank=64, activation_budget=0.0)),
    Run("13B r 16, 1 x 2048, 8-bit AdamW, budget 0.5", TAIGI_13B,
        Settings(rank=16, activation_budget=0.5, batch_size=1, optimizer=EIGHT_BIT)),
    Run("13B r 64, 4 x 2048, auto", TAIGI_13B, Settings(rank=64), 24),
    Run("13B r 64, 4 x 2048, budget 1", TAIGI_13B, Settings(rank=64, activation_budget=1.0)),
    Run("13B r 64, 4 x 2048, auto", TAIGI_13B, Settings(rank=64), 58),
]  # fmt: skip


def smoke(run: Run) -> Run:
    """The same with a shape of a few megabytes."""
    small = {"vocab_size": 1024, "hidden_size": 256, "intermediate_size": 688, "num_hidden_layers": 4}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 4 if "Llama" in type(run.base).__name__ else 2}
    whole = {name: value for name, value in run.base.to_dict().items() if name != "layer_types"}
    base = type(run.base).from_dict(whole | small | heads | {"head_dim": 64})
    return Run(run.name, base, replace(run.settings, max_length=256), 1.0 if run.card else None)


def measure(model: Any, run: Run, device: str) -> dict[str, float]:
    """Peak bytes over three optimizer steps, loading aside, and what was decided."""
    import bitsandbytes as bnb

    settings = run.settings
    model = attach_adapter(model, LoraSettings(r=settings.rank or 0, lora_dropout=0.05)).train()
    apply_fast_path(model, compile=True, activation_budget=settings.activation_budget)  # type: ignore[arg-type]
    library: Any = bnb.optim if settings.optimizer.startswith("bitsandbytes") else torch.optim
    kind = getattr(library, settings.optimizer.rpartition(".")[2])
    optimizer = kind([p for p in model.parameters() if p.requires_grad], lr=1e-5)
    gc.collect()
    cuda = device == "cuda"
    if cuda:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    rows, columns = settings.batch_size, settings.max_length
    tokens = torch.randint(3, model.config.vocab_size, (rows, columns), device=device)
    positions = torch.arange(columns, device=device).expand(rows, -1).contiguous()
    for _ in range(3):
        expect_state(model, coming_state_bytes(optimizer))
        hidden = forward_hidden(model, tokens, positions)
        loss = linear_cross_entropy_sum(hidden, model.get_output_embeddings().weight, tokens)
        (loss / tokens.numel()).backward()
        del hidden
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    decoder = causal_lm(model).fast_decoder
    (savings,) = decoder.plans.values()
    return {
        "loss": loss.item() / tokens.numel(),
        "keeping": sum(len(s.device) == 5 for s in savings),
        "unpacked": decoder.unpacked,
        "allocated": torch.cuda.max_memory_allocated() / GIB if cuda else 0.0,
        "reserved": torch.cuda.max_memory_reserved() / GIB if cuda else 0.0,
    }


def row(run: Run, device: str) -> dict[str, Any]:
    """Plan and measure one run."""
    shape = Shape.from_config(run.base.to_dict())
    total = torch.cuda.get_device_properties(0).total_memory if device == "cuda" else int(80 * GIB)
    limit = min(int(run.card * GIB), total) if run.card else total
    # PyTorch's share of such a card: what CUDA itself takes there is not its own.
    share = limit - CONTEXT if run.card else total
    if device == "cuda":
        torch.cuda.set_per_process_memory_fraction(share / total)
    need = needs(run.settings, shape, limit)
    planned = (need.total - CONTEXT) / GIB
    started = time.perf_counter()
    found = measure(random_base(run.base, device), run, device)
    return {
        "run": run.name, "card_gib": run.card, "planned": round(planned, 2), **found,
        "off_allocated": planned / found["allocated"] - 1 if found["allocated"] else None,
        "off_reserved": planned / found["reserved"] - 1 if found["reserved"] else None,
        "seconds": round(time.perf_counter() - started, 1), "settings": asdict(run.settings),
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--smoke", action="store_true", help="small shapes, also on a CPU")
    parser.add_argument("--output", type=Path, help="a JSON file")
    parser.add_argument("--seconds", type=float, default=3600, help="start no run after so many")
    args = parser.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    print(torch.cuda.get_device_name() if device == "cuda" else "CPU: nothing is measured")
    print(
        "| run | card | keeps, unpacked | planned | allocated | reserved | plan / reserved |\n|-|-|-|-|-|-|-|"
    )
    rows: list[dict[str, Any]] = []
    started = time.perf_counter()
    for run in map(smoke, RUNS) if args.smoke else RUNS:
        if time.perf_counter() - started > args.seconds:
            break
        gc.collect()
        torch.cuda.empty_cache()
        try:
            found = row(run, device)
        except (torch.OutOfMemoryError, RuntimeError) as error:
            print(f"| {run.name} | {run.card or ''} | failed: {str(error)[:200]!r} |", flush=True)
            continue
        rows.append(found)
        off = "" if found["off_reserved"] is None else f"{found['off_reserved']:+.1%}"
        print(
            f"| {found['run']} | {run.card or ''} | {found['keeping']}, {found['unpacked']} | "
            f"{found['planned']:.2f} | {found['allocated']:.2f} | {found['reserved']:.2f} | {off} |",
            flush=True,
        )
        if args.output:
            args.output.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
