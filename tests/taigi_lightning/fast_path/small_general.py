"""Random models of architectures whose layers are not written out, each of three layers, with LoRA adapters."""

from itertools import pairwise
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks
from transformers import AutoConfig, AutoModelForCausalLM

from taigi_lightning.fast_path.apply import checkpointed_layers
from tests.taigi_lightning.fast_path.small_decoders import SIZES, TOKENS, loss_of, with_lora

LAYERS = 3
HANDED_ON = (
    TOKENS.numel() * SIZES["hidden_size"] * 4
)  # bytes that one layer gives the next: they may count for either
ATTENTION = ["q_proj", "k_proj", "v_proj", "o_proj"]
SMALL: dict[str, tuple[dict[str, Any], list[str]]] = {
    "phi3": ({"resid_pdrop": 0.1}, ["qkv_proj", "o_proj", "gate_up_proj", "down_proj"]),
    "gemma2": ({"head_dim": 16, "attn_implementation": "eager"}, ATTENTION),
    "glm4": ({"head_dim": 16}, ["q_proj", "o_proj", "gate_up_proj"]),
    "qwen3_moe": (
        {"head_dim": 16, "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32}, ATTENTION,
    ),
    "stablelm": ({"attention_dropout": 0.2, "hidden_dropout": 0.2}, ATTENTION),
    "falcon_h1": (
        {"mamba_d_ssm": 64, "mamba_n_heads": 4, "mamba_d_head": 16, "mamba_d_state": 16, "mamba_chunk_size": 8},
        [*ATTENTION, "in_proj"],
    ),
    "zamba2": (
        {"mamba_d_state": 16, "n_mamba_heads": 8, "mamba_headdim": 16, "mamba_expand": 2, "chunk_size": 8,
         "layers_block_type": ["mamba", "hybrid", "mamba"], "hybrid_layer_ids": [1], "mamba_ngroups": 1,
         "attention_head_dim": 32, "attention_hidden_size": 128, "num_mem_blocks": 1,
         "use_shared_attention_adapter": False},
        ["in_proj", "out_proj", "q_proj"],
    ),
    "bloom": ({"n_head": 4, "n_layer": LAYERS, "hidden_dropout": 0.1}, ["query_key_value"]),
}  # fmt: skip


def small(kind: str, dropout: float = 0.0) -> Any:
    changes, targets = SMALL[kind]
    torch.manual_seed(0)
    config = AutoConfig.for_model(kind, **{**SIZES, "num_hidden_layers": LAYERS, **changes})
    base = AutoModelForCausalLM.from_config(config, dtype=torch.float32).requires_grad_(False)
    return with_lora(base, dropout=dropout, targets=targets)


def _saved(model: Any) -> int:
    """Bytes of all that autograd keeps of a pass, parameters aside."""
    known = {t.untyped_storage().data_ptr() for t in (*model.parameters(), *model.buffers())}
    found: dict[int, Tensor] = {}

    def note(tensor: Tensor) -> Tensor:
        if (address := tensor.untyped_storage().data_ptr()) not in known:
            found[address] = tensor
        return tensor

    with saved_tensors_hooks(note, lambda tensor: tensor):
        loss_of(model)
    return sum(tensor.untyped_storage().nbytes() for tensor in found.values())


def kept_by_each(model: Any) -> list[int]:
    """Bytes that autograd keeps more with each layer that is not checkpointed, the first layer's first."""
    layers: Any = checkpointed_layers(model)
    totals = []
    for count in range(len(layers.layers) + 1):
        layers.counts[tuple(TOKENS.shape)] = count
        totals.append(_saved(model))
    return [after - before for before, after in pairwise(totals)][::-1]
