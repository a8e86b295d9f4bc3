"""What layers may keep of a micro-batch for its backward pass, on the device or on the host, and what all of it takes.

Nothing here imports torch: `plan` and the training step both count with these functions, so that they agree.
M = B * T tokens of a micro-batch, H the hidden size, F the MLP's width, V the vocabulary, r LoRA's rank.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from taigi_lightning.kernels.matmul import forward_in_8_bits
from taigi_lightning.planning.memory import Shape

INPUT, QKV, ATTENTION, MIDDLE, GATE_UP = "input", "qkv", "attention", "middle", "gate_up"
OUTPUT = "output"  # the MLP's, where it has a norm: saved wherever a layer's input is, for what makes it costs much
PRODUCTS = (QKV, ATTENTION, MIDDLE, GATE_UP)
HIDDEN = {QKV: 3, MIDDLE: 1, GATE_UP: 2}  # LoRA's hidden activations saved with a tensor, in ranks


@dataclass(frozen=True)
class Saving:
    """What a layer saves for its backward pass: on the device, or on the host. The rest is recomputed."""

    device: frozenset[str] = frozenset({INPUT})
    host: frozenset[str] = frozenset()


EVERYTHING = Saving(device=frozenset({INPUT, *PRODUCTS}))
INPUT_ONLY = Saving(device=frozenset({INPUT}))
RESIDUAL = Saving(device=frozenset({INPUT, MIDDLE}))
# What hides behind a layer's own computation when it is moved to the host: the input makes way for others on the
# device, the residual stream in the middle spares the output projection's second run, q, k and v spare their own.
MOVED_INPUT = Saving(device=frozenset(), host=frozenset({INPUT}))
MOVED = Saving(device=frozenset(), host=frozenset({INPUT, MIDDLE}))
MOVED_MORE = Saving(device=frozenset(), host=frozenset({INPUT, MIDDLE, QKV}))
MARGIN = 0.03  # of the memory allowed, for fragments and small tensors
LOOSE_MARGIN = 0.1  # the same where PyTorch's allocator cannot expand its segments, whose holes then stay
SLICE_TOKENS = (
    2048  # the loss makes the logits of so many tokens at a time, of fewer if the vocabulary is large:
)
SLICE_LOGITS = 300_000_000  # so many logits at most, 600 MB in 16 bits
SIDE_COLUMNS = 256  # LoRA's columns beside a dequantised weight, generously
HEAD_ROWS = 4096  # of an output head that waits on the host: so many words of the vocabulary at a time


def keeps_everything(saving: Saving) -> bool:
    """Whether a layer recomputes nothing and moves nothing."""
    return saving.device >= EVERYTHING.device


def of_family(saving: Saving, sizes: dict[str, int]) -> Saving:
    """The same, with the last product if the layer's family saves it; sizes are `layer_bytes`."""
    extra = frozenset({OUTPUT} & sizes.keys())
    if INPUT in saving.device:
        return Saving(saving.device | extra, saving.host)
    return Saving(saving.device, saving.host | extra)


# ---- sizes ----------------------------------------------------------------------------------------


def layer_bytes(shape: Shape, tokens: int, element_size: int = 2) -> dict[str, int]:
    """Bytes of each tensor one decoder layer may save for `tokens` tokens, by its name."""
    queries, pairs = shape.heads * shape.head_size, shape.kv_heads * shape.head_size
    stream = shape.hidden * (2 if shape.wide else 1)
    widths = {
        INPUT: stream,
        QKV: queries + 2 * pairs,
        ATTENTION: queries,
        MIDDLE: shape.hidden if shape.post_norms else stream,
        GATE_UP: 2 * shape.intermediate,
    }
    if shape.post_norms:
        widths[OUTPUT] = shape.hidden
    return {name: width * tokens * element_size for name, width in widths.items()}


def small_bytes(shape: Shape, tokens: int, rank: int, element_size: int = 2) -> int:
    """Bytes saved beside these in all layers, at most: LoRA's hidden activations, attention's log-sums."""
    return shape.layers * tokens * (7 * rank * element_size + 4 * shape.heads)


def working_bytes(shape: Shape, tokens: int, element_size: int = 2) -> int:
    """Bytes at the peak of one layer's backward pass, beside what layers saved: largest inside the MLP."""
    hidden, wide = shape.hidden, shape.intermediate
    streams = 2 if shape.wide else 0  # what goes in and its gradient, the other halves of their 32 bits
    activations = (((6 if shape.post_norms else 5) + streams) * hidden + 4 * wide) * tokens
    unpacked = 2 * wide * (hidden + SIDE_COLUMNS)
    return (activations + unpacked) * element_size


def loss_bytes(shape: Shape, tokens: int, element_size: int = 2) -> int:
    """Bytes at the loss, beside what layers saved: the last hidden states, before and after their norm, their
    gradient, and one slice of logits (S, V), which its own gradient overwrites."""
    logits = min(slice_tokens(shape.vocabulary), tokens) * shape.vocabulary
    return (3 * tokens * shape.hidden + logits) * element_size


