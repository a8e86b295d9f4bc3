"""How many bytes a run's weights, adapter and optimizer need, counted from shapes before anything is loaded.

What activations take beside them, `activation_plan` decides.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

GIB = 2**30
CONTEXT = int(0.6 * GIB)  # CUDA's context with the libraries' own workspaces, outside PyTorch's allocator
PROJECTIONS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]

# By a config's model_type: RMS norms of each head's q and k, of all heads' together, and four norms a layer.
HEAD_NORMS = {"qwen3", "gemma3_text"}
WHOLE_HEAD_NORMS = {"olmo2", "olmo3"}
FOUR_NORMS = {"gemma2", "gemma3_text"}
LARGE_STREAMS = {"gemma", "gemma3_text"}  # of the fast path's families


class Linear(NamedTuple):
    """One frozen projection of a decoder layer."""

    name: str
    inputs: int
    outputs: int


@dataclass(frozen=True)
class Shape:
    """A decoder of Llama's kind, as its config.json has it.

    Attributes:
        head_norm: elements of a layer's norms of q and k; 0 where there are none.
        norms: a layer's norms as wide as the hidden states.
        post_norms: two of them come after the projections, before these join the residual stream.
        fused: q, k, v are one projection, gate and up another.
        large: the residual stream exceeds what float16 holds.
        wide: it is in float32 between layers that compute in 16 bits.
        masked: attention caps or drops scores, for which transformers' own layers take a whole mask.
    """

    layers: int
    hidden: int
    intermediate: int
    heads: int
    kv_heads: int
    head_size: int
    vocabulary: int
    tied: bool = False
    qkv_bias: bool = False
    head_norm: int = 0
    norms: int = 2
    post_norms: bool = False
    fused: bool = False
    large: bool = False
    wide: bool = False
    masked: bool = False

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Shape:
        """Read a config.json's content."""
        heads = config["num_attention_heads"]
        kind = config.get("model_type", "")
        kv_heads = config.get("num_key_value_heads") or heads
        head_size = config.get("head_dim") or config["hidden_size"] // heads
        of_all_heads = heads + kv_heads if kind in WHOLE_HEAD_NORMS else 2 if kind in HEAD_NORMS else 0
        return cls(
            layers=config["num_hidden_layers"],
            hidden=config["hidden_size"],
            intermediate=config["intermediate_size"],
            heads=heads,
            kv_heads=kv_heads,
            head_size=head_size,
            vocabulary=config["vocab_size"],
            tied=config.get("tie_word_embeddings", False),
            qkv_bias=config.get("attention_bias", False) or kind == "qwen2",
            head_norm=of_all_heads * head_size,
            norms=4 if kind in FOUR_NORMS else 2,
            post_norms=kind in FOUR_NORMS | WHOLE_HEAD_NORMS,
            fused=kind == "phi3",
            large=kind in LARGE_STREAMS,
            masked=bool(config.get("attention_dropout") or config.get("attn_logit_softcapping")),
        )

    def computed_in(self, precision: str) -> Shape:
        """The same as trained with Lightning's precision of that name: float16 leaves a large stream in float32."""
        return replace(self, wide=self.large and precision.startswith("16"))

    @property
    def linears(self) -> list[Linear]:
        """The projections of a layer."""
        hidden, wide = self.hidden, self.intermediate
        queries, pairs = self.heads * self.head_size, self.kv_heads * self.head_size
        if self.fused:
            return [
                Linear("qkv_proj", hidden, queries + 2 * pairs),
                Linear("o_proj", queries, hidden),
                Linear("gate_up_proj", hidden, 2 * wide),
                Linear("down_proj", wide, hidden),
            ]
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
        a_layer = self.norms * self.hidden + self.head_norm + biases
        return tables + self.hidden + self.layers * a_layer

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


def packed_layer_bytes(shape: Shape) -> int:
    """Bytes of one layer's 4-bit weights without their scales: what waits on the host and travels, if anything does."""
    return sum(math.ceil(linear.inputs * linear.outputs / 2) for linear in shape.linears)


def weight_bytes(shape: Shape, quantization: str, element_size: int = 2) -> tuple[int, int]:
    """Bytes of the projections and of the rest."""
    sizes = [linear.inputs * linear.outputs for linear in shape.linears]
    packed = sum(nf4_bytes(n) if quantization == "nf4" else n * element_size for n in sizes)
    return shape.layers * packed, shape.rest * element_size


def adapter_sizes(shape: Shape, rank: int, targets: Sequence[str]) -> list[int]:
    """Elements of every LoRA matrix: A (r, inputs) and B (outputs, r) of each chosen projection."""
    chosen = [linear for linear in shape.linears if linear.name in targets]
    return shape.layers * [n * rank for linear in chosen for n in (linear.inputs, linear.outputs)]


def token_row_sizes(shape: Shape, tokens: int) -> list[int]:
    """Elements of the rows of some tokens that train: of the embedding, and of an output head that is another table."""
    return [tokens * shape.hidden] * (1 if shape.tied else 2) if tokens else []


def token_place_bytes(shape: Shape, tokens: int) -> int:
    """Bytes of which row each word of the vocabulary has, 64 bits for each word and table, and of the rows' ids."""
    return 8 * (shape.vocabulary + tokens) * (1 if shape.tied else 2) if tokens else 0


def prefill_bytes(hidden: int, intermediate: int, tokens: int, element_size: int = 2) -> int:
    """Bytes that prediction keeps free before it dequantises layers, for a row of some tokens to pass through.

    At its widest a layer holds the residual stream, two inputs of projections, gate and up, and their product.
    Half of that again and 2 GiB are for the head's product in float32, kernels' workspaces, weights on
    their way to 8 bits, and fragments.
    """
    return 2 * GIB + 3 * tokens * (3 * hidden + 3 * intermediate) * element_size // 2


HEAD_CHUNK = 8192  # words of the vocabulary whose logits prediction makes at a time, in 32 bits
ANSWER_TOKENS = 64  # tokens of a row for each token whose logits are wanted, at least


def prefill_peak_bytes(shape: Shape, tokens: int, element_size: int = 2) -> int:
    """Bytes at the peak of a pass of prediction over a row of some tokens, with a tenth for fragments.

    Inside the MLP a layer holds the residual stream and what is to join it, gate and up, their product and one
    dequantised weight; at the end the head is multiplied in 32 bits, and the wanted tokens' logits are held twice.
    """
    hidden, wide = shape.hidden, shape.intermediate
    layer = (tokens * (2 * hidden + 3 * wide) + 2 * wide * (hidden + 256)) * element_size
    head = 8 * (HEAD_CHUNK * hidden + tokens // ANSWER_TOKENS * shape.vocabulary)
    return 11 * max(layer, head + tokens * hidden * element_size) // 10


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


def coming_state_bytes(optimizer: Any) -> int:
    """Bytes of state that a torch optimizer will make at its first step; 0 once it has."""
    if optimizer.state:
        return 0
    kind = type(optimizer)
    sizes = [p.numel() for group in optimizer.param_groups for p in group["params"]]
    return optimizer_bytes(f"{kind.__module__}.{kind.__name__}", sizes)
