"""How many bytes a run needs, counted from shapes before anything is loaded.

M = B * T tokens of a micro-batch, H the hidden size, F the MLP's width, V the vocabulary, r LoRA's rank.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

GIB = 2**30
MARGIN = 0.03  # of the card, for fragments: what activation_plan leaves free too
CONTEXT = int(0.6 * GIB)  # CUDA's context with the libraries' own workspaces, outside PyTorch's allocator
SLICE_TOKENS = 2048  # loss.py makes the logits of so many tokens at a time
KERNEL_BLOCKS = 256  # a column block of unpacked weights, as activation_plan.working_bytes counts it


class Linear(NamedTuple):
    """One frozen projection of a decoder layer."""

    name: str
    inputs: int
    outputs: int


@dataclass(frozen=True)
class Shape:
    """A Llama-shaped decoder, as its config.json has it."""

    layers: int
    hidden: int
    intermediate: int
    heads: int
    kv_heads: int
    head_size: int
    vocabulary: int
    tied: bool = False
    qkv_bias: bool = False

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Shape:
        """Read a config.json's content."""
        heads = config["num_attention_heads"]
        return cls(
            layers=config["num_hidden_layers"],
            hidden=config["hidden_size"],
            intermediate=config["intermediate_size"],
            heads=heads,
            kv_heads=config.get("num_key_value_heads") or heads,
            head_size=config.get("head_dim") or config["hidden_size"] // heads,
            vocabulary=config["vocab_size"],
            tied=config.get("tie_word_embeddings", False),
            qkv_bias=config.get("attention_bias", False) or config.get("model_type") == "qwen2",
        )

    @property
    def linears(self) -> list[Linear]:
        """The seven projections of a layer."""
        hidden, wide = self.hidden, self.intermediate
        queries, pairs = self.heads * self.head_size, self.kv_heads * self.head_size
        return [
            Linear("q_proj", hidden, queries),
            Linear("k_proj", hidden, pairs),
            Linear("v_proj", hidden, pairs),
            Linear("o_proj", queries, hidden),
            Linear("gate_proj", hidden, wide),
            Linear("up_proj", hidden, wide),
            Linear("down_proj", wide, hidden),
        ]

    @property
    def rest(self) -> int:
        """Parameters that stay in 16 bits: embeddings, lm_head, norms, biases."""
        biases = (self.heads + 2 * self.kv_heads) * self.head_size if self.qkv_bias else 0
        tables = self.vocabulary * self.hidden * (1 if self.tied else 2)
        return tables + (2 * self.layers + 1) * self.hidden + self.layers * biases

    @property
    def parameters(self) -> int:
        """All parameters."""
        return self.rest + self.layers * sum(linear.inputs * linear.outputs for linear in self.linears)


def nf4_bytes(elements: int) -> int:
    """Bytes of one weight as bitsandbytes keeps it in NF4 with double quantisation.

    Two weights a byte; for each 64 of them an absmax of 8 bits; for each 256 of those an absmax of 32 bits;
    the 8-bit code of the absmaxes (256 floats), their offset, and the NF4 code (16 floats).
    """
    blocks = math.ceil(elements / 64)
    return math.ceil(elements / 2) + blocks + 4 * math.ceil(blocks / 256) + 4 * 256 + 4 + 4 * 16


def weight_bytes(shape: Shape, quantization: str, element_size: int = 2) -> tuple[int, int]:
    """Bytes of the projections and of the rest."""
    sizes = [linear.inputs * linear.outputs for linear in shape.linears]
    packed = sum(nf4_bytes(n) if quantization == "nf4" else n * element_size for n in sizes)
    return shape.layers * packed, shape.rest * element_size


def adapter_sizes(shape: Shape, rank: int, targets: Sequence[str]) -> list[int]:
    """Elements of every LoRA matrix: A (r, inputs) and B (outputs, r) of each chosen projection."""
    chosen = [linear for linear in shape.linears if linear.name in targets]
    return shape.layers * [n * rank for linear in chosen for n in (linear.inputs, linear.outputs)]


# Bytes of optimizer state for each trained parameter; blockwise 8-bit states have a float for each 256.
STATE_BYTES = {"AdamW": 8.0, "Adam": 8.0, "AdamW8bit": 2 + 8 / 256, "Adam8bit": 2 + 8 / 256}
STATE_BYTES |= {"Lion": 4.0, "Lion8bit": 1 + 4 / 256, "SGD": 0.0}
SMALLEST_8BIT = 4096  # bitsandbytes keeps smaller tensors' state in 32 bits