def slice_tokens(vocabulary: int) -> int:
    """Tokens whose logits the loss makes at a time: a power of two, large enough to keep a GPU's products full.

    >>> slice_tokens(32000), slice_tokens(262208)
    (2048, 1024)
    """
    return max(256, min(SLICE_TOKENS, 1 << (SLICE_LOGITS // vocabulary).bit_length() - 1))


def streamed_loss_bytes(shape: Shape, tokens: int, element_size: int = 2) -> int:
    """The same where the head waits on the host: two parts of it, their logits in 16 bits and three times in 32, and
    the hidden states' gradient, which is added up in 32."""
    slots = 2 * HEAD_ROWS * shape.hidden * element_size
    logits = tokens * min(HEAD_ROWS, shape.vocabulary) * (element_size + 12)
    return slots + logits + tokens * shape.hidden * (3 * element_size + 8)


def transient_bytes(shape: Shape, tokens: int, element_size: int = 2, head_on_host: bool = False) -> int:
    """Bytes at the peak beside what is held and what layers saved: at the loss or in one layer's backward pass."""
    at_loss = streamed_loss_bytes if head_on_host else loss_bytes
    return max(working_bytes(shape, tokens, element_size), at_loss(shape, tokens, element_size))


def held_size(matmul: str, element_size: int = 2, backward: bool = True) -> int:
    """Bytes of a weight held dequantised: 8 bits take 1, and 1 more, transposed, where there is a backward pass.

    >>> [held_size(matmul) for matmul in ("bf16", "int8_backward", "int8")], held_size("int8", backward=False)
    ([2, 3, 2], 1)
    """
    forward = 1 if forward_in_8_bits(matmul) else element_size
    return forward + (1 if matmul != "bf16" and backward else 0)


def unpacked_bytes(
    shape: Shape, rank: int, element_size: int = 2, packed: bool = True, weight_size: int | None = None
) -> int:
    """Bytes of one layer's projections dequantised, each with the columns of its group's LoRA B beside it, and of
    LoRA's A; less what 4-bit weights leave, which then wait on the host.

    Args:
        weight_size: bytes of a weight, if not of any element: see `held_size`.
    """
    together = {"q_proj": 3, "k_proj": 3, "v_proj": 3, "gate_proj": 2, "up_proj": 2}  # 1 where they are fused
    weights = elements = left = 0
    for linear in shape.linears:
        weights += linear.inputs * linear.outputs
        elements += (linear.outputs * together.get(linear.name, 1) + linear.inputs) * rank
        left += linear.inputs * linear.outputs // 2 if packed else 0
    return weights * (weight_size or element_size) + elements * element_size - left


def kept_bytes(
    savings: list[Saving], shape: Shape, tokens: int, rank: int, element_size: int = 2
) -> tuple[int, int]:
    """What the layers keep until the backward pass: bytes on the device, bytes on the host.

    LoRA's hidden activations stay on the device: those of `down_proj` always, those of other projections with
    the tensor they made; attention's log-sums are float32. Of what moves to the host, two layers' worth are on
    their way at a time.
    """
    sizes = layer_bytes(shape, tokens, element_size)
    device = host = 0
    for saving, layers in Counter(savings).items():
        ranks = 1 + sum(HIDDEN.get(name, 0) for name in saving.device | saving.host)
        each = sum(sizes[name] for name in saving.device) + ranks * rank * tokens * element_size
        each += 4 * tokens * shape.heads if ATTENTION in saving.device else 0
        device += layers * each
        host += layers * moved_bytes(saving, sizes)
    return device + in_flight_bytes(savings, sizes) + hole_bytes(savings, sizes), host


def hole_bytes(savings: Iterable[Saving], sizes: dict[str, int]) -> int:
    """Device memory in holes: layers that compute their attention again have it beside their MLP's tensors, and free it
    between them. They left 0.4 GiB more of reserved memory than is counted beside, with a 13B's 8,192 tokens."""
    again = any(MIDDLE not in saving.device | saving.host for saving in savings)
    return sizes[QKV] + sizes[ATTENTION] if again else 0


def moved_bytes(saving: Saving, sizes: dict[str, int]) -> int:
    """What one layer moves to the host."""
    return sum(sizes[name] for name in saving.host)


def in_flight_bytes(savings: Iterable[Saving], sizes: dict[str, int]) -> int:
    """Device memory for what is on its way: one layer's worth leaves or comes while another's is in use."""
    return 2 * max(moved_bytes(saving, sizes) for saving in savings)


def system_margin() -> float:
    """The share of a card to leave free that a plan counts with: on Windows segments cannot expand."""
    return LOOSE_MARGIN if sys.platform == "win32" else MARGIN


def headroom_left(
    card: float,
    taken: float,
    shape: Shape,
    tokens: int,
    element_size: int = 2,
    margin: float | None = None,
    head_on_host: bool = False,
) -> float:
    """Bytes that a budget of "auto" may fill.

    Args:
        card: bytes of the device that this process may take.
        taken: bytes held for the whole step: weights, adapter, gradients, optimizer state, other processes.
        margin: of the card, to leave free; None: what this system's allocator needs.
        head_on_host: the output head waits there.
    """
    free = card - left_free(card, shape, tokens, element_size, margin)
    return free - taken - transient_bytes(shape, tokens, element_size, head_on_host)


def left_free(
    card: float, shape: Shape, tokens: int, element_size: int = 2, margin: float | None = None
) -> float:
    """Bytes of a card that layers do not fill: its margin, or where micro-batches are large twice their hidden states,
    which a plan counts at the peak. Arguments as for `headroom_left`."""
    share = system_margin() if margin is None else margin
    return max(share * card, passing_bytes(shape, tokens, element_size))


def passing_bytes(shape: Shape, tokens: int, element_size: int = 2) -> int:
    """Bytes of the hidden states and their gradient between two layers."""
    return 2 * tokens * shape.hidden * element_size
