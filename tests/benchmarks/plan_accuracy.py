"""Compare `plan` with the measured peak of four QLoRA runs of 7B and 13B shape on one CUDA GPU.

python tests/benchmarks/plan_accuracy.py            # about 3 minutes on an H100, needs 80 GB
python tests/benchmarks/plan_accuracy.py --smoke    # a small shape, to try the script out

Weights are random and quantised layer by layer on the card, so nothing is downloaded or written. A run is three
optimizer steps of one micro-batch each. Prints one line for each run: planned and measured GiB (what PyTorch
allocated, and what it reserved), and by how much the plan is off.
"""

import argparse
import gc
from dataclasses import replace
from typing import Any

import bitsandbytes as bnb
import torch
from transformers import AutoModelForCausalLM, LlamaConfig

from taigi_lightning.adapters import PROJECTIONS, LoraSettings, attach_adapter
from taigi_lightning.fast_path import apply_fast_path, forward_hidden
from taigi_lightning.loss import linear_cross_entropy_sum
from taigi_lightning.memory import CONTEXT, GIB, Shape
from taigi_lightning.plan import needs
from taigi_lightning.run_settings import KNOWN, Settings

RUNS = [
    ("7B r16, 4 x 2048, budget 0", "meta-llama/Llama-2-7b-hf", Settings(rank=16, activation_budget=0.0)),
    ("7B r64, 2 x 2048, budget 1", "meta-llama/Llama-2-7b-hf",
     Settings(rank=64, activation_budget=1.0, batch_size=2)),
    ("13B r64, 4 x 2048, budget 0", "Bohanlu/Taigi-Llama-2-13B", Settings(rank=64, activation_budget=0.0)),
    ("13B r64, 4 x 2048, budget 1", "Bohanlu/Taigi-Llama-2-13B", Settings(rank=64, activation_budget=1.0)),
    ("13B r16, 1 x 2048, 8-bit AdamW, budget 0.5", "Bohanlu/Taigi-Llama-2-13B",
     Settings(rank=16, activation_budget=0.5, batch_size=1, optimizer="bitsandbytes.optim.AdamW8bit")),
]  # fmt: skip
SMOKE = Shape(4, 256, 688, 4, 4, 64, 1024)


def random_base(shape: Shape) -> Any:
    """A Llama of this shape on the card: random NF4 projections, the rest in bfloat16."""
    config = LlamaConfig(
        vocab_size=shape.vocabulary,
        hidden_size=shape.hidden,
        intermediate_size=shape.intermediate,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads,
        max_position_embeddings=4096,
        tie_word_embeddings=False,
    )
    one = LlamaConfig(**{**config.to_dict(), "num_hidden_layers": 1})
    with torch.device("cuda"):
        model = AutoModelForCausalLM.from_config(one, dtype=torch.bfloat16, attn_implementation="sdpa")
        layers = [_quantised(type(model.model.layers[0])(config, index)) for index in range(shape.layers)]
    model.model.layers = torch.nn.ModuleList(layers)
    model.config.num_hidden_layers = model.model.config.num_hidden_layers = shape.layers
    return model.requires_grad_(False)


def _quantised(layer: Any) -> Any:
    layer.to(torch.bfloat16)
    for block in (layer.self_attn, layer.mlp):
        for name, linear in list(block.named_children()):
            if name in PROJECTIONS:
                packed = bnb.nn.Linear4bit(
                    linear.in_features,
                    linear.out_features,
                    bias=False,
                    compute_dtype=torch.bfloat16,
                    compress_statistics=True,
                    quant_type="nf4",
                    device="meta",
                )
                packed.weight = bnb.nn.Params4bit(
                    linear.weight.data.cpu(),
                    requires_grad=False,
                    compress_statistics=True,
                    quant_type="nf4",
                    module=packed,
                ).to("cuda")
                setattr(block, name, packed)
    return layer


def measure(shape: Shape, settings: Settings) -> tuple[float, float]:
    """Peak bytes allocated and reserved over three optimizer steps, loading aside."""
    model = attach_adapter(random_base(shape), LoraSettings(r=settings.rank or 0, lora_dropout=0.05)).train()
    apply_fast_path(model, compile=True, activation_budget=settings.activation_budget)  # type: ignore[arg-type]
    trained = [p for p in model.parameters() if p.requires_grad]
    library: Any = bnb.optim if settings.optimizer.startswith("bitsandbytes") else torch.optim
    optimizer = getattr(library, settings.optimizer.rpartition(".")[2])(trained, lr=1e-5)
    gc.collect()
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    rows, columns = settings.batch_size, settings.max_length
    tokens = torch.randint(3, shape.vocabulary, (rows, columns), device="cuda")
    positions = torch.arange(columns, device="cuda").expand(rows, -1).contiguous()
    for _ in range(3):
        hidden = forward_hidden(model, tokens, positions)
        loss, _ = linear_cross_entropy_sum(hidden, model.get_output_embeddings().weight, tokens)
        (loss / tokens.numel()).backward()
        del hidden, loss
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    return torch.cuda.max_memory_allocated(), torch.cuda.max_memory_reserved()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--smoke", action="store_true", help="a small shape")
    smoke = parser.parse_args().smoke
    print(torch.cuda.get_device_name())
    print("| run | planned | allocated | reserved | plan / allocated |\n|-|-|-|-|-|")
    for name, base, settings in RUNS:
        shape = SMOKE if smoke else KNOWN[base]
        one = replace(settings, max_length=256) if smoke else settings
        planned = needs(one, shape).total - CONTEXT
        allocated, reserved = measure(shape, one)
        gc.collect()
        torch.cuda.empty_cache()
        print(
            f"| {name} | {planned / GIB:.2f} | {allocated / GIB:.2f} | {reserved / GIB:.2f} | "
            f"{planned / allocated - 1:+.1%} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