def optimizer_bytes(optimizer: str, sizes: Sequence[int]) -> int:
    """Bytes of an optimizer's state for tensors of these sizes; an unknown class counts as AdamW.

    Paged states count fully: they move to the host when the card is short, page by page.
    """
    name = optimizer.rpartition(".")[2].removeprefix("Paged")
    each = STATE_BYTES.get(name, 8.0)
    if not name.endswith("8bit"):
        return int(sum(sizes) * each)
    states = 1 if name.startswith("Lion") else 2
    small = sum(4 * states * n for n in sizes if n < SMALLEST_8BIT)
    large = sum(states * (n + 4 * math.ceil(n / 256)) for n in sizes if n >= SMALLEST_8BIT)
    return small + large


def step_bytes(optimizer: str, sizes: Sequence[int]) -> int:
    """Bytes the optimizer's own arithmetic takes: torch's grouped AdamW makes one more copy of its size."""
    return 4 * sum(sizes) if optimizer.startswith("torch.") and "Adam" in optimizer else 0


# ---- activations ----------------------------------------------------------------------------------


def layer_bytes(shape: Shape, tokens: int, element_size: int) -> dict[str, int]:
    """Bytes of each tensor a layer may keep; `activation_plan.layer_bytes` from the same widths."""
    queries, pairs = shape.heads * shape.head_size, shape.kv_heads * shape.head_size
    widths = {
        "input": shape.hidden,
        "qkv": queries + 2 * pairs,
        "attention": queries,
        "middle": shape.hidden,
        "gate_up": 2 * shape.intermediate,
    }
    return {name: width * tokens * element_size for name, width in widths.items()}


def working_bytes(shape: Shape, tokens: int, element_size: int) -> int:
    """Peak inside one layer's backward pass; `activation_plan.working_bytes` from the same widths."""
    hidden, wide = shape.hidden, shape.intermediate
    return ((5 * hidden + 4 * wide) * tokens + 2 * wide * (hidden + KERNEL_BLOCKS)) * element_size


def choose_savings(
    layers: int, sizes: dict[str, int], room: float, host_room: float
) -> list[tuple[frozenset[str], frozenset[str]]]:
    """The tensors each layer keeps on the device and moves to the host: `activation_plan.plan_savings`, which a
    test holds this to. It is written again here because importing torch would take most of a plan's time."""

    def host_cost(names: frozenset[str]) -> int:
        return layers * sum(sizes[name] for name in names)

    everything = (frozenset(sizes), frozenset[str]())
    if room >= layers * sum(sizes.values()):
        return [everything] * layers
    least: tuple[frozenset[str], frozenset[str]] = (frozenset({"input"}), frozenset())
    moved, moved_more = frozenset({"input", "middle"}), frozenset({"input", "middle", "qkv"})
    if host_cost(moved) <= host_room:
        least = (frozenset(), moved)
        if host_cost(moved_more) <= host_room and 2 * sizes["qkv"] <= room:
            least = (frozenset(), moved_more)
            room -= 2 * sizes["qkv"]
    fixed = sum(sizes[name] for name in least[0])
    keeping = max(0, min(layers, int((room - fixed * layers) / (sum(sizes.values()) - fixed))))
    if keeping == 0:
        return [least] * (layers - 1) + [(frozenset({"input", "middle"}), frozenset())]
    return [least] * (layers - keeping) + [everything] * keeping


def kept_bytes(
    shape: Shape, tokens: int, rank: int, element_size: int, *, room: float, host_room: float
) -> tuple[int, int, int]:
    """What the layers keep until the backward pass.

    Beside the tensors of `choose_savings`, LoRA's hidden activations stay on the device: those of `down_proj`
    always, those of other projections with the tensor they made; attention's log-sums are float32. Of what
    moves to the host, two layers' worth are on their way at a time.

    Returns:
        bytes on the device, bytes on the host, and how many layers keep everything.
    """
    sizes = layer_bytes(shape, tokens, element_size)
    savings = choose_savings(shape.layers, sizes, room, host_room)
    hidden = {"qkv": 3, "middle": 1, "gate_up": 2}  # LoRA's hidden activations saved with a tensor, in ranks
    device = host = 0
    for here, there in savings:
        ranks = 1 + sum(hidden.get(name, 0) for name in here | there)
        device += sum(sizes[name] for name in here) + ranks * rank * tokens * element_size
        device += 4 * tokens * shape.heads if "attention" in here else 0
        host += sum(sizes[name] for name in there)
    device += 2 * sum(sizes[name] for name in savings[0][1])
    return device, host, sum(len(here) == len(sizes) for here, _ in savings)


def loss_bytes(shape: Shape, tokens: int, element_size: int) -> int:
    """Beside kept activations at the loss: the last hidden states, before and after their norm, their gradient,
    and one slice of logits (S, V), which its own gradient overwrites."""
    return (3 * tokens * shape.hidden + min(SLICE_TOKENS, tokens) * shape.vocabulary) * element_size
