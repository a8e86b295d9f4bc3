"""On one CUDA GPU: is each family's layer right there, and how near to its limits does a run's self-check come?

python tests/benchmarks/gradient_check.py gradients frozen dropout self_check

gradients: two layers of each family, LoRA's gradients against PEFT's under bfloat16 autocast, rows and packed.
frozen: the same beside an earlier stage's frozen update.
dropout: fused operations against plain ones, whose masks are the same.
self_check: 16 random layers of each family in bfloat16 and float16, by transformers' own pass and by the fast path, as
    they are and with a fault: every document sees the one before, or logits are scaled.
"""

import sys
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from family_check import error, positions
from random_base import FAMILIES, random_base
from torch import Tensor

NAMES = ("Taigi-Llama-2-13B", "Llama-3.1-8B", "Qwen3-8B", "Gemma-3-12B", "Gemma-3-270M")
WAYS: dict[str, dict[str, Any]] = {
    "plain": {"compile": False, "activation_budget": 1.0},
    "fused": {"compile": True, "activation_budget": 1.0},
    "fused, recomputed": {"compile": True, "activation_budget": 0.0, "offload": False},
    "fused, moved": {"compile": True, "activation_budget": 0.0},
    "fused, dequantised": {"compile": True, "activation_budget": 1.0, "unpacked_layers": 2},
}


