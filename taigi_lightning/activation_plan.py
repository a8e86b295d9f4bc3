"""How much memory activations take, and which layers keep, move or recompute theirs."""

from typing import Any

import torch

from taigi_lightning.decoder_layer import ATTENTION, GATE_UP, INPUT, MIDDLE, PRODUCTS, QKV, Saving

EVERYTHING = Saving(device=frozenset({INPUT, *PRODUCTS}))
# Moving these two out hides behind the layer's own computation, and spares the output projection's second run.
MOVED = Saving(device=frozenset(), host=frozenset({INPUT, MIDDLE}))
INPUT_ONLY = Saving(device=frozenset({INPUT}))
MARGIN = 0.03  # of the device's memory, for fragments and small tensors


def layer_bytes(config: Any, tokens: int, element_size: int = 2) -> dict[str, int]:
    """Bytes of each tensor one decoder layer may save for `tokens` tokens, by its name.

    Args:
        config: a transformers config of a Llama-shaped model.
        tokens: B * T of a micro-batch.
        element_size: bytes of an activation's element.
    """
    head_size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    queries, pairs = config.num_attention_heads * head_size, config.num_key_value_heads * head_size
    widths = {
        INPUT: config.hidden_size,
        QKV: queries + 2 * pairs,
        ATTENTION: queries,
        MIDDLE: config.hidden_size,
        GATE_UP: 2 * config.intermediate_size,
    }
    return {name: width * tokens * element_size for name, width in widths.items()}


def working_bytes(config: Any, tokens: int, element_size: int = 2) -> int:
    """Bytes at the peak of one layer's backward pass, beside what layers saved: largest inside the MLP."""
    hidden, wide = config.hidden_size, config.intermediate_size
    activations = (5 * hidden + 4 * wide) * tokens
    unpacked = 2 * wide * (hidden + 256)
    return (activations + unpacked) * element_size


def plan_savings(layers: int, sizes: dict[str, int], room: float, *, offload: bool) -> list[Saving]:
    """What each layer saves when `room` bytes of the device may hold activations.

    The last layer always keeps everything: its backward pass comes at once. Others do from the end backwards
    while room lasts; the rest move their residual stream to the host, or keep just their input.
    """
    least = MOVED if offload else INPUT_ONLY
    fixed = sum(sizes[name] for name in least.device)
    more = sum(sizes.values()) - fixed
    room -= fixed * layers
    keeping = max(1, int(min(layers, room / more)))
    return [least] * (layers - keeping) + [EVERYTHING] * keeping


def free_bytes(decoder: Any, tokens: int) -> float:
    """Bytes of the device free for saved activations, after gradients, optimizer state and working memory."""
    device = decoder.layers[0].qkv.members[0].base.weight.device
    if device.type != "cuda":
        return float("inf")
    free, total = torch.cuda.mem_get_info(device)
    held, used = torch.cuda.memory_reserved(device), torch.cuda.memory_allocated(device)
    limit = torch.cuda.get_per_process_memory_fraction(device) * total
    available = min(free + held, limit) - used
    trained = [p for layer in decoder.layers for p in layer.parameters()]
    missing = sum(p.numel() * p.element_size() for p in trained if p.grad is None)
    if missing:  # the first step: the optimizer has not made its state either
        missing += decoder.optimizer_bytes * sum(p.numel() for p in trained)
    working = working_bytes(decoder.backbone.config, tokens, decoder.element_size())
    return available - missing - working - MARGIN * total  # type: ignore[no-any-return]
