"""How much memory activations take, and which layers keep, move or recompute theirs."""

import os
from typing import Any

import torch
from torch import distributed

from taigi_lightning.decoder_layer import ATTENTION, GATE_UP, INPUT, MIDDLE, PRODUCTS, QKV, Saving

EVERYTHING = Saving(device=frozenset({INPUT, *PRODUCTS}))
# What hides behind a layer's own computation when it is moved to the host, in the order of what it spares per
# byte: the residual stream spares the output projection's second run, q, k and v spare their own.
MOVED = Saving(device=frozenset(), host=frozenset({INPUT, MIDDLE}))
MOVED_MORE = Saving(device=frozenset(), host=frozenset({INPUT, MIDDLE, QKV}))
INPUT_ONLY = Saving(device=frozenset({INPUT}))
RESIDUAL = Saving(device=frozenset({INPUT, MIDDLE}))
MARGIN = 0.03  # of the memory allowed, for fragments and small tensors


def host_bytes(offload: bool | float) -> float:
    """Bytes of host memory activations may take: `offload` GiB, or half of what is available.

    The processes of one machine share that half. Where their number is unknown, all of the run's count.
    """
    if not isinstance(offload, bool):
        return offload * 2**30
    if not offload:
        return 0.0
    everyone = distributed.get_world_size() if distributed.is_initialized() else 1
    ranks = int(os.environ.get("LOCAL_WORLD_SIZE", everyone))
    return 0.5 * os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / ranks


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
    return int((activations + unpacked) * element_size)


def plan_savings(layers: int, sizes: dict[str, int], room: float, host_room: float) -> list[Saving]:
    """What each layer saves.

    Layers keep everything from the last one backwards, as far as `room` lasts; the others move tensors to the
    host, as many as fit there, or keep just their input. The last layer never moves or recomputes much: its
    backward pass comes at once.

    Args:
        layers: how many there are.
        sizes: `layer_bytes`.
        room: bytes of the device that saved activations may take.
        host_room: bytes of the host that they may take.
    """

    def host_cost(saving: Saving) -> int:
        return layers * sum(sizes[name] for name in saving.host)

    if room >= layers * sum(sizes.values()):
        return [EVERYTHING] * layers
    least = INPUT_ONLY
    if host_cost(MOVED) <= host_room:
        least = MOVED
        in_flight = 2 * sizes[QKV]  # one on its way out or in while another is in use
        if host_cost(MOVED_MORE) <= host_room and in_flight <= room:
            least = MOVED_MORE
            room -= in_flight
    fixed = sum(sizes[name] for name in least.device)
    more = sum(sizes.values()) - fixed
    keeping = max(0, min(layers, int((room - fixed * layers) / more)))
    if keeping == 0:
        return [least] * (layers - 1) + [RESIDUAL]
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
    return available - missing - working - MARGIN * limit  # type: ignore[no-any-return]