def adapted(name: str, layers: int, vocabulary: int, r: int = 16, dropout: float = 0.0) -> Any:
    """A family's width with LoRA that does something; one of two layers slides where it has windows."""
    from taigi_lightning.model.adapters import LoraSettings, attach_adapter

    config = FAMILIES[name]()
    config.num_hidden_layers, config.vocab_size = layers, vocabulary
    if getattr(config, "sliding_window", None):
        config.layer_types = ["sliding_attention", "full_attention"] * (layers // 2)
        config.sliding_window = 300
    settings = LoraSettings(r=r, lora_alpha=2 * r, lora_dropout=dropout)
    model = attach_adapter(random_base(config), settings).train()
    for place, parameter in model.named_parameters():
        if "lora_B" in place:
            torch.nn.init.normal_(parameter, std=0.02)
    return model


def let_go(model: Any) -> None:
    model.get_base_model().__dict__.pop("fast_decoder").release()
    torch.cuda.empty_cache()


def gradients_of(model: Any, tokens: Tensor, where: Tensor) -> list[Tensor]:
    from taigi_lightning.fast_path.apply import forward_hidden
    from taigi_lightning.fast_path.cross_entropy import linear_cross_entropy_sum

    model.zero_grad(set_to_none=True)
    with torch.autocast("cuda", dtype=torch.bfloat16):
        hidden = forward_hidden(model, tokens, where)
        loss = linear_cross_entropy_sum(hidden, model.get_output_embeddings().weight, tokens)
    (loss / tokens.numel()).backward()
    return [p.grad.clone() for p in model.parameters() if p.grad is not None]


def summary(found: list[Tensor], wanted: list[Tensor]) -> str:
    errors = sorted(error(f, w) for f, w in zip(found, wanted, strict=True))
    return f"median {errors[len(errors) // 2]:.1e}, worst {errors[-1]:.1e}"


def compare(name: str, model: Any) -> None:
    """Print how far each way is from transformers' own pass."""
    from taigi_lightning.fast_path.apply import apply_fast_path

    tokens = torch.randint(3, 4096, (2, 2048), device="cuda")
    for packed in (False, True):
        where = positions(2, 2048, packed).cuda()
        wanted = gradients_of(model, tokens, where)
        for way, options in WAYS.items():
            apply_fast_path(model, **options)
            said = summary(gradients_of(model, tokens, where), wanted)
            print(f"GRADIENTS {name}, {'packed' if packed else 'rows'}, {way}: {said}", flush=True)
        let_go(model)


def gradients() -> None:
    for name in NAMES:
        compare(name, adapted(name, 2, 4096))


def frozen() -> None:
    from taigi_lightning.model.frozen_update import FrozenUpdate, add_update

    generator = torch.Generator("cuda").manual_seed(3)

    def drawn(*shape: int) -> Tensor:
        return torch.randn(*shape, device="cuda", generator=generator).mul(0.02).to(torch.bfloat16)

    for name in NAMES:
        model = adapted(name, 2, 4096)
        for place, module in model.named_modules():
            if hasattr(module, "get_base_layer") and "k_proj" not in place:
                base = module.get_base_layer()
                base.frozen_update = FrozenUpdate(drawn(12, base.in_features), drawn(base.out_features, 12))
                base.register_forward_hook(add_update)
        compare(f"{name} beside a frozen update", model)


def dropout() -> None:
    from taigi_lightning.fast_path.apply import apply_fast_path

    for name in NAMES:
        model = adapted(name, 2, 4096, r=64, dropout=0.1)
        tokens, where = torch.randint(3, 4096, (2, 2048), device="cuda"), positions(2, 2048, False).cuda()
        found = []
        for way in ("plain", "fused"):
            apply_fast_path(model, **WAYS[way])
            torch.manual_seed(5)
            found.append(gradients_of(model, tokens, where))
        print(f"GRADIENTS {name}, dropout, fused against plain: {summary(found[1], found[0])}", flush=True)
        let_go(model)


# ---- the self-check ---------------------------------------------------------------------------------


def to_half(model: Any) -> None:
    """A model made in bfloat16 as it is loaded for cards that have none."""
    for module in model.modules():
        if hasattr(getattr(module, "weight", None), "quant_state"):
            module.compute_dtype = module.weight.quant_state.dtype = torch.float16
    for parameter in model.parameters():
        if parameter.dtype == torch.bfloat16:
            parameter.data = parameter.data.half()


def ask(model: Any, dtype: torch.dtype, fault: str) -> str:
    """What the self-check says of a model, and the differences that it saw, each with its limit."""
    from taigi_lightning.errors import InputError
    from taigi_lightning.evaluation import self_check as module
    from taigi_lightning.fast_path import decoder

    seen: list[str] = []
    differs, head, find = module.differs, module.output_head, decoder.find_documents

    def watched(found: Tensor, wanted: Tensor, limit: float) -> bool:
        seen.append(f"{module.difference(found, wanted):.1e} of {limit:g}")
        return differs(found, wanted, limit)

    module.differs = watched
    if fault == "leak":
        decoder.find_documents = lambda p: find(torch.arange(p.shape[1]).expand(p.shape))
    if fault == "scale":
        module.output_head = lambda model: replace(head(model), scale=1.05)
    try:
        with torch.autocast("cuda", dtype=dtype):
            said = str(module.self_check(model, answers=True)) or "nothing found"
    except InputError as refusal:
        said = f"refused: {refusal}"
    finally:
        module.differs, module.output_head, decoder.find_documents = differs, head, find
    return f"{said[:100]!r}; {', '.join(seen)}"


def self_check() -> None:
    from taigi_lightning.fast_path.apply import apply_fast_path

    for name in NAMES:
        model = adapted(name, 16, 32000)
        for dtype in (torch.bfloat16, torch.float16):
            if dtype == torch.float16:
                to_half(model)
            for fault in ("", "scale"):
                print(f"SELF {name} {dtype} own pass {fault}: {ask(model, dtype, fault)}", flush=True)
            apply_fast_path(model, compile=True)
            for fault in ("", "leak", "scale"):
                print(f"SELF {name} {dtype} fast path {fault}: {ask(model, dtype, fault)}", flush=True)
            let_go(model)


if __name__ == "__main__":
    parts: dict[str, Callable[[], None]] = {
        "gradients": gradients,
        "frozen": frozen,
        "dropout": dropout,
        "self_check": self_check,
    }
    for chosen in sys.argv[1:] or parts:
        parts[chosen]()
