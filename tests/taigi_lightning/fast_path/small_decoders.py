"""Random decoders of two layers with LoRA adapters, packed tokens for them, and the gradients that they give."""

from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn
from transformers import BitsAndBytesConfig, LlamaConfig, LlamaForCausalLM

from taigi_lightning.fast_path.apply import forward_hidden
from taigi_lightning.fast_path.cross_entropy import linear_cross_entropy_sum
from taigi_lightning.planning.memory import PROJECTIONS

SIZES: dict[str, Any] = {
    "vocab_size": 97, "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0,
}  # fmt: skip
TOKENS = torch.randint(3, 97, (2, 12), generator=torch.Generator().manual_seed(0))
PACKED = torch.tensor([[0, 1, 2, 3, 4, 0, 1, 2, 3, 4, 5, 6], [0, 1, 0, 1, 2, 3, 4, 5, 6, 7, 0, 1]])


def with_lora(base: Any, dropout: float = 0.0, targets: list[str] = PROJECTIONS, r: int = 4) -> Any:
    torch.manual_seed(1)
    lora = LoraConfig(
        r=r, lora_alpha=2 * r, lora_dropout=dropout, target_modules=targets, task_type="CAUSAL_LM"
    )
    model = get_peft_model(base, lora).train()
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            nn.init.normal_(parameter, std=0.1)
    return model


def llama(**changes: Any) -> Any:
    torch.manual_seed(0)
    return LlamaForCausalLM(LlamaConfig(**{**SIZES, **changes})).requires_grad_(False)


def nf4_llama(folder: Path, architecture: Any = LlamaForCausalLM) -> Any:
    options = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.float32,
    )
    model = architecture.from_pretrained(folder, quantization_config=options, dtype=torch.float32)
    return model.requires_grad_(False)


def loss_of(model: Any, tokens: Tensor = TOKENS, positions: Tensor = PACKED) -> Tensor:
    hidden = forward_hidden(model, tokens, positions)
    return linear_cross_entropy_sum(hidden, model.get_output_embeddings().weight, tokens)


def gradients(model: Any) -> dict[str, Tensor]:
    model.zero_grad()
    loss_of(model).backward()
    return {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}


def worst(found: dict[str, Tensor], wanted: dict[str, Tensor]) -> float:
    assert found.keys() == wanted.keys()
    return max(float((found[n] - wanted[n]).norm() / wanted[n].norm()) for n in wanted)


def behind(module: Any, kind: type) -> list[Any]:
    """What of a class a module's own forward pass was replaced with."""
    cells = getattr(vars(module).get("forward"), "__closure__", None) or ()
    return [cell.cell_contents for cell in cells if isinstance(cell.cell_contents, kind)]
